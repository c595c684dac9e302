//! `docker run --rm` of hello and of fib(35).

use wherry_testing::{Daemon, Docker, DockerVersion};

use crate::images;
use crate::measures::{DOCKER_FIB, DOCKER_HELLO};
use crate::world::{World, is_native, runtime, settle, time};

/// The runtimes take turns in each round; the first round fills the caches.
pub(crate) fn measure(world: &mut World) {
    let docker = Docker::start(DockerVersion::V28);
    for (key, pair) in [(DOCKER_HELLO, images::hello()), (DOCKER_FIB, images::fib())] {
        for native in [false, true] {
            docker.load(pair.image(native));
        }
        for round in 0..=world.options.rounds {
            for who in world.runtimes(false) {
                settle(docker.containerd());
                let (runtime, image) = (runtime(&who), pair.image(is_native(&who)));
                let words =
                    ["run", "--rm", "--pull", "never", "--runtime", &runtime, &image.reference];
                let took = time(docker.docker_command(&words), pair.says);
                if round > 0 {
                    world.results.add(key, &who, took);
                }
            }
        }
    }
}
