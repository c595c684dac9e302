//! Keeps LLVM out of the engine host, which does not compile.
//!
//! A WasmEdge library that is linked to LLVM's makes each process relocate LLVM and run its
//! initialisers: 12 ms, and 3.5 MB that containers do not share. So this loads a stub under the
//! soname of LLVM's library first. The stub defines every symbol that WasmEdge imports from LLVM,
//! without an implementation (`build.rs` generates it). A WasmEdge library that is linked to
//! another LLVM, or statically, loads as usual.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, memfd_create};

/// The stub. Empty if WasmEdge's library was not linked to LLVM's at build time.
static STUB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/llvm.so"));

/// The loaded stub.
pub(crate) struct Stub(*mut c_void);

impl Stub {
    /// Loads the stub. `None`: it cannot be loaded, and WasmEdge's library will load LLVM.
    #[allow(unsafe_code)]
    pub(crate) fn load() -> Option<Stub> {
        if STUB.is_empty() {
            return None;
        }
        let mut file = File::from(memfd_create(c"llvm", MemfdFlags::CLOEXEC).ok()?);
        file.write_all(STUB).ok()?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        // SAFETY: the path is a C string, and the stub has no initialisers.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        (!library.is_null()).then_some(Stub(library))
    }

    /// Unloads the stub, so that LLVM can be loaded. No loaded library may use it.
    #[allow(unsafe_code)]
    pub(crate) fn unload(self) {
        // SAFETY: the handle came from `dlopen` and is closed once.
        unsafe { libc::dlclose(self.0) };
    }
}
