//! The programs in the containers: each once as WebAssembly and once native, for runc.

use wherry_testing::{Image, Packed, guests};

/// One program in both forms.
pub(crate) struct Pair {
    wasm: Packed,
    native: Packed,
    /// The expected output, if it is constant.
    pub(crate) says: &'static str,
}

impl Pair {
    fn new(name: &str, args: &[&str], says: &'static str) -> Pair {
        let pack = |kind: &str, file: String| {
            let image = Image::new(&format!("bench-{name}-{kind}")).entrypoint(&["/app"]);
            image.file("/app", 0o755, guests::bytes(&file)).cmd(args).pack()
        };
        Pair {
            wasm: pack("wasm", format!("{name}.wasm")),
            native: pack("native", format!("{name}.static")),
            says,
        }
    }

    /// The image for an engine, or for a runtime of native programs.
    pub(crate) fn image(&self, native: bool) -> &Packed {
        if native { &self.native } else { &self.wasm }
    }
}

/// Prints a line: the measured time is that of everything around it.
pub(crate) fn hello() -> Pair {
    Pair::new("hello", &[], "hello from a guest\n")
}

/// Computes for a moment.
pub(crate) fn fib() -> Pair {
    Pair::new("fib", &["35"], "9227465\n")
}

/// Sleeps for longer than the benchmark takes.
pub(crate) fn sleeper() -> Pair {
    Pair::new("kit", &["sleep", "1000000"], "")
}

/// A module of over 5 MB, and its output: see test/guests/large.c.
pub(crate) fn large() -> (Packed, usize) {
    let module = guests::bytes("large.wasm");
    let size = module.len();
    assert!(size > 5_000_000, "large.wasm has only {size} bytes");
    (Image::new("bench-large").file("/app", 0o755, module).entrypoint(&["/app"]).pack(), size)
}

/// The same program as [`large`], native.
pub(crate) fn large_native() -> Packed {
    let program = guests::bytes("large.static");
    Image::new("bench-large-native").file("/app", 0o755, program).entrypoint(&["/app"]).pack()
}
