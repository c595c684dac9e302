//! The guest of test/e2e/tests/e2e/toolchains.rs in Rust: see there.

use std::{env, fs, process};

fn show(what: &str, path: &str) {
    match fs::read_to_string(path) {
        Ok(text) => println!("{what}: {text}"),
        Err(error) => println!("{what}: {}", error.to_string().split(" (").next().unwrap_or("")),
    }
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    println!("arguments: {}", words.join(" "));
    println!("variable: {}", env::var("GREETING").unwrap_or_default());
    show("relative", "here.txt");
    show("below", "below/deep.txt");
    show("absolute", "/data/there.txt");
    show("link", "link.txt");
    if let Err(error) = fs::write("new.txt", "written") {
        println!("write: {error}");
    }
    show("written", "/work/new.txt");
    show("missing", "missing.txt");
    process::exit(7);
}
