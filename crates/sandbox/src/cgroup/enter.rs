//! How a process on its way into a container enters the container's cgroup without waiting.
//!
//! Written to `cgroup.procs`, a pid takes some ten milliseconds, several times what all else takes that makes a container:
//! the kernel moves a process with all its threads when no processor can be in the middle of a fork, and learns that from an
//! RCU grace period. Two ways wait for nothing:
//!
//! - Version 1: a thread that moves itself alone, through `tasks`, since Linux 5.5.
//! - Version 2: a process that is born in the cgroup, by `CLONE_INTO_CGROUP`, since Linux 5.7.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use libcgroups::common::{Entry, WrappedIoError};

use super::place::{Hierarchy, below_root};
use super::{ROOT, is_unified};

/// From now on processes that libcontainer forks enter cgroups without waiting. Those of systemd's driver are
/// systemd's to move. `may_be_replaced`: nobody will ask for such a process by its pid afterwards.
pub fn without_waiting(may_be_replaced: bool) {
    libcgroups::common::enter_by(move |path| {
        if !is_unified() {
            return by_tasks(path).map(|()| Entry::Complete);
        }
        let directory = Path::new(ROOT).join(below_root(path));
        let born = may_be_replaced && by_birth(&directory).is_ok();
        Ok(if born { Entry::Inside } else { Entry::Outside })
    });
}

/// Moves this process, which has one thread, into a cgroup of version 1, which is there.
fn by_tasks(path: &Path) -> Result<(), WrappedIoError> {
    for hierarchy in Hierarchy::all() {
        let path = hierarchy.directory(path).join("tasks");
        // This thread.
        fs::write(&path, "0").map_err(|err| WrappedIoError::Write {
            err,
            path,
            data: "0".into(),
        })?;
    }
    Ok(())
}

/// Goes on as another process, a child of the same parent, in a cgroup of version 2; this one ends. On an error
/// nothing has happened.
#[allow(unsafe_code)]
fn by_birth(directory: &Path) -> io::Result<()> {
    let directory = File::open(directory)?;
    let mut args = CloneArgs {
        flags: CLONE_INTO_CGROUP | libc::CLONE_PARENT as u64,
        cgroup: directory.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the arguments are of the size that is said, and ask for what fork does. This process has a single thread.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) } {
        0 => Ok(()),
        // SAFETY: ends this process; what is open or buffered is the other one's now.
        pid if pid > 0 => unsafe { libc::_exit(0) },
        _ => Err(io::Error::last_os_error()),
    }
}

/// Of clone3(2). libc's is of a type that it does not fit into.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2), as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::{ForkResult, Pid, fork, pipe};

    use super::*;

    /// Says where it is after it was born in `directory`.
    fn say(directory: &Path, mut to: File) -> io::Result<()> {
        by_birth(directory)?;
        let pid = std::process::id();
        to.write_all(format!("{pid} {}", fs::read_to_string("/proc/self/cgroup")?).as_bytes())
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_process_goes_on_as_another_one_in_the_cgroup_that_it_is_born_in() {
        let root = tempfile::tempdir().unwrap();
        let name = format!("wherry-test-{}", std::process::id());
        mount(Some("none"), root.path(), Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        let directory = root.path().join(&name);
        fs::create_dir(&directory).unwrap();
        let (from, to) = pipe().unwrap();
        // SAFETY: the child uses no lock that another thread may hold, and ends without unwinding.
        let first = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let code = i32::from(say(&directory, File::from(to)).is_err());
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
