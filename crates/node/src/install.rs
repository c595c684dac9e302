//! `install`: installs executables, changes the configuration, restarts containerd and sets labels.
//! Restores the configuration if containerd does not serve the runtimes afterwards.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::args::{Install, SystemdCgroup};
use crate::config::{Runtime, Sandboxer, Version, effective};
use crate::error::NodeError;
use crate::executables::{self, Engine};
use crate::node::Node;
use crate::plan::{self, Edit, Wanted};
use crate::record::Record;
use crate::{VERSION, files, kubernetes, print_line, restart};

/// Runs the command.
pub(crate) fn run(node: &Node, options: &Install) -> Result<ExitCode, NodeError> {
    let version = node.version()?;
    print_line(format!(
        "{} with containerd {version}, {}",
        node.distribution.name(),
        node.socket.display()
    ));
    if options.sandboxer == Sandboxer::Shim && !version.lets_shims_make_pods() {
        return Err(NodeError::Sandboxer(version.to_string()));
    }
    // An invalid configuration is an error before anything is changed.
    node.dump()?;
    let mut record = Record::load(node)?;
    let from = source(options)?;
    let engines = executables::engines(&from, &options.engines)?;
    let bin_dir = executables::bin_dir(node, options.bin_dir.as_deref(), &record)?;
    let earlier = std::mem::replace(&mut record.engines, names(&engines));
    record.version = VERSION.to_owned();
    record.bin_dir.clone_from(&bin_dir);
    for name in executables::install(node, &from, &engines, &bin_dir, &mut record)? {
        print_line(format!("installed {}", bin_dir.join(name).display()));
    }
    for engine in &engines {
        executables::probe(node, engine, &bin_dir)?;
    }
    let timeout = Duration::from_secs(options.common.timeout);
    let runtimes = runtimes(node, options, version, &engines, &bin_dir)?;
    let gone = earlier.into_iter().filter(|engine| !record.engines.contains(engine));
    let gone: Vec<String> = gone.collect();
    let wanted = Wanted { runtimes: &runtimes, gone: &gone };
    configure(node, version, &wanted, &mut record, timeout)?;
    if let Some(name) = &options.common.label_node {
        kubernetes::label(name, &record.engines, &gone)?;
        print_line(format!("labelled the node {name}"));
    }
    print_line(format!("the runtimes {} are ready", record.engines.join(", ")));
    Ok(ExitCode::SUCCESS)
}

/// The directory of the executables to install.
fn source(options: &Install) -> Result<PathBuf, NodeError> {
    if let Some(from) = &options.from {
        return Ok(from.clone());
    }
    let own = std::env::current_exe().map_err(NodeError::file("finding", "wherry-node"))?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}

fn names(engines: &[Engine]) -> Vec<String> {
    engines.iter().map(|engine| engine.name.clone()).collect()
}

/// The runtimes as this containerd needs them.
fn runtimes(
    node: &Node,
    options: &Install,
    version: Version,
    engines: &[Engine],
    bin_dir: &Path,
) -> Result<Vec<Runtime>, NodeError> {
    let systemd = match options.systemd_cgroup {
        SystemdCgroup::True => true,
        SystemdCgroup::False => false,
        // The configuration of the running daemon is known to work with the kubelet. containerd's
        // own default is false.
        SystemdCgroup::Auto => node.cri()?.running()?.runc_systemd_cgroup().unwrap_or(false),
    };
    let sandboxer = options.sandboxer;
    let in_path = executables::in_path(node, bin_dir);
    let runtime =
        |engine: &Engine| Runtime::new(&engine.name, bin_dir, in_path, version, systemd, sandboxer);
    Ok(engines.iter().map(runtime).collect())
}

/// Changes the configuration if it must change, and restarts containerd if it changed or does not
/// list the runtimes.
fn configure(
    node: &Node,
    version: Version,
    wanted: &Wanted<'_>,
    record: &mut Record,
    timeout: Duration,
) -> Result<(), NodeError> {
    let before = node.dump()?;
    let candidates = plan::candidates(node, version, wanted, before.as_deref())?;
    let changed = match choose(candidates, record) {
        Choice::Nothing => None,
        Choice::Write(edits) => Some(write(node, edits, before.as_deref(), wanted, record)?),
    };
    record.save(node)?;
    let running = node.cri().and_then(|cri| cri.running());
    // Compares with the running daemon, which may have been restarted by hand, or not at all after
    // an interrupted installation.
    if running.is_ok_and(|running| restart::differs(&running, wanted).is_none()) {
        print_line("containerd serves the runtimes already");
        return Ok(());
    }
    let error = match restart::restart(node, timeout) {
        Ok(()) => match restart::wait(node, timeout, |running| restart::differs(running, wanted)) {
            Ok(()) => return Ok(()),
            Err(reason) => not_listed(node, timeout, reason),
        },
        // The configuration is good: the next run finds whether it is served.
        Err(error @ NodeError::NoRestart { .. }) => return Err(error),
        Err(error) => error,
    };
    match changed {
        None => Err(error),
        Some(edit) => Err(take_back(node, edit, record, timeout, error)),
    }
}

