//! How long pods take until they are ready, beside runc: `make bench-k8s`.

use serde_json::json;
use std::time::{Duration, Instant};
use wherry_k8s::pod::condition;
use wherry_k8s::{Cluster, Kind, PATIENCE, Space};
use wherry_testing::wait_until;

/// The rounds that count; one more fills the caches.
const ROUNDS: usize = 5;

/// The time until all of `count` pods that are created at once on one node are ready.
fn all_ready(kind: Kind, node: &str, count: usize) -> Duration {
    let space = Space::new(kind);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..count {
            let container = json!({"args": ["sleep", "1000"]});
            let fields = json!({"nodeName": node, "containers": [container]});
            let space = &space;
            scope.spawn(move || space.pod(&format!("pod-{number}"), fields));
        }
    });
    loop {
        let ready = space.list("pods", "").iter().filter(|pod| condition(pod, "Ready")).count();
        if ready == count {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{ready} of {count} pods are ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = start.elapsed();
    for pod in space.list("pods", "") {
        let name = pod["metadata"]["name"].as_str().expect("a pod has a name");
        space.api().delete(&space.path(&format!("pods/{name}")));
    }
    wait_until("the pods are gone", PATIENCE, || space.list("pods", "").is_empty());
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement, which `make bench-k8s` runs"]
fn pods_until_they_are_ready() {
    let (_guard, node) = Cluster::shared().spare();
    for count in [1, 30] {
        let rounds = (0..=ROUNDS).map(|_| {
            let of = |kind| all_ready(kind, node.name(), count);
            (of(Kind::Wasm), of(Kind::Runc))
        });
        let (wasm, runc) = rounds.skip(1).unzip();
        let (wasm, runc): (Duration, Duration) = (median(wasm), median(runc));
        let ratio = wasm.as_secs_f64() / runc.as_secs_f64();
        println!(
            "{count} pods at once, all ready: wasm {wasm:.2?}, runc {runc:.2?}, ratio {ratio:.2}"
        );
    }
}
