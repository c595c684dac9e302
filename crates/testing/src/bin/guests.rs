//! Compiles the guests of the tests, if necessary, and prints their folder.

fn main() {
    println!("{}", wherry_testing::guests::dir().display());
}
