//! The guests of `test/guests`, compiled on first use.

use crate::io::call;
use crate::places::{cache_dir, repository};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The interface definitions of the guests that use the network.
const WIT: &str = "crates/engine/src/conformance/wasi.wit";

/// The folder of the compiled guests, one for each state of their sources: clones of the repository
/// share the cache. Compiles them on the first call.
///
/// # Panics
/// If they cannot be compiled; the message contains the output of `make`.
pub fn dir() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let sources = [repository().join("test/guests"), repository().join(WIT)];
        let mut digest = Sha256::new();
        sources.iter().for_each(|source| add(&mut digest, source));
        let out = all().join(&format!("{:x}", digest.finalize())[..12]);
        let complete = out.join(".complete");
        if complete.exists() {
            return out;
        }
        make(&out, &[]);
        fs::write(&complete, "").unwrap_or_else(|e| panic!("{}: {e}", complete.display()));
        out
    })
    .clone()
}

fn all() -> PathBuf {
    cache_dir().join("guests")
}

/// Runs make for the named files, or for everything that the tests need.
fn make(out: &Path, names: &[&Path]) {
    fs::create_dir_all(out).unwrap_or_else(|e| panic!("{} cannot be created: {e}", out.display()));
    let mut command = Command::new("flock");
    command.arg(all().join(".lock")).args(["make", "--no-print-directory", "-C"]);
    command.arg(repository().join("test/guests")).arg(format!("OUT={}", out.display()));
    command.arg(format!("TOOLS={}", all().join(".tools").display())).args(names);
    call(command, None).success();
}

/// Adds a file to the digest, or all files of a folder in the order of their names.
pub(crate) fn add(digest: &mut Sha256, path: &Path) {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().for_each(|path| add(digest, path));
        return;
    }
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    digest.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    digest.update(bytes.len().to_le_bytes());
    digest.update(bytes);
}

/// The path of a compiled guest, like `kit.wasm`. A guest of the benchmark alone is compiled on
/// demand.
pub fn path(name: &str) -> PathBuf {
    let path = dir().join(name);
    if !path.exists() {
        make(&dir(), &[&path]);
    }
    path
}

/// The bytes of a compiled guest.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    fs::read(&path).unwrap_or_else(|e| panic!("cannot read the guest {}: {e}", path.display()))
}
