//! The guest's WASI context for WasmEdge.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use wasmedge_sdk::wasi::WasiModule;
use wherry_engine::{Guest, LoadError};

/// Builds the context: the arguments, environment and directories of `guest`, and nothing else.
pub(crate) fn build(guest: &Guest) -> Result<WasiModule, LoadError> {
    // WasmEdge takes C strings.
    let given = guest.args.iter().chain(guest.env.iter().flat_map(|(key, value)| [key, value]));
    if given.into_iter().any(|text| text.contains('\0')) {
        return Err(LoadError::Engine("an argument or variable holds a NUL byte".to_owned()));
    }
    null_is_no_terminal()
        .map_err(|source| LoadError::Context { what: "standard input".to_owned(), source })?;
    let directories = guest.directories();
    let directories = directories.iter().map(|preopen| directory(&preopen.host, &preopen.guest));
    let directories = directories.collect::<Result<Vec<_>, _>>()?;
    let env: Vec<String> = guest.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let create = || {
        WasiModule::create(
            Some(guest.args.iter().map(String::as_str).collect()),
            Some(env.iter().map(String::as_str).collect()),
            Some(directories.iter().map(String::as_str).collect()),
        )
    };
    // WasmEdge sorts the directories by the addresses of their objects. A new thread has an empty
    // heap, in which addresses ascend, so that the directories keep their order.
    let created = thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, create).map(thread::ScopedJoinHandle::join)
    });
    created
        .map_err(|source| LoadError::Context { what: "the thread for WASI".to_owned(), source })?
        .map_err(|_| LoadError::Engine("the thread for WASI panicked".to_owned()))?
        .map_err(|error| LoadError::Engine(error.to_string()))
}

/// Replaces a `/dev/null` input by a closed pipe. WasmEdge reports every character device as a
/// terminal, and a guest would prompt for input.
fn null_is_no_terminal() -> io::Result<()> {
    let null = rustix::fs::makedev(1, 3);
    let stat = rustix::fs::fstat(rustix::stdio::stdin());
    if stat.is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == null
    }) {
        let (ended, _) = io::pipe()?;
        rustix::stdio::dup2_stdin(ended)?;
    }
    Ok(())
}

/// Formats a preopen for WasmEdge. Opens it once, because WasmEdge silently skips a directory that
/// it cannot open.
fn directory(host: &Path, guest: &str) -> Result<String, LoadError> {
    let failed = |source| LoadError::Context {
        what: format!("cannot open directory {} for the guest's {guest}", host.display()),
        source,
    };
    let open = File::open(host).and_then(|file| file.metadata()).map_err(failed)?;
    let path = host.to_str().filter(|path| !path.contains('\0') && !guest.contains(['\0', ':']));
    match path {
        Some(path) if open.is_dir() => Ok(format!("{guest}:{path}")),
        Some(_) => Err(failed(io::ErrorKind::NotADirectory.into())),
        None => Err(failed(io::ErrorKind::InvalidFilename.into())),
    }
}
