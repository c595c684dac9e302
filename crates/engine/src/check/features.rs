//! Features of WebAssembly: their names, and the runtimes that support them.

use wasmparser::WasmFeatures;

/// The features of Wasmtime as `shims/wasmtime` builds it.
pub const WASMTIME: WasmFeatures = WasmFeatures::WASM3
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::COMPONENT_MODEL)
    .difference(WasmFeatures::THREADS);

/// The features of WasmEdge 0.17.
pub const WASMEDGE: WasmFeatures = WasmFeatures::WASM3
    .union(WasmFeatures::GC_TYPES)
    .difference(WasmFeatures::MEMORY64)
    .difference(WasmFeatures::RELAXED_SIMD)
    .difference(WasmFeatures::THREADS);

/// The features of WAMR as `shims/wamr` builds it.
pub const WAMR: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::TAIL_CALL)
    .difference(WasmFeatures::SIMD);

/// Wherry's runtimes, the first choice first.
const RUNTIMES: [(&str, WasmFeatures); 3] = [
    ("io.containerd.wasmtime.v1", WASMTIME),
    ("io.containerd.wasmedge.v1", WASMEDGE),
    ("io.containerd.wamr.v1", WAMR),
];

/// The names of features in the standard's words. A feature without one here is named after its
/// flag.
const NAMES: [(WasmFeatures, &str); 17] = [
    (WasmFeatures::SIMD, "SIMD"),
    (WasmFeatures::RELAXED_SIMD, "relaxed SIMD"),
    (WasmFeatures::THREADS, "threads (shared memory and atomics)"),
    (WasmFeatures::EXCEPTIONS, "exceptions"),
    (WasmFeatures::LEGACY_EXCEPTIONS, "exceptions of the legacy proposal"),
    (WasmFeatures::MEMORY64, "memory64 (64-bit memories and tables)"),
    (WasmFeatures::MULTI_MEMORY, "multiple memories"),
    (WasmFeatures::TAIL_CALL, "tail calls"),
    (WasmFeatures::EXTENDED_CONST, "extended constant expressions"),
    (WasmFeatures::FUNCTION_REFERENCES, "typed function references"),
    (WasmFeatures::GC, "garbage collection"),
    (WasmFeatures::GC_TYPES, "garbage collection"),
    (WasmFeatures::STACK_SWITCHING, "stack switching"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "custom page sizes"),
    (WasmFeatures::WIDE_ARITHMETIC, "wide arithmetic"),
    (WasmFeatures::COMPONENT_MODEL, "the component model"),
    (WasmFeatures::CM_ASYNC, "asynchronous functions, streams or futures (WASI 0.3)"),
];

/// Returns the name of a feature.
pub(super) fn name(feature: WasmFeatures) -> String {
    match NAMES.iter().find(|(known, _)| *known == feature) {
        Some((_, name)) => (*name).to_owned(),
        None => {
            let flags = feature.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-"));
            flags.collect::<Vec<_>>().join(", ")
        }
    }
}

/// Returns the sentence for a feature that `engine` does not support.
pub(super) fn unsupported(engine: &str, feature: WasmFeatures) -> String {
    let name = name(feature);
    match RUNTIMES.iter().find(|(_, features)| features.contains(feature)) {
        Some((runtime, _)) => {
            format!("it uses {name}, which {engine} does not support: the runtime {runtime} does")
        }
        None => format!(
            "it uses {name}, which {engine} does not support, nor does another runtime of Wherry"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_feature_is_named_with_the_runtime_that_has_it() {
        assert_eq!(
            unsupported("WAMR", WasmFeatures::SIMD),
            "it uses SIMD, which WAMR does not support: the runtime io.containerd.wasmtime.v1 does"
        );
        assert_eq!(
            unsupported("Wasmtime", WasmFeatures::THREADS),
            "it uses threads (shared memory and atomics), which Wasmtime does not support, nor does \
             another runtime of Wherry"
        );
    }
}
