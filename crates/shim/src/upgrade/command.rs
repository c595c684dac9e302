//! The `upgrade` command: asks the running daemons of this runtime to hand over to the installed
//! executable.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use wherry_task::{AskError, DaemonClient, DaemonStatus};

use crate::args::Args;
use crate::error::{Error, Result};
use crate::group::CONTROL_SOCKETS;
use crate::{REPLACED, Shim};

/// The flag of a listening socket in `/proc/PID/net/unix`: `__SO_ACCEPTCON`.
const LISTENS: u32 = 1 << 16;

/// Upgrades the daemons that the flags name, all of them by default, and prints a line for each.
pub(crate) fn upgrade(shim: Shim, args: &Args) -> Result<()> {
    let daemons = daemons(&shim.executable(), args);
    let mut failed = 0;
    for (socket, pid) in &daemons {
        let line = match upgrade_one(socket) {
            Ok((before, after)) => format!("process {pid}, {}\n", outcome(&before, &after)),
            // A daemon removes its socket before it ends.
            Err(_) if !socket.exists() => format!("process {pid}: has ended\n"),
            Err(error) => {
                failed += 1;
                format!("process {pid}: not upgraded: {error}\n")
            }
        };
        io::stdout().write_all(line.as_bytes()).map_err(Error::Print)?;
    }
    if daemons.is_empty() {
        io::stdout().write_all(b"no shim of this runtime runs\n").map_err(Error::Print)?;
    }
    if failed > 0 {
        return Err(Error::NotUpgraded { failed, all: daemons.len() });
    }
    Ok(())
}

fn upgrade_one(socket: &Path) -> std::result::Result<(DaemonStatus, DaemonStatus), AskError> {
    let mut client = DaemonClient::connect(socket)?;
    Ok((client.status()?, client.upgrade()?))
}

fn outcome(before: &DaemonStatus, after: &DaemonStatus) -> String {
    let DaemonStatus { namespace, version, .. } = after;
    if before.upgrades == after.upgrades {
        format!("namespace {namespace}: runs the installed version {version} already")
    } else {
        format!("namespace {namespace}: upgraded from version {} to {version}", before.version)
    }
}

/// The sockets of the daemons whose executable has this name, each with the daemon's pid.
fn daemons(executable: &str, args: &Args) -> Vec<(PathBuf, i32)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_process = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let directory = entry.path();
        let program = fs::read_link(directory.join("exe")).ok()?;
        let name = program.file_name()?.to_str()?;
        let runs = name.strip_suffix(REPLACED).unwrap_or(name) == executable;
        let command = fs::read(directory.join("cmdline")).ok()?;
        let named = has_flag(&command, "namespace", &args.namespace)
            && has_flag(&command, "address", &args.address);
        (runs && named).then(|| (listening(&directory), pid))
    };
    let mut found: Vec<(PathBuf, i32)> = Vec::new();
    for (sockets, pid) in processes.filter_map(of_process) {
        for socket in sockets {
            // A `start` that has just forked its daemon has the socket, too.
            match found.iter_mut().find(|(other, _)| *other == socket) {
                Some((_, first)) => *first = pid,
                None => found.push((socket, pid)),
            }
        }
    }
    found
}

/// Whether a command line has a flag with this value. An empty value stands for all.
fn has_flag(command: &[u8], flag: &str, value: &str) -> bool {
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let is = |pair: &[&[u8]]| matches!(pair, [name, given] if name.strip_prefix(b"-") == Some(flag.as_bytes()) && *given == value.as_bytes());
    value.is_empty() || words.windows(2).any(is)
}

/// The paths of the sockets on which the process of this `/proc/PID` directory listens, but not
/// that for its operator.
fn listening(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string(directory.join("net/unix")).unwrap_or_default();
    let mut sockets: Vec<(String, PathBuf)> = table.lines().filter_map(listener).collect();
    sockets.retain(|(_, path)| !path.starts_with(CONTROL_SOCKETS));
    let descriptors = fs::read_dir(directory.join("fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let path = |target: PathBuf| {
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix("]")?;
        let index = sockets.iter().position(|(other, _)| other == inode)?;
        Some(sockets.swap_remove(index).1)
    };
    targets.filter_map(path).collect()
}

/// The inode and the path of a listening socket, from a line of `/proc/PID/net/unix`.
fn listener(line: &str) -> Option<(String, PathBuf)> {
    // Num: RefCount Protocol Flags Type St Inode Path
    let mut fields = line.split_ascii_whitespace().skip(3);
    let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(2)?.to_owned();
    let path = fields.next().filter(|path| path.starts_with('/'))?;
    (flags & LISTENS != 0).then(|| (inode, path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn the_sockets_on_which_a_process_listens_are_found_by_their_paths() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let _connected = UnixStream::connect(&path).unwrap();
        let found = listening(Path::new("/proc/self"));
        assert_eq!(found.iter().filter(|found| **found == path).count(), 1, "{found:?}");
    }

    #[test]
    fn a_daemon_is_named_by_the_flags_of_its_command_line() {
        let command = b"shim\0-namespace\0moby\0-address\0/run/c.sock\0manager\0";
        assert!(has_flag(command, "namespace", "moby") && has_flag(command, "namespace", ""));
        assert!(has_flag(command, "address", "/run/c.sock"));
        assert!(!has_flag(command, "namespace", "mob") && !has_flag(command, "address", "moby"));
    }

    #[test]
    fn only_a_new_number_of_handovers_is_an_upgrade() {
        let status = |upgrades, version: &str| DaemonStatus {
            runtime: "ed".to_owned(),
            version: version.to_owned(),
            pid: 7,
            namespace: "moby".to_owned(),
            upgrades,
        };
        let text = outcome(&status(0, "1.0"), &status(1, "1.1"));
        assert_eq!(text, "namespace moby: upgraded from version 1.0 to 1.1");
        let text = outcome(&status(1, "1.1"), &status(1, "1.1"));
        assert_eq!(text, "namespace moby: runs the installed version 1.1 already");
    }
}
