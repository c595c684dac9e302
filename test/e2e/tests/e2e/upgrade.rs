//! Executables that are replaced under running containers.

use std::fs;
use std::path::Path;

use wherry_e2e::images::kit;
use wherry_testing::{
    Containerd, ContainerdVersion, Daemon, Run, bin_dir, engine, guests, shared, shim_program,
};

/// Puts a file in place as an installer does: by rename.
fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    fs::copy(from, &new).expect("the folder is writable");
    fs::rename(new, to).expect("the folder is writable");
}

/// Each new version fails at once, so what works is the old one.
fn a_container_is_entered_and_deleted_by_the_version_that_started_it(version: ContainerdVersion) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let (shim, engine) = (shim_program(), engine());
    let names = [shim, format!("wherry-{engine}-host"), format!("wherry-{engine}")];
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
    let next = containerd.run(&Run::new(&image).args(&["echo", "x"]));
    // A manager serves all containers with its own version, to its end.
    assert_eq!(next.code == 0, shared(), "the new version serves new containers: {next}");
}

wherry_e2e::on_containerd_versions!(
    version => version;
    a_container_is_entered_and_deleted_by_the_version_that_started_it
);
