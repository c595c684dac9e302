//! A first start that does not wait for the best code.

use std::fs;

use wherry_e2e::images::hello;
use wherry_testing::{Containerd, ContainerdVersion, DEADLINE, Daemon, Run, engine, wait_until};

fn better_code_is_made_behind_the_first_start(version: ContainerdVersion) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let cache = folder.path().join("cache").display().to_string();
    let containerd = Containerd::start_with(version, &[("WHERRY_CACHE_DIR", &cache)]);
    // The number of files of quick code, and of other code.
    let codes = || {
        let names = fs::read_dir(&cache).into_iter().flatten().flatten();
        let names = names.map(|file| file.file_name().to_string_lossy().into_owned());
        let codes: Vec<String> = names
            .filter(|name| name.contains(&format!("-{}-", engine())))
            .filter(|name| !name.ends_with(".new") && !name.ends_with(".checked"))
            .collect();
        let quick = codes.iter().filter(|name| name.ends_with("-baseline")).count();
        (quick, codes.len() - quick)
    };
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    assert_eq!(codes().0, 1, "the first start has waited for the best code");
    // The container and its shim have ended before.
    wait_until("better code", DEADLINE, || codes() == (1, 1));
    assert_eq!(containerd.run(&Run::new(&hello())).success(), "hello\n");
    assert_eq!(codes(), (1, 1));
}

wherry_e2e::tests_in!(
    containerd_1_6,
    ContainerdVersion::V1_6,
    better_code_is_made_behind_the_first_start
);
wherry_e2e::tests_in!(
    containerd_2,
    ContainerdVersion::V2,
    better_code_is_made_behind_the_first_start
);
