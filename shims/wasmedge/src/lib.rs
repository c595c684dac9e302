//! WasmEdge behind Wherry's seam: core modules of WASI preview 1, with WasmEdge's own sockets.
//!
//! A module is compiled to a shared object, which the dynamic loader maps from its file, so that
//! all guests of one image share its pages. The guest runs on the thread that calls
//! [`Program::run`].
#![cfg(feature = "library")]

mod binary;
#[cfg(feature = "compiler")]
mod compiler;
mod context;
#[cfg(not(feature = "bundled"))]
mod library;
#[cfg(not(any(feature = "bundled", feature = "compiler")))]
mod llvm;
mod module;
mod pause;
mod plugins;
mod settings;
mod stack;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wasmedge_sdk::utils::CoreVersion;
use wherry_engine::{Code, CompileKey, Engine, Guest, LinkBuffer, LoadError, Program, Version};

/// The days of release of the WasmEdge versions that this build was tested with. The machine
/// provides the library.
const RELEASED: &[(&str, &str)] = &[("0.17.0", "2026-05-18"), ("0.17.1", "2026-07-03")];
const ADVISORIES: &str = "WasmEdge/WasmEdge";

/// The WasmEdge engine. Created once before the process forks: a child inherits the loaded library.
pub struct WasmEdge {
    key: CompileKey,
}

impl WasmEdge {
    /// Loads the library.
    ///
    /// # Errors
    /// [`LoadError::Engine`] if it is missing or too old.
    pub fn new() -> Result<Self, LoadError> {
        #[cfg(not(feature = "bundled"))]
        library::load()?;
        // WasmEdge logs to the guest's streams. Its errors carry the causes too.
        wasmedge_sdk::log::LogManager::log_off();
        let cpu = Fnv::of(&cpu(&start_of("/proc/cpuinfo")));
        let key = CompileKey(format!("{}-{cpu:016x}", version()));
        Ok(Self { key })
    }
}

impl Engine for WasmEdge {
    fn name(&self) -> &'static str {
        "wasmedge"
    }

    fn version(&self) -> Version {
        let number = version();
        let released = Version::released(&number, RELEASED);
        Version { engine: "WasmEdge", number, released, advisories: ADVISORIES }
    }

    fn compile_key(&self) -> Option<CompileKey> {
        Some(self.key.clone())
    }

    #[cfg(feature = "compiler")]
    fn check(&self, wasm: &[u8], start: Option<&wherry_engine::Start>) -> Result<(), LoadError> {
        compiler::check(wasm, start)
    }

    fn plugin_modules(&self) -> Vec<String> {
        plugins::modules()
    }

    #[cfg(feature = "compiler")]
    fn compile(
        &self,
        wasm: &[u8],
        out: &mut dyn std::io::Write,
    ) -> Result<(), wherry_engine::CompileError> {
        compiler::compile(wasm, compiler::Effort::Optimised, out)
    }

    fn baseline_key(&self) -> Option<CompileKey> {
        Some(CompileKey(format!("{}-baseline", self.key.0)))
    }

    #[cfg(feature = "compiler")]
    fn compile_baseline(
        &self,
        wasm: &[u8],
        out: &mut dyn std::io::Write,
    ) -> Result<(), wherry_engine::CompileError> {
        compiler::compile(wasm, compiler::Effort::Baseline, out)
    }

    fn system_calls(&self) -> &'static [i64] {
        // A sleep uses a timer descriptor.
        &[libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime]
    }

    fn link_buffer(&self) -> Option<LinkBuffer> {
        // VINode::resolvePath of its vinode.cpp.
        Some(LinkBuffer::Fixed(16384))
    }

    fn load_plugins(&self, path: &Path) -> Result<(), LoadError> {
        plugins::load(path)
    }

    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
        module::load(code, &guest)
    }
}

/// The library's version, `0.17.1`.
fn version() -> String {
    let (major, minor, patch) = (CoreVersion::major(), CoreVersion::minor(), CoreVersion::patch());
    format!("{major}.{minor}.{patch}")
}

/// Reads the first 4 KiB of a file: with many processors the kernel takes long for all of
/// `/proc/cpuinfo`, and the first processor's entry is enough.
fn start_of(path: &str) -> String {
    let mut start = Vec::new();
    // Without /proc the key holds only the version.
    let _ = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start));
    String::from_utf8_lossy(&start).into_owned()
}

/// Returns the lines of `/proc/cpuinfo` that native code depends on: the model and the features of
/// the first processor.
fn cpu(text: &str) -> String {
    const NAMES: [&str; 7] =
        ["vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part"];
    let first = text.split_once("\n\n").map_or(text, |(first, _)| first);
    let lines = first
        .lines()
        .filter(|line| line.split_once(':').is_some_and(|(name, _)| NAMES.contains(&name.trim())));
    lines.collect::<Vec<_>>().join("\n")
}

/// FNV-1a, 64 bits. The standard library's hasher may change with the compiler, and a changed key
/// invalidates the cache.
struct Fnv;

impl Fnv {
    fn of(text: &str) -> u64 {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_pinned_bindings_has_a_date() {
        let manifest = include_str!("../Cargo.toml");
        let pinned = manifest.split_once("wasmedge-sdk = { version = \"=");
        let pinned = pinned.and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
        let date = Version::released(pinned, RELEASED);
        assert!(date.is_some(), "look up when WasmEdge {pinned} was released");
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(Fnv::of("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn what_code_depends_on_is_the_model_and_its_features() {
        let text = "processor\t: 0\nmodel name\t: A\nflags\t\t: sse avx\ncpu MHz\t\t: 2100.1\n\n\
                    processor\t: 1\nmodel name\t: B\n";
        assert_eq!(cpu(text), "model name\t: A\nflags\t\t: sse avx");
    }
}
