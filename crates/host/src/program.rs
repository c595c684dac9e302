//! The program of a process: the file that its first argument names, and, for WebAssembly, the
//! module loaded into the engine.
//!
//! Runs inside the container, as the process's user, before Start: every fault is an error of
//! Create.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use wherry_engine::{
    Code, Engine, Guest, Http, LoadError, Network, Preopen, Program, SERVER, Start,
};
use wherry_image::{Entrypoint, EntrypointError, Kind, Look, NoFile, SizeError, kind, strip_init};
use wherry_protocol::{Channel, Failure, FailureKind, SetupMessage, SetupReply};

use crate::apparmor::{self, ApparmorError};
use crate::own_executable;

/// Why a program cannot run. The texts of a native program begin with `exec`, as a shell's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error(transparent)]
    Entrypoint(#[from] EntrypointError),
    #[error("exec {:?}: {source}", shown(.path))]
    Open { path: PathBuf, source: io::Error },
    #[error("exec {:?}: permission denied: it is not a regular file", shown(.0))]
    NotRegular(PathBuf),
    #[error(
        "exec {:?}: permission denied: this is a precompiled module, native code that came with the \
         image and is never run; put the .wasm itself into the image",
        shown(.0)
    )]
    Precompiled(PathBuf),
    #[error(
        "exec {:?}: permission denied: the file is neither WebAssembly (module, component or text) nor \
         a native program",
        shown(.0)
    )]
    UnknownKind(PathBuf),
    #[error("exec {:?}: a native program has no functions to call with #", shown(.0))]
    NativeFunction(PathBuf),
    #[error(
        "exec {:?}: permission denied: it is the engine host of this runtime, not a program of the \
         container",
        shown(.0)
    )]
    OwnExecutable(PathBuf),
    #[error("exec {:?}: {}", shown(.path), exec_cause(*.errno))]
    Exec { path: PathBuf, errno: Errno },
    #[error("an argument or environment variable contains a NUL byte: {0:?}")]
    NulByte(String),
    /// A fault of the module.
    #[error("{}: {source}", .path.display())]
    Module { path: PathBuf, source: ModuleError },
    #[error(transparent)]
    Apparmor(#[from] ApparmorError),
}

/// Why a module cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModuleError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("cannot read the module: {0}")]
    Read(io::Error),
    #[error("lost the connection to the shim while it compiled the module: {0}")]
    Channel(io::Error),
    #[error("the shim ended while it compiled the module")]
    NoReply,
    #[error("the shim sent no compiled code")]
    NoCode,
    /// The daemon has no code for the module; the text is the daemon's.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Failure {
        let kind = match &error {
            ProgramError::Entrypoint(EntrypointError::None)
            | ProgramError::NativeFunction(_)
            | ProgramError::NulByte(_) => FailureKind::Invalid,
            ProgramError::Entrypoint(EntrypointError::NoFile {
                cause: NoFile::Directory | NoFile::Closed | NoFile::Loop | NoFile::TooLong,
                ..
            }) => FailureKind::NotExecutable,
            // An ENOENT of exec: the file exists, and its interpreter does not.
            ProgramError::Entrypoint(_) | ProgramError::Exec { errno: Errno::ENOENT, .. } => {
                FailureKind::NotFound
            }
            ProgramError::Open { .. }
            | ProgramError::NotRegular(_)
            | ProgramError::Precompiled(_)
            | ProgramError::UnknownKind(_)
            | ProgramError::OwnExecutable(_)
            | ProgramError::Exec { .. } => FailureKind::NotExecutable,
            ProgramError::Module { source, .. } => match source {
                ModuleError::Load(LoadError::Context { .. } | LoadError::Engine(_))
                | ModuleError::Size(_)
                | ModuleError::Refused(_) => FailureKind::Invalid,
                ModuleError::Load(_) => FailureKind::Unsupported,
                _ => FailureKind::System,
            },
            ProgramError::Apparmor(_) => FailureKind::System,
        };
        Failure::new(kind, error.to_string())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn exec_cause(errno: Errno) -> String {
    match errno {
        Errno::ENOENT => "no such file or directory (the program's interpreter is missing)".into(),
        Errno::EACCES => "permission denied (the file is not executable for this user)".into(),
        Errno::ENOEXEC => "exec format error (a program for another processor?)".into(),
        other => other.desc().to_lowercase(),
    }
}

