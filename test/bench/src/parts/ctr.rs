//! `ctr run --rm` of hello, warm.

use wherry_testing::Daemon;

use crate::images;
use crate::measures::CTR_HELLO;
use crate::world::{World, is_native};

/// The runtimes take turns in each round; the first round fills the caches.
pub(crate) fn measure(world: &mut World) {
    let hello = images::hello();
    for native in [false, true] {
        world.containerd.load(hello.image(native));
    }
    for round in 0..=world.options.rounds_of_short() {
        for who in world.runtimes(true) {
            let took = world.ctr_run(&who, hello.image(is_native(&who)), hello.says);
            if round > 0 {
                world.results.add(CTR_HELLO, &who, took);
            }
        }
    }
}
