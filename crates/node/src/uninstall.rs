//! `uninstall`: restores the state before `install`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::args::Uninstall;
use crate::error::NodeError;
use crate::node::Node;
use crate::record::{Kind, Record, Restored};
use crate::{kubernetes, print_line, restart};

/// The cache of compiled code, which the runtimes fill again after its removal.
const CACHE: &str = "/var/lib/wherry/cache";

/// Runs the command.
pub(crate) fn run(node: &Node, options: &Uninstall) -> Result<ExitCode, NodeError> {
    let record = Record::load(node)?;
    if record.is_empty() {
        print_line("nothing is installed");
        // The labels may date from before the machine was reinstalled.
        unlabel(options, &record)?;
        return Ok(ExitCode::SUCCESS);
    }
    refuse_if_used(node, &record, options.force)?;
    // First, so that no new pod is scheduled here.
    unlabel(options, &record)?;
    let timeout = Duration::from_secs(options.common.timeout);
    unconfigure(node, &record, timeout)?;
    for file in record.files.iter().filter(|file| file.kind == Kind::Executable) {
        report(file.path.as_path(), &record.restore(node, file)?);
    }
    record.erase(node)?;
    if options.purge {
        let cache = node.root.resolve(Path::new(CACHE))?;
        if cache.exists() {
            std::fs::remove_dir_all(&cache).map_err(NodeError::file("removing", &cache))?;
            print_line(format!("removed {CACHE}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails if pods use the runtimes: without its runtime a pod cannot be cleaned up.
fn refuse_if_used(node: &Node, record: &Record, force: bool) -> Result<(), NodeError> {
    let handlers: Vec<&str> = record.engines.iter().map(String::as_str).collect();
    // Without a running containerd the pods are unknown. That must not prevent the removal.
    let pods = node.cri().and_then(|cri| cri.pods_of(&handlers)).unwrap_or_default();
    if pods.is_empty() || force {
        return Ok(());
    }
    Err(NodeError::InUse(pods.join(", ")))
}

fn unlabel(options: &Uninstall, record: &Record) -> Result<(), NodeError> {
    let Some(name) = &options.common.label_node else { return Ok(()) };
    kubernetes::label(name, &[], &record.engines)?;
    print_line(format!("removed the labels of the node {name}"));
    Ok(())
}

/// Removes the runtimes from the configuration, restarts containerd, and waits until it serves
/// without them.
fn unconfigure(node: &Node, record: &Record, timeout: Duration) -> Result<(), NodeError> {
    let mut changed = false;
    for file in record.files.iter().filter(|file| file.kind != Kind::Executable) {
        let restored = record.restore(node, file)?;
        changed |= restored != Restored::Left;
        report(&file.path, &restored);
    }
    if !changed {
        return Ok(());
    }
    restart::restart(node, timeout)?;
    restart::wait(node, timeout, |_| None).map_err(|reason| NodeError::Cri {
        address: node.socket.clone(),
        doing: "waiting after the restart",
        reason,
    })
}

fn report(path: &Path, restored: &Restored) {
    let path = path.display();
    print_line(match restored {
        Restored::Back => format!("{path} is as it was"),
        Restored::Stripped => format!("{path} was changed since: only the runtimes were removed"),
        Restored::Left => format!("{path} was replaced or removed since: left as it is"),
    });
}
