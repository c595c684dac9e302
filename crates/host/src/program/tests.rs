use super::*;

#[test]
fn the_kind_of_a_failure_follows_from_the_error() {
    let kind = |error: ProgramError| Failure::from(error).kind;
    let exec = |errno| ProgramError::Exec { path: "/x".into(), errno };
    assert_eq!(kind(exec(Errno::ENOENT)), FailureKind::NotFound);
    assert_eq!(kind(exec(Errno::ENOEXEC)), FailureKind::NotExecutable);
    let module = |source| ProgramError::Module { path: "/x".into(), source };
    assert_eq!(kind(module(ModuleError::Refused("y".into()))), FailureKind::Invalid);
    assert_eq!(kind(module(ModuleError::NoReply)), FailureKind::System);
    assert_eq!(Failure::from(exec(Errno::E2BIG)).message, "exec \"/x\": argument list too long");
}

#[test]
fn a_guest_has_its_working_directory_in_pwd_unless_the_configuration_sets_it() {
    let env = |env: &[&str]| {
        let env: Vec<String> = env.iter().map(|pair| (*pair).to_owned()).collect();
        environment(&env, Path::new("/w"))
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(env(&["A=B=C", "none"]), [pair("A", "B=C"), pair("PWD", "/w")]);
    assert_eq!(env(&["PWD=/x"]), [pair("PWD", "/x")]);
}

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use wherry_engine::{CompileKey, Trap, Version};

/// An engine that records its guests, with or without compiled code.
#[derive(Default)]
struct Recorder {
    key: Option<&'static str>,
    guests: RefCell<Vec<(Guest, bool)>>,
}

struct Nothing;

impl Program for Nothing {
    fn run(self: Box<Self>) -> Result<wherry_engine::ExitCode, Trap> {
        unreachable!("no test runs a guest")
    }
}

impl Engine for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn version(&self) -> Version {
        unreachable!("no test asks for the version")
    }

    fn compile_key(&self) -> Option<CompileKey> {
        self.key.map(|key| CompileKey(key.to_owned()))
    }

    fn load(&self, code: Code, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
        self.guests.borrow_mut().push((guest, matches!(code, Code::Compiled(_))));
        Ok(Box::new(Nothing))
    }
}

const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A root filesystem with some files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

fn fields(args: &[&str]) -> ProcessFields {
    ProcessFields {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["A=1".to_owned()],
        cwd: "/".to_owned(),
        apparmor_profile: String::new(),
    }
}

/// Loads the program that `args` name with an engine without compiled code.
fn load(args: &[&str]) -> Result<Loaded, Failure> {
    let (channel, _daemon) = Channel::pair().unwrap();
    let loader = Loader {
        engine: &Recorder::default(),
        channel: &channel,
        module_max: 1 << 20,
        http: &Http::default(),
    };
    loader.load(&fields(args)).map_err(Failure::from)
}

fn refused(args: &[&str]) -> Failure {
    load(args).err().unwrap()
}