/// A decision about the configuration.
enum Choice {
    Nothing,
    /// The candidates, in the order of preference.
    Write(Vec<Edit>),
}

/// A file with all settings already settles it; so does the file of the last installation.
fn choose(candidates: Vec<Edit>, record: &Record) -> Choice {
    if candidates.iter().any(|edit| edit.old.as_ref() == Some(&edit.new)) {
        return Choice::Nothing;
    }
    let (mut first, rest): (Vec<Edit>, Vec<Edit>) =
        candidates.into_iter().partition(|edit| record.has(&edit.path));
    first.extend(rest);
    Choice::Write(first)
}

/// Writes the first candidate with which containerd's effective configuration is as intended, and
/// returns it.
fn write(
    node: &Node,
    candidates: Vec<Edit>,
    before: Option<&str>,
    wanted: &Wanted<'_>,
    record: &mut Record,
) -> Result<Edit, NodeError> {
    let mut last = None;
    let saved = record.clone();
    for edit in candidates {
        match write_one(node, &edit, before, wanted, record) {
            Ok(()) => {
                print_line(format!("changed {}", edit.path.display()));
                return Ok(edit);
            }
            Err(error) => {
                put_back(node, &edit)?;
                let dirs = record.dirs.clone();
                *record = Record { dirs, ..saved.clone() };
                record.save(node)?;
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| NodeError::NoFile(node.distribution.name())))
}

fn write_one(
    node: &Node,
    edit: &Edit,
    before: Option<&str>,
    wanted: &Wanted<'_>,
    record: &mut Record,
) -> Result<(), NodeError> {
    let path = node.root.resolve(&edit.path)?;
    if let Some(folder) = path.parent() {
        record.made(node, folder)?;
    }
    record.keep(node, &edit.path, edit.kind, edit.new.as_bytes())?;
    files::replace(&path, edit.new.as_bytes(), 0o644).map_err(|error| match error {
        NodeError::File { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
            ) =>
        {
            NodeError::ReadOnly { path: edit.path.clone(), reason: source }
        }
        other => other,
    })?;
    let after = node.dump().map_err(|error| NodeError::Refused {
        path: edit.path.clone(),
        reason: error.to_string(),
    })?;
    let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
    match effective::fault(before, &after, wanted.runtimes, wanted.gone) {
        None => Ok(()),
        Some(reason) => Err(NodeError::Lossy { path: edit.path.clone(), reason }),
    }
}

/// Restores a file's old content.
fn put_back(node: &Node, edit: &Edit) -> Result<(), NodeError> {
    let path = node.root.resolve(&edit.path)?;
    match &edit.old {
        // Not written if the filesystem is read-only.
        Some(old) if files::read(&path)?.as_deref() == Some(old.as_bytes()) => Ok(()),
        Some(old) => files::replace(&path, old.as_bytes(), 0o644),
        None if path.exists() => files::remove(&path),
        None => Ok(()),
    }
}

/// Restores the old configuration after a failed restart, and returns the error for the user.
fn take_back(
    node: &Node,
    edit: Edit,
    record: &mut Record,
    timeout: Duration,
    error: NodeError,
) -> NodeError {
    record.files.retain(|file| file.path != edit.path);
    let restored = put_back(node, &edit).and_then(|()| record.save(node));
    // systemd refused, so containerd still runs with the old configuration.
    let served = if matches!(error, NodeError::Systemd { .. }) {
        restored.map_err(|error| error.to_string())
    } else {
        restored
            .and_then(|()| restart::restart(node, timeout))
            .map_err(|error| error.to_string())
            .and_then(|()| restart::wait(node, timeout, |_| None))
    };
    let path = edit.path.display();
    let outcome = match served {
        Ok(()) => format!("the old {path} is back and containerd serves with it"),
        Err(reason) => format!("with the old {path} it does not serve either: {reason}"),
    };
    print_line(&outcome);
    match error {
        NodeError::NotListed { seconds, reason, unit, .. } => {
            NodeError::NotListed { seconds, reason, outcome, unit }
        }
        other => other,
    }
}

fn not_listed(node: &Node, timeout: Duration, reason: String) -> NodeError {
    NodeError::NotListed {
        seconds: timeout.as_secs(),
        reason,
        outcome: "its configuration was right already".to_owned(),
        unit: node.units.first().cloned().unwrap_or_else(|| "containerd.service".to_owned()),
    }
}
