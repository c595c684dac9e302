//! The system calls that a compiler may make.
//!
//! It computes: it takes memory, starts threads, reads and writes its descriptors and files below its own empty root. All
//! other calls answer EPERM: no sockets, no programs, no mounts, no namespaces, no tracing, no signals but to itself, no
//! keys, no BPF, no io_uring. A call that a library makes only to find out whether the kernel has it (`clone3`) answers
//! ENOSYS, so that the library takes the one it replaces.

use std::io;

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use libcontainer::seccomp::initialize_seccomp;

/// Allowed with any arguments. Those that a processor or kernel does not have are passed over.
const ALLOWED: &[&str] = &[
    // Memory.
    "brk",
    "madvise",
    "membarrier",
    "mincore",
    "mmap",
    "mmap2",
    "mprotect",
    "mremap",
    "munmap",
    // Threads; a process can only signal itself, as it is alone in its pid namespace.
    "exit",
    "exit_group",
    "futex",
    "futex_time64",
    "get_robust_list",
    "getcpu",
    "gettid",
    "rseq",
    "sched_getaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "tgkill",
    // Signals.
    "restart_syscall",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigtimedwait",
    "sigaltstack",
    // Time and chance.
    "clock_getres",
    "clock_gettime",
    "clock_gettime64",
    "clock_nanosleep",
    "clock_nanosleep_time64",
    "getrandom",
    "gettimeofday",
    "nanosleep",
    "time",
    "times",
    // The process and the machine, as far as they are asked for.
    "getegid",
    "getegid32",
    "geteuid",
    "geteuid32",
    "getgid",
    "getgid32",
    "getpgrp",
    "getpid",
    "getpriority",
    "getppid",
    "getrlimit",
    "getrusage",
    "getuid",
    "getuid32",
    "riscv_hwprobe",
    "sysinfo",
    "ugetrlimit",
    "umask",
    "uname",
    // Descriptors.
    "_llseek",
    "close",
    "close_range",
    "copy_file_range",
    "dup",
    "dup2",
    "dup3",
    "eventfd2",
    "fadvise64",
    "fadvise64_64",
    "fallocate",
    "fcntl",
    "fcntl64",
    "fdatasync",
    "flock",
    "fstat",
    "fstat64",
    "fstatfs",
    "fstatfs64",
    "fsync",
    "ftruncate",
    "ftruncate64",
    "lseek",
    "pipe",
    "pipe2",
    "poll",
    "ppoll",
    "ppoll_time64",
    "pread64",
    "preadv",
    "pwrite64",
    "pwritev",
    "read",
    "readv",
    "sendfile",
    "sendfile64",
    "write",
    "writev",
    // Files, of which there are only its own.
    "access",
    "chdir",
    "chmod",
    "creat",
    "faccessat",
    "faccessat2",
    "fchmod",
    "fchmodat",
    "fstatat64",
    "getcwd",
    "getdents",
    "getdents64",
    "link",
    "linkat",
    "lstat",
    "lstat64",
    "mkdir",
    "mkdirat",
    "newfstatat",
    "open",
    "openat",
    "readlink",
    "readlinkat",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "stat",
    "stat64",
    "statfs",
    "statfs64",
    "statx",
    "symlink",
    "symlinkat",
    "truncate",
    "truncate64",
    "unlink",
    "unlinkat",
    "utimensat",
];

/// Of prctl(2): names of threads and of their memory.
const PRCTLS: [u64; 2] = [libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64];

/// Installs the filter for this process and all that it makes. It needs `no_new_privs`.
pub(super) fn install() -> io::Result<()> {
    let failed = |error: &dyn std::error::Error| {
        io::Error::other(format!("cannot bound the compiler's system calls: {error}"))
    };
    let filter = filter().map_err(|error| failed(&error))?;
    initialize_seccomp(&filter).map(drop).map_err(|error| failed(&error))
}

fn filter() -> Result<LinuxSeccomp, OciSpecError> {
    let allow = LinuxSeccompAction::ScmpActAllow;
    let mut rules = vec![rule(ALLOWED, allow, None, vec![])?];
    // A thread, and no process.
    let thread = libc::CLONE_THREAD as u64;
    rules.push(rule(&["clone"], allow, None, vec![masked(0, thread)?])?);
    // Its flags lie in memory, where a filter cannot see them.
    let unknown = Some(libc::ENOSYS.unsigned_abs());
    rules.push(rule(&["clone3"], LinuxSeccompAction::ScmpActErrno, unknown, vec![])?);
    for option in PRCTLS {
        rules.push(rule(&["prctl"], allow, None, vec![equal(0, option)?])?);
    }
    // Its own limits, to be read: the C library finds the end of its stack so.
    rules.push(rule(&["prlimit64"], allow, None, vec![equal(0, 0)?, equal(2, 0)?])?);
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM.unsigned_abs())
        .syscalls(rules)
        .build()
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> Result<LinuxSyscall, OciSpecError> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut rule = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        rule = rule.errno_ret(errno);
    }
    if !args.is_empty() {
        rule = rule.args(args);
    }
    rule.build()
}

fn equal(index: usize, value: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    let op = LinuxSeccompOperator::ScmpCmpEq;
    LinuxSeccompArgBuilder::default().index(index).value(value).op(op).build()
}

/// All bits of `mask` are set.
fn masked(index: usize, mask: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    let op = LinuxSeccompOperator::ScmpCmpMaskedEq;
    LinuxSeccompArgBuilder::default().index(index).value(mask).value_two(mask).op(op).build()
}
