//! Starts a wasm container with each engine and waits for its end.
//!
//! `ctr`, which comes with containerd, does it from a directory: no image is needed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use super::engines::Found;
use super::{Checked, Findings};
use crate::distribution::Distribution;
use crate::error::NodeError;
use crate::root::SEARCH_PATH;

const GUEST: &str = include_str!("../../../../examples/hello.wat");
const FILE: &str = "hello.wat";
const EXPECTED: &str = "Hello from WebAssembly";
/// The containerd namespace, apart from the kubelet's.
const NAMESPACE: &str = "wherry-doctor";
/// The first start compiles; that takes well under a second.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Runs a container with each of these engines.
pub(super) fn check(checked: &Checked, found: &[Found], findings: &mut Findings) {
    if found.is_empty() {
        return findings.skip("containers", "no runtime to start one with");
    }
    let Some(ctr) = ctr(checked) else {
        return findings.skip("containers", "ctr is missing, which would start one");
    };
    let rootfs = checked.node.state.join("doctor");
    let made = checked.node.root.resolve(&rootfs).and_then(|path| prepare(&path).map(|()| path));
    let path = match made {
        Ok(path) => path,
        Err(error) => return findings.skip("containers", error.to_string()),
    };
    for one in found {
        match run(checked, &ctr, &rootfs, one) {
            Ok(took) => findings.ok(
                "containers",
                format!("{} ran a module to its end in {} ms", one.engine, took.as_millis()),
            ),
            Err(reason) => findings.fail(
                "containers",
                format!("{} ran no module: {reason}", one.engine),
                "containerd's log has more; SECURITY.md and docs/kubernetes.md list what a host must allow",
            ),
        }
    }
    // Leftovers, an empty namespace and a directory, are harmless.
    let _ = command(checked, &ctr).args(["namespaces", "remove", NAMESPACE]).output();
    let _ = fs::remove_dir_all(&path);
}

/// How `ctr` is called on this distribution.
fn ctr(checked: &Checked) -> Option<Vec<PathBuf>> {
    let node = &checked.node;
    let path = |text: &str| node.root.exists(text).then(|| vec![PathBuf::from(text)]);
    let of =
        |program: &str| Some(vec![node.root.find_program(program, SEARCH_PATH)?, "ctr".into()]);
    match node.distribution {
        Distribution::K3s => of("k3s"),
        Distribution::K0s => of("k0s"),
        Distribution::Rke2 => path("/var/lib/rancher/rke2/bin/ctr"),
        Distribution::Microk8s => path("/snap/microk8s/current/bin/ctr"),
        Distribution::Plain => {
            let beside = node.containerd.as_deref().map(|path| path.with_file_name("ctr"));
            let beside = beside.filter(|path| node.root.exists(path));
            Some(vec![beside.or_else(|| node.root.find_program("ctr", SEARCH_PATH))?])
        }
    }
}

fn command(checked: &Checked, ctr: &[PathBuf]) -> Command {
    let mut words = ctr.iter();
    let mut command = checked.node.root.command(words.next().cloned().unwrap_or_default());
    command.args(words).arg("--address").arg(&checked.node.socket);
    command
}

fn prepare(rootfs: &Path) -> Result<(), NodeError> {
    fs::create_dir_all(rootfs).map_err(NodeError::file("making the directory", rootfs))?;
    let file = rootfs.join(FILE);
    fs::write(&file, GUEST).map_err(NodeError::file("writing", file))
}

/// Why a container did not run the module to its end.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("ctr cannot be run: {0}")]
    Spawn(io::Error),
    #[error("it did not end within {} s", LIMIT.as_secs())]
    Late,
    #[error("cannot wait for ctr: {0}")]
    Wait(io::Error),
    /// ctr's own error.
    #[error("{0}")]
    Ctr(String),
    #[error("{status}, output {output:?}")]
    Output { status: ExitStatus, output: String },
}

fn run(
    checked: &Checked,
    ctr: &[PathBuf],
    rootfs: &Path,
    one: &Found,
) -> Result<Duration, RunError> {
    let id = format!("doctor-{}-{}", one.engine, std::process::id());
    let mut command = command(checked, ctr);
    command.args(["--namespace", NAMESPACE, "run", "--rm", "--rootfs", "--runtime"]);
    command.arg(&one.shim).arg(rootfs).arg(&id).arg(format!("/{FILE}"));
    let started = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(RunError::Spawn)?;
    let child = wait(child)?;
    let took = started.elapsed();
    let output = child.wait_with_output().map_err(RunError::Wait)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.contains(EXPECTED) {
        return Ok(took);
    }
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if error.is_empty() {
        return Err(RunError::Output { status: output.status, output: text.into_owned() });
    }
    Err(RunError::Ctr(error))
}

/// Waits for the end of a child whose output fits into its pipes.
fn wait(mut child: Child) -> Result<Child, RunError> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if started.elapsed() < LIMIT => thread::sleep(POLL),
            Ok(None) => {
                // Neither can fail for a child that is not reaped yet.
                let _ = child.kill();
                let _ = child.wait();
                return Err(RunError::Late);
            }
            Ok(Some(_)) => return Ok(child),
            Err(error) => return Err(RunError::Wait(error)),
        }
    }
}
