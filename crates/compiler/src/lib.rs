//! `wherry-E compile`: wasm in, native code out, in a process of its own.
//!
//! A compiler is a large program that reads a stranger's file. It runs with nothing but its
//! descriptors: as a user of its own, in a pid namespace of its own, with no files but its own, no network, few system
//! calls ([`filter`]), with bounded memory, time, output and number of threads, behind all other work of the machine, and as
//! the first to go when the machine is out of memory. What it prints is the sentence that the user reads.

mod filter;

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork};
use wherry_engine::{CompileError, Engine, Start};
use wherry_image::check_size;

use wherry_protocol::compile::{
    BASELINE, Bounds, DESCRIPTORS, EXIT_CHANGED, EXIT_INVALID, EXIT_IO,
};
use wherry_sys::daemon::OOM_SCORE_ADJ;

/// The first of the users that compilers run as when root has started them; the number of the slot is added. No other
/// process has one of these, so that a limit on a user's processes counts one compiler's, and it can signal none but its own.
const USERS: u32 = 0xffff_0000;
/// A directory that every machine has, to put a filesystem of the compiler's own on.
const ANYWHERE: &str = "/proc";

/// Threads and processes that a compiler may have besides two threads for each processor.
const THREADS: u64 = 16;
/// The niceness of a compilation. The processes of containers, who share the machine with it, mostly have 0.
const NICENESS: i32 = 10;

/// Why there is no code.
enum Fault {
    /// Of the module or the machine.
    Compile(CompileError),
    /// Another module came out of the file than the one that was asked for.
    Changed,
}

impl<E: Into<CompileError>> From<E> for Fault {
    fn from(error: E) -> Fault {
        Fault::Compile(error.into())
    }
}

/// Compiles descriptor 0, wasm in the binary or the text format, to descriptor 1. `args` are the
/// module's SHA-256, the [`Bounds`], the number of the slot, and perhaps [`BASELINE`] and a [`Start`].
#[must_use]
pub fn compile(engine: &dyn Engine, args: &[String]) -> ExitCode {
    let wanted = match args {
        [digest, bounds, slot, ..] => {
            bounds.parse::<Bounds>().ok().zip(slot.parse().ok()).map(|both| (digest, both))
        }
        _ => None,
    };
    let rest = args.get(3..).unwrap_or_default();
    let baseline = rest.first().is_some_and(|arg| arg == BASELINE);
    let start = Start::from_args(rest.get(usize::from(baseline)..).unwrap_or_default());
    let result = match wanted {
        Some((digest, (bounds, slot))) => match confine(bounds, slot) {
            Ok(Place::Inside) => work(engine, digest, bounds, baseline, start.as_ref()),
            Ok(Place::Outside(child)) => return wait(child),
            Err(error) => Err(error.into()),
        },
        None => {
            let usage = format!("{DESCRIPTORS} DIGEST MEMORY,SECONDS,MODULE,CODE SLOT");
            Err(CompileError::Unsupported(usage).into())
        }
    };
    let (code, text) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Fault::Changed) => (EXIT_CHANGED, "it changes while it is read".to_owned()),
        Err(Fault::Compile(error @ CompileError::Io(_))) => (EXIT_IO, error.to_string()),
        Err(Fault::Compile(error)) => (EXIT_INVALID, error.to_string()),
    };
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

fn work(
    engine: &dyn Engine,
    digest: &str,
    bounds: Bounds,
    baseline: bool,
    start: Option<&Start>,
) -> Result<(), Fault> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    // It may have grown since the daemon looked.
    check_size(&input, bounds.module)
        .map_err(|error| CompileError::Unsupported(error.to_string()))?;
    let bytes = wherry_image::read_all(&input)?;
    // The daemon has read the file earlier, and the container may have written to it since.
    if wherry_image::cache::digest(&bytes) != digest {
        return Err(Fault::Changed);
    }
    let wasm = binary(&bytes)?;
    engine.check(&wasm, start)?;
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut output = BufWriter::with_capacity(1 << 20, output);
    if baseline {
        engine.compile_baseline(&wasm, &mut output)?;
    } else {
        engine.compile(&wasm, &mut output)?;
    }
    output.flush()?;
    Ok(())
}

