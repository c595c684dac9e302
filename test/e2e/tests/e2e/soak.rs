//! Thousands of containers come and go, and nothing stays.

use wherry_e2e::on_own_containerds;
use wherry_e2e::soak::{soak, soak_a_manager, soak_a_pod, soak_losses};
use wherry_testing::{Containerd, ContainerdVersion};

fn a_short_soak_leaves_everything_as_it_was(containerd: &Containerd) {
    println!("{}", soak(containerd, 1, 150));
}

fn the_shim_of_a_pod_does_not_grow(containerd: &Containerd) {
    println!("{}", soak_a_pod(containerd, 1, 100));
}

/// `SOAK_MANAGER` is the number of containers.
fn a_manager_does_not_grow(containerd: &Containerd) {
    let cycles = std::env::var("SOAK_MANAGER");
    let cycles = cycles.map_or(100, |text| text.parse().expect("a number"));
    println!("{}", soak_a_manager(containerd, 1, cycles));
}

fn no_shim_outlives_its_container_when_containerd_is_lost(containerd: &Containerd) {
    println!("{}", soak_losses(containerd, 1, 4));
}

on_own_containerds!(
    a_short_soak_leaves_everything_as_it_was,
    the_shim_of_a_pod_does_not_grow,
    a_manager_does_not_grow,
    no_shim_outlives_its_container_when_containerd_is_lost,
);

/// `make soak`: the number `SOAK_CYCLES`, the seed `SOAK_SEED`, the containerd `SOAK_CONTAINERD`.
#[test]
#[ignore = "it takes minutes: `make soak`"]
fn the_whole_soak() {
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty());
        text.map(|text| text.parse::<u64>().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
    };
    let version = match std::env::var("SOAK_CONTAINERD").as_deref() {
        Ok("1.6") => ContainerdVersion::V1_6,
        Ok("1.7") => ContainerdVersion::V1_7,
        Ok("2.4") => ContainerdVersion::V2_4,
        _ => ContainerdVersion::V2,
    };
    let seed = number("SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let cycles = number("SOAK_CYCLES").unwrap_or(2000);
    println!("SOAK_SEED={seed}");
    let cycles = usize::try_from(cycles).expect("a count");
    let containerd = Containerd::start(version);
    println!("{}", soak(&containerd, seed, cycles));
    println!("{}", soak_a_pod(&containerd, seed, cycles.min(300)));
    println!("{}", soak_losses(&containerd, seed, cycles.min(2000) / 50));
}
