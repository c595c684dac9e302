//! `wherry-E compile IMAGE-OR-FILE`: compiles ahead of time what containers will want.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use wherry_engine::Engine;
use wherry_image::{CacheEvent, Kind, Module, check_size, kind};
use wherry_sandbox::compiler::{CompilerProgram, HostCompiler};

use crate::config::Config;
use crate::images::{Daemon, Found};

pub(crate) const USAGE: &str = "compile [--address CONTAINERD] [--namespace NAME] \
     [--platform OS/ARCHITECTURE] IMAGE-OR-FILE";

/// Compiles what `args` name; they are those behind the word `compile`. Returns what there is to
/// say in the end.
pub(crate) fn run(engine: &dyn Engine, config: &Config, args: &[&str]) -> Result<String, String> {
    let usage = || format!("usage: {USAGE}");
    let mut daemon = Daemon::default();
    let mut args = args.iter();
    let what = loop {
        let arg = *args.next().ok_or_else(usage)?;
        let option = match arg {
            "--address" | "-a" => &mut daemon.address,
            "--namespace" | "-n" => &mut daemon.namespace,
            "--platform" => &mut daemon.platform,
            option if option.starts_with('-') => return Err(usage()),
            what => break what,
        };
        *option = Some((*args.next().ok_or_else(usage)?).to_owned());
    };
    if args.next().is_some() {
        return Err(usage());
    }
    let file = Path::new(what);
    if file.is_file() {
        if !is_wasm(file).map_err(|error| format!("{what}: {error}"))? {
            return Err(format!("{what} is not WebAssembly (module, component or text)"));
        }
        compile(engine, config, &[(file.to_owned(), what.to_owned())])?;
        return Ok(String::new());
    }
    // Mounted, it is there until this value's end.
    let image = daemon.find(what)?;
    let modules = modules_of(&image)?;
    if modules.is_empty() {
        return Err(format!("image {what} has no WebAssembly in it"));
    }
    compile(engine, config, &modules)?;
    let names: Vec<&str> = modules.iter().map(|(_, name)| name.as_str()).collect();
    Ok(format!("{what} has {} of WebAssembly: {}\n", count(names.len()), names.join(", ")))
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

/// The WebAssembly in an image: where each file is, and what it is called there.
fn modules_of(image: &Found) -> Result<Vec<(PathBuf, String)>, String> {
    let mut modules = Vec::new();
    for root in image.directories() {
        let mut stack = vec![root.clone()];
        while let Some(directory) = stack.pop() {
            let failed = |error: io::Error| format!("{}: {error}", directory.display());
            for entry in fs::read_dir(&directory).map_err(failed)?.flatten() {
                // Neither through symbolic links nor into devices.
                let Ok(kind) = entry.file_type() else { continue };
                let path = entry.path();
                if kind.is_dir() {
                    stack.push(path);
                } else if kind.is_file() && is_wasm(&path).unwrap_or(false) {
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

fn is_wasm(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(kind::PROBE as u64).read_to_end(&mut head)?;
    Ok(matches!(Kind::of(&head), Kind::Module | Kind::Component | Kind::Text))
}

fn compile(
    engine: &dyn Engine,
    config: &Config,
    modules: &[(PathBuf, String)],
) -> Result<(), String> {
    let name = engine.name();
    let key = engine.compile_key().ok_or_else(|| {
        format!("{name} compiles nothing ahead of time: it takes a module as it is")
    })?;
    let program = CompilerProgram::own().map_err(|error| format!("cannot run itself: {error}"))?;
    let cache = config.cache(name);
    for (path, module) in modules {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let compiler = host_compiler(&program, config, module);
        let (mut compiled, mut trouble) = (false, None);
        let mut tell = |note: CacheEvent| {
            match &note {
                CacheEvent::Warning(text) => trouble = Some(text.clone()),
                note => say(&note.to_string()),
            }
            compiled |= matches!(note, CacheEvent::Compiled { .. });
        };
        // Not remembered: the mounted image is another file than the container's.
        let wanted = Module { file: &file, name: module, of_image: false };
        cache
            .get(wanted, &key.0, &compiler, &mut tell)
            .map_err(|error| format!("{module}: {error}"))?;
        match trouble {
            // What was wrong is mended by now, unless it could not be written.
            Some(text) if text.starts_with("compiled code is not stored") => return Err(text),
            _ if compiled => {}
            _ => say(&format!("{module} was compiled before")),
        }
    }
    Ok(())
}

/// Compiles the module on standard input for later starts. Nobody listens: what is wrong with a module its start
/// tells.
pub(crate) fn behind(engine: &dyn Engine, config: &Config) -> Result<String, String> {
    let text = |error: io::Error| error.to_string();
    let key = engine.compile_key().ok_or_else(|| "nothing to compile".to_owned())?;
    // A copy: the container that it lies in may go meanwhile.
    let mut copy = tempfile::tempfile().map_err(text)?;
    let mut module = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(text)?);
    let size = check_size(&module, config.bounds.module).map_err(|error| error.to_string())?;
    module.rewind().and_then(|()| io::copy(&mut module.take(size), &mut copy)).map_err(text)?;
    let program = CompilerProgram::own().map_err(text)?;
    let compiler = HostCompiler { behind: true, ..host_compiler(&program, config, "a module") };
    let wanted = Module { file: &copy, name: "a module", of_image: false };
    let made = config.cache(engine.name()).get(wanted, &key.0, &compiler, &mut |_| {});
    made.map(|_| String::new()).map_err(|error| error.to_string())
}

fn host_compiler<'a>(
    program: &'a CompilerProgram,
    config: &Config,
    module: &'a str,
) -> HostCompiler<'a> {
    HostCompiler {
        program,
        reaper: None,
        bounds: config.bounds,
        module,
        quickly: false,
        behind: false,
        customer: None,
        start: &[],
    }
}

fn say(text: &str) {
    let _ = io::stdout().write_all(format!("{text}\n").as_bytes());
}
