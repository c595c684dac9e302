//! Compiles the guests of the tests, if nobody has yet, and prints the folder in which they are.

fn main() {
    println!("{}", wherry_testing::guests::dir().display());
}
