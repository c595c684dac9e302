//! Moving this process into a container's cgroup, so that what it does is charged to the container.

use std::path::Path;
use std::{fs, io};

use super::is_unified;
use super::place::{Hierarchy, directories};

/// Moves this process, which has one thread, into the cgroup that a configuration calls `path`, and which is there.
///
/// # Errors
/// When the kernel refuses; the text names the file.
pub fn join(path: &Path, systemd: bool) -> io::Result<()> {
    let files: Vec<_> = if is_unified() {
        directories(path, systemd).iter().map(|directory| directory.join("cgroup.procs")).collect()
    } else {
        // A thread that moves itself alone does not wait.
        Hierarchy::all().iter().map(|each| each.directory(path).join("tasks")).collect()
    };
    files.iter().try_for_each(|file| {
        fs::write(file, "0")
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
    })
}
