//! `pull --compile`: compiles the module of an image with the engines of this machine.
//!
//! Each engine's own program, `wherry-ENGINE compile`, confines its compiler and fills the cache.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wherry_image::MODULE_MAX;
use wherry_oci::{Image, Progress, program};

use crate::args::ALL;
use crate::error::{Error, Result};

/// Compiles with the named engines, or with all that compile this module. Returns their names.
pub(crate) fn compile(
    image: &Image,
    names: &[String],
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let installed = engines(&search_path());
    let all = names.iter().any(|name| name == ALL);
    let folder = tempfile::tempdir().map_err(Error::Temporary)?;
    let module = copy(image, folder.path())?;
    let wanted: Vec<String> =
        if all { installed.keys().cloned().collect() } else { names.to_vec() };
    let (mut done, mut refusals) = (Vec::new(), Vec::new());
    for name in wanted {
        let Some(program) = installed.get(&name) else {
            refusals.push(format!("{name} is not installed"));
            continue;
        };
        match run(program, &module) {
            Ok(()) => done.push(name),
            Err(reason) => refusals.push(reason),
        }
    }
    match (done.is_empty(), refusals.is_empty()) {
        (true, true) => Err(Error::NoEngine),
        (true, false) => Err(Error::NotCompiled(refusals.join("; "))),
        (false, false) if !all => Err(Error::NotCompiled(refusals.join("; "))),
        _ => {
            // An engine that interprets, or does not run this module.
            refusals.iter().for_each(|reason| progress.note(reason));
            Ok(done)
        }
    }
}

/// The folders of programs: that of this one, and those of PATH.
fn search_path() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.into_iter().chain(std::env::split_paths(&path)).collect()
}

/// The engines in these folders: `wherry-ENGINE` beside its `wherry-ENGINE-host`. The first folder
/// that has one wins.
fn engines(folders: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_prefix("wherry-"));
            let Some(name) = name.and_then(|name| name.strip_suffix("-host")) else { continue };
            let program = folder.join(format!("wherry-{name}"));
            if program.is_file() {
                found.entry(name.to_owned()).or_insert(program);
            }
        }
    }
    found
}

/// Copies the module that an image runs to a folder, under its name.
fn copy(image: &Image, folder: &Path) -> Result<PathBuf> {
    let name = image.name.clone().unwrap_or_default();
    let manifest = image.preferred(None).map_err(Error::of(name.clone()))?;
    let mut copied = None;
    program::open(image, &manifest, MODULE_MAX, &mut |path, _, content| {
        let file = Path::new(path).file_name().unwrap_or("app.wasm".as_ref());
        let target = folder.join(file);
        io::copy(content, &mut File::create(&target)?)?;
        copied = Some(target);
        Ok(())
    })
    .map_err(Error::of(name))?;
    copied.ok_or_else(|| Error::NotCompiled("the image runs no file".to_owned()))
}

/// Runs the program of an engine.
///
/// # Errors
/// Its own sentence.
fn run(program: &Path, module: &Path) -> std::result::Result<(), String> {
    let mut command = Command::new(program);
    command.arg("compile").arg(module).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    Err(last.map_or_else(|| format!("{}: {}", program.display(), output.status), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_a_program_beside_its_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["wherry-x", "wherry-x-host", "wherry-node", "wherry-y-host", "wherry"] {
            fs::write(path(name), "").unwrap();
        }
        let found = engines(&[folder.path().to_owned(), PathBuf::from("/nonexistent")]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("x".to_owned(), path("wherry-x"))]);
    }
}
