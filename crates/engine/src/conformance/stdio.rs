//! The three standard streams.

use std::fs;
use std::io::Read;
use std::thread;
use std::time::Duration;

use super::Host;
use super::wat::CAT;

pub fn output_is_exact_to_the_byte(host: &Host) {
    let ended = host
        .guest(
            r#"(data (i32.const 1024) "a\00\ff\fe\r\n\c3(no newline")
               (data (i32.const 1056) "b\00\ff")
               (func (export "_start")
                 (call $print (i32.const 1024) (i32.const 1))
                 (call $print (i32.const 1025) (i32.const 17))
                 (call $check (call $write (i32.const 2) (i32.const 1056) (i32.const 2))))"#,
        )
        .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.stdout, b"a\0\xff\xfe\r\n\xc3(no newline");
    assert_eq!(ended.stderr, "b\0");
}

/// Not every guest continues a short write.
pub fn all_buffers_of_one_write_are_written(host: &Host) {
    let ended = host
        .guest(
            r#"(data (i32.const 1024) "one two\n")
               ;; "one", an empty buffer, " two" and the line feed.
               (data (i32.const 2048) "\00\04\00\00\03\00\00\00\00\04\00\00\00\00\00\00")
               (data (i32.const 2064) "\03\04\00\00\04\00\00\00\07\04\00\00\01\00\00\00")
               (func (export "_start")
                 (call $check
                   (call $fd_write (i32.const 1) (i32.const 2048) (i32.const 4) (i32.const 8)))
                 (call $check (i32.sub (i32.load (i32.const 8)) (i32.const 8))))"#,
        )
        .run();
    assert_eq!((ended.code, &*ended.stdout), (0, &b"one two\n"[..]), "{}", ended.stderr);
}

pub fn much_output_to_a_slow_reader_arrives_whole(host: &Host) {
    const CHUNK: usize = 65536;
    const CHUNKS: usize = 320;
    let mut running = host
        .guest(&format!(
            r#"(func (export "_start") (local $i i32)
                 (loop $fill
                   (i32.store (i32.add (i32.const 65536) (local.get $i)) (local.get $i))
                   (local.set $i (i32.add (local.get $i) (i32.const 4)))
                   (br_if $fill (i32.lt_u (local.get $i) (i32.const {CHUNK}))))
                 (local.set $i (i32.const 0))
                 (loop $more
                   (i32.store (i32.const 65536) (local.get $i))
                   (call $print (i32.const 65536) (i32.const {CHUNK}))
                   (local.set $i (i32.add (local.get $i) (i32.const 1)))
                   (br_if $more (i32.lt_u (local.get $i) (i32.const {CHUNKS})))))"#
        ))
        .spawn();
    let mut stdout = running.stdout();
    let mut chunk = vec![0; CHUNK];
    for number in 0..CHUNKS {
        if number % 8 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        stdout.read_exact(&mut chunk).expect("all that the guest wrote");
        for (index, word) in chunk.chunks(4).enumerate() {
            let expected = if index == 0 { number } else { index * 4 };
            assert_eq!(word, (expected as u32).to_le_bytes(), "chunk {number}, word {index}");
        }
    }
    assert_eq!(stdout.read(&mut chunk).unwrap(), 0, "more than the guest wrote");
    assert_eq!(running.wait().code(), Some(0));
}

pub fn input_is_read_to_its_end(host: &Host) {
    let input: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    let ended = host.guest(CAT).run_with(&input);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout == input, "{} bytes of {}", ended.stdout.len(), input.len());
}

pub fn no_input_is_the_end_of_input(host: &Host) {
    let ended = host.guest(CAT).run();
    assert_eq!((ended.code, ended.stdout.len()), (0, 0), "{}", ended.stderr);
}

pub fn input_is_read_as_it_arrives(host: &Host) {
    let mut running = host.guest(CAT).spawn();
    for line in ["one\n", "two\n", "three\n"] {
        running.write(line.as_bytes());
        running.expect(line.as_bytes());
    }
}

pub fn waiting_for_input_takes_no_time_of_the_processor(host: &Host) {
    let mut running = host.guest(CAT).spawn();
    running.write(b"here");
    running.expect(b"here");
    // User and system time in ticks of 10 ms: fields 14 and 15, the 12th and 13th after the name.
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.id())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    let before = ticks();
    thread::sleep(Duration::from_millis(400));
    assert!(ticks() - before <= 4, "a waiting guest is busy");
}

pub fn a_pipe_is_not_a_terminal(host: &Host) {
    // A terminal is a character device; wasi-libc's isatty() asks for no more.
    let ended = host
        .guest(
            r#"(func $is_tty (param $fd i32) (result i32)
                 (call $check (call $fd_fdstat_get (local.get $fd) (i32.const 16)))
                 (i32.eq (i32.load8_u (i32.const 16)) (i32.const 2)))
               (func (export "_start")
                 (call $proc_exit
                   (i32.or (call $is_tty (i32.const 0))
                     (i32.or (call $is_tty (i32.const 1)) (call $is_tty (i32.const 2))))))"#,
        )
        .run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

pub fn a_reader_that_has_gone_is_an_error_to_the_guest(host: &Host) {
    let mut running = host
        .guest(
            r#"(func (export "_start")
                 (loop $more
                   (br_if $more
                     (i32.eqz (call $write (i32.const 1) (i32.const 65536) (i32.const 4096)))))
                 (call $proc_exit (i32.const 7)))"#,
        )
        .spawn();
    drop(running.stdout());
    assert_eq!(running.wait().code(), Some(7));
}
