//! The version of Wasmtime and the key of its compiled code.
//!
//! Wasmtime can compute a key only with its compiler. The engine host has no compiler and must
//! compute the same key as `wherry-wasmtime`.

use wherry_engine::{CompileKey, Version};

/// The version that Cargo.toml pins.
const VERSION: &str = "48.0.8";
/// The day of its release.
const RELEASED: &str = "2026-10-29";

pub(crate) fn version() -> Version {
    Version {
        engine: "Wasmtime",
        number: VERSION.to_owned(),
        released: Some(RELEASED),
        advisories: "bytecodealliance/wasmtime",
    }
}

/// Returns the key: the version, the settings, and the processor's extensions that the compiler
/// uses. Wasmtime compares them again when it loads the code.
pub(crate) fn key() -> CompileKey {
    let settings = fnv(include_bytes!("settings.rs"));
    CompileKey(format!("{VERSION}-{settings:08x}-{:x}", processor()))
}

/// Returns the key of a component's code as a server: see `settings::server`.
pub(crate) fn server_key() -> CompileKey {
    CompileKey(format!("{}-http", key().0))
}

macro_rules! features {
    ($detected:ident: $($feature:tt)*) => {
        [$(std::arch::$detected!($feature)),*]
    };
}

/// Returns a bit per extension that Cranelift has instructions for: see its `infer_native_flags`.
fn processor() -> u32 {
    #[cfg(target_arch = "x86_64")]
    let features = features!(is_x86_feature_detected:
        "cmpxchg16b" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "avx" "avx2" "fma" "bmi1" "bmi2" "lzcnt" "avxvnni"
        "avx512bitalg" "avx512dq" "avx512f" "avx512vl" "avx512vbmi" "avx512vnni");
    #[cfg(target_arch = "aarch64")]
    let features = features!(is_aarch64_feature_detected: "lse" "paca" "fp16" "dotprod" "i8mm");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features = [];
    features.iter().fold(1, |bits, &has| (bits << 1) | u32::from(has))
}

/// FNV-1a, 32 bits. The standard library's hasher may change with the compiler, and a changed key
/// invalidates the cache.
const fn fnv(bytes: &[u8]) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    let mut rest = bytes;
    while let [byte, others @ ..] = rest {
        hash = (hash ^ *byte as u32).wrapping_mul(0x0100_0193);
        rest = others;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_version_is_the_one_in_the_key() {
        assert!(include_str!("../Cargo.toml").contains(&format!("\"={VERSION}\"")));
    }

    #[test]
    fn the_date_is_that_of_the_pinned_version() {
        // Fails after a change of the version until the date is updated: `pubtime` in the
        // registry's index.
        assert_eq!((VERSION, RELEASED), ("48.0.8", "2026-10-29"));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(fnv(b"foobar"), 0xbf9c_f968);
    }
}
