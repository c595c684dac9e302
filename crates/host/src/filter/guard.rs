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
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{links, pseudo};
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
const _: () = assert!(
    libc::REG_R10 == 2
        && libc::REG_RDI == 8
        && libc::REG_RSI == 9
        && libc::REG_RDX == 12
        && libc::REG_RAX == 13,
    "the patterns of interrupted() and set_answer() have another order"
);

#[cfg(target_arch = "x86_64")]
fn interrupted(context: &libc::ucontext_t) -> Call {
    let [_, _, r10, _, _, _, _, _, rdi, rsi, _, _, rdx, rax, ..] = context.uc_mcontext.gregs;
    Call { number: rax, arguments: [rdi, rsi, rdx, r10].map(i64::cast_unsigned) }
}

#[cfg(target_arch = "x86_64")]
fn set_answer(context: &mut libc::ucontext_t, answer: Answer) {
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, rax, ..] = &mut context.uc_mcontext.gregs;
    *rax = answer;
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
            // Used only on x86_64.
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
    // A larger structure belongs to a later kernel.
    if size != size_of::<How>() as u64 {
        return Err(if size < size_of::<How>() as u64 { libc::EINVAL } else { libc::E2BIG });
    }
    let address: NonNull<How> = pointer(address).ok_or(libc::EFAULT)?;
    // SAFETY: the engine made a system call with the address of such a structure.
    Ok(unsafe { address.read_unaligned() })
}

/// Converts an argument of a call to a pointer. None if it is null.
pub(super) fn pointer<T>(argument: u64) -> Option<NonNull<T>> {
    NonNull::new(usize::try_from(argument).ok()? as *mut T)
}

/// Opens a file, and closes it again if a guest may not have it.
fn open(directory: u64, path: u64, how: How) -> Answer {
    let how = How { resolve: links::resolve(how.resolve), ..how };
    let path = if links::names_root(path) { c"/".as_ptr().addr() as u64 } else { path };
    let mut opened = open_unchecked(directory, path, how);
    if opened == -i64::from(libc::ENOENT) && links::is_working_directory(directory) {
        opened = open_in_root(path, how);
    }
    let Ok(fd) = i32::try_from(opened) else { return opened };
    if fd < 0 || pseudo::is_allowed(fd, how.flags) {
        return opened;
    }
    close(fd);
    -i64::from(libc::EACCES)
}

/// Opens a file of this name in the root, if the path is a single name and nothing is created.
fn open_in_root(path: u64, how: How) -> Answer {
    let missing = -i64::from(libc::ENOENT);
    let Some(name) = pointer(path).filter(|_| how.flags & bits(libc::O_CREAT) == 0) else {
        return missing;
    };
    // SAFETY: the kernel has read this C string in the engine's call.
    if unsafe { CStr::from_ptr(name.as_ptr()) }.to_bytes().contains(&b'/') {
        return missing;
    }
    let flags = bits(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
    let here = libc::AT_FDCWD.cast_unsigned().into();
    let root = How { flags, mode: 0, resolve: 0 };
    let Ok(root) = i32::try_from(open_unchecked(here, c"/".as_ptr().addr() as u64, root)) else {
        return missing;
    };
    if root < 0 {
        return missing;
    }
    let root = Fd(root);
    open_unchecked(i64::from(root.0).cast_unsigned(), path, how)
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
    let link = Fd(fd);
    let mut answer = -i64::from(libc::EACCES);
    if pseudo::is_allowed(fd, flags) {
        let number = opened.cast_unsigned();
        answer = call(libc::SYS_readlinkat, [number, c"".as_ptr().addr() as u64, buffer, size]);
        if answer > 0 {
            answer = links::rewrite(&link, directory, buffer, size, answer);
        }
    }
    // With an empty path the kernel reports ENOENT for a file that is not a link.
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

/// Returns the size of the file that is open as `fd`: of a link the length of its target.
pub(super) fn size(fd: &Fd) -> Option<u64> {
    pseudo::status(fd.0).and_then(|status| u64::try_from(status.st_size).ok())
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

/// Makes a system call that the filter lets pass.
///
/// The cookie is loaded from memory into the register of the sixth argument, and that register is
/// cleared afterwards. The C library's `syscall` would leave it on the stack and in the register,
/// from where an engine's next call of open(2), which sets neither, would carry it past the filter.
#[cfg(target_arch = "x86_64")]
fn call(number: i64, [a, b, c, d]: [u64; 4]) -> Answer {
    let result;
    // SAFETY: the arguments are those of the engine's own call, or point to this module's own
    // buffers; the named registers are those that a system call uses and changes.
    unsafe {
        std::arch::asm!(
            "mov r9, qword ptr [{cookie}]",
            "syscall",
            "xor r9d, r9d",
            cookie = in(reg) COOKIE.as_ptr(),
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") 0_u64,
            out("r9") _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn call(number: i64, [a, b, c, d]: [u64; 4]) -> Answer {
    let result: u64;
    // SAFETY: as on x86_64.
    unsafe {
        std::arch::asm!(
            "ldr x5, [{cookie}]",
            "svc 0",
            "mov x5, xzr",
            cookie = in(reg) COOKIE.as_ptr(),
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") 0_u64,
            out("x5") _,
            options(nostack),
        );
    }
    result.cast_signed()
}

/// Overwrites the copies of the cookie that the installation has left on the stack and in the
/// register of the sixth argument.
#[inline(never)]
pub(super) fn forget_cookie() {
    let mut area = [0_u8; 16 * 1024];
    std::hint::black_box(&mut area);
    // SAFETY: clears a register that the compiler expects to be changed.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("xor r9d, r9d", out("r9") _, options(nostack, nomem));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("mov x5, xzr", out("x5") _, options(nostack, nomem));
    }
}
