//! The system calls that a compiler may make.
//!
//! A compiler allocates memory, starts threads, and reads and writes its descriptors and files
//! below its own empty root. All other calls fail with EPERM: no sockets, no exec, no mounts, no
//! namespaces, no tracing, no signals except to itself, no keys, no BPF, no io_uring. `clone3`
//! fails with ENOSYS, so that the C library uses `clone`, whose arguments a filter can check.

use std::io;

use wherry_sys::seccomp::{ALLOW, ENOSYS, EPERM, Filter};

/// Allowed with any arguments.
const ALLOWED: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads. `tgkill` reaches no other process: a compiler is alone in its pid namespace.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_tgkill,
    // Signals.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Clocks and random numbers.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_times,
    // Queries of the process and the machine.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getpriority,
    libc::SYS_getppid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_eventfd2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_sendfile,
    libc::SYS_write,
    libc::SYS_writev,
    // Files, all below its own root.
    libc::SYS_chdir,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_truncate,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

/// As [`ALLOWED`]: older forms of some calls.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[i64] = &[
    libc::SYS_time,
    libc::SYS_getpgrp,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_creat,
    libc::SYS_getdents,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[i64] = &[];

/// Options of prctl(2): the names of threads and of their memory.
const PRCTLS: [u32; 2] = [libc::PR_SET_NAME as u32, libc::PR_SET_VMA as u32];

/// Installs the filter in this process and all that it starts. Requires no_new_privs.
pub(super) fn install() -> io::Result<()> {
    filter().install()
}

fn filter() -> Filter {
    let mut filter = Filter::new();
    for number in ALLOWED.iter().chain(ALLOWED_OLD) {
        filter.call(*number, ALLOW);
    }
    // Threads, not processes.
    filter.any_bit(libc::SYS_clone, 0, libc::CLONE_THREAD.unsigned_abs(), (ALLOW, EPERM));
    // Its flags are in memory, which no filter can read.
    filter.call(libc::SYS_clone3, ENOSYS);
    filter.one_of(libc::SYS_prctl, 0, &PRCTLS);
    // Only to read its own limits, by which the C library finds the end of its stack.
    filter.all_zero(libc::SYS_prlimit64, &[0, 2]);
    filter.otherwise(EPERM);
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_starts_threads_and_reads_its_own_limits_alone() {
        let filter = filter();
        let first = |number, value| filter.action(number, [value, 0, 0, 0, 0, 0]);
        assert_eq!(first(libc::SYS_clone, libc::CLONE_THREAD as u64), ALLOW);
        assert_eq!(first(libc::SYS_clone, 17), EPERM);
        assert_eq!(filter.action(libc::SYS_prlimit64, [0, 3, 0, 1, 0, 0]), ALLOW);
        for refused in [[1, 3, 0, 1, 0, 0], [0, 3, 1, 0, 0, 0], [0, 3, 1 << 32, 0, 0, 0]] {
            assert_eq!(filter.action(libc::SYS_prlimit64, refused), EPERM);
        }
        assert_eq!(first(libc::SYS_execve, 0), EPERM);
        assert_eq!(first(libc::SYS_kill, 0), EPERM);
    }
}
