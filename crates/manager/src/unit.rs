//! systemd: the unit of a manager, and the message that it is ready.
//!
//! The unit is an instance of a template, named after the manager's socket, so that each manager
//! has one. `start` writes the parameters to a file of variables and asks systemd to start the
//! instance, which blocks until the manager is ready. Of many that ask, systemd starts one. A
//! restart by systemd has the same parameters.

use std::env;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wherry_shim::group;
use wherry_shim::operator::Manager;

use crate::error::{Error, Result};

/// Where systemd takes messages of a service's state. Set by systemd.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// Has systemd start the manager's unit, and waits until the manager is ready.
///
/// # Errors
/// If systemd or the manager fails.
pub(crate) fn launch(manager: &Manager) -> Result<()> {
    let control = group::control_socket(&manager.socket);
    let file = control.with_extension("env");
    write(&file, &variables(manager))
        .map_err(|source| Error::WriteVariables { path: file.clone(), source })?;
    let unit = name(manager, &control);
    let output = Command::new("systemctl")
        .args(["start", "--", &unit])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Systemctl { unit: unit.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim().replace('\n', " ");
    Err(Error::Launch { unit, status: output.status, message })
}

/// The name of the unit.
fn name(manager: &Manager, control: &Path) -> String {
    let instance = control.file_name().unwrap_or_default().to_string_lossy();
    format!("wherry-{}@{instance}.service", manager.runtime)
}

/// The variables of the unit: the manager's parameters, and those of containerd's environment that
/// are settings.
fn variables(manager: &Manager) -> String {
    let Manager { address, ttrpc_address, namespace, socket, debug, .. } = manager;
    let socket = socket.display().to_string();
    let parameters = [
        ("NAMESPACE", namespace.as_str()),
        ("ADDRESS", address),
        ("TTRPC_ADDRESS", ttrpc_address),
        ("SOCKET", &socket),
        ("DEBUG", if *debug { "true" } else { "false" }),
    ];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        name.starts_with("WHERRY_").then_some((name, value))
    });
    parameters.into_iter().chain(own).map(|(name, value)| assignment(&name, &value)).collect()
}

/// An assignment in a file of variables, see `EnvironmentFile` in systemd.exec(5).
fn assignment(name: &str, value: &str) -> String {
    let mut text = format!("{name}=\"");
    for character in value.chars() {
        if matches!(character, '"' | '\\' | '`' | '$') {
            text.push('\\');
        }
        text.push(character);
    }
    text + "\"\n"
}

/// Writes a file that only root can read, atomically: systemd may read it at any time.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&temporary)?.write_all(text.as_bytes())?;
    fs::rename(&temporary, path)
}

/// Reports to systemd that the manager is ready, if systemd runs it.
pub(crate) fn ready(manager: &Manager) {
    let Some(path) = env::var_os(NOTIFY_SOCKET).filter(|path| !path.is_empty()) else { return };
    let Manager { namespace, address, .. } = manager;
    let message = format!("READY=1\nSTATUS=Serves namespace {namespace} of {address}\n");
    if let Err(error) = notify(&PathBuf::from(path), &message) {
        log::error!("cannot report to systemd that the manager is ready: {error}");
    }
}

/// Sends a message of sd_notify(3). A path that begins with `@` is an abstract address.
fn notify(path: &Path, message: &str) -> io::Result<()> {
    let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn manager() -> Manager {
        Manager {
            runtime: "ed".into(),
            address: "/run/a \"b\" $c\\d.sock".into(),
            ttrpc_address: "/run/t.sock".into(),
            namespace: "k8s.io".into(),
            socket: "/run/containerd/s/0123".into(),
            debug: false,
        }
    }

    #[test]
    fn the_unit_is_named_after_the_socket_and_the_runtime() {
        let control = group::control_socket(&manager().socket);
        assert_eq!(name(&manager(), &control), "wherry-ed@0123.service");
    }

    /// A shell quotes as a file of variables does.
    #[test]
    fn the_variables_have_the_values_that_the_manager_gets() {
        let text = variables(&manager());
        let script =
            format!("{text}\nprintf '%s|' \"$NAMESPACE\" \"$ADDRESS\" \"$SOCKET\" \"$DEBUG\"");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let expected = "k8s.io|/run/a \"b\" $c\\d.sock|/run/containerd/s/0123|false|";
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }

    #[test]
    fn the_file_of_variables_is_roots_alone_and_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("x.env");
        write(&path, "a longer text").unwrap();
        write(&path, "text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_message_reaches_a_path_and_an_abstract_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let name = format!("wherry-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ];
        for (socket, path) in sockets {
            notify(&path, "READY=1\n").unwrap();
            let mut buffer = [0; 20];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\n");
        }
    }
}
