//! The guests of `test/guests`, compiled once per test process that asks for them.

use crate::io::call;
use crate::places::{cache_dir, repository};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the compiled guests. Compiles what is missing or out of date.
///
/// # Panics
/// When they cannot be compiled, with what `make` said.
pub fn dir() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let out = cache_dir().join("guests");
        fs::create_dir_all(&out)
            .unwrap_or_else(|e| panic!("{} cannot be made: {e}", out.display()));
        let mut command = Command::new("flock");
        command.arg(out.join(".lock")).args(["make", "--no-print-directory", "-C"]);
        command.arg(repository().join("test/guests")).arg(format!("OUT={}", out.display()));
        call(command, None).success();
        out
    })
    .clone()
}

/// The path of a compiled guest, like `kit.wasm`.
pub fn path(name: &str) -> PathBuf {
    dir().join(name)
}

/// A compiled guest's bytes.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    fs::read(&path).unwrap_or_else(|e| panic!("test/guests gave no {}: {e}", path.display()))
}
