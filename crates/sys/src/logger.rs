//! The log: lines for containerd, written to the named pipe `log` in the bundle.
//!
//! containerd copies each line into its own log. It may not be reading: a line that finds no room
//! in the pipe is dropped, so that logging never blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Gets the errors of libraries and panics besides the log.
static ERROR_SINK: OnceLock<fn(&str)> = OnceLock::new();

#[derive(Debug)]
struct Logger {
    out: File,
}

/// Writes the log to the named pipe at `path`. Only the first call of a `log_to_…` function has an
/// effect.
///
/// # Errors
/// If the pipe cannot be opened; then nothing is logged.
pub fn log_to_pipe(path: &Path, debug: bool) -> io::Result<()> {
    // Read and write: the open and the writes succeed without a reader.
    let out =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    install(out, debug);
    Ok(())
}

/// Writes warnings and errors to standard error.
pub fn log_to_stderr() {
    if let Ok(out) = io::stderr().as_fd().try_clone_to_owned() {
        install(File::from(out), false);
        log::set_max_level(LevelFilter::Warn);
    }
}

/// Writes the log to `out`.
pub fn log_to_descriptor(out: OwnedFd) {
    install(File::from(out), false);
}

/// Duplicates the descriptor of the log, for a child process.
#[must_use]
pub fn duplicate() -> Option<File> {
    LOGGER.get()?.out.try_clone().ok()
}

/// Passes the errors of libraries, and panics, to `sink` too. Only the first call has an effect.
pub fn set_error_sink(sink: fn(&str)) {
    // A second sink would be a second engine host in one process.
    let _ = ERROR_SINK.set(sink);
}

/// Stops logging, and restores the default panic hook, which writes to standard error: from here
/// on the process is a guest's.
pub fn stop() {
    log::set_max_level(LevelFilter::Off);
    drop(std::panic::take_hook());
}

fn report(text: &str) {
    if let Some(sink) = ERROR_SINK.get() {
        sink(text);
    }
}

fn install(out: File, debug: bool) {
    if LOGGER.set(Logger { out }).is_ok()
        && let Some(logger) = LOGGER.get()
        && log::set_logger(logger).is_ok()
    {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
        // The standard error of a daemon and of an engine host is /dev/null.
        std::panic::set_hook(Box::new(|info| {
            log::error!("{info}");
            report(&info.to_string().replace('\n', " "));
        }));
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of libraries, errors alone.
        metadata.target().starts_with("wherry") || metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string().replace('\n', " ");
            let level = record.level().as_str().to_lowercase();
            // One write per line, because several processes share the pipe.
            let line = format!("level={level} msg={text:?} source={}\n", record.target());
            // A full pipe drops the line.
            let _ = (&self.out).write_all(line.as_bytes());
            if record.level() == Level::Error && !record.target().starts_with("wherry") {
                report(&text);
            }
        }
    }

    fn flush(&self) {}
}
