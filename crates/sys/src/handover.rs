//! Handing a process over to another version of its executable: execve(2) in place.
//!
//! The process keeps its pid and its children. Its state goes along as a document in a sealed file
//! without a name, and names each descriptor that goes along by its number. All descriptors of
//! this project are close-on-exec: that flag is cleared just before the call, by the only thread
//! that may fork then, and set again at once on the other side.

use std::ffi::{CString, NulError, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::num::ParseIntError;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::execve;
use serde::{Deserialize, Serialize};

/// The largest document, bytes. A container takes some four kilobytes.
const DOCUMENT_MAX: u64 = 256 << 20;
/// The maximum length of the text of a refusal, bytes.
const TEXT_MAX: usize = 1024;
/// The signals that ask a daemon to hand over, and a manager to end after its last container. Their
/// default action ends a process.
const SIGNALS: [Signal; 2] = [Signal::SIGUSR2, Signal::SIGTERM];

/// A descriptor in a document: its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Descriptor(RawFd);

impl Descriptor {
    fn index(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Descriptor {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Descriptor, ParseIntError> {
        text.parse().map(Descriptor)
    }
}

/// The descriptors that go along. Each must stay open until the call.
#[derive(Debug, Default)]
pub struct Outgoing(Vec<Descriptor>);

/// The descriptors that came along and were not taken yet, by their numbers. Dropping this closes
/// them.
#[derive(Debug, Default)]
pub struct Incoming(Vec<Option<OwnedFd>>);

/// Why a process cannot continue from a document.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The document names a descriptor that is not open, or that did not come along.
    #[error("descriptor {0} was not handed over")]
    Descriptor(Descriptor),
    /// The kernel refuses a system call.
    #[error("cannot {action}: {source}")]
    Io {
        /// The action, as the rest of a sentence.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl ResumeError {
    /// The error of an action that the kernel refused.
    pub fn of(action: &'static str) -> impl FnOnce(io::Error) -> ResumeError {
        move |source| ResumeError::Io { action, source }
    }
}

impl Outgoing {
    /// Adds a descriptor, and returns its name in the document.
    pub fn add(&mut self, fd: &impl AsRawFd) -> Descriptor {
        let descriptor = Descriptor(fd.as_raw_fd());
        self.0.push(descriptor);
        descriptor
    }

    /// All descriptors.
    #[must_use]
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.0
    }
}

impl Incoming {
    /// Takes over the descriptors that came along. Must be called before this process opens a file.
    ///
    /// # Errors
    /// [`ResumeError::Descriptor`].
    #[allow(unsafe_code)]
    pub fn adopt(descriptors: &[Descriptor]) -> Result<Incoming, ResumeError> {
        let mut adopted = Incoming::default();
        for descriptor in descriptors {
            let number = descriptor.0;
            let missing = || ResumeError::Descriptor(*descriptor);
            // Standard streams are not handed over, and a descriptor that this process has opened
            // itself is close-on-exec.
            if number <= 2 || adopted.has(*descriptor) || !is_inherited(number) {
                return Err(missing());
            }
            // SAFETY: it is open, and its number is in the list once.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            set_close_on_exec(fd.as_fd(), true).map_err(|_| missing())?;
            adopted.put(*descriptor, fd);
        }
        Ok(adopted)
    }

    /// Duplicates of descriptors, as if they had come along. For tests.
    ///
    /// # Panics
    /// If one is not open.
    #[doc(hidden)]
    #[must_use]
    #[allow(unsafe_code, clippy::unwrap_used)]
    pub fn duplicates(of: &Outgoing) -> Incoming {
        let mut duplicates = Incoming::default();
        for descriptor in &of.0 {
            // SAFETY: if it is not open, the system call fails.
            let fd = unsafe { BorrowedFd::borrow_raw(descriptor.0) };
            duplicates.put(*descriptor, fd.try_clone_to_owned().unwrap());
        }
        duplicates
    }

    /// Takes one descriptor.
    ///
    /// # Errors
    /// [`ResumeError::Descriptor`] if it did not come along, or was taken before.
    pub fn take(&mut self, descriptor: Descriptor) -> Result<OwnedFd, ResumeError> {
        let slot = descriptor.index().and_then(|index| self.0.get_mut(index));
        slot.and_then(Option::take).ok_or(ResumeError::Descriptor(descriptor))
    }

    fn has(&self, descriptor: Descriptor) -> bool {
        let slot = descriptor.index().and_then(|index| self.0.get(index));
        slot.is_some_and(Option::is_some)
    }

    fn put(&mut self, descriptor: Descriptor, fd: OwnedFd) {
        let Some(index) = descriptor.index() else { return };
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(fd);
        }
    }
}

/// Appends a value to a document, in the format of postcard, which has no names: JSON took 180 KB
/// more of each shim. So no field of a type in a document may be skipped or flattened.
///
/// # Errors
/// If a value cannot be encoded.
pub fn encode<T: Serialize>(mut document: Vec<u8>, value: &T) -> io::Result<Vec<u8>> {
    document.extend(postcard::to_allocvec(value).map_err(io::Error::other)?);
    Ok(document)
}

/// Takes the first value of a document.
///
/// # Errors
/// If it is not one of this type.
pub fn decode<'a, T: Deserialize<'a>>(document: &mut &'a [u8]) -> io::Result<T> {
    let (value, rest) = postcard::take_from_bytes(document).map_err(io::Error::other)?;
    *document = rest;
    Ok(value)
}

/// A value after a handover in which nothing but this value took part. For tests.
///
/// # Panics
/// If it cannot be encoded or decoded.
#[doc(hidden)]
#[must_use]
#[allow(clippy::unwrap_used)]
pub fn copy<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    decode(&mut &*encode(Vec::new(), value).unwrap()).unwrap()
}

