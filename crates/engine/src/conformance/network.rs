//! Sockets and name resolution of preview 2, on the loopback interface.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::thread;

use super::Host;
use super::component::component;
use super::host::Guest;

/// WASI's functions as the canonical ABI lowers them, and a few helpers. Results are returned at
/// 0: a tag, and from 4 on (8 for 64-bit values) the payload.
const PRELUDE: &str = r#"
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.0" "[resource-drop]pollable" (func $drop_pollable (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read"
    (func $blocking_read (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $blocking_write_and_flush (param i32 i32 i32 i32)))
  (import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))
  (import "wasi:sockets/ip-name-lookup@0.2.0" "resolve-addresses"
    (func $resolve_addresses (param i32 i32 i32 i32)))
  (import "wasi:sockets/ip-name-lookup@0.2.0" "[method]resolve-address-stream.resolve-next-address"
    (func $next_address (param i32 i32)))
  (import "wasi:sockets/ip-name-lookup@0.2.0" "[method]resolve-address-stream.subscribe"
    (func $subscribe_addresses (param i32) (result i32)))
  (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $create_tcp (param i32 i32)))
  (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.start-connect"
    (func $start_connect (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.finish-connect" (func $finish_connect (param i32 i32)))
  (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.subscribe" (func $subscribe_tcp (param i32) (result i32)))
  (import "wasi:sockets/udp-create-socket@0.2.0" "create-udp-socket" (func $create_udp (param i32 i32)))
  (import "wasi:sockets/udp@0.2.0" "[method]udp-socket.start-bind"
    (func $start_bind (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:sockets/udp@0.2.0" "[method]udp-socket.finish-bind" (func $finish_bind (param i32 i32)))
  (import "wasi:sockets/udp@0.2.0" "[method]udp-socket.stream"
    (func $stream (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:sockets/udp@0.2.0" "[method]incoming-datagram-stream.receive"
    (func $receive (param i32 i64 i32)))
  (import "wasi:sockets/udp@0.2.0" "[method]incoming-datagram-stream.subscribe"
    (func $subscribe_incoming (param i32) (result i32)))
  (import "wasi:sockets/udp@0.2.0" "[method]outgoing-datagram-stream.check-send" (func $check_send (param i32 i32)))
  (import "wasi:sockets/udp@0.2.0" "[method]outgoing-datagram-stream.send"
    (func $send (param i32 i32 i32 i32)))
  (memory (export "memory") 2)
  (data (i32.const 1024) "ping") (data (i32.const 1032) "pong") (data (i32.const 1040) "localhost")

  (global $free (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get 3)))
    (local.get $at))

  ;; The result at 0: traps if it is an error.
  (func $ok (if (i32.load8_u (i32.const 0)) (then unreachable)))
  ;; Whether it is the error "would-block". Traps if it is another one.
  (func $would_block (result i32)
    (if (i32.eqz (i32.load8_u (i32.const 0))) (then (return (i32.const 0))))
    (if (i32.ne (i32.load8_u (i32.const 4)) (i32.const 8)) (then unreachable))
    (i32.const 1))
  (func $wait (param $pollable i32)
    (call $block (local.get $pollable))
    (call $drop_pollable (local.get $pollable)))
  ;; Traps unless the list whose pointer and length lie at $list is "pong".
  (func $expect_pong (param $list i32)
    (if (i32.ne (i32.load offset=4 (local.get $list)) (i32.const 4)) (then unreachable))
    (if (i32.ne (i32.load (i32.load (local.get $list))) (i32.load (i32.const 1032)))
      (then unreachable)))
"#;

/// A component of which this is the body of `run`.
fn guest<'a>(host: &'a Host, body: &str) -> Guest<'a> {
    let text = format!(
        r#"(module {PRELUDE}
             (func (export "wasi:cli/run@0.2.0#run") (result i32)
               (local $socket i32) (local $network i32) (local $in i32) (local $out i32)
               (local.set $network (call $network))
               {body}
               (i32.const 0)))"#
    );
    component(host, "bare", &text)
}

/// A socket address as arguments: 127.0.0.1, of the variant `ipv4`, padded to the length of the
/// longer `ipv6`.
fn address(port: u16) -> String {
    let zeros = "(i32.const 0) ".repeat(6);
    format!(
        "(i32.const 0) (i32.const {port}) (i32.const 127) (i32.const 0) (i32.const 0) \
         (i32.const 1) {zeros}"
    )
}

/// Connects to the port, writes "ping" and expects "pong".
fn tcp_client(port: u16) -> String {
    format!(
        r#"(call $create_tcp (i32.const 0) (i32.const 0)) (call $ok)
           (local.set $socket (i32.load (i32.const 4)))
           (call $start_connect (local.get $socket) (local.get $network) {} (i32.const 0))
           (call $ok)
           (loop $again
             (call $wait (call $subscribe_tcp (local.get $socket)))
             (call $finish_connect (local.get $socket) (i32.const 0))
             (br_if $again (call $would_block)))
           (local.set $in (i32.load (i32.const 4)))
           (local.set $out (i32.load (i32.const 8)))
           (call $blocking_write_and_flush
             (local.get $out) (i32.const 1024) (i32.const 4) (i32.const 0))
           (call $ok)
           (call $blocking_read (local.get $in) (i64.const 100) (i32.const 0)) (call $ok)
           (call $expect_pong (i32.const 4))"#,
        address(port)
    )
}

pub fn tcp_reaches_the_loopback(host: &Host) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let guest = guest(host, &tcp_client(listener.local_addr().unwrap().port())).net();
    // Not joined: were the guest never to connect, its own failure is what should be reported.
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut ping = [0; 4];
        stream.read_exact(&mut ping).unwrap();
        assert_eq!(&ping, b"ping");
        stream.write_all(b"pong").unwrap();
    });
    let ended = guest.run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

pub fn udp_reaches_the_loopback(host: &Host) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    // An outgoing datagram at 2048: a list of bytes, and an option that is none.
    let body = format!(
        r#"(call $create_udp (i32.const 0) (i32.const 0)) (call $ok)
           (local.set $socket (i32.load (i32.const 4)))
           (call $start_bind (local.get $socket) (local.get $network) {} (i32.const 0)) (call $ok)
           (call $finish_bind (local.get $socket) (i32.const 0)) (call $ok)
           (call $stream (local.get $socket) (i32.const 1) {} (i32.const 0)) (call $ok)
           (local.set $in (i32.load (i32.const 4)))
           (local.set $out (i32.load (i32.const 8)))
           (call $check_send (local.get $out) (i32.const 0)) (call $ok)
           (i32.store (i32.const 2048) (i32.const 1024))
           (i32.store (i32.const 2052) (i32.const 4))
           (call $send (local.get $out) (i32.const 2048) (i32.const 1) (i32.const 0)) (call $ok)
           (loop $again
             (call $wait (call $subscribe_incoming (local.get $in)))
             (call $receive (local.get $in) (i64.const 1) (i32.const 0)) (call $ok)
             (br_if $again (i32.eqz (i32.load (i32.const 8)))))
           (call $expect_pong (i32.load (i32.const 4)))"#,
        address(0),
        address(port)
    );
    thread::spawn(move || {
        let mut ping = [0; 100];
        let (length, from) = socket.recv_from(&mut ping).unwrap();
        assert_eq!(&ping[..length], b"ping");
        socket.send_to(b"pong", from).unwrap();
    });
    let ended = guest(host, &body).net().run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

const LOOK_UP: &str = r#"
  (call $resolve_addresses (local.get $network) (i32.const 1040) (i32.const 9) (i32.const 0))
  (call $ok)
  (local.set $in (i32.load (i32.const 4)))
  (loop $again
    (call $wait (call $subscribe_addresses (local.get $in)))
    (call $next_address (local.get $in) (i32.const 0))
    (br_if $again
      (if (result i32) (i32.load8_u (i32.const 0))
        ;; The payload has an alignment of 2 here.
        (then
          (if (i32.ne (i32.load8_u (i32.const 2)) (i32.const 8)) (then unreachable))
          (i32.const 1))
        (else (i32.const 0)))))
  ;; An option, and in it an address.
  (if (i32.eqz (i32.load8_u (i32.const 2))) (then unreachable))
"#;

pub fn localhost_is_looked_up(host: &Host) {
    let ended = guest(host, LOOK_UP).net().run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

pub fn without_the_network_nothing_is_reached(host: &Host) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(guest(host, &tcp_client(port)).run().code, 134);
    assert_eq!(guest(host, LOOK_UP).run().code, 134);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a connection was made");
}
