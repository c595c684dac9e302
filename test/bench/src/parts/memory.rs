//! The cost of running containers: memory, processes, threads.

use std::time::Duration;

use wherry_testing::{Containerd, Daemon, Usage, wait_until};

use crate::images::{self, Pair};
use crate::measures::{PROCESSES, PSS_20, PSS_100, THREADS};
use crate::parts::many::at_a_time;
use crate::world::{World, is_native, runtime};

/// The deadline for starting all of them, until nothing changes.
const STEADY: Duration = Duration::from_secs(120);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Twenty sleeping containers, and a hundred.
pub(crate) fn measure(world: &mut World) {
    let sleeper = images::sleeper();
    for native in [false, true] {
        world.containerd.load(sleeper.image(native));
    }
    for (containers, key, rounds) in [(20, PSS_20, world.options.rounds_of(7)), (100, PSS_100, 1)] {
        for _ in 0..rounds {
            for who in world.runtimes(false) {
                let usage = usage(world, &who, &sleeper, containers);
                let each = |all: f64| all / containers as f64;
                world.results.add(key, &who, each(usage.pss as f64 / 1e6));
                if containers == 20 {
                    let processes = (usage.shims + usage.others) as f64;
                    world.results.add(PROCESSES, &who, each(processes));
                    world.results.add(THREADS, &who, each(usage.threads as f64));
                }
            }
        }
    }
}

/// Starts so many, measures them, and removes them.
fn usage(world: &World, who: &str, sleeper: &Pair, containers: usize) -> Usage {
    world.settle();
    let ids: Vec<String> = (0..containers).map(|_| world.containerd.new_id()).collect();
    at_a_time(containers, |number| start(world, who, sleeper, &ids[number]));
    let usage = steady(&world.containerd, containers);
    at_a_time(containers, |number| {
        world.containerd.remove(&ids[number]).success();
    });
    usage
}

/// Starts a sleeping container.
pub(crate) fn start(world: &World, who: &str, sleeper: &Pair, id: &str) {
    let (runtime, image) = (runtime(who), &sleeper.image(is_native(who)).reference);
    let words = ["run", "--detach", "--null-io", "--runtime", &runtime, image, id];
    world.containerd.ctr(&words).success();
}

/// The usage of so many containers once all have started and the processes that started them are
/// gone.
pub(crate) fn steady(containerd: &Containerd, containers: usize) -> Usage {
    let mut last = Usage::default();
    wait_until("containers that only sleep", STEADY, || {
        std::thread::sleep(BETWEEN_LOOKS);
        let before = std::mem::replace(&mut last, Usage::of(containerd));
        let same = (before.shims, before.others, before.threads)
            == (last.shims, last.others, last.threads);
        same && last.shims == containers
    });
    last
}
