//! Prints a greeting, its arguments and one environment variable.

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("Hello from Rust {}", words.join(" "));
    if let Ok(colour) = std::env::var("COLOUR") {
        println!("COLOUR is {colour}");
    }
}
