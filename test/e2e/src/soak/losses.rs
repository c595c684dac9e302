//! containerd is killed at random moments of its containers' lives: its successor ends every shim.

use std::time::{Duration, Instant};

use fastrand::Rng;
use wherry_testing::{Containerd, DEADLINE, Daemon, Leftovers, wait_until};

use super::{Ground, cycle};
use crate::client::{Client, Paths, Wanted, is_gone};

/// How many containers live when containerd is lost.
const LIVES: usize = 8;

/// Kills containerd that many times, each time while containers are created, started, killed and
/// deleted, and returns a summary.
///
/// # Panics
/// If a container cannot be removed afterwards, or if a shim or anything else is left behind.
pub fn soak_losses(containerd: &Containerd, seed: u64, losses: usize) -> String {
    let begin = Instant::now();
    let mut random = Rng::with_seed(seed);
    await_shims(containerd, &lose(containerd, &mut random));
    let leftovers = Leftovers::snapshot(containerd);
    let mut ids = Vec::new();
    for _ in 0..losses {
        ids.extend(lose(containerd, &mut random));
    }
    await_shims(containerd, &ids);
    leftovers.assert_none_new();
    format!(
        "{losses} losses of {}, seed {seed}: no shim is left; {} s",
        containerd.name(),
        begin.elapsed().as_secs()
    )
}

/// Waits until no shim of these containers is left. A shim that got no Create waits two minutes for
/// it: containerd 2 stays connected to a shim that it has given up.
fn await_shims(containerd: &Containerd, ids: &[String]) {
    wait_until("the end of every shim", DEADLINE * 4, || {
        ids.iter().all(|id| cycle::shims(containerd.namespace(), id).is_empty())
    });
}

/// Kills containerd once, and removes the containers, whose ids it returns.
fn lose(containerd: &Containerd, random: &mut Rng) -> Vec<String> {
    let ids: Vec<String> = (0..LIVES).map(|_| containerd.new_id()).collect();
    let ground = Ground::new(containerd);
    ground.runtime.block_on(async {
        let mut lives = Vec::new();
        for id in &ids {
            let (client, id, own) = (ground.client.clone(), id.clone(), random.fork());
            lives.push(tokio::spawn(async move { live(&client, &id, own).await }));
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..400))).await;
        containerd.kill9();
        for life in lives {
            life.await.expect("the task does not panic");
        }
    });
    containerd.start_again();
    // A new connection: the daemon is another.
    let ground = Ground::new(containerd);
    for id in &ids {
        ground.runtime.block_on(clear(&ground.client, id));
    }
    ids
}

/// The first steps of a life. It ends early if a step fails, as when containerd is lost.
async fn live(client: &Client, id: &str, mut random: Rng) {
    let guest = if random.bool() { "/spin.wasm" } else { "/hello.wasm" };
    let wanted = Wanted { id, args: &[guest], terminal: false, group: None };
    if client.make(wanted).await.is_err() {
        return;
    }
    for step in 0..random.usize(1..=4) {
        let done = match step {
            0 => client.create(id, false, &Paths::default()).await.is_ok(),
            1 => client.start(id, "").await.is_ok(),
            2 => client.kill(id, "", 9).await.is_ok(),
            _ => client.delete(id, "").await.is_ok(),
        };
        if !done {
            return;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..100))).await;
    }
}

/// Removes a container in any state, as a client does.
async fn clear(client: &Client, id: &str) {
    let start = Instant::now();
    loop {
        match client.delete(id, "").await {
            Err(status) if !is_gone(&status) => {
                assert!(start.elapsed() < DEADLINE, "{id} cannot be deleted: {status}");
            }
            _ => break,
        }
        let _ = client.kill(id, "", 9).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match client.forget(id).await {
        Err(status) if !is_gone(&status) => panic!("{id} cannot be forgotten: {status}"),
        _ => {}
    }
}
