//! `wherry-E run`: a module without containerd, for a developer's desk and for the engines'
//! conformance tests. The guest sees what the command line gives it and nothing else.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::memfd::{MFdFlags, memfd_create};
use wherry_engine::{Code, CompileError, Engine, Guest, Network, Preopen, Start};
use wherry_image::Kind;

use wherry_host::filter::{self, Allow};
use wherry_host::guest::run_to_end;
use wherry_host::{is_file, nss, plugins as host_plugins, signals};

const USAGE: &str = "usage: run [--env K=V]... [--dir HOST[::GUEST]]... [--cwd DIR] [--net] [--plugins PATH] \
     FILE[#function] [ARG]...";

/// Runs the guest that `args` describe; they are those behind the word `run`.
#[must_use]
pub fn run(engine: &dyn Engine, args: Vec<String>) -> ExitCode {
    signals::handle_termination();
    nss::use_files_and_dns();
    match parse(args).and_then(|Wanted { file, guest, plugins }| {
        let failed = |text: String| (1, text);
        host_plugins::load(engine, &plugins).map_err(|error| failed(error.to_string()))?;
        let shown = file.display().to_string();
        let root = Path::new("/");
        let rooted =
            guest.preopens.iter().any(|preopen| preopen.host == root && preopen.guest == "/");
        let program = load(engine, &file, guest)
            .map_err(|(code, text)| (code, format!("{shown}: {text}")))?;
        let allow = Allow::for_guests_of(engine, &plugins, false);
        filter::install(allow, rooted, engine.link_buffer())
            .map_err(|error| failed(error.to_string()))?;
        Ok(program)
    }) {
        Ok((program, name)) => run_to_end(program, &name),
        Err((code, text)) => {
            let _ =
                io::stderr().write_all(format!("wherry-{}: {text}\n", engine.name()).as_bytes());
            ExitCode::from(code)
        }
    }
}

type Refusal = (u8, String);

/// What the command line asks for.
struct Wanted {
    file: PathBuf,
    guest: Guest,
    plugins: PathBuf,
}

fn parse(args: Vec<String>) -> Result<Wanted, Refusal> {
    let mut plugins = PathBuf::new();
    let mut guest = Guest { cwd: "/".into(), ..Guest::default() };
    let mut args = args.into_iter();
    let usage = || (2, USAGE.to_owned());
    let file = loop {
        let arg = args.next().ok_or_else(usage)?;
        match arg.as_str() {
            "--env" => {
                let pair = args.next().ok_or_else(usage)?;
                let (key, value) = pair.split_once('=').ok_or_else(usage)?;
                guest.env.push((key.to_owned(), value.to_owned()));
            }
            "--dir" => {
                let pair = args.next().ok_or_else(usage)?;
                let (host, name) = pair.split_once("::").unwrap_or((&pair, &pair));
                guest.preopens.push(Preopen { host: host.into(), guest: name.to_owned() });
            }
            "--cwd" => guest.cwd = args.next().ok_or_else(usage)?.into(),
            "--plugins" => {
                let path = args.next().ok_or_else(usage)?;
                plugins = std::path::absolute(path).map_err(|error| (2, error.to_string()))?;
            }
            "--net" => guest.network = Network::Namespace,
            option if option.starts_with("--") => return Err(usage()),
            _ => break arg,
        }
    };
    guest.args = std::iter::once(file.clone()).chain(args).collect();
    let path = match file.rsplit_once('#') {
        Some((path, function)) if !is_file(Path::new(&file)) => {
            guest.function = Some(function.to_owned());
            path.into()
        }
        _ => file.into(),
    };
    Ok(Wanted { file: path, guest, plugins })
}

fn load(
    engine: &dyn Engine,
    path: &Path,
    guest: Guest,
) -> Result<(Box<dyn wherry_engine::Program>, String), Refusal> {
    let failed = |text: String| (1, text);
    let file = File::open(path).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        (code, error.to_string())
    })?;
    wherry_image::check_size(&file, wherry_image::MODULE_MAX)
        .map_err(|error| failed(error.to_string()))?;
    let bytes = wherry_image::read_all(&file).map_err(|error| failed(error.to_string()))?;
    match Kind::of(&bytes) {
        Kind::Module | Kind::Component | Kind::Text => {}
        _ => return Err(failed("not WebAssembly (module, component or text)".to_owned())),
    }
    let wasm = wherry_compiler::binary(&bytes).map_err(|error| failed(error.to_string()))?;
    let code = if engine.compile_key().is_some() {
        let start =
            Start { function: guest.function.clone(), plugin_modules: engine.plugin_modules() };
        Code::Compiled(compiled(engine, &wasm, &start).map_err(|error| failed(error.to_string()))?)
    } else {
        Code::Wasm(wasm.into_owned())
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    engine
        .load(code, guest)
        .map(|program| (program, name))
        .map_err(|error| failed(error.to_string()))
}

/// Compiles into memory: a developer changes the module between one run and the next.
fn compiled(engine: &dyn Engine, wasm: &[u8], start: &Start) -> Result<File, CompileError> {
    engine.check(wasm, Some(start))?;
    let fd = memfd_create(c"wherry-code", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?;
    let mut code = File::from(fd);
    engine.compile(wasm, &mut code)?;
    code.rewind()?;
    Ok(code)
}
