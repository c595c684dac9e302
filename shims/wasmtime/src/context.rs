//! The guest's WASI context for Wasmtime.

use std::io;
use std::path::Path;

use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wherry_engine::{ExitCode, Guest, LoadError, Network, Trap};

use crate::stdio::{Input, Output};
use crate::trap;

/// Builds the context: the arguments, environment, directories, network and standard streams of
/// `guest`, and nothing else.
pub(crate) fn build(guest: &Guest) -> Result<WasiCtxBuilder, LoadError> {
    let mut wasi = without_directories(guest);
    wasi.stdin(Input).stdout(Output::Stdout).stderr(Output::Stderr);
    for preopen in &guest.directories() {
        open(&mut wasi, &preopen.host, &preopen.guest)?;
    }
    Ok(wasi)
}

/// Builds the context without directories and standard streams.
pub(crate) fn without_directories(guest: &Guest) -> WasiCtxBuilder {
    let mut wasi = WasiCtxBuilder::new();
    // The process runs only this guest, so a helper thread would only cost. This call must precede
    // the directories, which copy the setting.
    wasi.allow_blocking_current_thread(true);
    wasi.args(&guest.args).envs(&guest.env);
    if let Some(cwd) = guest.cwd.to_str().filter(|cwd| !cwd.is_empty()) {
        wasi.initial_cwd(cwd);
    }
    if guest.network == Network::Namespace {
        wasi.inherit_network().allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
    }
    wasi
}

fn open(wasi: &mut WasiCtxBuilder, host: &Path, guest: &str) -> Result<(), LoadError> {
    wasi.preopened_dir(host, guest, FsPerms::ReadWrite).map_err(|error| LoadError::Context {
        what: format!("cannot open directory {} for the guest's {guest}", host.display()),
        source: error.downcast::<io::Error>().unwrap_or_else(io::Error::other),
    })?;
    Ok(())
}

/// Runs a guest on this thread. Only name resolution, which blocks, starts other threads.
pub(crate) fn block_on(
    call: impl Future<Output = wasmtime::Result<ExitCode>>,
) -> Result<ExitCode, Trap> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trap(format!("cannot start the guest: {error}")))?;
    let outcome = trap::outcome(runtime.block_on(call));
    // A name resolution still in progress must not delay the process's exit.
    runtime.shutdown_background();
    outcome
}
