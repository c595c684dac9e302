//! Writes the part of an engine, in the mode `WHERRY_MODE`, of docs/compatibility.md, from the
//! output of the end-to-end tests.
//!
//!     compatibility ENGINE < OUTPUT-OF-CARGO-TEST
//!
//! It fails if a row was not proved, and also if the document changed: the committed document must
//! equal the one that a successful run writes.

use std::io::Read;
use std::process::ExitCode;
use std::{env, fs, io};
use wherry_e2e::compatibility::{Declared, TestRun, put};
use wherry_testing::{repository, runtime_of};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compatibility: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let engine = env::args().nth(1).ok_or("usage: compatibility ENGINE < OUTPUT-OF-CARGO-TEST")?;
    let rows = repository().join("test/e2e/compatibility.toml");
    let document = repository().join("docs/compatibility.md");
    let mut output = String::new();
    io::stdin().read_to_string(&mut output).map_err(|e| format!("the tests' output: {e}"))?;
    let text = fs::read_to_string(&rows).map_err(|e| format!("{}: {e}", rows.display()))?;
    let declared = Declared::parse(&text).map_err(|e| format!("{}: {e}", rows.display()))?;
    let part = declared.part(&engine, &TestRun::parse(&output)).map_err(|errors| {
        format!("these rows of {} are not proved:\n{}", rows.display(), errors.join("\n"))
    })?;
    let before = fs::read_to_string(&document).unwrap_or_default();
    let after = put(&before, &runtime_of(&engine), &part);
    if after == before {
        return Ok(());
    }
    let write = || {
        fs::create_dir_all(repository().join("docs"))?;
        fs::write(&document, after)
    };
    write().map_err(|e| format!("{}: {e}", document.display()))?;
    Err("docs/compatibility.md differed from the results of this run and was rewritten: commit it"
        .to_owned())
}
