//! Packs files into an image: `pack-files REFERENCE ARCHIVE ENTRYPOINT FILE=PATH-IN-IMAGE…`.
//!
//! The archive is an OCI image layout, which tools for registries push, and which `ctr images
//! import` and `docker load` take. The same files make the same image.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use wherry_testing::Image;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [reference, archive, entrypoint, files @ ..] = args.as_slice() else {
        eprintln!("usage: pack-files REFERENCE ARCHIVE ENTRYPOINT FILE=PATH-IN-IMAGE…");
        return ExitCode::FAILURE;
    };
    let mut image = Image::new("image").entrypoint(&[entrypoint]).compressed();
    for pair in files {
        let Some((file, inside)) = pair.split_once('=') else {
            eprintln!("pack-files: {pair:?} has no '=': expected FILE=PATH-IN-IMAGE");
            return ExitCode::FAILURE;
        };
        match fs::read(file) {
            Ok(bytes) => image = image.file(inside, 0o755, bytes),
            Err(e) => {
                eprintln!("pack-files: {file} cannot be read: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    image.pack_to(Path::new(archive), reference);
    ExitCode::SUCCESS
}
