//! Keeps LLVM out of the engine host, which compiles nothing.
//!
//! Where WasmEdge's library is linked to LLVM's, each process that loads the one has the other relocated and its
//! initialisers run: twelve milliseconds, and 3.5 MB that no two containers share. So something else is loaded first under
//! the name of LLVM's library: it has every symbol that WasmEdge's asks for, and nothing behind them (`build.rs` makes it). A
//! library that asks for another LLVM, or has it inside, is loaded as ever.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, memfd_create};

/// Empty if WasmEdge's library needed no LLVM when this was built.
static STAND_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/llvm.so"));

/// What is loaded in LLVM's place.
pub(crate) struct StandIn(*mut c_void);

impl StandIn {
    /// Loads it. None: it cannot be, and LLVM will come along.
    #[allow(unsafe_code)]
    pub(crate) fn load() -> Option<StandIn> {
        if STAND_IN.is_empty() {
            return None;
        }
        let mut file = File::from(memfd_create(c"llvm", MemfdFlags::CLOEXEC).ok()?);
        file.write_all(STAND_IN).ok()?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        // SAFETY: the path is a C string, and what lies there has no initialisers.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        (!library.is_null()).then_some(StandIn(library))
    }

    /// Makes room for LLVM. Only while nothing that was loaded uses it.
    #[allow(unsafe_code)]
    pub(crate) fn unload(self) {
        // SAFETY: it came from `dlopen`, and goes this once.
        unsafe { libc::dlclose(self.0) };
    }
}
