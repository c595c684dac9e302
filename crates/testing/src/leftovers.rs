//! Proof that a container has left no mount, cgroup, process, socket or file behind.

use crate::cgroups::{cgroups, systemd_scopes};
use crate::places::patience;
use crate::processes::{managers, processes};
use crate::run::Daemon;
use crate::wait::DEADLINE;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A snapshot of everything that belongs to a daemon's containers. Use it with a private daemon:
/// containers of other tests would count as leftovers.
pub struct Leftovers<'d> {
    daemon: &'d dyn Daemon,
    before: BTreeSet<String>,
}

impl<'d> Leftovers<'d> {
    /// Takes the snapshot.
    pub fn snapshot(daemon: &'d dyn Daemon) -> Leftovers<'d> {
        Leftovers { daemon, before: look(daemon) }
    }

    /// Waits until everything that was not in the snapshot is gone, or panics with a list of it.
    #[track_caller]
    pub fn assert_none_new(&self) {
        let (start, deadline) = (Instant::now(), DEADLINE * patience());
        loop {
            let now = look(self.daemon);
            let new: Vec<&String> = now.difference(&self.before).collect();
            if new.is_empty() {
                return;
            }
            assert!(start.elapsed() < deadline, "left behind on {}: {new:#?}", self.daemon.name());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn look(daemon: &dyn Daemon) -> BTreeSet<String> {
    let containerd = daemon.containerd();
    let root = containerd.root();
    let mut found = BTreeSet::new();
    let pid = containerd.has_own_etc().then(|| containerd.daemon_pid().to_string());
    let mut mounts = mounts_below(root, pid.as_deref().unwrap_or("self"));
    mounts.retain(|path| *path != containerd.state());
    found.extend(mounts.into_iter().map(|path| format!("mount {}", path.display())));
    found.extend(
        cgroups(containerd.namespace())
            .into_iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    let scopes = systemd_scopes(containerd.namespace()).into_iter();
    found.extend(scopes.map(|unit| format!("systemd scope {unit}")));
    // Clients of the tests come and go, and the daemon may have been restarted as another process.
    let others = |program: &str| {
        !matches!(program, "ctr" | "docker" | "make" | "flock" | "containerd" | "dockerd")
    };
    let ours = i32::try_from(std::process::id()).expect("a pid");
    let members = processes()
        .into_iter()
        .filter(|p| p.pid != ours && others(p.program()) && p.belongs_to(root));
    let managers: Vec<i32> = managers(&containerd.address()).iter().map(|p| p.pid).collect();
    let mut spare: HashMap<i32, usize> = HashMap::new();
    let members = members.filter(|process| {
        // A manager stays, with two engine hosts for its next containers.
        let parent = process.parent().map(|parent| parent.pid);
        match parent.filter(|pid| managers.contains(pid)) {
            Some(manager) if process.command.starts_with("wherry host") => {
                let count = spare.entry(manager).or_default();
                *count += 1;
                *count > 2
            }
            _ => !managers.contains(&process.pid),
        }
    });
    found.extend(members.map(|p| format!("process {} {}", p.pid, p.command)));
    let dead = containerd.sockets().into_iter().filter(|path| is_dead(path));
    found.extend(dead.map(|path| format!("dead socket {}", path.display())));
    for parent in [containerd.state(), root.join("root")] {
        let mut files = Vec::new();
        for owner in ["io.containerd.runtime.v2.task", "io.containerd.sandbox.controller.v1.shim"] {
            below(&parent.join(owner), 2, &mut files);
        }
        found.extend(files.into_iter().map(|path| format!("bundle file {}", path.display())));
    }
    found
}

fn mounts_below(root: &Path, process: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{process}/mountinfo")).expect("it runs");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).filter(|point| point.starts_with(root)).collect()
}

/// Whether the path is a socket without a listener.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

/// Files and folders exactly `depth` levels below `dir`, with the content of the files.
fn below(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if depth <= 1 {
            found.push(path.clone());
        }
        // Mounted root filesystems are skipped: they are reported as mounts.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "rootfs" {
            below(&path, depth.saturating_sub(1), found);
        }
    }
}
