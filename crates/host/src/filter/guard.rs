//! The guard of the files that an engine opens for its guest: the handler of SIGSYS.
//!
//! It repeats the system call of the interrupted code, with two differences. It follows no magic
//! link of procfs (`exe`, `root`, `cwd`, `fd/N`, `map_files/…`), in no component of the path
//! (`RESOLVE_NO_MAGICLINKS`). And it checks the opened file before it returns the descriptor: see
//! [`super::pseudo`].
//!
//! All of this runs in a signal handler, on the engine's current stack: system calls and buffers of
//! a few hundred bytes, no allocation, no locks, and errno is preserved.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pseudo;
use crate::signals::exit_now;

/// The sixth argument of this module's own calls. See the parent module.
static COOKIE: AtomicU64 = AtomicU64::new(0);

/// The result of a system call as the kernel returns it: a negative value is an errno.
type Answer = i64;

/// Installs the handler and returns the cookie.
pub(super) fn install() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: the kernel writes at most as many bytes as there are.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) != Ok(bytes.len()) {
        return Err(io::Error::last_os_error());
    }
    // Not a small number, which a register often holds.
    let cookie = u64::from_ne_bytes(bytes) | 1 << 63;
    COOKIE.store(cookie, Ordering::Relaxed);
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as libc::sighandler_t;
    // SA_NODEFER: a signal that is blocked when a filter raises it ends the process.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
    // SAFETY: the handler is async-signal-safe: see the module.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// The interrupted system call.
struct Call {
    number: i64,
    arguments: [u64; 4],
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a handler with SA_SIGINFO the context of the code that it
    // interrupted.
    let Some(context) = (unsafe { context.cast::<libc::ucontext_t>().as_mut() }) else { return };
    // SAFETY: the location is this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let answer = answer(&interrupted(context));
    // SAFETY: as above.
    unsafe { *errno = before };
    set_answer(context, answer);
}

#[cfg(target_arch = "x86_64")]
fn interrupted(context: &libc::ucontext_t) -> Call {
    let register = |index: i32| {
        let value =
            usize::try_from(index).ok().and_then(|index| context.uc_mcontext.gregs.get(index));
        value.copied().unwrap_or_default()
    };
    let argument = |index: i32| register(index).cast_unsigned();
    Call {
        number: register(libc::REG_RAX),
        arguments: [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10].map(argument),
    }
}

#[cfg(target_arch = "x86_64")]
fn set_answer(context: &mut libc::ucontext_t, answer: Answer) {
    let index = usize::try_from(libc::REG_RAX).unwrap_or_default();
    if let Some(register) = context.uc_mcontext.gregs.get_mut(index) {
        *register = answer;
    }
}

#[cfg(target_arch = "aarch64")]
fn interrupted(context: &libc::ucontext_t) -> Call {
    let [a, b, c, d, _, _, _, _, number, ..] = context.uc_mcontext.regs;
    Call { number: number.cast_signed(), arguments: [a, b, c, d] }
}

#[cfg(target_arch = "aarch64")]
fn set_answer(context: &mut libc::ucontext_t, answer: Answer) {
    let [register, ..] = &mut context.uc_mcontext.regs;
    *register = answer.cast_unsigned();
}