/// Writes a document to a file without a name, which nothing can change any more.
///
/// # Errors
/// If the kernel is out of memory or descriptors.
pub fn write(document: &[u8]) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"wherry-handover", flags)?);
    file.write_all(document)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file)
}

/// Reads the document of [`write`].
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if the file is another one.
pub fn read(file: &File) -> io::Result<Vec<u8>> {
    let sealed = fcntl(file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    let length = file.metadata()?.len();
    if !sealed.is_ok_and(|sealed| sealed.contains(seals())) || length > DOCUMENT_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    // The offset is shared with other processes.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// Why another executable does not take over.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It cannot be executed.
    #[error("it cannot be executed: {0}")]
    Execute(#[from] io::Error),
    /// It ended with an error; its text.
    #[error("{0}")]
    Refused(String),
    /// It did not end.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
}

/// Executes `program` in another process, with `args` and the document as standard input, to ask
/// whether it can take over: then it ends with status 0. Blocks for at most `limit`. The reaper
/// must be suspended.
///
/// # Errors
/// [`NotReady`].
pub fn check(
    program: &File,
    args: &[&str],
    document: &File,
    limit: Duration,
) -> Result<(), NotReady> {
    let deadline = Instant::now() + limit;
    // In this process's table: an interpreter opens a script by its path.
    let path = format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd());
    let output = File::from(memfd_create(c"wherry-check", MFdFlags::MFD_CLOEXEC).map_err(os)?);
    let mut command = Command::new(path);
    command.args(args).stdin(document.try_clone()?).stdout(Stdio::null());
    let mut child = command.stderr(output.try_clone()?).spawn()?;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            None => {
                child.kill()?;
                child.wait()?;
                return Err(NotReady::Late(limit));
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut text = vec![0; TEXT_MAX];
    let length = output.read_at(&mut text, 0)?;
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
    let text = text.trim().replace(|letter: char| letter.is_control(), " ");
    Err(NotReady::Refused(if text.is_empty() { status.to_string() } else { text }))
}

fn os(errno: Errno) -> io::Error {
    errno.into()
}

/// Executes `program` in place of this process, with `args`, the environment, and the descriptors
/// in `kept`. Returns the cause if the kernel refuses: then this process is as before. No other
/// thread may fork meanwhile.
///
/// The daemon's signals stay blocked until [`unblock_signals`]: the next version has no handlers
/// yet.
pub fn execute(program: &File, args: &[String], kept: &[Descriptor]) -> io::Error {
    let result = || -> io::Result<()> {
        // The kernel resolves this path before it closes the descriptor.
        let path = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd()))?;
        let args: Vec<CString> =
            args.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<_, _>>()?;
        let environment: Vec<CString> =
            std::env::vars_os().map(variable).collect::<Result<_, _>>()?;
        let blocked = SigSet::from_iter(SIGNALS);
        blocked.thread_block()?;
        let result = keep(kept, true).and_then(|()| {
            let Err(errno) = execve(&path, &args, &environment);
            Err(errno)
        });
        // Only after a failure. Those that are not open were not kept.
        let _ = keep(kept, false);
        blocked.thread_unblock()?;
        result.map_err(io::Error::from)
    };
    result().err().unwrap_or_else(|| io::ErrorKind::Other.into())
}

/// Blocks the signals that would end this process until their handlers exist. A guest's process
/// unblocks all signals.
pub fn block_signals() {
    // It cannot fail with a valid mask.
    let _ = SigSet::from_iter(SIGNALS).thread_block();
}

/// Allows the signals of [`block_signals`] again. The handlers must exist.
///
/// # Errors
/// Never on Linux.
pub fn unblock_signals() -> io::Result<()> {
    Ok(SigSet::from_iter(SIGNALS).thread_unblock()?)
}

fn variable((name, value): (OsString, OsString)) -> Result<CString, NulError> {
    CString::new([name.into_vec(), value.into_vec()].join(&b'='))
}

