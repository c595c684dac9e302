//! A hundred containers, four at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use wherry_testing::Daemon;

use crate::images;
use crate::measures::{MANY, MANY_LOST};
use crate::results::{NOTHING, RUNC};
use crate::world::{World, is_native, output, runtime};

const CONTAINERS: usize = 100;
const AT_A_TIME: usize = 4;

/// The number of containers that end per second, and the outputs that runc's shim and `ctr` lose,
/// which they do now and then. A client starts the next one as soon as its last has ended.
///
/// # Panics
/// If an output of another shim is lost.
pub(crate) fn measure(world: &mut World) {
    let hello = images::hello();
    for native in [false, true] {
        world.containerd.load(hello.image(native));
    }
    for who in world.runtimes(true) {
        world.ctr_run(&who, hello.image(is_native(&who)), hello.says);
    }
    for _ in 0..world.options.rounds_of(7) {
        for who in world.runtimes(true) {
            world.settle();
            let (image, runtime) = (hello.image(is_native(&who)), runtime(&who));
            let says = if who == NOTHING { "" } else { hello.says };
            let containerd = &world.containerd;
            let lost = AtomicUsize::new(0);
            let start = Instant::now();
            at_a_time(CONTAINERS, |_| {
                let id = containerd.new_id();
                let words = ["run", "--rm", "--runtime", &runtime, &image.reference, &id];
                let said = output(containerd.ctr_command(&words));
                if who == RUNC && said.is_empty() {
                    lost.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(said, says, "{who}: the container's output");
                }
            });
            let took = start.elapsed().as_secs_f64();
            world.results.add(MANY, &who, CONTAINERS as f64 / took);
            world.results.add(MANY_LOST, &who, lost.into_inner() as f64);
        }
    }
}

/// Calls a function so many times, on four threads.
pub(crate) fn at_a_time(times: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= times {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}
