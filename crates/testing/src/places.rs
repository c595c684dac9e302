//! Paths and settings: the repository, the cache, the executables under test, the daemons.

use std::collections::HashSet;
use std::env;
use std::path::{self, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// The root of the repository: the nearest folder above the working directory with a `test/setup`.
/// It is determined at run time, because several clones may share cargo's target folder.
pub fn repository() -> PathBuf {
    let here = env::current_dir().expect("the working directory is there");
    here.ancestors()
        .find(|folder| folder.join("test/setup").is_dir())
        .unwrap_or_else(|| panic!("{} is not in the repository", here.display()))
        .to_owned()
}

/// The folder of fetched daemons, built guests and packed images: `WHERRY_CACHE`, or
/// `/var/cache/wherry`.
pub fn cache_dir() -> PathBuf {
    env::var_os("WHERRY_CACHE").map_or_else(|| "/var/cache/wherry".into(), PathBuf::from)
}

/// The folder of the executables under test: `WHERRY_BIN_DIR`, or `release` in cargo's target
/// folder.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = env::var_os("WHERRY_BIN_DIR") {
        // Absolute, because daemons run in other working directories.
        return path::absolute(&dir).unwrap_or_else(|_| dir.into());
    }
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from)
        .join("release")
}

/// The engine under test: `WHERRY_ENGINE`, or `wasmtime`.
pub fn engine() -> String {
    env::var("WHERRY_ENGINE").unwrap_or_else(|_| "wasmtime".to_owned())
}

/// Whether one manager serves all containers: `WHERRY_MODE` is `shared`, or `container`, the
/// default.
pub fn shared() -> bool {
    match env::var("WHERRY_MODE").as_deref() {
        Err(_) | Ok("container") => false,
        Ok("shared") => true,
        Ok(other) => panic!("WHERRY_MODE is neither container nor shared: {other}"),
    }
}

/// The runtime of an engine in the mode under test, as in `io.containerd.<name>.v1`.
pub fn runtime_of(engine: &str) -> String {
    format!("{engine}{}", if shared() { "d" } else { "" })
}

/// The runtime under test.
fn runtime_name() -> String {
    runtime_of(&engine())
}

/// The name of the shim's executable.
pub fn shim_program() -> String {
    format!("containerd-shim-{}-v1", runtime_name())
}

/// The runtime's name as a user gives it, for the engine and mode under test. `WHERRY_RUNTIME`
/// replaces it: with `io.containerd.runc.v2` the tests of native programs show whether they expect
/// more than runc does.
pub fn runtime() -> String {
    env::var("WHERRY_RUNTIME").unwrap_or_else(|_| format!("io.containerd.{}.v1", runtime_name()))
}

/// Whether systemd creates containers' cgroups: `WHERRY_CGROUP_DRIVER` is `systemd`, or `cgroupfs`,
/// the default.
pub fn systemd_cgroups() -> bool {
    match env::var("WHERRY_CGROUP_DRIVER").as_deref() {
        Err(_) | Ok("cgroupfs") => false,
        Ok("systemd") => true,
        Ok(other) => panic!("WHERRY_CGROUP_DRIVER is neither cgroupfs nor systemd: {other}"),
    }
}

/// The factor on every deadline, for slow machines: `WHERRY_PATIENCE`, or 1.
pub(crate) fn patience() -> u32 {
    env::var("WHERRY_PATIENCE").map_or(1, |text| text.parse().expect("WHERRY_PATIENCE is a number"))
}

/// The `bin` folder of a daemon, like `containerd-2` or `runc`; fetches or builds the daemon if it
/// is missing.
pub fn daemon_bin(name: &str) -> PathBuf {
    static READY: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut ready = READY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let ready = ready.get_or_insert_default();
    if !ready.contains(name) {
        let script = repository().join("test/setup/daemons.sh");
        let status = Command::new(&script)
            .arg(name)
            .env("WHERRY_CACHE", cache_dir())
            .status()
            .unwrap_or_else(|e| panic!("{} cannot be run: {e}", script.display()));
        assert!(status.success(), "{} {name} failed", script.display());
        ready.insert(name.to_owned());
    }
    cache_dir().join("daemons").join(name).join("bin")
}

/// PATH for a daemon: the executables under test first, then the daemon's own, then the system's.
pub(crate) fn search_path(daemons: &[&str]) -> String {
    let mut path = bin_dir().display().to_string();
    for name in daemons {
        path += ":";
        path += &daemon_bin(name).display().to_string();
    }
    path + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}
