//! `wherry-E compile`: compiles a module to native code in a confined process.
//!
//! A compiler is a large program that reads an untrusted file. [`confine`] leaves it its
//! descriptors and nothing else. Its standard error is the sentence for the user.

mod confine;
mod filter;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use wherry_engine::{CompileError, Engine, Start};
use wherry_image::{SizeError, cache, check_size};
use wherry_protocol::compile::{
    BASELINE, Bounds, DESCRIPTORS, EXIT_CHANGED, EXIT_INVALID, EXIT_IO,
};

pub use confine::yield_to_all;
use confine::{ConfineError, Side, confine, wait};

/// Why a compilation produced no code. Rendered as the sentence on standard error, and as the exit
/// code.
#[derive(Debug, thiserror::Error)]
enum CompilationError {
    #[error("usage: compile {DESCRIPTORS} DIGEST MEMORY,SECONDS,MODULE,CODE SLOT [{BASELINE}]")]
    Usage,
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("cannot read the module: {0}")]
    Read(io::Error),
    #[error("cannot write the code: {0}")]
    Write(io::Error),
    /// The module is not the one that the daemon requested.
    #[error("the module changed while it was read")]
    Changed,
    #[error(transparent)]
    Compile(#[from] CompileError),
}

impl CompilationError {
    fn exit_code(&self) -> u8 {
        match self {
            CompilationError::Changed => EXIT_CHANGED,
            CompilationError::Confine(_)
            | CompilationError::Read(_)
            | CompilationError::Write(_)
            | CompilationError::Compile(CompileError::Io(_)) => EXIT_IO,
            CompilationError::Usage | CompilationError::Size(_) | CompilationError::Compile(_) => {
                EXIT_INVALID
            }
        }
    }
}

/// Compiles descriptor 0, wasm in the binary or the text format, to descriptor 1. `args` are the
/// module's SHA-256, the [`Bounds`], the number of the slot, and optionally [`BASELINE`] and a
/// [`Start`].
#[must_use]
pub fn compile(engine: &dyn Engine, args: &[String]) -> ExitCode {
    let result = match Request::parse(args) {
        Some(request) => match confine(request.bounds, request.slot) {
            Ok(Side::Inside) => run(engine, &request),
            Ok(Side::Outside(child)) => return wait(child),
            Err(error) => Err(error.into()),
        },
        None => Err(CompilationError::Usage),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    // The daemon may have stopped reading; the exit code remains.
    let _ = io::stderr().write_all(error.to_string().as_bytes());
    ExitCode::from(error.exit_code())
}

/// The arguments of a compilation.
struct Request<'a> {
    digest: &'a str,
    bounds: Bounds,
    slot: u32,
    baseline: bool,
    start: Option<Start>,
}

impl Request<'_> {
    fn parse(args: &[String]) -> Option<Request<'_>> {
        let [digest, bounds, slot, rest @ ..] = args else { return None };
        let (bounds, slot) = (bounds.parse().ok()?, slot.parse().ok()?);
        let (baseline, start) = match rest {
            [first, start @ ..] if first == BASELINE => (true, start),
            start => (false, start),
        };
        Some(Request { digest, bounds, slot, baseline, start: Start::from_args(start) })
    }
}

fn run(engine: &dyn Engine, request: &Request<'_>) -> Result<(), CompilationError> {
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(CompilationError::Read)?;
    let input = File::from(input);
    // It may have grown since the daemon checked.
    check_size(&input, request.bounds.module)?;
    let bytes = wherry_image::read_all(&input).map_err(CompilationError::Read)?;
    // The container may have written to the file since the daemon read it.
    if cache::digest(&bytes) != request.digest {
        return Err(CompilationError::Changed);
    }
    let wasm = binary(&bytes)?;
    engine.check(&wasm, request.start.as_ref()).map_err(CompileError::from)?;
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(CompilationError::Write)?;
    let mut output = BufWriter::with_capacity(1 << 20, File::from(output));
    if request.baseline {
        engine.compile_baseline(&wasm, &mut output)?;
    } else if request.start.as_ref().is_some_and(Start::is_server) {
        engine.compile_server(&wasm, &mut output)?;
    } else {
        engine.compile(&wasm, &mut output)?;
    }
    output.flush().map_err(CompilationError::Write)
}

/// Converts a module in the binary or the text format to the binary format.
///
/// # Errors
/// If the text is not WebAssembly; with line and column.
pub fn binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>, CompileError> {
    wat::Parser::new().parse_bytes(None, bytes).map_err(|error| {
        // The parser prints the place with a caret over several lines; an error is one line here.
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim);
        let what = lines.next().unwrap_or_default();
        let place = lines.next().and_then(|line| line.strip_prefix("--> <anon>:"));
        let source = lines.find_map(|line| line.split_once(" | "));
        CompileError::Invalid(match (place, source) {
            (Some(place), Some((_, source))) => format!("{what} at {place}: {}", source.trim()),
            _ => what.to_owned(),
        })
    })
}

#[cfg(test)]
mod tests;