/// The binary format of `bytes`, which may be text.
///
/// # Errors
/// If the text is no WebAssembly.
pub fn binary(bytes: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, CompileError> {
    wat::Parser::new().parse_bytes(None, bytes).map_err(|error| {
        // The parser draws the place with a caret over several lines; here it is one line.
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim);
        let what = lines.next().unwrap_or_default();
        let place = lines.next().and_then(|line| line.strip_prefix("--> <anon>:"));
        let source = lines.find_map(|line| line.split_once(" | "));
        CompileError::Invalid(match (place, source) {
            (Some(place), Some((_, source))) => format!("{what} at {place}: {}", source.trim()),
            _ => what.to_owned(),
        })
    })
}

/// Which of the two processes this is.
enum Place {
    /// The one that compiles.
    Inside,
    /// The one that waits for it.
    Outside(Pid),
}

/// Gives up what a compiler does not need. What compiles is another process afterwards, if this one may make pid
/// namespaces.
fn confine(bounds: Bounds, slot: u32) -> io::Result<Place> {
    // A signal to the daemon's group is not for us. Not if we lead a group already.
    let _ = nix::unistd::setsid();
    // Out of memory it is the compiler's fault. A process may always become likelier to be taken.
    let _ = std::fs::write(OOM_SCORE_ADJ, "1000");
    be_in_the_background();
    // What is reserved and not touched does not count, unlike in RLIMIT_AS: the allocator reserves
    // much for each thread.
    setrlimit(Resource::RLIMIT_DATA, bounds.memory, bounds.memory)?;
    // The soft limit's signal tells what happened.
    setrlimit(Resource::RLIMIT_CPU, bounds.seconds, bounds.seconds.saturating_add(5))?;
    setrlimit(Resource::RLIMIT_FSIZE, bounds.code, bounds.code)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let root = Uid::effective().is_root();
    if root {
        only_thread()?;
        let processors = thread::available_parallelism().map_or(1, |number| number.get() as u64);
        let threads = processors.saturating_mul(2).saturating_add(THREADS);
        setrlimit(Resource::RLIMIT_NPROC, threads, threads)?;
        no_network()?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        no_files(bounds.memory)?;
        nix::unistd::setgroups(&[])?;
        let user = USERS.saturating_add(slot);
        let gid = Gid::from_raw(user);
        nix::unistd::setresgid(gid, gid, gid)?;
        let uid = Uid::from_raw(user);
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    prctl::set_no_new_privs()?;
    end_with_parent()?;
    if root && let Some(child) = fork_into_namespace()? {
        return Ok(Place::Outside(child));
    }
    filter::install()?;
    Ok(Place::Inside)
}

/// Ends this process when its parent ends: what it compiles is for the thread of the daemon that waits for it. To be
/// called after the change of user, which would undo it.
fn end_with_parent() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have ended before that. Then its end of our standard error is closed.
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    match fds.first().and_then(PollFd::revents) {
        Some(events) if events.contains(PollFlags::POLLERR) => {
            Err(io::Error::other("the process that wants the code has ended"))
        }
        _ => Ok(()),
    }
}

/// Refuses to fork a process of several threads: the others' locks would stay held in the child.
fn only_thread() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => Err(io::Error::other(format!("the engine has started {threads} threads"))),
    }
}

/// Forks the first process of the pid namespace that was unshared. Returns its pid, or None in that process.
#[allow(unsafe_code)]
fn fork_into_namespace() -> io::Result<Option<Pid>> {
    // SAFETY: this process has a single thread, as `only_thread` has found; the child's memory is whole.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        return Ok(Some(child));
    }
    end_with_parent()?;
    // The kernel spares the first process of a namespace all signals that would end it, but for SIGKILL.
    let handler = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGABRT, Signal::SIGXCPU, Signal::SIGXFSZ, Signal::SIGTERM] {
        // SAFETY: the handler makes one system call, which may be made in a handler.
        unsafe { sigaction(signal, &handler) }?;
    }
    Ok(None)
}

