//! `wherry-E run`: runs a module without containerd, for developers and for the engines'
//! conformance tests. The guest sees only the resources that the command line gives it.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use wherry_engine::{Code, CompileError, Engine, Guest, Network, Preopen, Program, Start};
use wherry_host::filter::{self, Allow};
use wherry_host::guest::{run_to_end, start};
use wherry_host::{is_file, nss, plugins, signals};
use wherry_image::Kind;

use crate::args;
use crate::error::{Error, LoadCause, Result};

/// Runs a guest to its end, with which this process exits.
pub(crate) fn run(engine: &dyn Engine, options: args::Run) -> Result<Infallible> {
    signals::handle_termination();
    nss::use_files_and_dns();
    let plugins = options.plugins.as_deref().map_or(Ok(PathBuf::new()), absolute)?;
    plugins::load(engine, &plugins)?;
    let (path, guest) = guest(options);
    let root = Path::new("/");
    let sees_root =
        guest.preopens.iter().any(|preopen| preopen.host == root && preopen.guest == "/");
    let file = File::open(&path).map_err(|source| Error::Open { path: path.clone(), source })?;
    let mut program =
        load(engine, &file, guest).map_err(|cause| Error::Load { path: path.clone(), cause })?;
    let allow = Allow::for_guests_of(engine, &plugins, false);
    filter::install(allow, sees_root, engine.link_buffer())?;
    start(&mut *program)?;
    run_to_end(program, &path.file_name().unwrap_or_default().to_string_lossy())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::Resolve { path: path.to_owned(), source })
}

/// Returns the guest that the options describe, and the path of its file.
fn guest(options: args::Run) -> (PathBuf, Guest) {
    let mut guest =
        Guest { env: options.env, cwd: options.cwd, args: options.guest, ..Guest::default() };
    if options.net {
        guest.network = Network::Namespace;
    }
    for directory in options.dir {
        let (host, name) = directory.split_once("::").unwrap_or((&directory, &directory));
        guest.preopens.push(Preopen { host: host.into(), guest: name.to_owned() });
    }
    let file = guest.args.first().cloned().unwrap_or_default();
    match file.rsplit_once('#') {
        Some((path, function)) if !is_file(Path::new(&file)) => {
            guest.function = Some(function.to_owned());
            (path.into(), guest)
        }
        _ => (file.into(), guest),
    }
}

fn load(
    engine: &dyn Engine,
    file: &File,
    guest: Guest,
) -> std::result::Result<Box<dyn Program>, LoadCause> {
    wherry_image::check_size(file, wherry_image::MODULE_MAX)?;
    let bytes = wherry_image::read_all(file)?;
    if !matches!(Kind::of(&bytes), Kind::Module | Kind::Component | Kind::Text) {
        return Err(LoadCause::NotWasm);
    }
    let wasm = wherry_compiler::binary(&bytes)?;
    let code = if engine.compile_key().is_some() {
        let start =
            Start { function: guest.function.clone(), plugin_modules: engine.plugin_modules() };
        Code::Compiled(compiled(engine, &wasm, &start)?)
    } else {
        Code::Wasm(wasm.into_owned())
    };
    Ok(engine.load(code, guest)?)
}

/// Compiles into memory: a developer changes the module between one run and the next.
fn compiled(
    engine: &dyn Engine,
    wasm: &[u8],
    start: &Start,
) -> std::result::Result<File, CompileError> {
    engine.check(wasm, Some(start))?;
    let fd = memfd_create(c"wherry-code", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?;
    let mut code = File::from(fd);
    if start.is_server() {
        engine.compile_server(wasm, &mut code)?;
    } else {
        engine.compile(wasm, &mut code)?;
    }
    code.rewind()?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest_of(file: &str) -> (PathBuf, Guest) {
        guest(args::Run {
            env: Vec::new(),
            dir: vec!["a::/b".to_owned(), "c".to_owned()],
            cwd: "/".into(),
            net: false,
            plugins: None,
            guest: vec![file.to_owned(), "x".to_owned()],
        })
    }

    #[test]
    fn a_function_follows_the_file() {
        let (path, guest) = guest_of("/no/app.wasm#go");
        assert_eq!((path, guest.function), ("/no/app.wasm".into(), Some("go".to_owned())));
        assert_eq!(guest.args, ["/no/app.wasm#go", "x"]);
    }

    #[test]
    fn a_file_may_have_the_sign_in_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a#b");
        std::fs::write(&file, "").unwrap();
        let (path, guest) = guest_of(&file.display().to_string());
        assert_eq!((path, guest.function), (file, None));
    }

    #[test]
    fn a_directory_has_the_same_name_inside_unless_another_is_given() {
        let (_, guest) = guest_of("app.wasm");
        let names: Vec<_> =
            guest.preopens.iter().map(|one| (one.host.clone(), one.guest.as_str())).collect();
        assert_eq!(names, [("a".into(), "/b"), ("c".into(), "c")]);
    }
}
