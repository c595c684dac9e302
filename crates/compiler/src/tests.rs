//! Compilations in child processes, by an engine that a test defines.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use wherry_engine::{Code, CompileKey, Guest, LoadError, Program};

use super::confine::FIRST_USER;
use super::*;

#[test]
fn wrong_text_is_one_line_with_its_place() {
    let error = binary(b"(module\n  (func $f (bogus)))\n").unwrap_err().to_string();
    assert_eq!(
        error,
        "invalid WebAssembly: unknown operator or unexpected token at 2:13: (func $f (bogus)))"
    );
}

/// An engine whose compiler the module controls: it calls the function.
struct Taken(fn(&mut dyn Write));

impl Engine for Taken {
    fn name(&self) -> &'static str {
        "taken"
    }

    fn version(&self) -> wherry_engine::Version {
        wherry_engine::Version {
            engine: "Taken",
            number: "1".to_owned(),
            released: None,
            advisories: "",
        }
    }

    fn compile_key(&self) -> Option<CompileKey> {
        None
    }

    fn compile(&self, _: &[u8], out: &mut dyn Write) -> Result<(), CompileError> {
        (self.0)(out);
        Ok(())
    }

    fn load(&self, _: Code, _: Guest) -> Result<Box<dyn Program>, LoadError> {
        Err(LoadError::Engine("never".to_owned()))
    }
}

const BOUNDS: Bounds = Bounds { memory: 1 << 30, seconds: 60, module: 1 << 20, code: 1 << 20 };
const SLOT: u32 = 0x0abc;
const WASM: &[u8] = b"\0asm\x01\0\0\0";

/// Compiles in a child process. Returns its exit status, standard output and standard error. None
/// if this process is not root.
#[allow(unsafe_code)]
fn compiled(
    does: fn(&mut dyn Write),
    bounds: Bounds,
    digest: &str,
) -> Option<(i32, String, String)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let mut files = [(); 3].map(|()| tempfile::tempfile().unwrap());
    files[0].write_all(WASM).unwrap();
    let args = [digest.to_owned(), bounds.to_string(), SLOT.to_string()];
    // SAFETY: the child uses no lock of another thread except the allocator's, which is valid after
    // a fork, and exits without unwinding.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            for (number, file) in files.iter().enumerate() {
                // SAFETY: plain numbers.
                unsafe { libc::dup2(file.as_raw_fd(), i32::try_from(number).unwrap()) };
            }
            let code = compile(&Taken(does), &args);
            let status = (0..=u8::MAX).find(|status| ExitCode::from(*status) == code);
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(status.unwrap_or(u8::MAX))) }
        }
        ForkResult::Parent { child } => child,
    };
    let status = match waitpid(child, None).unwrap() {
        WaitStatus::Exited(_, status) => status,
        WaitStatus::Signaled(_, signal, _) => 1000 + signal as i32,
        other => panic!("{other:?}"),
    };
    let [_, mut out, mut err] = files;
    let mut text = || {
        let mut texts = [&mut out, &mut err].map(|file| {
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        });
        (std::mem::take(&mut texts[0]), std::mem::take(&mut texts[1]))
    };
    let (out, err) = text();
    Some((status, out, err))
}

/// Makes calls that a compiler does not need, and writes their errno; then those that it needs.
#[allow(unsafe_code)]
fn try_all(out: &mut dyn Write) {
    let errno = |result: i64| if result < 0 { Errno::last_raw() } else { 0 };
    let none = std::ptr::null::<libc::c_char>();
    let mut said = String::new();
    // SAFETY: each call fails, or changes nothing that is used afterwards; each pointer is null or
    // points to a live string.
    unsafe {
        for (name, result) in [
            ("socket", errno(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into())),
            (
                "execve",
                errno(libc::execve(c"/x".as_ptr(), [none].as_ptr(), [none].as_ptr()).into()),
            ),
            ("fork", errno(libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0))),
            ("clone3", errno(libc::syscall(libc::SYS_clone3, 0, 0))),
            ("unshare", errno(libc::unshare(libc::CLONE_NEWUSER).into())),
            ("mount", errno(libc::mount(none, none, none, 0, none.cast()).into())),
            ("ptrace", errno(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0))),
            ("kill", errno(libc::kill(-1, 0).into())),
            ("setuid", errno(libc::setuid(0).into())),
            ("prctl", errno(libc::prctl(libc::PR_SET_DUMPABLE, 1).into())),
            ("bpf", errno(libc::syscall(libc::SYS_bpf, 0, 0, 0))),
            ("io_uring_setup", errno(libc::syscall(libc::SYS_io_uring_setup, 1, 0))),
            ("keyctl", errno(libc::syscall(libc::SYS_keyctl, 0, 0, 0))),
        ] {
            // Writing to a String cannot fail.
            let _ = writeln!(said, "{name}={result}");
        }
        // As above.
        let _ = writeln!(said, "nice={}", libc::getpriority(libc::PRIO_PROCESS, 0));
        let _ = writeln!(said, "policy={}", libc::sched_getscheduler(0));
        let mut limit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit);
        let _ = writeln!(said, "threads={}", limit.rlim_cur);
    }
    let _ = writeln!(said, "uid={}", nix::unistd::geteuid());
    let _ = writeln!(said, "gid={}", nix::unistd::getegid());
    let _ = writeln!(said, "pid={}", std::process::id());
    // Calls that a compiler needs.
    let sum = thread::spawn(|| 40 + 2).join().unwrap();
    let _ = writeln!(said, "thread={sum}");
    let file = std::env::temp_dir().join("x");
    let kept = fs::write(&file, "kept").and_then(|()| fs::read_to_string(&file));
    let _ = writeln!(said, "file={}", kept.unwrap());
    let root: Vec<_> = fs::read_dir("/").unwrap().flatten().map(|e| e.file_name()).collect();
    let _ = writeln!(said, "root={root:?}");
    out.write_all(said.as_bytes()).unwrap();
}

