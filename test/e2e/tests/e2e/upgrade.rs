//! Executables that are replaced under running containers.

use std::fs;
use std::path::Path;

use wherry_e2e::images::kit;
use wherry_testing::{Containerd, ContainerdVersion, Daemon, Run, bin_dir, engine, guests};

/// Puts a file in place as an installer does: by rename.
fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    fs::copy(from, &new).expect("the folder is writable");
    fs::rename(new, to).expect("the folder is writable");
}

/// Each new version fails at once, so what works is the old one.
fn a_container_is_entered_and_deleted_by_the_version_that_started_it(version: ContainerdVersion) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let names = ["containerd-shim-E-v1", "wherry-E-host", "wherry-E"];
    let names = names.map(|name| name.replace('E', &engine()));
    for name in &names {
        install(&bin_dir().join(name), &folder.path().join(name));
    }
    let cache = folder.path().join("cache").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let daemons = wherry_testing::daemon_bin(version.name()).display().to_string();
    let path = format!("{}:{daemons}:{path}", folder.path().display());
    let variables = [("WHERRY_CACHE_DIR", &*cache), ("PATH", &*path)];
    let containerd = Containerd::start_with(version, &variables);

    let image = kit(false).file("/tool.wasm", 0o644, guests::bytes("hello.wasm"));
    let container = containerd.start(&Run::new(&image).args(&["sleep", "100000"]));
    for name in &names[1..] {
        install(Path::new("/bin/false"), &folder.path().join(name));
    }
    for _ in 0..2 {
        // The first compiles a module.
        let said = containerd.exec(container.id(), &["/tool.wasm"], b"").success();
        assert_eq!(said, "hello from a guest\n");
    }
    assert!(!container.ended());
    let refused = containerd.run(&Run::new(&image).args(&["echo", "x"]));
    assert_ne!(refused.code, 0, "the new version serves new containers: {refused}");
}

wherry_e2e::on_containerd_versions!(
    version => version;
    a_container_is_entered_and_deleted_by_the_version_that_started_it
);
