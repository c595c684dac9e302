//! A pod of Kubernetes, which containerd makes with a pause container, or the shim without one.

use std::time::Instant;

use wherry_e2e::cri::{Cri, Member};
use wherry_testing::{ContainerdVersion, Image, SHIM_SANDBOXER, engine, guests};

use crate::measures::{
    POD_ALONE_OF_SHIM, POD_ALONE_WITH_PAUSE, POD_OF_SHIM, POD_PSS, POD_PSS_OF_SHIM, POD_WITH_PAUSE,
};
use crate::parts::memory::steady;
use crate::world::{World, milliseconds, settle};

/// The pods that run at once for the memory of one: as the containers of [`super::memory`].
const PODS: usize = 20;

/// Measures the engine under test alone, because containerd's configuration has its handlers only,
/// and on containerd 2.4, because 2.1 panics when a shim makes a pod in the node's network.
pub(crate) fn measure(world: &mut World) {
    let engine = engine();
    if !world.options.engines.contains(&engine) {
        return;
    }
    let cri = Cri::start_with_shim_sandboxer(ContainerdVersion::V2_4);
    let by_shim = engine.clone() + SHIM_SANDBOXER;
    let ways = [
        (engine.as_str(), POD_WITH_PAUSE, POD_ALONE_WITH_PAUSE, POD_PSS),
        (by_shim.as_str(), POD_OF_SHIM, POD_ALONE_OF_SHIM, POD_PSS_OF_SHIM),
    ];
    // The first pod of each way is not counted.
    for round in 0..=world.options.rounds {
        let name = format!("pod-{round}");
        for (handler, time, time_alone, _) in ways {
            for (time, alone) in [(time, false), (time_alone, true)] {
                settle(cri.containerd());
                let start = Instant::now();
                let pod = match alone {
                    false => cri.pod_under(&name, handler),
                    true => cri.pod_in_nodes_network(&name, handler),
                };
                let took = milliseconds(start.elapsed());
                if round > 0 {
                    world.results.add(time, &engine, took);
                }
                pod.remove();
            }
        }
    }
    for _ in 0..world.options.rounds_of(7) {
        for (handler, _, _, memory) in ways {
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
