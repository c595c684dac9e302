//! The log: lines for containerd, written to the named pipe `log` in each container's bundle.
//!
//! containerd opens that pipe before it calls `start`, copies each line into its own log, and
//! closes the pipe after Delete. A line that begins with a container's id goes to that container's
//! pipe, any other to the pipe that was opened last. containerd may not be reading: a line that
//! finds no room in the pipe is dropped, so that logging never blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};

use crate::handover::{Descriptor, Incoming, Outgoing, ResumeError};

/// The outputs, the last to be opened at the end.
static OUTPUTS: Mutex<Vec<Output>> = Mutex::new(Vec::new());

/// Gets the errors of libraries and panics besides the log.
static ERROR_SINK: OnceLock<fn(&str)> = OnceLock::new();

#[derive(Debug)]
struct Output {
    /// The container whose lines it takes; empty if it takes any.
    id: String,
    file: File,
}

#[derive(Debug)]
struct Logger;

/// The log of one container, which is closed when this is dropped.
#[derive(Debug, Default)]
pub struct ContainerLog {
    /// The descriptor, which identifies the output while it is open. None without a log.
    fd: Option<i32>,
}

impl ContainerLog {
    /// Opens the named pipe at `path` for the lines of the container `id`. A container without one
    /// logs to the pipe of another.
    #[must_use]
    pub fn open(id: &str, path: &Path) -> ContainerLog {
        // Read and write: the open and the writes succeed without a reader, and the pipe keeps what
        // it has room for until a restarted containerd reads it.
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let Ok(file) = options.open(path) else { return ContainerLog { fd: None } };
        ContainerLog::add(id, file)
    }

    fn add(id: &str, file: File) -> ContainerLog {
        let fd = Some(file.as_raw_fd());
        outputs().push(Output { id: id.to_owned(), file });
        ContainerLog { fd }
    }

    /// The log, for the next version of this executable.
    pub fn save(&self, out: &mut Outgoing) -> SavedLog {
        let outputs = outputs();
        let own = outputs.iter().find(|output| Some(output.file.as_raw_fd()) == self.fd);
        SavedLog(own.map(|output| (output.id.clone(), out.add(&output.file))))
    }

    /// The log of [`ContainerLog::save`].
    ///
    /// # Errors
    /// If its descriptor did not come along.
    pub fn restore(saved: &SavedLog, from: &mut Incoming) -> Result<ContainerLog, ResumeError> {
        match &saved.0 {
            Some((id, fd)) => Ok(ContainerLog::add(id, File::from(from.take(*fd)?))),
            None => Ok(ContainerLog { fd: None }),
        }
    }
}

/// The log of a container in the document of a handover: the container and the pipe. None without a
/// log.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLog(Option<(String, Descriptor)>);

impl Drop for ContainerLog {
    fn drop(&mut self) {
        if let Some(fd) = self.fd {
            outputs().retain(|output| output.file.as_raw_fd() != fd);
        }
    }
}

/// Starts logging: to the outputs that are open ([`ContainerLog`], [`log_to_descriptor`]). Only the
/// first call has an effect.
pub fn start(level: LevelFilter) {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
        // The standard error of a daemon and of an engine host is /dev/null.
        std::panic::set_hook(Box::new(|info| {
            log::error!("{info}");
            report(&info.to_string().replace('\n', " "));
        }));
    }
}

/// Writes warnings and errors to standard error.
pub fn log_to_stderr() {
    if let Ok(out) = io::stderr().as_fd().try_clone_to_owned() {
        log_to_descriptor(out);
        start(LevelFilter::Warn);
    }
}

/// Writes the log to `out`, and no longer to any other output.
pub fn log_to_descriptor(out: OwnedFd) {
    let only = Output { id: String::new(), file: File::from(out) };
    *outputs() = vec![only];
}

/// Duplicates the descriptor to which the lines of the container `id` are written, for another
/// process. /dev/null without a log.
///
/// # Errors
/// If this process has no descriptor left.
pub fn duplicate(id: &str) -> io::Result<OwnedFd> {
    match output_of(&outputs(), id) {
        Some(output) => output.file.as_fd().try_clone_to_owned(),
        None => Ok(OpenOptions::new().write(true).open("/dev/null")?.into()),
    }
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

/// No code panics or logs while it holds this lock.
fn outputs() -> MutexGuard<'static, Vec<Output>> {
    OUTPUTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The output for the lines of the container `id`: without one of that name the output that takes
/// any line, or else the last.
fn output_of<'a>(outputs: &'a [Output], id: &str) -> Option<&'a Output> {
    let of = |id: &str| outputs.iter().rfind(|output| output.id == id);
    of(id).or_else(|| of("")).or(outputs.last())
}

/// The id with which a line begins: `id: text`. An id contains no colon.
fn id_in(text: &str) -> &str {
    text.split_once(": ").map_or("", |(id, _)| id)
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
            if let Some(output) = output_of(&outputs(), id_in(&text)) {
                // A full pipe drops the line.
                let _ = (&output.file).write_all(line.as_bytes());
            }
            if record.level() == Level::Error && !record.target().starts_with("wherry") {
                report(&text);
            }
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A pipe of a container, as containerd makes it.
    fn pipe(directory: &Path, name: &str) -> (std::path::PathBuf, File) {
        let path = directory.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut options = OpenOptions::new();
        let reader = options.read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        (path, reader)
    }

    fn read(mut reader: &File) -> String {
        let mut bytes = vec![0; 1 << 17];
        let length = reader.read(&mut bytes).unwrap_or(0);
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// In another process: the log is the whole process's.
    #[test]
    fn each_container_has_its_log_and_a_full_or_closed_one_blocks_no_other() {
        if !crate::alone(
            "logger::tests::each_container_has_its_log_and_a_full_or_closed_one_blocks_no_other",
        ) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (one_path, one) = pipe(directory.path(), "one");
        let (other_path, other) = pipe(directory.path(), "other");
        start(LevelFilter::Info);
        log::warn!("without a log");
        let first = ContainerLog::open("one", &one_path);
        let second = ContainerLog::open("other", &other_path);
        let missing = ContainerLog::open("missing", &directory.path().join("missing"));
        log::warn!("one: is named");
        log::warn!("missing: has no log");
        assert!(read(&one).starts_with("level=warn msg=\"one: is named\""));
        assert!(read(&other).starts_with("level=warn msg=\"missing: has no log\""));
        drop(missing);

        for _ in 0..3000 {
            log::warn!("one: {}", "x".repeat(100));
        }
        log::warn!("other: is not disturbed by a full pipe");
        assert!(read(&other).contains("other: is not disturbed"));
        assert!(read(&one).len() <= 1 << 16, "the rest is dropped");

        drop(second);
        let mut buffer = [0; 1];
        assert_eq!((&other).read(&mut buffer).unwrap(), 0, "the pipe is closed");
        log::warn!("other: is deleted");
        assert!(read(&one).contains("other: is deleted"));
        let mut copy = File::from(duplicate("one").unwrap());
        drop(first);
        log::warn!("to no log");
        copy.write_all(b"of an engine host").unwrap();
        assert_eq!(read(&one), "of an engine host");
        File::from(duplicate("one").unwrap()).write_all(b"lost").unwrap();
        assert_eq!(read(&one), "");
    }
}
