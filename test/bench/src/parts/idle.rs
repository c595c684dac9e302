//! The system calls of an idle container.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wherry_testing::{DEADLINE, Daemon, Trace, Usage, wait_until};

use crate::images;
use crate::measures::IDLE_CALLS;
use crate::parts::memory::{start, steady};
use crate::world::World;

/// Attaching makes a waiting call return: calls before this are strace's doing.
const ATTACHING: Duration = Duration::from_secs(2);

/// One sleeping container of each engine after another; its calls are scaled to a minute.
pub(crate) fn measure(world: &mut World) {
    let sleeper = images::sleeper();
    world.containerd.load(sleeper.image(false));
    let watched = Duration::from_secs(world.options.idle_seconds);
    for engine in world.options.engines.clone() {
        world.settle();
        let id = world.containerd.new_id();
        start(world, &engine, &sleeper, &id);
        steady(&world.containerd, 1);
        let calls = calls_within(world, watched);
        world.results.add(IDLE_CALLS, &engine, calls as f64 * 60.0 / watched.as_secs_f64());
        world.containerd.remove(&id).success();
    }
}

/// The number of system calls of the only container's processes and their threads within a time.
fn calls_within(world: &World, watched: Duration) -> usize {
    let containerd = &world.containerd;
    let stamps = ["--absolute-timestamps=format:unix,precision:us"];
    let trace = Trace::attach(containerd, &Usage::pids(containerd), &stamps);
    let begin = now() + ATTACHING.as_secs_f64();
    std::thread::sleep(ATTACHING + watched);
    let end = now();
    // This causes calls: only if strace sees them is a count of zero meaningful.
    containerd.ctr(&["tasks", "list"]).success();
    wait_until("strace to see the shim's answer", DEADLINE, || {
        count(&trace.lines(), end, f64::INFINITY) > 0
    });
    count(&trace.lines(), begin, end)
}

/// The seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The lines of strace about calls that began between two moments. A long call has two lines, of
/// which the second is not counted.
fn count(lines: &str, begin: f64, end: f64) -> usize {
    let within = lines.lines().filter(|line| {
        let moment = line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
        moment.is_some_and(|moment| moment >= begin && moment < end)
    });
    within.filter(|line| !line.contains(" resumed>")).count()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn only_calls_between_the_moments_count() {
        let lines = "7 10.5 epoll_wait(6,  <unfinished ...>\n\
                     8 11.0 read(0, \"\", 1) = 0\n\
                     7 11.5 <... epoll_wait resumed>[], 8, 1000) = 0\n\
                     7 11.6 epoll_wait(6,  <unfinished ...>\n\
                     7 20.0 <... epoll_wait resumed>[], 8, 1000) = 0\n";
        assert_eq!(count(lines, 10.9, 15.0), 2);
        assert_eq!(count(lines, 12.0, 19.0), 0);
    }
}
