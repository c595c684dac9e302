//! SIGTERM and SIGINT end a guest at once, also a busy one.

use std::time::Duration;

use super::Host;

/// The limit on a busy machine. A signal does not wait for the guest.
const AT_ONCE: Duration = Duration::from_secs(5);

fn end(host: &Host, fields: &str) {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut running = host.guest(fields).spawn();
        running.expect(b"ready\n");
        running.signal(signal);
        assert_eq!(running.wait_for(AT_ONCE).code(), Some(code), "SIG{signal}");
    }
}

pub fn signals_end_a_computation(host: &Host) {
    end(host, r#"(func (export "_start") (call $ready) (loop $forever (br $forever)))"#);
}

pub fn signals_end_a_read(host: &Host) {
    end(
        host,
        r#"(func (export "_start")
             (call $ready)
             (drop (call $read (i32.const 0) (i32.const 65536) (i32.const 1))))"#,
    );
}

pub fn signals_end_a_sleep(host: &Host) {
    // One subscription at 1024: the monotonic clock, an hour from now.
    end(
        host,
        r#"(func (export "_start")
             (call $ready)
             (i32.store8 (i32.const 1032) (i32.const 0))
             (i32.store (i32.const 1040) (i32.const 1))
             (i64.store (i32.const 1048) (i64.const 3600000000000))
             (call $check
               (call $poll_oneoff (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 16))))"#,
    );
}
