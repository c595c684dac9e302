//! Output and input are transferred byte for byte, at any size and speed.

use std::io::{Read, Write};
use std::process::Stdio;
use wherry_e2e::images::{cat, fields};
use wherry_e2e::{on_all_daemons, on_containerds};
use wherry_testing::{Containerd, Daemon, Image, Run};

/// Writes this many chunks of 65536 bytes, each of them 0, 1, … 255, 0, 1, …, and then exits.
fn flood(chunks: u32) -> Image {
    fields(
        "flood",
        &format!(
            r#"(func (export "_start") (local $i i32)
                 (loop $fill
                   (i32.store8 (i32.add (i32.const 65536) (local.get $i)) (local.get $i))
                   (local.set $i (i32.add (local.get $i) (i32.const 1)))
                   (br_if $fill (i32.lt_u (local.get $i) (i32.const 65536))))
                 (local.set $i (i32.const {chunks}))
                 (loop $more
                   (call $write (i32.const 1) (i32.const 65536) (i32.const 65536))
                   (local.set $i (i32.sub (local.get $i) (i32.const 1)))
                   (br_if $more (local.get $i))))"#
        ),
    )
}

/// The number of bytes at the start of `bytes` that match the flood.
fn right(bytes: &[u8]) -> usize {
    bytes.iter().enumerate().take_while(|&(at, &byte)| byte == (at % 256) as u8).count()
}

fn a_hundred_megabytes_arrive_byte_for_byte(daemon: &dyn Daemon) {
    // Docker also logs all of it: a tenth is enough there.
    let chunks = if daemon.is_docker() { 160 } else { 1600 };
    let run = Run::new(&flood(chunks));
    let outcome =
        daemon.run(&if daemon.is_docker() { run.extra(&["--log-driver", "none"]) } else { run });
    assert_eq!(outcome.code, 0, "{}", outcome.err());
    assert_eq!(outcome.stdout.len(), chunks as usize * 65536);
    assert_eq!(right(&outcome.stdout), outcome.stdout.len());
}

fn stdout_and_stderr_stay_apart(daemon: &dyn Daemon) {
    let image = fields(
        "both",
        r#"(data (i32.const 1024) "to stdout\nto stderr\n")
           (func (export "_start")
             (call $write (i32.const 1) (i32.const 1024) (i32.const 10))
             (call $write (i32.const 2) (i32.const 1034) (i32.const 10)))"#,
    );
    let outcome = daemon.run(&Run::new(&image));
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("to stdout\n", "to stderr\n"));
    assert_eq!(outcome.code, 0);
}

fn stdin_arrives_with_its_end(daemon: &dyn Daemon) {
    let input: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let outcome = daemon.run(&Run::new(&cat()).stdin(input.clone()));
    assert_eq!(outcome.code, 0, "{}", outcome.err());
    assert!(outcome.stdout == input, "{} of {} bytes came back", outcome.stdout.len(), input.len());
}

fn an_empty_stdin_ends_at_once(daemon: &dyn Daemon) {
    let outcome = daemon.run(&Run::new(&cat()).stdin(""));
    assert_eq!((outcome.code, outcome.out().as_str()), (0, ""), "{outcome}");
}

fn a_conversation_works(daemon: &dyn Daemon) {
    let mut container = daemon.start(&Run::new(&cat()));
    for word in ["one\n", "two\n", "three\n"] {
        container.say(word.as_bytes());
        container.wait_for_output(word);
    }
    assert_eq!(container.stdout(), b"one\ntwo\nthree\n");
    assert!(!container.ended());
    container.remove();
}

on_all_daemons!(
    a_hundred_megabytes_arrive_byte_for_byte,
    stdout_and_stderr_stay_apart,
    stdin_arrives_with_its_end,
    an_empty_stdin_ends_at_once,
    a_conversation_works,
);

mod slow {
    use super::*;

    fn a_slow_reader_loses_nothing(containerd: &Containerd) {
        let image = flood(80).pack();
        containerd.load(&image);
        let (id, runtime) = (containerd.new_id(), wherry_testing::runtime());
        let mut command =
            containerd.ctr_command(&["run", "--rm", "--runtime", &runtime, &image.reference, &id]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut client = command.spawn().expect("ctr runs");
        let mut pipe = client.stdout.take().expect("piped");
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        // Every pipe on the way is full most of the time, because the client reads rarely.
        for turn in 0.. {
            let read = pipe.read(&mut buffer).expect("a pipe can be read");
            if read == 0 {
                break;
            }
            bytes.write_all(&buffer[..read]).expect("memory");
            if turn % 64 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        assert!(client.wait().expect("our child").success());
        assert_eq!((bytes.len(), right(&bytes)), (80 * 65536, 80 * 65536));
    }

    on_containerds!(a_slow_reader_loses_nothing);
}

mod file {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use wherry_testing::{Outcome, busybox};

    fn log_to(containerd: &Containerd, run: Run, path: &std::path::Path) -> Outcome {
        containerd.run(&run.extra(&["--log-uri", &format!("file://{}", path.display())]))
    }

    fn a_log_file_gets_every_byte(containerd: &Containerd) {
        let path = containerd.root().join(containerd.new_id());
        log_to(containerd, Run::new(&flood(320)), &path).success();
        let bytes = fs::read(&path).expect("the log is there");
        assert_eq!((bytes.len(), right(&bytes)), (320 * 65536, 320 * 65536));
    }

    fn a_log_file_is_not_the_guests_to_read_or_change(containerd: &Containerd) {
        let path = containerd.root().join(containerd.new_id());
        fs::write(&path, "of another container\n").expect("it is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
        let script = "readlink /proc/self/fd/1; : > /proc/self/fd/1; chmod 4755 /proc/self/fd/1; \
                      echo out; echo err >&2";
        log_to(containerd, Run::new(&busybox()).args(&["sh", "-c", script]), &path).success();
        let text = fs::read_to_string(&path).expect("the log is there");
        let lines: Vec<&str> = text.lines().collect();
        let [before, link, "out", "err"] = lines[..] else { panic!("{text}") };
        assert_eq!(before, "of another container");
        assert!(link.starts_with("pipe:["), "{text}");
        assert_eq!(path.metadata().expect("the log is there").mode() & 0o7777, 0o600);
    }

    fn a_log_that_cannot_be_a_file_is_an_error_of_create(containerd: &Containerd) {
        let refused = log_to(containerd, Run::new(&flood(1)), containerd.root()).failure();
        let folder = containerd.root().display();
        let expected = format!("cannot open {folder} for standard output: Is a directory");
        assert!(refused.contains(&expected), "{refused}");
        let refused = log_to(containerd, Run::new(&flood(1)), "/dev/null".as_ref()).failure();
        let expected = "cannot open /dev/null for standard output: it is not a regular file";
        assert!(refused.contains(expected), "{refused}");
    }

    on_containerds!(
        a_log_file_gets_every_byte,
        a_log_file_is_not_the_guests_to_read_or_change,
        a_log_that_cannot_be_a_file_is_an_error_of_create,
    );
}
