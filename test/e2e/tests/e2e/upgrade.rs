//! Executables that are replaced under running containers.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use wherry_e2e::images::kit;
use wherry_e2e::managed::Managed;
use wherry_testing::{
    Containerd, ContainerdVersion, Daemon, Run, bin_dir, engine, guests, shared, shim_program,
};

/// Puts a file in place as an installer does: by rename.
pub(crate) fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    fs::copy(from, &new).expect("the folder is writable");
    fs::rename(new, to).expect("the folder is writable");
}

/// The executables of one runtime in a folder of the test's own, which a containerd uses.
pub(crate) struct Installed(TempDir);

impl Installed {
    pub(crate) fn new() -> Installed {
        let installed = Installed(TempDir::new().expect("a temporary folder"));
        installed.again();
        installed
    }

    /// Installs all executables, again: other files with the same content.
    pub(crate) fn again(&self) {
        for path in [self.shim(), self.host(), self.compiler()] {
            install(&bin_dir().join(path.file_name().expect("a name")), &path);
        }
    }

    pub(crate) fn shim(&self) -> PathBuf {
        self.0.path().join(shim_program())
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.0.path().join(format!("wherry-{}-host", engine()))
    }

    pub(crate) fn compiler(&self) -> PathBuf {
        self.0.path().join(format!("wherry-{}", engine()))
    }

    /// Starts a containerd that finds these executables first.
    pub(crate) fn containerd(&self, version: ContainerdVersion) -> Containerd {
        self.start(version, |variables| Containerd::start_with(version, variables))
    }

    /// As [`Installed::containerd`], with settings of its managers.
    pub(crate) fn managed(&self, version: ContainerdVersion, settings: &str) -> Managed {
        self.start(version, |variables| Managed::start_with(version, settings, variables))
    }

    /// Starts a containerd with the environment that it needs for these executables.
    fn start<T>(&self, version: ContainerdVersion, start: impl Fn(&[(&str, &str)]) -> T) -> T {
        let cache = self.0.path().join("cache").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let daemons = wherry_testing::daemon_bin(version.name()).display().to_string();
        let path = format!("{}:{daemons}:{path}", self.0.path().display());
        start(&[("WHERRY_CACHE_DIR", &*cache), ("PATH", &*path)])
    }
}

/// Each new version fails at once, so what works is the old one.
fn a_container_is_entered_and_deleted_by_the_version_that_started_it(version: ContainerdVersion) {
    let installed = Installed::new();
    let containerd = installed.containerd(version);
    let image = kit(false).file("/tool.wasm", 0o644, guests::bytes("hello.wasm"));
    let container = containerd.start(&Run::new(&image).args(&["sleep", "100000"]));
    for path in [installed.host(), installed.compiler()] {
        install(Path::new("/bin/false"), &path);
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