/// Makes a call that opens a file or reads a link. Any other call was trapped by the container's
/// own profile, whose SIGSYS would end the process: exits with the status that a shell reports for
/// it.
fn answer(call: &Call) -> Answer {
    let [a, b, c, d] = call.arguments;
    let here = libc::AT_FDCWD.cast_unsigned().into();
    match call.number {
        libc::SYS_openat => open(a, b, how_of(c, d)),
        libc::SYS_openat2 => match read_how(c, d) {
            Ok(how) => open(a, b, how),
            Err(errno) => -i64::from(errno),
        },
        libc::SYS_readlinkat => read_link(a, b, c, d),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => open(here, a, how_of(b, c)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            open(here, a, how_of(flags.cast_unsigned().into(), b))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink => read_link(here, a, b, c),
        _ => {
            // Used on x86_64 alone.
            let _ = here;
            exit_now(128 + libc::SIGSYS)
        }
    }
}

/// `struct open_how` of openat2(2).
#[repr(C)]
#[derive(Clone, Copy)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Flags that openat(2) knows. It ignores all others; openat2(2) refuses them.
const KNOWN: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | libc::O_TMPFILE;

fn bits(flags: i32) -> u64 {
    flags.cast_unsigned().into()
}

/// Converts the arguments of openat(2) to those of openat2(2).
fn how_of(flags: u64, mode: u64) -> How {
    let mut flags = flags & bits(KNOWN);
    if flags & bits(libc::O_PATH) != 0 {
        flags &= bits(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC);
    }
    let creates =
        flags & bits(libc::O_CREAT) != 0 || flags & bits(libc::O_TMPFILE) == bits(libc::O_TMPFILE);
    How { flags, mode: if creates { mode & 0o7777 } else { 0 }, resolve: 0 }
}

/// Reads the structure that a call of openat2(2) points to.
fn read_how(address: u64, size: u64) -> Result<How, i32> {
    // A larger structure is of a later kernel.
    if size != size_of::<How>() as u64 {
        return Err(if size < size_of::<How>() as u64 { libc::EINVAL } else { libc::E2BIG });
    }
    let address = usize::try_from(address).unwrap_or_default() as *const How;
    if address.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the engine made a system call with the address of such a structure.
    Ok(unsafe { address.read_unaligned() })
}

/// Opens a file, and closes it again if a guest may not have it.
fn open(directory: u64, path: u64, how: How) -> Answer {
    let opened = open_unchecked(directory, path, how);
    let Ok(fd) = i32::try_from(opened) else { return opened };
    if fd < 0 || pseudo::is_allowed(fd, how.flags) {
        return opened;
    }
    close(fd);
    -i64::from(libc::EACCES)
}

/// Opens a file without following magic links, and without the check.
fn open_unchecked(directory: u64, path: u64, how: How) -> Answer {
    let how = How { resolve: how.resolve | libc::RESOLVE_NO_MAGICLINKS, ..how };
    let address = (&raw const how).addr() as u64;
    call(libc::SYS_openat2, [directory, path, address, size_of::<How>() as u64])
}

/// Reads a symbolic link, except for the magic links of procfs.
fn read_link(directory: u64, path: u64, buffer: u64, size: u64) -> Answer {
    let flags = bits(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let opened = open_unchecked(directory, path, How { flags, mode: 0, resolve: 0 });
    let Ok(fd) = i32::try_from(opened) else { return opened };
    if fd < 0 {
        return opened;
    }
    let answer = if pseudo::is_allowed(fd, flags) {
        let link = opened.cast_unsigned();
        call(libc::SYS_readlinkat, [link, c"".as_ptr().addr() as u64, buffer, size])
    } else {
        -i64::from(libc::EACCES)
    };
    close(fd);
    // With an empty path the kernel reports ENOENT for a file that is no link.
    if answer == -i64::from(libc::ENOENT) { -i64::from(libc::EINVAL) } else { answer }
}

/// Opens `path` below `directory` with O_PATH, without following any link.
pub(super) fn open_path(directory: i32, path: &CStr, resolve: u64) -> Option<Fd> {
    let flags = bits(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let resolve = resolve | libc::RESOLVE_NO_SYMLINKS;
    let directory = i64::from(directory).cast_unsigned();
    let opened =
        open_unchecked(directory, path.as_ptr().addr() as u64, How { flags, mode: 0, resolve });
    i32::try_from(opened).ok().filter(|fd| *fd >= 0).map(Fd)
}

/// Reads the link `path` below `directory` into `buffer`, and returns its target.
pub(super) fn read_target<'b>(
    directory: &Fd,
    path: &CStr,
    buffer: &'b mut [u8],
) -> Option<&'b [u8]> {
    let directory = i64::from(directory.0).cast_unsigned();
    let (address, size) = (buffer.as_mut_ptr().addr() as u64, buffer.len() as u64);
    let length =
        call(libc::SYS_readlinkat, [directory, path.as_ptr().addr() as u64, address, size]);
    let length = usize::try_from(length).ok()?;
    // A target that fills the buffer may be truncated.
    if length < buffer.len() { buffer.get(..length) } else { None }
}

/// A descriptor that the guard has opened. Closed when dropped.
pub(super) struct Fd(i32);

impl Fd {
    pub(super) fn number(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        close(self.0);
    }
}

fn close(fd: i32) {
    // SAFETY: takes an integer; this module has opened the descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

fn call(number: i64, [a, b, c, d]: [u64; 4]) -> Answer {
    let cookie = COOKIE.load(Ordering::Relaxed);
    // SAFETY: the arguments are those of the engine's call, or point to buffers of this module.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0_u64, cookie) };
    if result >= 0 {
        return result;
    }
    // SAFETY: the location is this thread's errno, which the call has just set.
    -i64::from(unsafe { *libc::__errno_location() })
}
