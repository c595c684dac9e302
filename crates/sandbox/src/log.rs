//! The log: lines for containerd, through the named pipe `log` in the bundle.
//!
//! containerd copies what it reads there into its own log. Nobody may be reading: a line that
//! finds no room is dropped, and no line ever makes anybody wait.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::events;
use crate::protocol::{self, FromGuest};

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// On which a library's errors are told besides; -1 for nowhere.
static DETAILS: AtomicI32 = AtomicI32::new(-1);

#[derive(Debug)]
struct Logger {
    /// None: there is nowhere to write to.
    out: Option<File>,
}

/// Writes the log to the named pipe at `path`. Later calls change nothing.
///
/// # Errors
/// When it cannot be opened; then there is no log.
pub fn to_pipe(path: &Path, debug: bool) -> io::Result<()> {
    // For both ways: neither the open nor a write then fails when nobody reads.
    let out =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    install(Some(out), debug);
    Ok(())
}

/// Writes warnings and errors to standard error.
pub fn to_stderr() {
    if let Ok(out) = io::stderr().as_fd().try_clone_to_owned() {
        install(Some(File::from(out)), false);
        log::set_max_level(LevelFilter::Warn);
    }
}

/// Writes the log to `out`, at the level of whoever opened it.
pub(crate) fn to_descriptor(out: OwnedFd) {
    install(Some(File::from(out)), false);
}

/// Another descriptor of the log, if there is one.
pub(crate) fn another() -> Option<File> {
    LOGGER.get()?.out.as_ref()?.try_clone().ok()
}

/// Tells a guest's daemon what goes wrong in libcontainer, in this process and those that it forks:
/// the error that libcontainer returns in the end has lost the cause. `None`: no longer.
pub(crate) fn tell_details(channel: Option<&OwnedFd>) {
    DETAILS.store(channel.map_or(-1, AsRawFd::as_raw_fd), Ordering::Relaxed);
}

#[allow(unsafe_code)]
fn tell(text: &str) {
    let fd = DETAILS.load(Ordering::Relaxed);
    if fd < 0 {
        return;
    }
    // SAFETY: it is open for as long as it is named in DETAILS.
    let channel = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = protocol::send(channel, &FromGuest::Detail(text.to_owned()), &[]);
}

fn install(out: Option<File>, debug: bool) {
    if LOGGER.set(Logger { out }).is_ok()
        && let Some(logger) = LOGGER.get()
        && log::set_logger(logger).is_ok()
    {
        events::to_log();
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
        // Nobody reads the standard error of a daemon, nor that of an engine host.
        std::panic::set_hook(Box::new(|info| {
            log::error!("{info}");
            tell(&info.to_string().replace('\n', " "));
        }));
    }
}

/// The process is the guest's from here on: nothing more is logged, and a panic is told on its standard error.
pub(crate) fn end() {
    tell_details(None);
    log::set_max_level(LevelFilter::Off);
    drop(std::panic::take_hook());
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries say much that only their authors want to know.
        metadata.target().starts_with("wherry") || metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string().replace('\n', " ");
            let level = record.level().as_str().to_lowercase();
            // One write is one line, also when several processes share the pipe.
            let line = format!("level={level} msg={text:?} source={}\n", record.target());
            if let Some(mut out) = self.out.as_ref() {
                let _ = out.write_all(line.as_bytes());
            }
            if record.level() == Level::Error && !record.target().starts_with("wherry") {
                tell(&text);
            }
        }
    }

    fn flush(&self) {}
}
