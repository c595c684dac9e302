//! The list of system calls that a wasm guest's process may make.

/// Calls that open a file, or read a symbolic link, by its path: see [`super::guard`].
#[cfg(target_arch = "x86_64")]
pub(super) const GUARDED: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_readlink,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const GUARDED: &[i64] = &[libc::SYS_openat, libc::SYS_openat2, libc::SYS_readlinkat];

/// Calls that every engine may make, with any arguments.
pub(super) const COMMON: &[i64] = &[
    // Files by descriptor.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_getdents64,
    // Names of files.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_utimensat,
    libc::SYS_getcwd,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Clocks and random numbers.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    // The process, and its threads.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_prlimit64,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    // Signals: engines handle the faults of guests.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Older forms of some of these, which the C library or an engine uses on x86.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
];

/// CLONE_THREAD, without which clone(2) creates a process.
pub(super) const NEW_THREAD: u32 = 0x0001_0000;

/// Socket families: the network, Unix sockets, and netlink, by which the C library queries the
/// addresses of the machine.
pub(super) const SOCKETS: [u32; 4] = [
    libc::AF_UNIX.unsigned_abs(),
    libc::AF_INET.unsigned_abs(),
    libc::AF_INET6.unsigned_abs(),
    libc::AF_NETLINK.unsigned_abs(),
];

/// ioctl requests: bytes to read, non-blocking mode, terminal settings and size, and the written
/// pages of this process. Not TIOCSTI, which inserts input into a terminal.
pub(super) const IOCTLS: [u32; 5] = [
    ioctl(libc::FIONREAD),
    ioctl(libc::FIONBIO),
    ioctl(libc::TCGETS),
    ioctl(libc::TIOCGWINSZ),
    PAGEMAP_SCAN,
];

/// On `/proc/self/pagemap`, which a guest cannot open: an engine with a pool of instances has it
/// open. The C library has no name for it.
const PAGEMAP_SCAN: u32 = 0xc060_6610;

#[allow(clippy::cast_possible_truncation, reason = "the kernel takes 32 bits")]
const fn ioctl(request: libc::Ioctl) -> u32 {
    request as u32
}

/// prctl options: the names of threads and of memory.
pub(super) const PRCTLS: [u32; 2] =
    [libc::PR_SET_NAME.unsigned_abs(), libc::PR_SET_VMA.unsigned_abs()];