#[test]
fn a_module_is_loaded_with_its_arguments_and_without_the_hosts_files() {
    let files = Files::new();
    let path = files.write("app.wasm", MODULE);
    let engine = Recorder::default();
    let (channel, _daemon) = Channel::pair().unwrap();
    let loader =
        Loader { engine: &engine, channel: &channel, module_max: 1 << 20, http: &Http::default() };
    let entry = format!("{path}#run");
    let loaded = loader.load(&fields(&[&entry, "a"])).map_err(Failure::from);
    let Ok(Loaded::Wasm { name, args, .. }) = loaded else { panic!("another kind") };
    assert_eq!((name.as_str(), args), ("app.wasm", vec![entry, "a".to_owned()]));
    let guests = engine.guests.borrow();
    let (guest, compiled) = &guests[0];
    assert!(!compiled);
    assert_eq!(guest.function.as_deref(), Some("run"));
    assert_eq!(guest.env, [("A", "1"), ("PWD", "/")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(guest.preopens.len(), 1);
}

#[test]
fn a_module_above_the_limit_is_refused_before_it_is_read() {
    let files = Files::new();
    let path = files.write("app.wasm", &[MODULE, &[0; 100]].concat());
    let (channel, _daemon) = Channel::pair().unwrap();
    let loader = Loader {
        engine: &Recorder::default(),
        channel: &channel,
        module_max: 50,
        http: &Http::default(),
    };
    let failure = Failure::from(loader.load(&fields(&[&path])).err().unwrap());
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.contains("WHERRY_MODULE_SIZE"), "{}", failure.message);
}

#[test]
fn a_file_that_is_not_a_program_is_refused_with_the_reason() {
    let files = Files::new();
    let text = refused(&[&files.write("text", b"hello, this is text")]);
    assert_eq!(text.kind, FailureKind::NotExecutable);
    assert!(text.message.contains("neither WebAssembly"), "{}", text.message);

    let path = files.0.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = refused(&[path.to_str().unwrap()]);
    assert!(pipe.message.ends_with("it is not a regular file"), "{}", pipe.message);

    let missing = refused(&["/no/such/file"]);
    assert_eq!(missing.kind, FailureKind::NotFound);
    assert_eq!(refused(&[]).kind, FailureKind::Invalid);
}

#[test]
fn a_native_program_is_executed_with_all_its_arguments() {
    let files = Files::new();
    let path = files.write("tool", b"#!/bin/sh\n");
    let denied = refused(&[&path]);
    assert_eq!(denied.kind, FailureKind::NotExecutable);
    assert!(denied.message.ends_with("(the file is not executable for this user)"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let Ok(Loaded::Native { args, env, .. }) = load(&[&path, "a"]) else { panic!("another kind") };
    assert_eq!(args, [CString::new(path.clone()).unwrap(), c"a".to_owned()]);
    assert_eq!(env, [c"A=1".to_owned()]);
    let function = refused(&[&format!("{path}#run")]);
    assert_eq!(function.kind, FailureKind::Invalid);
    assert!(function.message.ends_with("a native program has no functions to call with #"));
}

/// Loads a module with an engine that compiles. `answer` is the daemon.
fn compiled(answer: impl FnOnce(Channel) + Send + 'static) -> Result<(), Failure> {
    let files = Files::new();
    let path = files.write("app.wasm", MODULE);
    let engine = Recorder { key: Some("the key"), ..Recorder::default() };
    let (channel, daemon) = Channel::pair().unwrap();
    let daemon = std::thread::spawn(move || answer(daemon));
    let loader =
        Loader { engine: &engine, channel: &channel, module_max: 0, http: &Http::default() };
    let loaded = loader.load(&fields(&[&path])).map(drop).map_err(Failure::from);
    daemon.join().unwrap();
    assert_eq!(
        engine.guests.borrow().iter().filter(|(_, compiled)| *compiled).count(),
        usize::from(loaded.is_ok())
    );
    loaded
}

#[test]
fn compiled_code_comes_from_the_daemon_for_a_module_that_is_sent_to_it() {
    compiled(|daemon| {
        let packet = daemon.receive::<SetupMessage>().unwrap().unwrap();
        let SetupMessage::Compile { key, baseline, .. } = packet.message else {
            panic!("another message")
        };
        assert_eq!((key.as_str(), baseline, packet.fds.len()), ("the key", None, 1));
        let code = File::open("/dev/null").unwrap();
        daemon.send(&SetupReply::Compiled, &[code.as_raw_fd()]).unwrap();
    })
    .unwrap();
}

#[test]
fn a_module_without_code_is_refused_with_the_daemons_sentence() {
    let refused = compiled(|daemon| {
        daemon.receive::<SetupMessage>().unwrap().unwrap();
        daemon.send(&SetupReply::Refused("invalid WebAssembly".to_owned()), &[]).unwrap();
    })
    .unwrap_err();
    assert_eq!(refused.kind, FailureKind::Invalid);
    assert!(refused.message.ends_with("app.wasm: invalid WebAssembly"), "{}", refused.message);
}

#[test]
fn a_daemon_that_sends_no_code_is_a_failure_of_the_machine() {
    let wrong = compiled(|daemon| {
        daemon.receive::<SetupMessage>().unwrap().unwrap();
        daemon.send(&SetupReply::Compiled, &[]).unwrap();
    })
    .unwrap_err();
    assert_eq!(wrong.kind, FailureKind::System);
    assert!(wrong.message.ends_with("the shim sent no compiled code"), "{}", wrong.message);
    let gone = compiled(|daemon| drop(daemon.receive::<SetupMessage>().unwrap())).unwrap_err();
    assert_eq!(gone.kind, FailureKind::System);
    assert!(gone.message.ends_with("the shim ended while it compiled the module"));
}
