//! The log: lines for containerd, through the named pipe `log` in the bundle.
//!
//! containerd copies what it reads there into its own log. Nobody may be reading: a line that
//! finds no room is dropped, and no line ever makes anybody wait.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

static LOGGER: OnceLock<Logger> = OnceLock::new();

#[derive(Debug)]
struct Logger {
    out: File,
}

/// Writes the log to the named pipe at `path`. Later calls change nothing.
///
/// # Errors
/// When it cannot be opened; then there is no log.
pub fn to_pipe(path: &Path, debug: bool) -> io::Result<()> {
    // For both ways: neither the open nor a write then fails when nobody reads.
    let out =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    install(out, debug);
    Ok(())
}

/// Writes the log to descriptor `fd`, if it is open, at the level of whoever opened it.
#[allow(unsafe_code)]
pub(crate) fn to_descriptor(fd: i32) {
    // SAFETY: the number is ours by agreement with whoever executed this program; the file is
    // never closed.
    let out = unsafe { File::from_raw_fd(fd) };
    if out.metadata().is_ok() {
        install(out, false);
    } else {
        std::mem::forget(out);
    }
}

/// The descriptor of the log, or -1.
pub(crate) fn fd() -> i32 {
    LOGGER.get().map_or(-1, |logger| logger.out.as_raw_fd())
}

fn install(out: File, debug: bool) {
    if LOGGER.set(Logger { out }).is_ok()
        && let Some(logger) = LOGGER.get()
        && log::set_logger(logger).is_ok()
    {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
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
            let _ = (&self.out).write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
