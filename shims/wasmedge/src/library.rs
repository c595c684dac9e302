//! Loads WasmEdge's library at run time.
//!
//! An executable linked to the library fails in the dynamic loader on a machine without it, with a
//! message that names neither the version nor the package. So this executable defines each function
//! of WasmEdge's C interface as a jump through a table (`build.rs` generates them), and fills the
//! table when it starts.

use std::ffi::{CStr, c_void};
use std::ptr::addr_of_mut;

use wherry_engine::LoadError;

/// The generated jumps and their table.
#[allow(unsafe_code)]
mod generated {
    use std::ffi::c_void;

    include!(concat!(env!("OUT_DIR"), "/trampolines.rs"));

    // SAFETY: defined beside the jumps, with one entry for each of `NAMES`.
    unsafe extern "C" {
        #[link_name = "wherry_wasmedge_table"]
        pub(super) static mut TABLE: [*mut c_void; NAMES.len()];
    }
}

use generated::{NAMES, TABLE};

/// The soname of every version so far.
const LIBRARY: &CStr = c"libwasmedge.so.0";
/// The oldest supported version.
const NEEDED: &str = include_str!("../needed-version");

/// Loads the library. Must precede every other call of WasmEdge, in a single-threaded process.
///
/// # Errors
/// One sentence that names the package to install.
#[allow(unsafe_code)]
pub(crate) fn load() -> Result<(), LoadError> {
    let library = open();
    if library.is_null() {
        return Err(unusable(&last_error()));
    }
    for (index, name) in NAMES.iter().enumerate() {
        // SAFETY: the library is never closed, and the name is a C string.
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        // The headers declare a few functions that no library defines. Wherry does not call them.
        let address = if address.is_null() { missing as *mut c_void } else { address };
        // SAFETY: within the table, which has one entry per name; the process has one thread.
        unsafe { addr_of_mut!(TABLE).cast::<*mut c_void>().add(index).write(address) };
    }
    let version = crate::version();
    if is_older(&version, NEEDED) {
        return Err(unusable(&format!("{} has version {version}", LIBRARY.to_string_lossy())));
    }
    Ok(())
}

#[allow(unsafe_code)]
fn open() -> *mut c_void {
    #[cfg(not(feature = "compiler"))]
    let stub = crate::llvm::Stub::load();
    // SAFETY: the name is a C string; the library's initialisers are as trusted as the library.
    let open = || unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    #[cfg(not(feature = "compiler"))]
    if let Some(stub) = stub {
        let library = open();
        if !library.is_null() {
            return library;
        }
        stub.unload();
    }
    open()
}

fn unusable(why: &str) -> LoadError {
    let needed = NEEDED.trim();
    LoadError::Engine(format!(
        "WasmEdge {needed} or newer is needed ({why}): install the package libwasmedge0 of Debian testing or newer, \
         or WasmEdge's own release"
    ))
}

extern "C" fn missing() -> ! {
    std::process::abort()
}

#[allow(unsafe_code)]
fn last_error() -> String {
    // SAFETY: by its contract the text stays until this thread's next call of its family.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the dynamic loader gave no reason".to_owned();
    }
    // SAFETY: not null, so it is a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Returns true if a version, numbers with dots between, is older than another. A part that is not
/// a number, as in `0.17.0-rc.1`, is older than every number.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Vec<Option<u32>> {
        text.trim().split('.').map(|number| number.parse().ok()).collect()
    };
    numbers(version) < numbers(than)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_number_by_number() {
        for (older, newer) in [("0.14.1", "0.17"), ("0.9.0", "0.17"), ("0.17.0", "0.17.1")] {
            assert!(is_older(older, newer) && !is_older(newer, older), "{older} {newer}");
        }
        assert!(!is_older("0.17.0", "0.17\n") && !is_older("1.0.0", "0.17"));
    }

    #[test]
    fn what_is_wanted_names_the_version_and_the_package() {
        let text = unusable("it is not there").to_string();
        assert!(text.contains("WasmEdge 0.17 or newer") && text.contains("libwasmedge0"), "{text}");
        assert!(!text.contains('\n'));
    }
}
