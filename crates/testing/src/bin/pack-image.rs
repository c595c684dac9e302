//! Packs one file into an image: `pack-image FILE PATH-IN-IMAGE REFERENCE ARCHIVE [ARG…]`.
//!
//! The file becomes the entrypoint, the arguments the image's default ones. `ctr images import` and
//! `docker load` accept the archive.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use wherry_testing::Image;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [file, inside, reference, archive, cmd @ ..] = args.as_slice() else {
        eprintln!("usage: pack-image FILE PATH-IN-IMAGE REFERENCE ARCHIVE [ARG…]");
        return ExitCode::FAILURE;
    };
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) => {
            eprintln!("pack-image: {file} cannot be read: {e}");
            return ExitCode::FAILURE;
        }
    };
    let cmd: Vec<&str> = cmd.iter().map(String::as_str).collect();
    let image = Image::new("image").file(inside, 0o755, bytes).entrypoint(&[inside]).cmd(&cmd);
    image.pack_to(Path::new(archive), reference);
    ExitCode::SUCCESS
}
