//! The first run of a small module and of one of over 5 MB, and the latter's second run.

use wherry_testing::Daemon;

use crate::images;
use crate::measures::{COLD_LARGE, COLD_SMALL, SECOND_LARGE};
use crate::world::World;

/// The output of `large.wasm`.
pub(crate) const LARGE_SAYS: &str = "3dbb3217\n";

/// Each first run finds an empty cache.
pub(crate) fn measure(world: &mut World) {
    let hello = images::hello();
    let (large, size) = images::large();
    eprintln!("        the large module has {size} bytes");
    world.containerd.load(hello.image(false));
    world.containerd.load(&large);
    for _ in 0..world.options.rounds_of(5) {
        for engine in world.options.engines.clone() {
            world.empty_cache();
            let took = world.ctr_run(&engine, hello.image(false), hello.says);
            world.results.add(COLD_SMALL, &engine, took);
        }
    }
    for _ in 0..world.options.rounds_of(7) {
        for engine in world.options.engines.clone() {
            world.empty_cache();
            for key in [COLD_LARGE, SECOND_LARGE] {
                let took = world.ctr_run(&engine, &large, LARGE_SAYS);
                world.results.add(key, &engine, took);
            }
        }
    }
}