/// Ends this process with the status that a shell shows of one which a signal has ended.
#[allow(unsafe_code)]
extern "C" fn end(signal: libc::c_int) {
    // SAFETY: it ends the process, at any moment, and runs nothing of this program before.
    unsafe { libc::_exit(128 + signal) }
}

/// Waits for the process that compiles, and passes on how it ended.
fn wait(child: Pid) -> ExitCode {
    let status = loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => break code,
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break i32::from(EXIT_IO),
        }
    };
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}

/// Yields to every other process: for a compilation that no start waits for. Leads a session of its
/// own from here on, because it outlives the daemon that asked for it.
#[allow(unsafe_code)]
pub fn yield_to_all() {
    let idle = libc::sched_param { sched_priority: 0 };
    // A group leader cannot start a session, and needs none.
    let _ = nix::unistd::setsid();
    // SAFETY: plain numbers, and one structure that the kernel reads. If it is refused, the
    // compilation competes with others.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const idle);
    }
}

/// Makes this process give way to others. A background compilation is idle already, and stays so.
#[allow(unsafe_code)]
fn be_in_the_background() {
    let batch = libc::sched_param { sched_priority: 0 };
    // SAFETY: plain numbers, and one structure that is read. Where it is refused, the compilation is as fast as others.
    unsafe {
        if libc::sched_getscheduler(0) != libc::SCHED_IDLE {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
            libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const batch);
        }
    }
}

/// Into a filesystem of its own, in memory and as bounded as memory is. All that it reads and writes is already open; but some
/// compilers make files on the way, and look for `/tmp`.
fn no_files(bytes: u64) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let options = format!("mode=0755,size={bytes}");
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), ANYWHERE, Some("tmpfs"), flags, Some(options.as_str()))?;
    nix::unistd::chroot(ANYWHERE)?;
    nix::unistd::chdir("/")?;
    let temporary = std::env::temp_dir();
    DirBuilder::new().recursive(true).create(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o1777))
}

/// Into namespaces without a network and without shared memory. A kernel without them has less to take.
fn no_network() -> io::Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fmt::Write as _;
    use std::io::{Read, Seek};
    use std::os::fd::AsRawFd;

    use nix::sys::signal::kill;
    use wherry_engine::{Code, CompileKey, Guest, LoadError, Program};

    use super::*;

    #[test]
    fn wrong_text_is_one_line_with_its_place() {
        let error = binary(b"(module\n  (func $f (bogus)))\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid WebAssembly: unknown operator or unexpected token at 2:13: (func $f (bogus)))"
        );
    }

    /// A compiler that the module has taken over: it does this.
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

    /// Compiles as a process of its own. Returns its exit status, and what it wrote and said. None: only root can.
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
        // SAFETY: the child makes no use of what other threads may have locked but for the allocator, which is whole after a
        // fork, and ends without unwinding.
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

    /// Tries what a compiler has no business with, and says what came of it.
    #[allow(unsafe_code)]
    fn try_all(out: &mut dyn Write) {
        let errno = |result: i64| if result < 0 { Errno::last_raw() } else { 0 };
        let none = std::ptr::null::<libc::c_char>();
        let mut said = String::new();
        // SAFETY: calls that fail, or that change nothing which is used afterwards; pointers are null or to live strings.
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
                let _ = writeln!(said, "{name}={result}");
            }
            let _ = writeln!(said, "nice={}", libc::getpriority(libc::PRIO_PROCESS, 0));
            let _ = writeln!(said, "policy={}", libc::sched_getscheduler(0));
            let mut limit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit);
            let _ = writeln!(said, "threads={}", limit.rlim_cur);
        }
        let _ = writeln!(said, "uid={}", nix::unistd::geteuid());
        let _ = writeln!(said, "gid={}", nix::unistd::getegid());
        let _ = writeln!(said, "pid={}", std::process::id());
        // And what it needs.
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
        let said: HashMap<&str, &str> =
            out.lines().filter_map(|line| line.split_once('=')).collect();
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
        let user = (USERS + SLOT).to_string();
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
            (i32::from(EXIT_CHANGED), "it changes while it is read")
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
                    // The test's own end is not to be held by this process.
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
        // The end of the pipe is that of the last process which holds it.
        let mut rest = Vec::new();
        alive.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    }
}
