//! Moves a process that is being set up into the container's cgroup, and sets the limits that
//! systemd does not set.
//!
//! A write of a pid to `cgroup.procs` takes some ten milliseconds, several times the rest of a
//! container's setup: the kernel moves a process with all its threads when no processor can be in
//! the middle of a fork, which it learns from an RCU grace period. Two ways do not wait:
//!
//! - Version 1: a thread that moves only itself, through `tasks`, since Linux 5.5.
//! - Version 2: a process that is cloned into the cgroup, by `CLONE_INTO_CGROUP`, since Linux 5.7.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use libcgroups::common::{CgroupManager, ControllerOpt, Entry, WrappedIoError};
use libcgroups::v2::manager::Manager;
use oci_spec::runtime::{LinuxCpu, LinuxResources};
use wherry_cgroup::{Cgroup, Hierarchy, ROOT, below_root, is_unified};

use crate::clone;
use crate::error::LibraryError;

/// The limits of a systemd scope could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set the limits of cgroup {}: {source}", .cgroup.display())]
pub(crate) struct LimitsError {
    cgroup: PathBuf,
    source: LibraryError,
}

/// Makes the processes that libcontainer forks from now on join cgroups without waiting. systemd
/// moves those of the systemd driver. `may_be_replaced`: libcontainer does not use the pid of such
/// a process afterwards.
pub(crate) fn join_without_waiting(may_be_replaced: bool) {
    libcgroups::common::enter_by(move |path| {
        if is_unified() {
            let directory = Path::new(ROOT).join(below_root(path));
            let inside = may_be_replaced && clone_into(&directory).is_ok();
            return Ok(if inside { Entry::Inside } else { Entry::Outside });
        }
        join_v1(path)?;
        if let Some(mount) = Hierarchy::hybrid() {
            join_hybrid(&mount.join(below_root(path)), may_be_replaced)?;
        }
        Ok(Entry::Complete)
    });
}

/// Moves this process, which has a single thread, into a cgroup of version 1, which exists.
fn join_v1(path: &Path) -> Result<(), WrappedIoError> {
    Hierarchy::all().iter().try_for_each(|each| write_self(&each.directory(path).join("tasks")))
}

/// Joins the cgroup of version 2 beside version 1.
fn join_hybrid(directory: &Path, may_be_replaced: bool) -> Result<(), WrappedIoError> {
    if may_be_replaced && clone_into(directory).is_ok() {
        return Ok(());
    }
    write_self(&directory.join("cgroup.procs"))
}

fn write_self(path: &Path) -> Result<(), WrappedIoError> {
    // 0: the writer itself.
    fs::write(path, "0").map_err(|err| WrappedIoError::Write {
        err,
        path: path.to_owned(),
        data: "0".into(),
    })
}

/// Continues as another process, a child of the same parent, in a cgroup of version 2; this one
/// exits. An error leaves everything as it was.
#[allow(unsafe_code)]
fn clone_into(directory: &Path) -> io::Result<()> {
    let directory = File::open(directory)?;
    if clone::sibling(Some(&directory))?.is_some() {
        // SAFETY: ends this process; the other one continues with its descriptors and buffers.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}

/// Sets the values that systemd has not set in the cgroup of process `pid`, a systemd scope: the
/// devices, which were not passed to it, and the sets of processors and the limits of huge pages,
/// which it does not support. Setting the other limits again has no effect.
pub(crate) fn complete(pid: i32, resources: &LinuxResources) -> Result<(), LimitsError> {
    let Some(Cgroup::V2(directory)) = Cgroup::of(pid) else { return Ok(()) };
    apply(&directory, resources)
        .map_err(|source| LimitsError { cgroup: directory.clone(), source })?;
    // systemd resets limits that it did not set whenever it reloads its configuration.
    if let Some(cpu) =
        resources.cpu().as_ref().filter(|cpu| cpu.cpus().is_some() || cpu.mems().is_some())
    {
        let mut sets = LinuxCpu::default();
        sets.set_cpus(cpu.cpus().clone()).set_mems(cpu.mems().clone());
        let mut resources = LinuxResources::default();
        resources.set_cpu(Some(sets));
        wherry_cgroup::set_properties(&directory, &resources);
    }
    Ok(())
}

fn apply(directory: &Path, resources: &LinuxResources) -> Result<(), LibraryError> {
    let root = Path::new(ROOT);
    let below = directory.strip_prefix(root).map_err(LibraryError::new)?;
    let manager = Manager::new(root.to_owned(), below.to_owned()).map_err(LibraryError::new)?;
    let options = ControllerOpt {
        resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    manager.apply(&options).map_err(LibraryError::new)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::{ForkResult, Pid, fork, pipe};

    use super::*;

    /// Writes the pid and the cgroups after the clone into `directory`.
    fn write_place(directory: &Path, mut to: File) -> io::Result<()> {
        clone_into(directory)?;
        let pid = std::process::id();
        to.write_all(format!("{pid} {}", fs::read_to_string("/proc/self/cgroup")?).as_bytes())
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_process_goes_on_as_another_one_in_the_cgroup_that_it_is_born_in() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let name = format!("wherry-test-{}", std::process::id());
        mount(Some("none"), root.path(), Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        let directory = root.path().join(&name);
        fs::create_dir(&directory).unwrap();
        let (from, to) = pipe().unwrap();
        // SAFETY: the child uses no lock that another thread may hold, and ends without unwinding.
        let first = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let code = i32::from(write_place(&directory, File::from(to)).is_err());
                // SAFETY: as above.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => child,
        };
        drop(to);
        let mut said = String::new();
        File::from(from).read_to_string(&mut said).unwrap();
        waitpid(first, None).unwrap();
        let (pid, groups) = said.split_once(' ').unwrap();
        let second = Pid::from_raw(pid.parse().unwrap());
        waitpid(second, Some(WaitPidFlag::__WALL)).unwrap();
        fs::remove_dir(&directory).unwrap();
        umount2(root.path(), MntFlags::MNT_DETACH).unwrap();
        assert_ne!(first, second);
        assert!(
            groups.lines().any(|line| line.starts_with("0::") && line.ends_with(&name)),
            "{said}"
        );
    }
}
