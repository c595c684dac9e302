use super::*;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::thread;

fn fifo(directory: &Path, name: &str) -> String {
    let path = directory.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn output_without_a_reader_waits_for_one() {
    let directory = tempfile::tempdir().unwrap();
    let stdout = fifo(directory.path(), "out");
    let paths = StdioPaths { stdout: stdout.clone(), ..StdioPaths::default() };
    let (ends, retained) = open(&paths).unwrap();
    let guest = ends.stdout;
    File::from(guest).write_all(b"last words").unwrap();
    let mut streams = Streams::Pipes(retained);
    let finish = tokio::spawn(async move { streams.finish().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!finish.is_finished());
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        File::open(stdout).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(read.await.unwrap(), "last words");
    finish.await.unwrap();
}

#[test]
fn input_ends_when_the_client_closes() {
    let directory = tempfile::tempdir().unwrap();
    let stdin = fifo(directory.path(), "in");
    let paths = StdioPaths { stdin: stdin.clone(), ..StdioPaths::default() };
    let (ends, mut retained) = open(&paths).unwrap();
    let guest = ends.stdin;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        File::from(guest).read_to_string(&mut text).unwrap();
        text
    });
    // The guest reads before the client has come.
    thread::sleep(Duration::from_millis(20));
    assert!(!reader.is_finished());
    let mut client = OpenOptions::new().write(true).open(stdin).unwrap();
    retained.close_stdin();
    client.write_all(b"hello").unwrap();
    drop(client);
    assert_eq!(reader.join().unwrap(), "hello");
}

#[tokio::test]
async fn a_file_is_appended_to_and_other_ways_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, "a").unwrap();
    let uri = format!("file://{}", path.display());
    let paths = StdioPaths { stdout: uri.clone(), stderr: uri, ..StdioPaths::default() };
    let (ends, retained) = open(&paths).unwrap();
    let (out, err) = (ends.stdout, ends.stderr);
    File::from(out).write_all(b"b").unwrap();
    File::from(err).write_all(b"c").unwrap();
    assert_eq!(retained.copies.len(), 1, "both streams have one pipe");
    Streams::Pipes(retained).copied().await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");

    let refused = |paths: StdioPaths| open(&paths).unwrap_err().to_string();
    let stdout = |stdout: &str| StdioPaths { stdout: stdout.into(), ..StdioPaths::default() };
    assert_eq!(
        refused(stdout("binary:///bin/logger")),
        "cannot write standard output to binary:///bin/logger: only named pipes and file:// are supported"
    );
    assert_eq!(
        refused(stdout("file://log")),
        "cannot open log for standard output: the path is not absolute"
    );
    assert_eq!(
        refused(stdout("file:///")),
        "cannot open / for standard output: Is a directory (os error 21)"
    );
    let stdin = |stdin: String| StdioPaths { stdin, ..StdioPaths::default() };
    let text = refused(stdin("/nowhere".into()));
    assert!(text.starts_with("cannot open /nowhere for standard input"), "{text}");
    let file = path.display().to_string();
    assert_eq!(
        refused(stdin(file.clone())),
        format!("cannot read standard input from {file}: it is not a named pipe")
    );
}

#[tokio::test]
async fn a_file_that_is_named_by_its_path_is_not_the_guests_either() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, "").unwrap();
    let stdout = path.display().to_string();
    let (ends, _retained) = open(&StdioPaths { stdout, ..StdioPaths::default() }).unwrap();
    let out = ends.stdout;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", out.as_raw_fd())).unwrap();
    assert!(link.to_string_lossy().starts_with("pipe:"), "{}", link.display());
}

fn target(fd: &impl AsRawFd) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

#[test]
fn a_stream_that_the_client_does_not_want_is_the_null_device() {
    let (ends, retained) = open(&StdioPaths::default()).unwrap();
    for fd in [&ends.stdin, &ends.stdout, &ends.stderr] {
        assert_eq!(target(fd), Path::new("/dev/null"));
    }
    assert!(retained.stdin.is_none() && retained.outputs.is_empty());
}

#[test]
fn two_outputs_with_one_path_are_one_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let stdout = fifo(directory.path(), "out");
    let paths =
        StdioPaths { stderr: stdout.clone(), stdout: stdout.clone(), ..StdioPaths::default() };
    let (ends, retained) = open(&paths).unwrap();
    assert_eq!(retained.outputs.len(), 1);
    assert_eq!(target(&ends.stdout), target(&ends.stderr));
}

#[test]
fn streams_open_while_no_client_has_its_ends_open() {
    let directory = tempfile::tempdir().unwrap();
    let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| fifo(directory.path(), name));
    let (ends, retained) = open(&StdioPaths { stdin, stdout, stderr }).unwrap();
    // A guest writes also while no client reads.
    File::from(ends.stdout).write_all(b"x").unwrap();
    assert!(Streams::Pipes(retained).has_unread());
}

#[tokio::test]
async fn an_exit_waits_for_no_output_that_was_read_or_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let stdout = fifo(directory.path(), "out");
    let paths = StdioPaths { stdout: stdout.clone(), ..StdioPaths::default() };
    let (ends, retained) = open(&paths).unwrap();
    let mut client = File::open(stdout).unwrap();
    File::from(ends.stdout).write_all(b"x").unwrap();
    let mut streams = Streams::Pipes(retained);
    assert!(streams.has_unread());
    client.read_exact(&mut [0]).unwrap();
    assert!(!streams.has_unread());
    drop(client);
    streams.finish().await;
}

#[tokio::test]
async fn output_is_discarded_after_the_client_has_removed_its_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let stdout = fifo(directory.path(), "out");
    let paths = StdioPaths { stdout: stdout.clone(), ..StdioPaths::default() };
    let (ends, retained) = open(&paths).unwrap();
    File::from(ends.stdout).write_all(b"x").unwrap();
    std::fs::remove_file(stdout).unwrap();
    Streams::Pipes(retained).finish().await;
}

#[tokio::test]
async fn a_query_after_the_path_of_a_file_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let stdout = format!("file://{}?maxsize=1", path.display());
    let (ends, retained) = open(&StdioPaths { stdout, ..StdioPaths::default() }).unwrap();
    File::from(ends.stdout).write_all(b"x").unwrap();
    Streams::Pipes(retained).copied().await;
    assert_eq!(std::fs::read_to_string(path).unwrap(), "x");
}

#[tokio::test]
async fn a_terminal_needs_no_pipes_and_a_missing_one_is_named() {
    let pipes = open_for_terminal(&StdioPaths::default()).unwrap();
    assert!(pipes.input.is_none() && pipes.output.is_none());
    let stdin = "/nowhere/in".to_owned();
    let missing = open_for_terminal(&StdioPaths { stdin, ..StdioPaths::default() });
    let text = missing.err().unwrap().to_string();
    assert!(text.starts_with("cannot open /nowhere/in for standard input: "), "{text}");
    let failure = Streams::start(None, None, &StdioPaths::default()).unwrap_err();
    assert_eq!(failure.message, "the engine host sent no terminal");
}