/// The fields of the configuration's process that its program needs.
pub(crate) struct ProcessFields {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    /// Empty: the root.
    pub(crate) cwd: String,
    pub(crate) apparmor_profile: String,
}

impl ProcessFields {
    fn cwd(&self) -> &Path {
        Path::new(if self.cwd.is_empty() { "/" } else { &self.cwd })
    }
}

/// A program that is ready to run.
pub(crate) enum Loaded {
    Wasm { program: Box<dyn Program>, name: String, args: Vec<String> },
    Native { path: CString, args: Vec<CString>, env: Vec<CString> },
}

/// Loads the program of a process.
pub(crate) struct Loader<'a> {
    pub(crate) engine: &'a dyn Engine,
    /// The setup channel, over which the daemon sends compiled code.
    pub(crate) channel: &'a Channel,
    /// The largest module that this process reads itself, bytes.
    pub(crate) module_max: u64,
    /// The options of a server.
    pub(crate) http: &'a Http,
}

impl Loader<'_> {
    /// Finds and loads the program of a process.
    pub(crate) fn load(&self, process: &ProcessFields) -> Result<Loaded, ProgramError> {
        let mut args = strip_init(&process.args).unwrap_or(&process.args);
        let mut resolved = resolve(args, process)?;
        // An init process is for native programs: a guest's process does an init's work, and an
        // init cannot execute a module.
        if resolved.kind == Kind::Native && args.len() != process.args.len() {
            args = &process.args;
            resolved = resolve(args, process)?;
        }
        let Resolved { entry, file, kind } = resolved;
        match (kind, file) {
            (Kind::Module | Kind::Component | Kind::Text, Some(file)) => {
                let name =
                    entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let path = entry.path.clone();
                let program = self
                    .load_module(&file, self.guest(process, entry, args))
                    .map_err(|source| ProgramError::Module { path, source })?;
                // Last: the profile need not allow the engine to receive and map its compiled code,
                // which is not a file of the container.
                apparmor::change_profile(&process.apparmor_profile)?;
                Ok(Loaded::Wasm { program, name, args: args.to_vec() })
            }
            (Kind::Precompiled, _) => Err(ProgramError::Precompiled(entry.path)),
            (Kind::Other, _) => Err(ProgramError::UnknownKind(entry.path)),
            _ if entry.function.is_some() => Err(ProgramError::NativeFunction(entry.path)),
            _ => load_native(&entry.path, process),
        }
    }

    fn load_module(&self, file: &File, guest: Guest) -> Result<Box<dyn Program>, ModuleError> {
        let key = match guest.function.as_deref() {
            Some(SERVER) => self.engine.server_key().or_else(|| self.engine.compile_key()),
            _ => self.engine.compile_key(),
        };
        let code = match key {
            Some(key) => Code::Compiled(self.request_code(file, key.0, &guest)?),
            None => {
                wherry_image::check_size(file, self.module_max)?;
                Code::Wasm(wherry_image::read_all(file).map_err(ModuleError::Read)?)
            }
        };
        Ok(self.engine.load(code, guest)?)
    }

    fn guest(&self, process: &ProcessFields, entry: Entrypoint, args: &[String]) -> Guest {
        Guest {
            function: entry.function,
            args: args.to_vec(),
            env: environment(&process.env, process.cwd()),
            cwd: process.cwd().to_owned(),
            preopens: vec![Preopen { host: "/".into(), guest: "/".into() }],
            network: Network::Namespace,
            http: self.http.clone(),
        }
    }

    /// Requests the compiled code of a module from the daemon.
    fn request_code(&self, module: &File, key: String, guest: &Guest) -> Result<File, ModuleError> {
        let baseline = self.engine.baseline_key().map(|key| key.0);
        let start = Start {
            function: guest.function.clone(),
            plugin_modules: self.engine.plugin_modules(),
        };
        let start = start.to_args();
        self.channel
            .send(&SetupMessage::Compile { key, baseline, start }, &[module.as_raw_fd()])
            .map_err(ModuleError::Channel)?;
        let reply = self.channel.receive::<SetupReply>().map_err(ModuleError::Channel)?;
        let packet = reply.ok_or(ModuleError::NoReply)?;
        match (packet.message, packet.fds.into_iter().next()) {
            (SetupReply::Compiled, Some(fd)) => Ok(File::from(fd)),
            (SetupReply::Refused(text), _) => Err(ModuleError::Refused(text)),
            (SetupReply::Compiled | SetupReply::Proceed, _) => Err(ModuleError::NoCode),
        }
    }
}