#[test]
fn a_compiler_can_compute_and_do_nothing_else() {
    let digest = wherry_image::cache::digest(WASM);
    let Some((status, out, err)) = compiled(try_all, BOUNDS, &digest) else { return };
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let said: HashMap<&str, &str> = out.lines().filter_map(|line| line.split_once('=')).collect();
    for refused in [
        "socket",
        "execve",
        "fork",
        "unshare",
        "mount",
        "ptrace",
        "kill",
        "setuid",
        "prctl",
        "bpf",
        "io_uring_setup",
        "keyctl",
    ] {
        assert_eq!(said[refused], libc::EPERM.to_string(), "{refused}: {out}");
    }
    assert_eq!(said["clone3"], libc::ENOSYS.to_string());
    let user = (FIRST_USER + SLOT).to_string();
    assert_eq!((said["uid"], said["gid"], said["pid"]), (&*user, &*user, "1"));
    assert_eq!((said["nice"], said["policy"]), ("10", "3"));
    assert!(said["threads"].parse::<u64>().unwrap() < 10_000, "{out}");
    assert_eq!((said["thread"], said["file"]), ("42", "kept"));
    assert_eq!(said["root"], r#"["tmp"]"#);
}

#[test]
fn a_compilation_is_bounded_in_time_and_output_and_says_which_it_was() {
    let digest = wherry_image::cache::digest(WASM);
    let status = |does, bounds| compiled(does, bounds, &digest).map(|(status, ..)| status);
    let signalled = |signal: Signal| Some(128 + signal as i32);
    let Some(0) = status(|_| {}, BOUNDS) else { return };
    let brief = Bounds { seconds: 1, ..BOUNDS };
    let spin: fn(&mut dyn Write) = |_| loop {
        std::hint::spin_loop();
    };
    assert_eq!(status(spin, brief), signalled(Signal::SIGXCPU));
    let flood: fn(&mut dyn Write) = |out| {
        for _ in 0..3 {
            // The limit ends the process in a write.
            let _ = out.write_all(&[1; 1 << 20]);
        }
    };
    assert_eq!(status(flood, BOUNDS), signalled(Signal::SIGXFSZ));
    assert_eq!(status(|_| std::process::abort(), BOUNDS), signalled(Signal::SIGABRT));
    let large = Bounds { module: WASM.len() as u64 - 1, ..BOUNDS };
    let (status, _, err) = compiled(|_| {}, large, &digest).unwrap();
    assert_eq!(status, i32::from(EXIT_INVALID));
    assert!(err.ends_with("more than the 7 bytes that WHERRY_MODULE_SIZE allows"), "{err}");
}

#[test]
fn another_module_than_the_one_that_was_asked_for_is_told_apart_from_a_bad_one() {
    let other = wherry_image::cache::digest(b"other");
    let Some((status, _, err)) = compiled(|_| {}, BOUNDS, &other) else { return };
    assert_eq!(
        (status, err.as_str()),
        (i32::from(EXIT_CHANGED), "the module changed while it was read")
    );
}

#[test]
fn the_process_that_compiles_ends_with_the_one_that_waits_for_it() {
    let (mut alive, writer) = io::pipe().unwrap();
    let digest = wherry_image::cache::digest(WASM);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut wasm = tempfile::tempfile().unwrap();
    wasm.write_all(WASM).unwrap();
    let args = [digest, BOUNDS.to_string(), SLOT.to_string()];
    // SAFETY: as in `compiled`.
    #[allow(unsafe_code)]
    let outer = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let say: fn(&mut dyn Write) = |_| {
                // The test fails if nothing arrives.
                let _ = io::stdout().as_fd().try_clone_to_owned().map(|out| {
                    let _ = File::from(out).write_all(b"x");
                });
                loop {
                    thread::sleep(std::time::Duration::from_secs(1));
                }
            };
            // SAFETY: plain numbers.
            unsafe {
                libc::dup2(wasm.as_raw_fd(), 0);
                libc::dup2(writer.as_raw_fd(), 1);
                libc::dup2(writer.as_raw_fd(), 2);
                // The test reads the pipe to its end: this process must not hold the ends.
                libc::close(alive.as_raw_fd());
                libc::close(writer.as_raw_fd());
            }
            let _ = compile(&Taken(say), &args);
            // SAFETY: as in `compiled`.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => child,
    };
    drop(writer);
    let mut first = [0; 1];
    alive.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"x");
    kill(outer, Signal::SIGKILL).unwrap();
    waitpid(outer, None).unwrap();
    // The pipe ends when the last process that holds it has ended.
    let mut rest = Vec::new();
    alive.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}
