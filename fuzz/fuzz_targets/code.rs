//! A cache whose files have any bytes, and any names beside them: in every case the code that
//! a module gets is what the compiler makes of this very module.
//!
//! Input: a byte that says which file is changed, one that says how, a byte for the length of a
//! name, the name, and the bytes.
#![no_main]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use wherry_image::{Cache, CacheError, Compiler, Module};

fuzz_target!(|bytes: &[u8]| {
    let [which, how, length, rest @ ..] = bytes else { return };
    let (name, bytes) = rest.split_at(usize::from(*length).min(rest.len()));
    let folder = TempDir::new_in("/dev/shm").expect("there is room");
    let directory = folder.path().join("cache");
    let modules = ["one", "another"].map(|content| {
        let path = folder.path().join(content);
        fs::write(&path, content).expect("there is room");
        path
    });
    for module in &modules {
        assert_eq!(code_of(module, &directory), code(module));
    }
    change(&directory, *which, *how, bytes);
    add(&directory, name, bytes);
    // A shim that starts later has read nothing yet.
    for _ in 0..2 {
        for module in &modules {
            assert_eq!(code_of(module, &directory), code(module));
        }
    }
    let cache = Cache::new(directory, "fuzz", 0);
    if let Ok(entries) = cache.entries() {
        assert!(entries.len() <= 64);
    }
    // A damaged cache may refuse: only a panic is a fault here.
    let _ = cache.prune(Duration::ZERO);
});

/// The code that the cache gives for a module, without what stands behind it.
fn code_of(module: &Path, directory: &Path) -> Vec<u8> {
    let cache = Cache::new(directory.to_owned(), "fuzz", 0);
    let file = File::open(module).expect("it was written");
    let module = Module { file: &file, name: "module", of_image: true };
    let mut code = cache.get(module, "key-1", &Doubling, &mut |_| {}).expect("it compiles");
    let mut bytes = Vec::new();
    code.read_to_end(&mut bytes).expect("it is a file");
    let end = bytes.windows(4).position(|window| window == b"END\n").map(|at| at + 4);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

fn code(module: &Path) -> Vec<u8> {
    Doubling::code(&fs::read(module).expect("it was written"))
}

/// A compiler that writes a module twice, and an end.
struct Doubling;

impl Doubling {
    fn code(wasm: &[u8]) -> Vec<u8> {
        [wasm, wasm, b"END\n"].concat()
    }
}

impl Compiler for Doubling {
    fn bounds(&self) -> String {
        "none".to_owned()
    }

    fn compile(&self, wasm: &File, _: &str, _: u32, out: &File) -> Result<(), CacheError> {
        let (mut wasm, mut out) = (wasm, out);
        let mut bytes = Vec::new();
        wasm.read_to_end(&mut bytes).map_err(CacheError::Read)?;
        out.write_all(&Doubling::code(&bytes)).map_err(CacheError::Read)
    }
}

/// Changes one of the files: other bytes, some more at its end, some in the middle, or none.
fn change(directory: &Path, which: u8, how: u8, bytes: &[u8]) {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).expect("it is there").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file());
    files.sort_unstable();
    if files.is_empty() {
        return;
    }
    let path = &files[usize::from(which) % files.len()];
    let before = fs::read(path).expect("it is ours");
    let after = match how % 5 {
        0 => bytes.to_vec(),
        1 => [&before[..], bytes].concat(),
        2 => {
            let mut after = before;
            for (old, new) in after.iter_mut().zip(bytes) {
                *old ^= new;
            }
            after
        }
        3 => {
            let mut after = before;
            let start = after.len().saturating_sub(bytes.len());
            after.truncate(start);
            after.extend(bytes);
            after
        }
        // That of another.
        _ => fs::read(&files[usize::from(how) % files.len()]).expect("it is ours"),
    };
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).expect("it is ours");
    file.write_all(&after).expect("there is room");
}

/// Adds a file of any name.
fn add(directory: &Path, name: &[u8], bytes: &[u8]) {
    let name = String::from_utf8_lossy(name).replace(['/', '\0'], "_");
    if !name.is_empty() && name != "." && name != ".." && name.len() < 250 {
        let _ = fs::write(directory.join(name), bytes);
    }
}
