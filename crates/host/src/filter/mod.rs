//! The engine's own seccomp filter: the system calls that a wasm guest's process may make once its
//! program is loaded, and the guard that checks every file before the engine gets it.
//!
//! The filter is added to the container's profile just before the program runs, so it holds with
//! any configuration of seccomp. It requires no_new_privs, which costs a wasm guest nothing: its
//! process never executes another program.
//!
//! - [`calls`] lists the system calls that an engine needs to serve a guest. All others fail with
//!   EPERM: `ptrace`, `bpf`, `mount`, `keyctl`, `process_vm_writev`, `execve`, and new processes.
//!   No memory can become executable.
//! - The calls that open a file by its path raise SIGSYS. The handler ([`guard`]) opens the file
//!   itself, checks the open descriptor, and refuses a file that gives access to the guest's own
//!   process: see [`pseudo`]. The guard checks the object, not the path, so it holds for every
//!   engine's path resolution, for symbolic links, bind mounts and directory descriptors.
//!
//! The filter allows the handler's own calls by a random number in their sixth argument. The number
//! need not be secret from native code in this process, which has passed this wall already; it must
//! differ from any value that an engine's own call leaves in that register.

mod allow_list;
mod calls;
mod guard;
mod links;
mod pseudo;

use std::io;
use std::path::Path;

use nix::sys::prctl;
use wherry_engine::{Engine, LinkBuffer};

/// The system calls that the filter allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allow {
    /// Those of every engine, and those that this engine needs besides.
    Listed(&'static [i64]),
    /// All: for an administrator's native plug-ins, or by the runtime's options. Files are guarded.
    All,
}

impl Allow {
    /// The system calls of this engine's guests. `plugins`: the path of its plug-ins, or empty.
    /// `no_list`: the runtime's options disable the list.
    pub fn for_guests_of(engine: &dyn Engine, plugins: &Path, no_list: bool) -> Allow {
        if no_list || !plugins.as_os_str().is_empty() {
            Allow::All
        } else {
            Allow::Listed(engine.system_calls())
        }
    }
}

/// Why the filter could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the engine's seccomp filter: {call}: {source}")]
pub struct FilterError {
    call: &'static str,
    source: io::Error,
}

/// Installs the filter in all threads of this process, permanently. `rooted`: the guest may open
/// the whole root, and paths resolve in it as in the kernel (see [`links`]); `links` is
/// [`Engine::link_buffer`].
///
/// # Errors
/// If the kernel refuses, as it does if the container's own profile forbids `prctl` or `seccomp`.
pub fn install(allow: Allow, rooted: bool, links: Option<LinkBuffer>) -> Result<(), FilterError> {
    let installed = install_with_cookie(allow, rooted, links);
    guard::forget_cookie();
    installed
}

