;; The smallest guest that prints a line: a WASI preview 1 module in the text format.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; One buffer: 37 bytes at address 16.
  (data (i32.const 0) "\10\00\00\00\25\00\00\00")
  (data (i32.const 16) "Hello from WebAssembly in containerd\0a")
  (func (export "_start")
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
