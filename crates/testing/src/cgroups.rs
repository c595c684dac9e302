//! The cgroups of the tests' containers.

use crate::places::systemd_cgroups;
use crate::wait::{DEADLINE, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The parent of all cgroups of a scope's containers, in the form of the driver under test: a path,
/// or a slice.
pub fn cgroup_parent(scope: &str) -> String {
    if systemd_cgroups() { format!("{scope}.slice") } else { format!("/{scope}") }
}

/// The arguments with which `ctr` places a container's cgroup. Systemd's driver is recognised by
/// the form of the path alone.
pub(crate) fn words_for_ctr(scope: &str, id: &str) -> Vec<String> {
    if systemd_cgroups() {
        vec!["--cgroup".to_owned(), format!("{}:{scope}:{id}", cgroup_parent(scope))]
    } else {
        Vec::new()
    }
}

/// Waits until no process is in the cgroup `path`, and removes it from all hierarchies.
pub fn remove_cgroup(path: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let directory = hierarchy.join(path.trim_start_matches('/'));
        wait_until(&format!("{} can be removed", directory.display()), DEADLINE, || {
            !directory.exists() || fs::remove_dir(&directory).is_ok()
        });
    }
}

/// The cgroups below this scope's, in all hierarchies. The scope's own cgroup is the daemon's.
pub(crate) fn cgroups(scope: &str) -> Vec<PathBuf> {
    let slice = format!("{scope}.slice");
    let is_parent = |part: &std::ffi::OsStr| part == scope || part == &*slice;
    let mut found = Vec::new();
    let mut stack = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if dir.components().any(|part| is_parent(part.as_os_str())) {
                    found.push(path.clone());
                }
                stack.push(path);
            }
        }
    }
    found
}

/// The scopes that systemd lists in the slice of this scope, failed ones included.
pub(crate) fn systemd_scopes(scope: &str) -> Vec<String> {
    if !systemd_cgroups() || !Path::new("/run/systemd/system").exists() {
        return Vec::new();
    }
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=Id,Slice,ActiveState", "*.scope"]);
    let output = command.output().unwrap_or_else(|e| panic!("systemctl cannot be run: {e}"));
    let slice = format!("Slice={}", cgroup_parent(scope));
    let text = String::from_utf8_lossy(&output.stdout);
    let ours = text.split("\n\n").filter(|unit| unit.lines().any(|line| line == slice));
    ours.map(|unit| unit.trim().replace('\n', " ")).collect()
}
