//! The program `wherry-layer`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::{DEFAULT_PATH, LayerError, convert};

const HELP: &str = "\
Converts a layer of WebAssembly on standard input to a tar archive of one file on standard output.

containerd runs it as a stream processor, see docs/images.md.

Usage: wherry-layer [--path PATH]

Options:
      --path PATH  the file in the archive [default: /app.wasm]
  -h, --help       print this text
  -v, --version    print the version
";

/// The variable in which containerd passes the layer's media type.
const MEDIA_TYPE: &str = "STREAM_PROCESSOR_MEDIATYPE";

/// The main function of `wherry-layer`.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let path = match args.as_slice() {
        [] => DEFAULT_PATH,
        ["--path", path] if !path.is_empty() => path,
        ["-h" | "--help"] => return print(HELP),
        ["-v" | "-V" | "--version"] => {
            return print(concat!("wherry-layer ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        _ => {
            complain("invalid arguments", "expected none, or --path PATH");
            return ExitCode::from(2);
        }
    };
    // containerd shows the text as its error of the layer.
    match run(path) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let media_type = std::env::var(MEDIA_TYPE).unwrap_or_default();
            complain(format!("layer {media_type}").trim_end(), &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(path: &str) -> Result<u64, LayerError> {
    // The standard library's own streams search each write for a line feed.
    let open = |stream: io::Result<std::os::fd::OwnedFd>| stream.map(File::from);
    let input = open(io::stdin().as_fd().try_clone_to_owned()).map_err(LayerError::Read)?;
    let output = open(io::stdout().as_fd().try_clone_to_owned()).map_err(LayerError::Write)?;
    convert(input, BufWriter::with_capacity(256 << 10, output), path)
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(subject: &str, text: &str) {
    // There is nowhere else to report that standard error is closed.
    let _ = io::stderr().write_all(format!("wherry-layer: {subject}: {text}\n").as_bytes());
}
