//! Wasmtime against the suite that every engine passes.

wherry_engine::conformance!(env!("CARGO_BIN_EXE_wherry-wasmtime"), backtraces, components);

/// A guest's process is charged for every thread and page of it, many times over on a busy node.
#[test]
fn a_waiting_guest_is_one_thread() {
    let host = wherry_engine::conformance::Host::new(env!("CARGO_BIN_EXE_wherry-wasmtime"));
    let mut running = host
        .guest(
            r#"(func (export "_start")
                 (call $ready)
                 (drop (call $read (i32.const 0) (i32.const 65536) (i32.const 1))))"#,
        )
        .spawn();
    running.expect(b"ready\n");
    let threads = std::fs::read_dir(format!("/proc/{}/task", running.id())).unwrap().count();
    assert_eq!(threads, 1);
}
