//! The guest's WASI context for WAMR. It is allocated for the life of the process.
#![allow(unsafe_code)]

use std::ffi::{CString, NulError, c_char};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::{fs, ptr};

use wamrx_sys::*;
use wherry_engine::{Guest, LoadError, Network, Preopen};

/// The interpreter's stack, in bytes.
pub(crate) const STACK: u32 = 1 << 20;

/// Builds the arguments of an instantiation: the guest's arguments, environment, directories,
/// network and standard streams.
pub(crate) fn build(guest: &Guest) -> Result<*mut InstantiationArgs2, LoadError> {
    let args = strings(guest.args.iter().cloned())?;
    let env = strings(guest.env.iter().map(|(key, value)| format!("{key}={value}")))?;
    let directories = guest.directories();
    let preopens = directories.iter().map(directory);
    let dirs = strings(preopens.collect::<Result<Vec<_>, _>>()?)?;
    let open = guest.network == Network::Namespace;
    let addresses = strings(["0.0.0.0/0", "::/0"].into_iter().filter(|_| open))?;
    let names = strings(["*"].into_iter().filter(|_| open))?;
    let (input, output, error) =
        (stream(io::stdin())?, stream(io::stdout())?, stream(io::stderr())?);
    let mut context = ptr::null_mut();
    // SAFETY: the structure and the arrays are never freed, and each length is its array's.
    unsafe {
        if !wasm_runtime_instantiation_args_create(&raw mut context) {
            return Err(LoadError::Engine("WAMR: out of memory for the WASI context".to_owned()));
        }
        wasm_runtime_instantiation_args_set_default_stack_size(context, STACK);
        wasm_runtime_instantiation_args_set_wasi_arg(context, args.0.cast(), args.1 as i32);
        wasm_runtime_instantiation_args_set_wasi_env(context, env.0, env.1);
        wasm_runtime_instantiation_args_set_wasi_dir(context, ptr::null_mut(), 0, dirs.0, dirs.1);
        wasm_runtime_instantiation_args_set_wasi_addr_pool(context, addresses.0, addresses.1);
        wasm_runtime_instantiation_args_set_wasi_ns_lookup_pool(context, names.0, names.1);
        wasm_runtime_instantiation_args_set_wasi_stdio(context, input, output, error);
    }
    Ok(context)
}

/// Converts strings to a C array. Returns its address and length.
fn strings<T: Into<Vec<u8>>>(
    texts: impl IntoIterator<Item = T>,
) -> Result<(*mut *const c_char, u32), LoadError> {
    let strings = texts.into_iter().map(|text| Ok(CString::new(text)?.into_raw().cast_const()));
    let nul =
        |_: NulError| LoadError::Engine("an argument or variable holds a NUL byte".to_owned());
    let strings = strings.collect::<Result<Vec<_>, _>>().map_err(nul)?.leak();
    Ok((strings.as_mut_ptr(), strings.len() as u32))
}

/// Formats a preopen for WAMR. Opens it once, because WAMR would report a fault only when the guest
/// starts.
fn directory(Preopen { host, guest }: &Preopen) -> Result<Vec<u8>, LoadError> {
    let what = || format!("cannot open directory {} for the guest's {guest}", host.display());
    fs::read_dir(host).map_err(|source| LoadError::Context { what: what(), source })?;
    Ok([guest.as_bytes(), b"::", host.as_os_str().as_bytes()].concat())
}

/// Returns a duplicate of a standard stream that is a terminal, or -1 for descriptors 0, 1 and 2.
///
/// WAMR does not check the file type of descriptors 0, 1 and 2; only another number is reported to
/// the guest as a terminal.
fn stream(stream: impl AsFd + IsTerminal) -> Result<i64, LoadError> {
    if !stream.is_terminal() {
        return Ok(-1);
    }
    let what = || "cannot duplicate the guest's terminal".to_owned();
    let duplicate = stream.as_fd().try_clone_to_owned();
    let duplicate = duplicate.map_err(|source| LoadError::Context { what: what(), source })?;
    Ok(duplicate.into_raw_fd().into())
}