/// Clears the close-on-exec flags of descriptors, or sets them.
#[allow(unsafe_code)]
fn keep(descriptors: &[Descriptor], kept: bool) -> Result<(), Errno> {
    let mut result = Ok(());
    for descriptor in descriptors {
        // SAFETY: the caller of `execute` keeps it open; if not, the system call fails.
        let fd = unsafe { BorrowedFd::borrow_raw(descriptor.0) };
        result = result.and(set_close_on_exec(fd, !kept));
    }
    result
}

fn set_close_on_exec(fd: BorrowedFd<'_>, close: bool) -> Result<(), Errno> {
    let flags = if close { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop)
}

/// Whether this number is an open descriptor that this process has inherited.
#[allow(unsafe_code)]
fn is_inherited(number: RawFd) -> bool {
    // SAFETY: if it is not open, the system call fails.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_GETFD).is_ok_and(|flags| flags & FdFlag::FD_CLOEXEC.bits() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_document_is_read_as_it_was_written_and_cannot_be_changed() {
        let mut file = write(b"state").unwrap();
        assert_eq!(read(&file).unwrap(), b"state");
        assert_eq!(read(&file).unwrap(), b"state", "it is read twice: checked and used");
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
        let other = tempfile::tempfile().unwrap();
        assert_eq!(read(&other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_values_of_a_document_are_taken_one_after_the_other() {
        let document =
            encode(Vec::new(), &(1_u32, "head")).and_then(|head| encode(head, &Some(2_u32)));
        let document = document.unwrap();
        let mut rest = &document[..];
        assert_eq!(decode::<(u32, String)>(&mut rest).unwrap(), (1, "head".to_owned()));
        let value = rest;
        assert_eq!((decode::<Option<u32>>(&mut rest).unwrap(), rest.len()), (Some(2), 0));
        assert!(decode::<Option<u32>>(&mut rest).is_err(), "nothing is left");
        assert!(decode::<Option<u32>>(&mut &value[..1]).is_err(), "it is incomplete");
    }

    #[test]
    fn a_descriptor_that_this_process_has_opened_or_that_is_closed_did_not_come_along() {
        let own = tempfile::tempfile().unwrap();
        for number in [own.as_raw_fd(), 0, -1, 1 << 20] {
            let error = Incoming::adopt(&[Descriptor(number)]).unwrap_err().to_string();
            assert_eq!(error, format!("descriptor {number} was not handed over"));
        }
    }

    #[test]
    fn an_executable_is_asked_with_the_document_and_gives_its_reason() {
        let document = write(b"exit 0").unwrap();
        let shell = File::open("/bin/sh").unwrap();
        let limit = Duration::from_secs(60);
        let ask = |script: &str| check(&shell, &["-c", script], &document, limit);
        // The document is read from its start although it was written by the same descriptor.
        ask("[ \"$(cat /dev/stdin)\" = 'exit 0' ]").unwrap();
        let refused = |script| ask(script).unwrap_err().to_string();
        assert_eq!(refused("echo 'too old' >&2; exit 1"), "too old");
        assert_eq!(refused("exit 3"), "exit status: 3");
        let late = check(&shell, &["-c", "exec sleep 1000"], &document, Duration::ZERO);
        assert_eq!(late.unwrap_err().to_string(), "it did not answer within 0ns");
        let text = write(b"no program").unwrap();
        let error = check(&text, &[], &document, limit).unwrap_err().to_string();
        assert!(error.starts_with("it cannot be executed: "), "{error}");
    }

    /// In another process, which this test replaces by a shell that reads the descriptor.
    #[test]
    fn an_executed_program_has_the_pid_and_the_descriptors_that_were_kept_alone() {
        const NAME: &str = "handover::tests::an_executed_program_has_the_pid_and_the_descriptors_that_were_kept_alone";
        const CHILD: &str = "WHERRY_TEST_EXECUTE";
        if std::env::var_os(CHILD).is_some() {
            let document = write(b"state\n").unwrap();
            let other = write(b"other\n").unwrap();
            let shell = File::open("/bin/sh").unwrap();
            let missing = Descriptor(1 << 20);
            let mut kept = Outgoing::default();
            let number = kept.add(&document);
            assert_eq!(
                execute(&shell, &["sh".to_owned()], &[number, missing]).raw_os_error(),
                Some(libc::EBADF)
            );
            assert!(!is_inherited(document.as_raw_fd()), "it is close-on-exec again");
            let error = execute(&document, &["sh".to_owned()], kept.descriptors());
            assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC), "not a program");
            assert!(!is_inherited(document.as_raw_fd()), "it is close-on-exec again");
            assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGUSR2));
            let script = format!(
                "read line < /proc/$$/fd/{number} && echo $$ $line >&2; \
                 [ -e /proc/$$/fd/{} ] || echo closed >&2",
                other.as_raw_fd()
            );
            let args = ["sh", "-c", &script].map(str::to_owned);
            panic!("{}", execute(&shell, &args, kept.descriptors()));
        }
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1");
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        assert!(text.ends_with(&format!("{} state\nclosed\n", child.id())), "{text}");
    }
}
