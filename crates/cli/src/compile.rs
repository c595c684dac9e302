//! `wherry-E compile IMAGE-OR-FILE`: compiles modules before a container needs them.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use wherry_engine::Engine;
use wherry_image::{CacheError, CacheEvent, Kind, Module, check_size, kind};
use wherry_supervisor::Program;
use wherry_supervisor::compiler::ProcessCompiler;
use wherry_supervisor::settings::Settings;

use crate::args;
use crate::error::{Error, Result};
use crate::images::{self, Found};

/// The name of a module without one.
const UNNAMED: &str = "the module";

/// Compiles a file, or the modules of an image. Returns the text to print at the end.
pub(crate) fn run(
    engine: &dyn Engine,
    settings: &Settings,
    args: &args::Compile,
) -> Result<String> {
    let source = args.source.as_str();
    let file = Path::new(source);
    if file.is_file() {
        if !is_wasm(file)? {
            return Err(Error::NotWasm(source.to_owned()));
        }
        compile(engine, settings, &[(file.to_owned(), source.to_owned())])?;
        return Ok(String::new());
    }
    // The image stays mounted until this is dropped.
    let image = images::find(&args.daemon, source)?;
    let modules = modules_of(&image)?;
    if modules.is_empty() {
        return Err(Error::NoWasm(source.to_owned()));
    }
    compile(engine, settings, &modules)?;
    let names: Vec<&str> = modules.iter().map(|(_, name)| name.as_str()).collect();
    Ok(format!("{source} has {} of WebAssembly: {}\n", count(names.len()), names.join(", ")))
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

/// Lists the WebAssembly in an image: the path of each file on this machine, and in the image.
fn modules_of(image: &Found) -> Result<Vec<(PathBuf, String)>> {
    let mut modules = Vec::new();
    for root in image.directories() {
        let mut stack = vec![root.clone()];
        while let Some(directory) = stack.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(source) => return Err(Error::Read { path: directory, source }),
            };
            for entry in entries.flatten() {
                // `file_type` does not follow symbolic links, and devices are not read.
                let Ok(kind) = entry.file_type() else { continue };
                let path = entry.path();
                if kind.is_dir() {
                    stack.push(path);
                } else if kind.is_file() && is_wasm(&path)? {
                    let inside = path.strip_prefix(&root).unwrap_or(&path).display();
                    let name = format!("/{inside}");
                    modules.push((path, name));
                }
            }
        }
    }
    modules.sort();
    Ok(modules)
}

fn is_wasm(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(kind::PROBE as u64).read_to_end(&mut head))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(matches!(Kind::of(&head), Kind::Module | Kind::Component | Kind::Text))
}

fn compile(engine: &dyn Engine, settings: &Settings, modules: &[(PathBuf, String)]) -> Result<()> {
    let name = engine.name();
    let key = engine.compile_key().ok_or(Error::NoCompiler(name))?;
    let program = Program::own().map_err(Error::OwnExecutable)?;
    let cache = settings.cache(name);
    for (path, module) in modules {
        let file = File::open(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let compiler = host_compiler(&program, settings, module);
        let (mut compiled, mut warning) = (false, None);
        let mut on_event = |event: CacheEvent| {
            match &event {
                CacheEvent::Warning(text) => warning = Some(text.clone()),
                event => print_progress(&event.to_string()),
            }
            compiled |= matches!(event, CacheEvent::Compiled { .. });
        };
        // The cache must not remember this file's identity: a container gets the same module as
        // another file.
        let wanted = Module { file: &file, name: module, of_image: false };
        cache.get(wanted, &key.0, &compiler, &mut on_event).map_err(failed(module))?;
        match warning {
            // The compilation repairs any other fault, such as a damaged entry.
            Some(text) if text.starts_with("compiled code is not stored") => {
                return Err(Error::NotCached(text));
            }
            _ if compiled => {}
            _ => print_progress(&format!("{module} was compiled before")),
        }
    }
    Ok(())
}

/// Compiles the module on standard input for later starts. A shim starts this and reads neither
/// output nor error: a later start reports a fault of the module.
pub(crate) fn in_background(engine: &dyn Engine, settings: &Settings) -> Result<()> {
    wherry_compiler::yield_to_all();
    let key = engine.compile_key().ok_or(Error::NoCompiler(engine.name()))?;
    // A copy, because the container with the module may be deleted meanwhile.
    let mut copy = tempfile::tempfile().map_err(Error::Temporary)?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(Error::Copy)?;
    let mut module = File::from(stdin);
    let size = check_size(&module, settings.bounds.module)?;
    module
        .rewind()
        .and_then(|()| io::copy(&mut module.take(size), &mut copy))
        .map_err(Error::Copy)?;
    let program = Program::own().map_err(Error::OwnExecutable)?;
    let compiler =
        ProcessCompiler { background: true, ..host_compiler(&program, settings, UNNAMED) };
    let wanted = Module { file: &copy, name: UNNAMED, of_image: false };
    settings
        .cache(engine.name())
        .get(wanted, &key.0, &compiler, &mut |_| {})
        .map_err(failed(UNNAMED))?;
    Ok(())
}

fn failed(module: &str) -> impl FnOnce(CacheError) -> Error + '_ {
    move |source| Error::Compile { module: module.to_owned(), source }
}

pub(crate) fn host_compiler<'a>(
    program: &'a Program,
    settings: &Settings,
    module: &'a str,
) -> ProcessCompiler<'a> {
    ProcessCompiler {
        program,
        reaper: None,
        bounds: settings.bounds,
        module,
        baseline: false,
        background: false,
        start: &[],
        cgroup: None,
        cancel: None,
    }
}

pub(crate) fn print_progress(text: &str) {
    // Progress only: the exit status shows whether the command succeeded.
    let _ = io::stdout().write_all(format!("{text}\n").as_bytes());
}