#[inline(never)]
fn install_with_cookie(
    allow: Allow,
    rooted: bool,
    links: Option<LinkBuffer>,
) -> Result<(), FilterError> {
    let failed = |call| move |source| FilterError { call, source };
    links::configure(rooted, links);
    let cookie = guard::install().map_err(failed("sigaction"))?;
    prctl::set_no_new_privs()
        .map_err(io::Error::from)
        .map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    allow_list::program(allow, cookie).install().map_err(failed("seccomp"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use crate::signals::exit_now;

    /// Runs `work` in another process, which has the filter. Fails with the number of the failed
    /// check.
    fn confined(allow: Allow, work: impl FnOnce() -> Result<(), u32>) {
        confined_in(allow, false, work);
    }

    #[allow(unsafe_code)]
    fn confined_in(allow: Allow, rooted: bool, work: impl FnOnce() -> Result<(), u32>) {
        // SAFETY: the child makes system calls, allocates with glibc's allocator, which is safe to
        // use after fork, and exits.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let status = match install(allow, rooted, Some(LinkBuffer::Fixed(16384))) {
                    Ok(()) => work().map_or_else(|number| number, |()| 0),
                    Err(_) => 1,
                };
                exit_now(i32::try_from(status.min(255)).unwrap_or(255))
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
    }

    /// Fails with the number of the check unless it holds.
    fn check(number: u32, holds: bool) -> Result<(), u32> {
        if holds { Ok(()) } else { Err(number) }
    }

    fn refused(result: io::Result<File>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
    }

    #[test]
    fn ordinary_files_are_opened_as_without_the_filter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        confined(Allow::Listed(&[]), || {
            check(2, fs::write(&path, "text").is_ok())?;
            check(3, fs::read_to_string(&path).is_ok_and(|text| text == "text"))?;
            check(4, OpenOptions::new().append(true).open(&path).is_ok())?;
            let missing = File::open(directory.path().join("missing"));
            check(5, missing.is_err_and(|error| error.kind() == io::ErrorKind::NotFound))?;
            let here = File::open(directory.path()).map_err(|_| 6_u32)?;
            check(6, nix::sys::stat::mkdirat(&here, "d", nix::sys::stat::Mode::S_IRWXU).is_ok())?;
            let names = fs::read_dir(directory.path()).map(Iterator::count);
            check(7, names.is_ok_and(|count| count == 2))?;
            check(
                8,
                fs::read_link(&path).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)),
            )?;
            check(9, nix::unistd::symlinkat("file", &here, "l").is_ok())?;
            check(
                10,
                fs::read_link(directory.path().join("l")).is_ok_and(|to| to == Path::new("file")),
            )?;
            check(11, File::open(directory.path().join("l")).is_ok())?;
            check(12, File::open("/dev/null").is_ok() && File::open("/dev/urandom").is_ok())
        });
    }

    #[test]
    fn links_resolve_in_the_root_where_the_guest_has_it() {
        use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        fs::write(path.join("file"), "text").unwrap();
        std::os::unix::fs::symlink(path.join("file"), path.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../".repeat(9) + "etc", path.join("above")).unwrap();
        for rooted in [false, true] {
            confined_in(Allow::Listed(&[]), rooted, || {
                let here = File::open(&path).map_err(|_| 2_u32)?;
                let how =
                    OpenHow::new().flags(OFlag::O_RDONLY).resolve(ResolveFlag::RESOLVE_BENEATH);
                check(3, openat2(&here, "file", how).is_ok())?;
                check(4, openat2(&here, "absolute", how).is_ok() == rooted)?;
                check(5, openat2(&here, "above", how).is_ok() == rooted)?;
                let depth = path.components().count() - 1;
                // Through the C library, with buffers of the engine's and of the guest's size.
                let read = |name: &str, size: usize| {
                    let mut buffer = vec![0_u8; size];
                    let length = read_link_into(&here, name, &mut buffer);
                    buffer.truncate(usize::try_from(length).unwrap_or_default());
                    String::from_utf8(buffer).unwrap_or_default()
                };
                let text = path.join("absolute").to_string_lossy().replace("absolute", "file");
                check(6, read("absolute", 256) == text)?;
                check(7, read("absolute", 16384) == if rooted { "file".to_owned() } else { text })?;
                let above = "../".repeat(if rooted { depth } else { 9 }) + "etc";
                check(8, read("above", 16384) == above)?;
                check(9, readlinkat(&here, "file").is_err())
            });
        }
    }

    #[allow(unsafe_code)]
    fn read_link_into(directory: &File, name: &str, buffer: &mut [u8]) -> isize {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: a C string, and a buffer of that length.
        unsafe {
            libc::readlinkat(
                directory.as_raw_fd(),
                name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        }
    }

    #[test]
    fn what_a_process_shows_of_itself_is_refused() {
        for allow in [Allow::Listed(&[]), Allow::All] {
            let own = File::open("/proc/self/status").unwrap();
            confined(allow, || {
                let secrets = [
                    "mem",
                    "maps",
                    "smaps",
                    "smaps_rollup",
                    "numa_maps",
                    "pagemap",
                    "map_files",
                    "fd",
                    "fdinfo",
                    "environ",
                    "auxv",
                    "syscall",
                    "stack",
                    "stat",
                    "wchan",
                    "task",
                    "ns",
                    "attr",
                    "clear_refs",
                    "personality",
                ];
                for (number, name) in (2..).zip(secrets) {
                    check(number, refused(File::open(format!("/proc/self/{name}"))))?;
                    check(number + 40, File::open(format!("/proc/thread-self/{name}")).is_err())?;
                }
                for (number, name) in (100..).zip([
                    "exe",
                    "root",
                    "cwd",
                    "root/etc/passwd",
                    "cwd/.",
                    "fd/0",
                    "ns/mnt",
                ]) {
                    check(number, File::open(format!("/proc/self/{name}")).is_err())?;
                }
                for (number, name) in (110..).zip(["exe", "root", "cwd", "fd/0", "fd/1", "ns/mnt"])
                {
                    check(number, fs::read_link(format!("/proc/self/{name}")).is_err())?;
                }
                check(
                    120,
                    refused(File::open("/proc/kcore")) || !Path::new("/proc/kcore").exists(),
                )?;
                check(121, refused(File::open("/proc/kallsyms")))?;
                check(122, refused(OpenOptions::new().write(true).open("/proc/self/comm")))?;
                check(
                    123,
                    refused(OpenOptions::new().read(true).write(true).open("/proc/self/mem")),
                )?;
                let again = format!("/proc/self/fd/{}", own.as_raw_fd());
                check(124, File::open(again).is_err())?;
                // A directory's descriptor leads to the same objects.
                let directory = File::open("/proc/self").map_err(|_| 125_u32)?;
                let how = nix::fcntl::OFlag::O_RDWR;
                let beneath =
                    nix::fcntl::openat(&directory, "mem", how, nix::sys::stat::Mode::empty());
                check(126, beneath.is_err_and(|errno| errno == Errno::EACCES))?;
                let how = nix::fcntl::OpenHow::new().flags(how);
                let beneath = nix::fcntl::openat2(&directory, "mem", how);
                check(127, beneath.is_err_and(|errno| errno == Errno::EACCES))
            });
        }
    }

    #[test]
    fn what_ordinary_programs_read_of_procfs_stays() {
        confined(Allow::Listed(&[]), || {
            let read = [
                "cpuinfo",
                "meminfo",
                "uptime",
                "loadavg",
                "self/status",
                "self/mountinfo",
                "self/cgroup",
                "sys/kernel/hostname",
            ];
            for (number, name) in (2..).zip(read) {
                let text = fs::read_to_string(format!("/proc/{name}"));
                check(number, text.is_ok_and(|text| !text.is_empty()))?;
            }
            check(20, fs::read_dir("/proc").is_ok_and(|entries| entries.count() > 10))?;
            check(21, fs::read_link("/proc/self").is_ok())
        });
    }

    #[test]
    #[allow(unsafe_code)]
    fn calls_that_no_guest_needs_fail() {
        confined(Allow::Listed(&[]), || {
            let eperm = |result: i64| result == -1 && Errno::last() == Errno::EPERM;
            // SAFETY: the filter refuses each call before the kernel reads its arguments, all zero.
            let call = |number: i64| unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
            let refused = [
                libc::SYS_ptrace,
                libc::SYS_bpf,
                libc::SYS_mount,
                libc::SYS_keyctl,
                libc::SYS_process_vm_writev,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_setns,
                libc::SYS_unshare,
                libc::SYS_io_uring_setup,
                libc::SYS_userfaultfd,
                libc::SYS_perf_event_open,
                libc::SYS_open_tree,
                libc::SYS_open_by_handle_at,
                libc::SYS_pidfd_open,
                libc::SYS_kill,
                libc::SYS_seccomp,
                libc::SYS_fchmodat,
                libc::SYS_clone,
            ];
            for (number, nr) in (2..).zip(refused) {
                check(number, eperm(call(nr)))?;
            }
            check(50, call(libc::SYS_clone3) == -1 && Errno::last() == Errno::ENOSYS)?;
            let thread = std::thread::spawn(|| 7);
            check(51, thread.join().is_ok_and(|seven| seven == 7))
        });
    }
}