/// The guest's environment: the configured one, and PWD, the only way in which WASI preview 1 can
/// pass the working directory.
fn environment(env: &[String], cwd: &Path) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = env
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if !pairs.iter().any(|(key, _)| key == "PWD") {
        pairs.push(("PWD".to_owned(), cwd.display().to_string()));
    }
    pairs
}

/// The file that the first argument names.
struct Resolved {
    entry: Entrypoint,
    /// None: the user may execute it but not read it.
    file: Option<File>,
    kind: Kind,
}

fn resolve(args: &[String], process: &ProcessFields) -> Result<Resolved, ProgramError> {
    let path = process.env.iter().find_map(|pair| pair.strip_prefix("PATH="));
    let entry = Entrypoint::resolve(args, path, process.cwd(), look)?;
    match probe(&entry.path) {
        Ok(Some((file, kind))) => Ok(Resolved { entry, file: Some(file), kind }),
        Ok(None) => Err(ProgramError::NotRegular(entry.path)),
        // A module must be readable; a native program need not be.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(Resolved { entry, file: None, kind: Kind::Native })
        }
        Err(source) => Err(ProgramError::Open { path: entry.path, source }),
    }
}

/// Inspects a path on the way to the program.
fn look(path: &Path) -> Look {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Look::Nothing(NoFile::Directory),
        Ok(_) if access(path, AccessFlags::X_OK).is_ok() => Look::Runs,
        Ok(_) => match probe(path) {
            Ok(Some((_, Kind::Module | Kind::Component | Kind::Text))) => Look::Runs,
            _ => Look::NotExecutable,
        },
        Err(error) => Look::Nothing(NoFile::from_error(&error)),
    }
}

/// Opens a file and detects its kind. Returns None if it is not a regular file.
fn probe(path: &Path) -> io::Result<Option<(File, Kind)>> {
    // O_NONBLOCK: without it the open of a named pipe waits for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut head = vec![0; kind::PROBE];
    let length = file.read_at(&mut head, 0)?;
    head.truncate(length);
    let kind = Kind::of(&head);
    Ok(Some((file, kind)))
}

fn load_native(path: &Path, process: &ProcessFields) -> Result<Loaded, ProgramError> {
    if own_executable::is_executed_by(path) {
        return Err(ProgramError::OwnExecutable(path.to_owned()));
    }
    // A file that is not executable is an error of Create; exec reports the rest.
    access(path, AccessFlags::X_OK)
        .map_err(|errno| ProgramError::Exec { path: path.to_owned(), errno })?;
    let text = |bytes: &[u8]| {
        let nul_byte = |_| ProgramError::NulByte(String::from_utf8_lossy(bytes).into_owned());
        CString::new(bytes).map_err(nul_byte)
    };
    let all =
        |list: &[String]| list.iter().map(|each| text(each.as_bytes())).collect::<Result<_, _>>();
    Ok(Loaded::Native {
        path: text(path.as_os_str().as_bytes())?,
        args: all(&process.args)?,
        env: all(&process.env)?,
    })
}

#[cfg(test)]
mod tests;
