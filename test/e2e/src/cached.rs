//! A containerd whose shims have a private cache of compiled code.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use wherry_testing::{
    Containerd, ContainerdVersion, Daemon, Outcome, Run, Trace, bin_dir, daemon_bin, engine,
    managers,
};

/// The containerd, and a folder with the cache.
pub struct World {
    /// The containerd.
    pub containerd: Containerd,
    /// A folder for files of the test.
    pub folder: TempDir,
}

impl World {
    /// Starts a containerd.
    pub fn new(version: ContainerdVersion) -> World {
        let folder = TempDir::new().expect("a temporary folder");
        let cache = folder.path().join("cache").display().to_string();
        let containerd = Containerd::start_with(version, &[("WHERRY_CACHE_DIR", &cache)]);
        World { containerd, folder }
    }

    /// The output of the command `wherry-E`.
    pub fn tool(&self, words: &[&str]) -> Outcome {
        wherry_testing::call(self.command(&format!("wherry-{}", engine()), words), None)
    }

    /// The command of one of our programs, with the cache and with the clients of this containerd.
    pub fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join(program));
        let clients = daemon_bin(self.containerd.version().name());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", clients.display()));
        command.env("WHERRY_CACHE_DIR", self.folder.path().join("cache")).args(words);
        command
    }

    /// The files of compiled code.
    pub fn codes(&self) -> HashSet<PathBuf> {
        let files = fs::read_dir(self.folder.path().join("cache")).into_iter().flatten().flatten();
        let is_code = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ending = [".checked", ".failed", ".new"].iter().any(|end| name.ends_with(end));
            name.contains(&format!("-{}-", engine())) && !ending
        };
        files.map(|file| file.path()).filter(is_code).collect()
    }

    /// Runs a guest that prints "hello\n", and returns whether a module was compiled for it.
    pub fn compiles_for(&self, run: &Run) -> bool {
        self.compiles_for_call(|| self.containerd.run(run).success())
    }

    /// Calls a client that runs a guest that prints "hello\n", and returns whether a module was
    /// compiled for it.
    pub fn compiles_for_call(&self, call: impl FnOnce() -> String) -> bool {
        let options = ["--trace=execve", "--successful-only", "--signal=none"];
        let managers = managers(&self.containerd.address()).into_iter();
        let traced = managers.map(|manager| manager.pid).chain([self.containerd.daemon_pid()]);
        let trace = Trace::attach(&self.containerd, &traced.collect::<Vec<_>>(), &options);
        assert_eq!(call(), "hello\n");
        trace.lines().contains("\"compile\"")
    }
}
