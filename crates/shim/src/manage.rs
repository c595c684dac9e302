//! `manager`: runs a manager in this process, for systemd, which restarts it and reads its log.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use wherry_supervisor::settings::Settings;
use wherry_sys::logger;
use wherry_sys::socket::{self, Listen};
use wherry_sys::title;

use crate::Shim;
use crate::args::Args;
use crate::error::{Error, Result};
use crate::operator::Manager;
use crate::serve::{self, Daemon, OwnName};

pub(crate) fn manage(shim: Shim, args: &Args) -> Result<()> {
    let operator = shim.operator.ok_or_else(|| Error::UnknownAction("manager".to_owned()))?;
    let manager = Manager {
        runtime: shim.name(),
        address: args.address.clone(),
        ttrpc_address: args.ttrpc_address.clone(),
        namespace: args.namespace.clone(),
        socket: PathBuf::from(&args.socket),
        debug: args.debug,
    };
    let settings = operator.settings().map_err(Error::Operator)?;
    let limits = Settings::read();
    let engines = shim.engines(&limits)?;
    let executable = crate::own_executable()?;
    let bound = socket::serve_at(&manager.socket)
        .map_err(|source| Error::Listen { path: manager.socket.clone(), source })?;
    let Listen::Bound(listener, name) = bound else {
        return Err(Error::Served(manager.socket));
    };
    log_to_stderr()?;
    let title = show(shim, &manager);
    let daemon = Daemon {
        shim,
        listener,
        name: OwnName(name),
        engines,
        limits,
        executable,
        title,
        managed: Some((manager.clone(), settings)),
        namespace: manager.namespace,
        ttrpc_address: manager.ttrpc_address,
        debug: manager.debug,
        upgrades: 0,
    };
    serve::serve(daemon, None)
}

/// Writes the log of a manager that systemd runs to standard error, as the journal has it.
pub(crate) fn log_to_stderr() -> Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(Error::Daemon)?;
    logger::log_to_descriptor(stderr);
    Ok(())
}

/// Shows containerd and the namespace in `ps` in place of the arguments, which are those of a
/// container. Returns the new ones.
pub(crate) fn show(shim: Shim, manager: &Manager) -> Vec<String> {
    let name = shim.executable();
    let Manager { namespace, address, .. } = manager;
    let words = [name.as_str(), "-namespace", namespace, "-address", address, "manager"];
    title::replace_arguments(&words);
    words.map(str::to_owned).to_vec()
}
