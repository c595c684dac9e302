//! A pod of Kubernetes, which containerd makes with a pause container, or the shim without one.

use std::time::Instant;

use wherry_e2e::cri::{Cri, Member};
use wherry_testing::{ContainerdVersion, Image, SHIM_SANDBOXER, engine, guests};

use crate::measures::{POD_OF_SHIM, POD_PSS, POD_PSS_OF_SHIM, POD_WITH_PAUSE};
use crate::parts::memory::steady;
use crate::world::{World, milliseconds, settle};

/// The pods that run at once for the memory of one: as the containers of [`super::memory`].
const PODS: usize = 20;

/// Measures the engine under test alone: containerd's configuration has its handlers only.
pub(crate) fn measure(world: &mut World) {
    let engine = engine();
    if !world.options.engines.contains(&engine) {
        return;
    }
    let cri = Cri::start_with_shim_sandboxer(ContainerdVersion::V2);
    let by_shim = engine.clone() + SHIM_SANDBOXER;
    let ways = [
        (engine.as_str(), POD_WITH_PAUSE, POD_PSS),
        (by_shim.as_str(), POD_OF_SHIM, POD_PSS_OF_SHIM),
    ];
    // The first pod of each way is not counted.
    for round in 0..=world.options.rounds {
        for (handler, time, _) in ways {
            settle(cri.containerd());
            let start = Instant::now();
            let pod = cri.pod_under(&format!("pod-{round}"), handler);
            let took = milliseconds(start.elapsed());
            if round > 0 {
                world.results.add(time, &engine, took);
            }
            pod.remove();
        }
    }
    for _ in 0..world.options.rounds_of(7) {
        for (handler, _, memory) in ways {
            let each = pss(&cri, handler);
            world.results.add(memory, &engine, each);
        }
    }
}

/// The memory of a pod with a sleeping guest, in megabytes.
fn pss(cri: &Cri, handler: &str) -> f64 {
    settle(cri.containerd());
    let image = Image::new("bench-kit-pod").entrypoint(&["/app"]).cmd(&["sleep", "1000000"]);
    let image = image.file("/app", 0o755, guests::bytes("kit.wasm"));
    let pods: Vec<_> = (0..PODS)
        .map(|number| {
            let mut pod = cri.pod_under(&format!("sleeper-{number}"), handler);
            pod.run(&Member::new("guest", &image));
            pod
        })
        .collect();
    let usage = steady(cri.containerd(), PODS);
    pods.into_iter().for_each(wherry_e2e::cri::Pod::remove);
    usage.pss as f64 / 1e6 / PODS as f64
}
