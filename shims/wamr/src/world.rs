//! A guest's world as WAMR's WASI wants it. All of it lives as long as the process.
#![allow(unsafe_code)]

use std::ffi::{CString, NulError, c_char};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, ptr};

use wamrx_sys::*;
use wherry_engine::{Guest, LoadError, Network, Preopen};

/// The interpreter's stack, in bytes.
pub(crate) const STACK: u32 = 1 << 20;

/// What an instance is made with: arguments, environment, directories, network and standard streams.
pub(crate) fn build(guest: &Guest) -> Result<*mut InstantiationArgs2, LoadError> {
    let args = strings(guest.args.iter().cloned())?;
    let env = strings(guest.env.iter().map(|(key, value)| format!("{key}={value}")))?;
    // First, because wasi-libc does not tell "." from "/" and takes the last of equals: absolute
    // paths must stay right where both are there.
    let cwd = working_directory(guest).map(|host| Preopen { host, guest: ".".to_owned() });
    let preopens = cwd.iter().chain(&guest.preopens).map(directory);
    let dirs = strings(preopens.collect::<Result<Vec<_>, _>>()?)?;
    let open = guest.network == Network::Namespace;
    let addresses = strings(["0.0.0.0/0", "::/0"].into_iter().filter(|_| open))?;
    let names = strings(["*"].into_iter().filter(|_| open))?;
    let (input, output, error) = (stream(io::stdin()), stream(io::stdout()), stream(io::stderr()));
    let mut world = ptr::null_mut();
    // SAFETY: what is created is not freed, and no array is longer than it says.
    unsafe {
        if !wasm_runtime_instantiation_args_create(&raw mut world) {
            return Err(LoadError::Engine("no memory".to_owned()));
        }
        wasm_runtime_instantiation_args_set_default_stack_size(world, STACK);
        wasm_runtime_instantiation_args_set_wasi_arg(world, args.0.cast(), args.1 as i32);
        wasm_runtime_instantiation_args_set_wasi_env(world, env.0, env.1);
        wasm_runtime_instantiation_args_set_wasi_dir(world, ptr::null_mut(), 0, dirs.0, dirs.1);
        wasm_runtime_instantiation_args_set_wasi_addr_pool(world, addresses.0, addresses.1);
        wasm_runtime_instantiation_args_set_wasi_ns_lookup_pool(world, names.0, names.1);
        wasm_runtime_instantiation_args_set_wasi_stdio(world, input, output, error);
    }
    Ok(world)
}

/// Strings as C takes them, and how many.
fn strings<T: Into<Vec<u8>>>(
    texts: impl IntoIterator<Item = T>,
) -> Result<(*mut *const c_char, u32), LoadError> {
    let strings = texts.into_iter().map(|text| Ok(CString::new(text)?.into_raw().cast_const()));
    let nul =
        |_: NulError| LoadError::Engine("an argument or variable holds a NUL byte".to_owned());
    let strings = strings.collect::<Result<Vec<_>, _>>().map_err(nul)?.leak();
    Ok((strings.as_mut_ptr(), strings.len() as u32))
}

/// A directory as WAMR wants it, which would not open it before the guest's start.
fn directory(Preopen { host, guest }: &Preopen) -> Result<Vec<u8>, LoadError> {
    let what = || format!("cannot open directory {} for the guest's {guest}", host.display());
    fs::read_dir(host).map_err(|source| LoadError::World { what: what(), source })?;
    Ok([guest.as_bytes(), b"::", host.as_os_str().as_bytes()].concat())
}

/// Where the guest's working directory lies for this process: in the closest preopen above it.
/// `None` if no preopen holds it, or if it is the root, where relative paths begin anyway.
fn working_directory(guest: &Guest) -> Option<PathBuf> {
    let cwd = Some(&guest.cwd).filter(|cwd| cwd.is_absolute() && *cwd != Path::new("/"))?;
    let below = |preopen: &Preopen| Some(preopen.host.join(cwd.strip_prefix(&preopen.guest).ok()?));
    let closest = guest.preopens.iter().filter(|preopen| cwd.starts_with(&preopen.guest));
    closest.max_by_key(|preopen| Path::new(&preopen.guest).components().count()).and_then(below)
}

/// A standard stream's descriptor, or -1 for the usual one. WAMR does not look at what 0, 1 and 2 are, and to the guest they
/// are no terminal: one that is gets another number.
fn stream(stream: impl AsFd + IsTerminal) -> i64 {
    let terminal = stream.is_terminal().then(|| stream.as_fd().try_clone_to_owned().ok());
    terminal.flatten().map_or(-1, |fd| fd.into_raw_fd().into())
}
