//! `start`: prints the address of the daemon that serves a container, and forks that daemon if it
//! does not run yet.
//!
//! containerd waits for this program, so it only binds the socket, forks and prints the address.
//! containerd's connection waits in the socket's backlog until the daemon accepts it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use wherry_supervisor::settings::Settings as Limits;
use wherry_sys::daemon;
use wherry_sys::socket::{self, Listen};

use crate::args::Args;
use crate::bootstrap::{self, Bootstrap, Format};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::operator::{Manager, Settings};
use crate::serve::{self, Daemon, First, OwnName};
use crate::{Shim, group, manage};

/// The most that is read of standard input, bytes: more than options need.
const STDIN_MAX: u64 = 1 << 20;
/// The file in the bundle that holds the address of its daemon.
const ADDRESS_FILE: &str = "address";

pub(crate) fn start(shim: Shim, args: &Args) -> Result<()> {
    let bundle = bundle(args)?;
    // Before the socket and the daemon exist: a missing host is an error of this program.
    let limits = Limits::read();
    let engines = shim.engines(&limits)?;
    let executable = crate::own_executable()?;
    let Group { name: group, is_pod, by_systemd, annotations } =
        shim.sharing.group(&bundle, &args.id)?;
    let ttrpc_address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let bootstrap = Bootstrap::new(args, &ttrpc_address, &read_stdin());
    let key = group::Key {
        runtime: &shim.name(),
        address: &bootstrap.address,
        namespace: &args.namespace,
        group: &group,
    };
    let socket = group::socket(bootstrap.socket_dir.as_deref(), key);
    let address = format!("unix://{}", socket.display());
    let manager = Manager {
        runtime: shim.name(),
        address: bootstrap.address.clone(),
        ttrpc_address: bootstrap.ttrpc_address.clone(),
        namespace: args.namespace.clone(),
        socket: socket.clone(),
        debug: bootstrap.debug,
    };
    let managed = match prepare(shim, &manager)? {
        Prepared::Serves => return announce(&bundle, &address, bootstrap.format),
        Prepared::Group => None,
        Prepared::Manager(settings) => Some((manager, settings)),
    };
    let bound = socket::serve_at(&socket)
        .map_err(|source| Error::Listen { path: socket.clone(), source })?;
    let (listener, name) = match bound {
        Listen::Bound(listener, name) => (listener, name),
        Listen::Served => return announce(&bundle, &address, bootstrap.format),
    };
    match daemon::fork_off(&listener) {
        Ok(true) => return announce(&bundle, &address, bootstrap.format),
        Ok(false) => {}
        Err(source) => {
            name.remove();
            return Err(Error::Fork(source));
        }
    }
    // Only the forked daemon comes here. Its arguments are those of `start`.
    let title = match &managed {
        None => std::env::args().collect(),
        Some((manager, _)) => manage::show(shim, manager),
    };
    let daemon = Daemon {
        shim,
        listener,
        name: OwnName(name),
        engines,
        limits,
        executable,
        title,
        managed,
        namespace: args.namespace.clone(),
        ttrpc_address: bootstrap.ttrpc_address,
        debug: bootstrap.debug,
        upgrades: 0,
    };
    let shim_cgroup = bootstrap.options.shim_cgroup;
    let first = First { id: args.id.clone(), bundle, is_pod, by_systemd, annotations, shim_cgroup };
    serve::serve(daemon, Some(&first))
}

/// What [`prepare`] found.
enum Prepared {
    /// The daemon of a group is needed, if it does not serve.
    Group,
    /// A manager serves.
    Serves,
    /// A manager is needed, with these settings.
    Manager(Settings),
}

/// Finds a manager that serves, has systemd start it, or reads the settings for a new one. They are
/// not read for one that serves: containerd waits for this program.
fn prepare(shim: Shim, manager: &Manager) -> Result<Prepared> {
    let Some(operator) = shim.operator else { return Ok(Prepared::Group) };
    let path = &manager.socket;
    let serves = || {
        let served = socket::is_served_at(path);
        served.map_err(|source| Error::Listen { path: path.clone(), source })
    };
    if serves()? {
        return Ok(Prepared::Serves);
    }
    let settings = operator.settings().map_err(Error::Operator)?;
    if !settings.systemd {
        return Ok(Prepared::Manager(settings));
    }
    operator.launch(manager).map_err(Error::Operator)?;
    if serves()? { Ok(Prepared::Serves) } else { Err(Error::NotServed(path.clone())) }
}

/// Returns the absolute path of the bundle: the daemon changes its working directory.
pub(crate) fn bundle(args: &Args) -> Result<PathBuf> {
    let given = Path::new(if args.bundle.is_empty() { "." } else { &args.bundle });
    given.canonicalize().map_err(|source| Error::Bundle { path: given.to_owned(), source })
}

/// Returns the socket that `start` announced for the container of this bundle.
pub(crate) fn announced(bundle: &Path) -> Option<PathBuf> {
    let address = std::fs::read_to_string(bundle.join(ADDRESS_FILE)).ok()?;
    address.strip_prefix("unix://").map(PathBuf::from)
}

/// Writes the address to the bundle, and the answer to standard output. containerd 1.6 reads that
/// file after its restart, and `delete` finds the socket by it.
fn announce(bundle: &Path, address: &str, format: Format) -> Result<()> {
    let path = bundle.join(ADDRESS_FILE);
    daemon::write_atomically(&path, address).map_err(|source| Error::Write { path, source })?;
    let answer = bootstrap::answer(format, address)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&answer).and_then(|()| stdout.flush()).map_err(Error::Print)
}

/// Reads what containerd wrote to standard input.
fn read_stdin() -> Vec<u8> {
    let mut bytes = Vec::new();
    // containerd may close it or leave it out; the flags suffice to serve the container.
    let _ = io::stdin().lock().take(STDIN_MAX).read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_start_announced_is_found_by_delete() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(announced(bundle.path()), None);
        let file = bundle.path().join(ADDRESS_FILE);
        std::fs::write(&file, "unix:///run/containerd/s/1").unwrap();
        assert_eq!(announced(bundle.path()), Some("/run/containerd/s/1".into()));
        std::fs::write(&file, "vsock://3:1").unwrap();
        assert_eq!(announced(bundle.path()), None);
    }

    #[test]
    fn a_bundle_that_does_not_exist_is_named() {
        let line = "-namespace a -id b -bundle /no/such/bundle delete";
        let args = Args::parse(line.split(' ').map(str::to_owned)).unwrap();
        let text = bundle(&args).unwrap_err().to_string();
        assert!(text.contains("/no/such/bundle") && text.contains("No such file"), "{text}");
    }
}
