//! A guest in Rust that uses the standard library: arguments, environment, time and a panic.

use std::time::{Duration, Instant};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    println!("hello from rust {args:?}");
    if let Ok(name) = std::env::var("NAME") {
        println!("NAME={name}");
    }
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    assert!(start.elapsed() >= Duration::from_millis(1));
    if args.first().map(String::as_str) == Some("panic") {
        panic!("as asked");
    }
}
