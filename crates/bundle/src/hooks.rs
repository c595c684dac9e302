//! OCI hooks: programs that a configuration runs at moments of a container's life (the runtime
//! specification's config.md, "POSIX-platform Hooks", and runtime.md, "Lifecycle").
//!
//! The daemon runs the hooks of the runtime's namespaces: prestart and createRuntime when the host
//! reports that the container's namespaces exist, poststart at the end of Start, and poststop when
//! everything else is removed. createContainer and startContainer run in the container's
//! namespaces, from the engine host.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{ContainerState, Hook, Hooks, State};
use serde::{Deserialize, Serialize};
use wherry_sys::process::{Pid, Process, status_of};
use wherry_sys::reaper::Reaper;

use crate::{Bundle, Config};

/// How much of a failing hook's output the error quotes, bytes, from its end.
const QUOTED: u64 = 2048;

/// The moments at which hooks run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The namespaces exist and the root filesystem is mounted, but not yet entered.
    Prestart,
    /// As [`Moment::Prestart`], after it.
    CreateRuntime,
    /// As [`Moment::CreateRuntime`], after it, in the container's namespaces.
    CreateContainer,
    /// At Start, in the container, just before the guest runs.
    StartContainer,
    /// The guest runs, and Start has not been answered yet.
    Poststart,
    /// The container is removed, and Delete has not been answered yet.
    Poststop,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Moment::Prestart => "prestart",
            Moment::CreateRuntime => "createRuntime",
            Moment::CreateContainer => "createContainer",
            Moment::StartContainer => "startContainer",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        }
    }

    fn status(self) -> ContainerState {
        match self {
            Moment::Prestart | Moment::CreateRuntime | Moment::CreateContainer => {
                ContainerState::Creating
            }
            Moment::StartContainer => ContainerState::Created,
            Moment::Poststart => ContainerState::Running,
            Moment::Poststop => ContainerState::Stopped,
        }
    }

    fn of(self, hooks: &Hooks) -> Option<&Vec<Hook>> {
        match self {
            Moment::Prestart => hooks.prestart().as_ref(),
            Moment::CreateRuntime => hooks.create_runtime().as_ref(),
            Moment::CreateContainer => hooks.create_container().as_ref(),
            Moment::StartContainer => hooks.start_container().as_ref(),
            Moment::Poststart => hooks.poststart().as_ref(),
            Moment::Poststop => hooks.poststop().as_ref(),
        }
    }
}

/// The hooks of one moment, with their state, directory and environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "SavedBatch", into = "SavedBatch")]
pub struct Batch {
    moment: Moment,
    hooks: Vec<Hook>,
    state: State,
    /// The working directory; None for that of the process that runs the hooks.
    directory: Option<PathBuf>,
    /// The environment of a hook without one; None for that of the process that runs the hooks.
    environment: Option<Vec<String>>,
}

/// A batch in the document of a handover, whose format cannot skip fields.
#[derive(Serialize, Deserialize)]
struct SavedBatch {
    moment: Moment,
    hooks: Vec<SavedHook>,
    version: String,
    id: String,
    bundle: PathBuf,
    annotations: Option<HashMap<String, String>>,
    directory: Option<PathBuf>,
    environment: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct SavedHook {
    path: PathBuf,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    timeout: Option<i64>,
}

impl From<Batch> for SavedBatch {
    fn from(batch: Batch) -> SavedBatch {
        let Batch { moment, hooks, state, directory, environment } = batch;
        let save = |hook: Hook| SavedHook {
            path: hook.path().clone(),
            args: hook.args().clone(),
            env: hook.env().clone(),
            timeout: hook.timeout(),
        };
        SavedBatch {
            moment,
            hooks: hooks.into_iter().map(save).collect(),
            version: state.version().clone(),
            id: state.id().clone(),
            bundle: state.bundle().clone(),
            annotations: state.annotations().clone(),
            directory,
            environment,
        }
    }
}

impl From<SavedBatch> for Batch {
    fn from(saved: SavedBatch) -> Batch {
        let SavedBatch { moment, hooks, version, id, bundle, annotations, .. } = saved;
        let restore = |SavedHook { path, args, env, timeout }| {
            let mut hook = Hook::default();
            hook.set_path(path).set_args(args).set_env(env).set_timeout(timeout);
            hook
        };
        let hooks = hooks.into_iter().map(restore).collect();
        let state = state(moment, version, id, bundle, annotations);
        Batch { moment, hooks, state, directory: saved.directory, environment: saved.environment }
    }
}

/// The state that a hook gets, without the pid.
fn state(
    moment: Moment,
    version: String,
    id: String,
    bundle: PathBuf,
    annotations: Option<HashMap<String, String>>,
) -> State {
    let mut state = State::default();
    state.set_version(version).set_id(id).set_status(moment.status()).set_bundle(bundle);
    state.set_annotations(annotations);
    state
}

/// A hook failed.
#[derive(Debug, thiserror::Error)]
#[error("the {moment} hook {path} {cause}")]
pub struct HookError {
    moment: &'static str,
    path: String,
    cause: HookCause,
}

/// Why a hook failed, as the predicate of a sentence.
#[derive(Debug, thiserror::Error)]
enum HookCause {
    #[error("is not an absolute path")]
    Relative,
    #[error("has a timeout of {0}: it must be greater than 0")]
    Timeout(i64),
    #[error("cannot be run: {0}")]
    Spawn(#[from] io::Error),
    #[error("ended with status {status}{output}")]
    Status { status: u32, output: String },
    #[error("ran longer than its timeout of {seconds} s{output}")]
    Late { seconds: u64, output: String },
}

impl Batch {
    /// The hooks of `moment`. As in runc, those of the runtime's namespaces run in the bundle,
    /// createContainer's in the root filesystem, and those of the container's namespaces with the
    /// environment of the container's process.
    #[must_use]
    pub fn new(moment: Moment, bundle: &Bundle, config: &Config) -> Batch {
        let (id, path) = (bundle.id().to_owned(), bundle.path().to_owned());
        let version = config.oci_version.clone();
        let state = state(moment, version, id, path, config.annotations.clone());
        let environment = || {
            let process = config.process.as_ref();
            Some(process.and_then(|process| process.env.clone()).unwrap_or_default())
        };
        let (directory, environment) = match moment {
            Moment::CreateContainer => (Some(bundle.root(config)), environment()),
            Moment::StartContainer => (None, environment()),
            _ => (Some(bundle.path().to_owned()), None),
        };
        let hooks = config.hooks.as_ref().and_then(|hooks| moment.of(hooks));
        let hooks = hooks.cloned().unwrap_or_default();
        Batch { moment, hooks, state, directory, environment }
    }

    /// Whether no hooks are configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// Runs the hooks one after the other. Blocks. `pid` is the container's first process, in the
    /// pid namespace of this process. `reaper` reaps this process's children, if another thread
    /// does so.
    ///
    /// # Errors
    /// If a hook fails; the remaining hooks do not run. After the guest has started a failure has
    /// no effect: it is logged, and the remaining hooks run.
    pub fn run(&self, pid: Option<i32>, reaper: Option<&Reaper>) -> Result<(), HookError> {
        let mut state = self.state.clone();
        state.set_pid(pid);
        for hook in &self.hooks {
            let Err(cause) = self.run_one(hook, &state, reaper) else { continue };
            let path = hook.path().display().to_string();
            let error = HookError { moment: self.moment.name(), path, cause };
            match self.moment {
                Moment::Poststart | Moment::Poststop => log::warn!("{}: {error}", self.state.id()),
                _ => return Err(error),
            }
        }
        Ok(())
    }

    fn run_one(
        &self,
        hook: &Hook,
        state: &State,
        reaper: Option<&Reaper>,
    ) -> Result<(), HookCause> {
        if !hook.path().is_absolute() {
            return Err(HookCause::Relative);
        }
        let limit = match hook.timeout() {
            None => None,
            Some(seconds @ 1..) => Some(seconds.unsigned_abs()),
            Some(other) => return Err(HookCause::Timeout(other)),
        };
        // Files in memory instead of pipes: no thread has to write or read while the hook runs, and
        // a background process that it leaves behind does not block.
        let input = memory_file(&serde_json::to_vec(state).map_err(io::Error::from)?)?;
        let output = memory_file(&[])?;
        let mut command = Command::new(hook.path());
        command.stdin(input).stdout(output.try_clone()?).stderr(output.try_clone()?);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
            command.arg0(name).args(args);
        }
        if let Some(environment) = hook.env().as_ref().or(self.environment.as_ref()) {
            let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
            command.env_clear().envs(pairs);
        }
        match wait(command.spawn()?, reaper, limit.map(Duration::from_secs))? {
            End::Status(0) => Ok(()),
            End::Status(status) => Err(HookCause::Status { status, output: quote(output) }),
            End::Late(limit) => {
                Err(HookCause::Late { seconds: limit.as_secs(), output: quote(output) })
            }
        }
    }
}

/// How a hook ended.
enum End {
    /// By itself: the exit status, or 128 plus the signal that killed it.
    Status(u32),
    /// Killed: it ran longer than this limit.
    Late(Duration),
}

/// Waits for the exit of a child, at most for `limit`; then kills it.
fn wait(mut child: Child, reaper: Option<&Reaper>, limit: Option<Duration>) -> io::Result<End> {
    let Some(reaper) = reaper else {
        let Some(limit) = limit else { return Ok(End::Status(status_of(child.wait()?))) };
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(End::Status(status_of(status)));
            }
            // A poll, because the container's seccomp profile may forbid the calls that wait with a
            // timeout.
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill()?;
        child.wait()?;
        return Ok(End::Late(limit));
    };
    let gone = || io::Error::other("the shim is shutting down");
    let process = Process::new(Pid::of(&child).number());
    let exit = reaper.exit_of(process.pid());
    let Some(limit) = limit else {
        return Ok(End::Status(exit.recv().map_err(|_| gone())?.status));
    };
    match exit.recv_timeout(limit) {
        Ok(exit) => Ok(End::Status(exit.status)),
        Err(RecvTimeoutError::Timeout) => {
            // SignalError::Gone: it has just ended.
            let _ = process.signal(libc::SIGKILL.unsigned_abs());
            exit.recv().map_err(|_| gone())?;
            Ok(End::Late(limit))
        }
        Err(RecvTimeoutError::Disconnected) => Err(gone()),
    }
}

fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"wherry-hook", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The end of a hook's output, to be appended to a sentence.
fn quote(output: File) -> String {
    let bytes = match end_of(output) {
        Ok(bytes) => bytes,
        Err(error) => return format!("; its output cannot be read: {error}"),
    };
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => String::new(),
        text => format!(": {}", text.replace('\n', " ")),
    }
}

/// Reads the last [`QUOTED`] bytes of a file.
fn end_of(mut file: File) -> io::Result<Vec<u8>> {
    let start = file.metadata()?.len().saturating_sub(QUOTED);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(QUOTED).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A bundle whose hooks are shell scripts.
    struct Scripts(tempfile::TempDir);

    impl Scripts {
        fn new() -> Scripts {
            Scripts(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(name)
        }

        /// A hook of this name that runs `script`, with more fields of a hook.
        fn hook(&self, name: &str, script: &str, more: &str) -> String {
            let path = self.path(name);
            // Another process writes it: a descriptor of this one for writing would be inherited by
            // what other tests fork, and until their exec the file could not be executed (ETXTBSY).
            let write = ["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#];
            let status = Command::new("sh").args(write).arg(&path).arg(script).status().unwrap();
            assert!(status.success());
            format!(r#"{{"path": {path:?}{more}}}"#)
        }

        fn batch(&self, moment: Moment, hooks: &[String]) -> Batch {
            let json = format!(
                r#"{{"ociVersion": "1.2.1", "annotations": {{"k": "v"}},
                    "process": {{"env": ["WHO=guest"], "cwd": "/"}}, "root": {{"path": "root"}},
                    "hooks": {{"{}": [{}]}}}}"#,
                moment.name(),
                hooks.join(",")
            );
            let config: Config = crate::parse(json.as_bytes()).unwrap();
            Batch::new(moment, &Bundle::new(self.0.path(), "c1"), &config)
        }

        fn run(&self, moment: Moment, hooks: &[String]) -> Result<(), String> {
            self.batch(moment, hooks).run(Some(7), None).map_err(|error| error.to_string())
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }
    }

    #[test]
    fn hooks_run_in_their_order_in_the_bundle() {
        let scripts = Scripts::new();
        let hooks = [
            scripts.hook("a", "echo a >> log; pwd >> log", ""),
            scripts.hook("b", "echo b >> log", ""),
        ];
        scripts.run(Moment::Prestart, &hooks).unwrap();
        let here = scripts.0.path().canonicalize().unwrap();
        assert_eq!(scripts.read("log"), format!("a\n{}\nb\n", here.display()));
    }

    #[test]
    fn the_hooks_of_a_batch_run_after_a_handover_as_before() {
        let scripts = Scripts::new();
        let hooks = [
            scripts.hook("a", "cat >> log", r#", "env": ["X=y"]"#),
            scripts.hook(
                "b",
                "echo $0 $1 $X $PWD >> log",
                r#", "args": ["b", "1"], "env": ["X=z"]"#,
            ),
            scripts.hook("c", "exit 3", r#", "timeout": 100"#),
        ];
        let batch = scripts.batch(Moment::Prestart, &hooks);
        let run = |batch: &Batch| {
            let error = batch.run(Some(7), None).unwrap_err().to_string();
            let log = scripts.read("log");
            fs::remove_file(scripts.path("log")).unwrap();
            (error, log)
        };
        let before = run(&batch);
        assert!(before.1.contains("\"k\":\"v\""), "{before:?}");
        assert_eq!(run(&wherry_sys::handover::copy(&batch)), before);
    }

    #[test]
    fn a_hook_gets_the_state_on_its_input() {
        let scripts = Scripts::new();
        scripts.run(Moment::CreateRuntime, &[scripts.hook("h", "cat > state", "")]).unwrap();
        let state: State = serde_json::from_str(&scripts.read("state")).unwrap();
        assert_eq!((state.id().as_str(), state.pid()), ("c1", &Some(7)));
        assert_eq!(state.status(), &ContainerState::Creating);
        assert_eq!(state.bundle(), scripts.0.path());
        assert_eq!(state.annotations().as_ref().unwrap()["k"], "v");
    }

    #[test]
    fn a_hook_has_its_own_arguments_and_environment() {
        let scripts = Scripts::new();
        let more = r#", "args": ["name", "one", "two"], "env": ["X=1"]"#;
        let hook = scripts.hook("h", r#"echo "$X $1 $2" > out"#, more);
        scripts.run(Moment::Poststart, &[hook]).unwrap();
        assert_eq!(scripts.read("out"), "1 one two\n");
    }

    #[test]
    fn a_hook_of_the_containers_namespaces_has_the_environment_of_its_process() {
        let scripts = Scripts::new();
        fs::create_dir(scripts.path("root")).unwrap();
        let hook = scripts.hook("h", r#"echo "$WHO" > out"#, "");
        scripts.run(Moment::CreateContainer, std::slice::from_ref(&hook)).unwrap();
        assert_eq!(scripts.read("root/out"), "guest\n");
    }

    #[test]
    fn a_failing_hook_is_named_with_its_output_and_the_next_does_not_run() {
        let scripts = Scripts::new();
        let hooks = [scripts.hook("a", "echo why; exit 3", ""), scripts.hook("b", "touch ran", "")];
        let text = scripts.run(Moment::Prestart, &hooks).unwrap_err();
        let path = scripts.path("a");
        let expected = format!("the prestart hook {} ended with status 3: why", path.display());
        assert_eq!(text, expected);
        assert!(!scripts.path("ran").exists());
    }

    #[test]
    fn a_failing_hook_after_the_start_stops_nothing() {
        for moment in [Moment::Poststart, Moment::Poststop] {
            let scripts = Scripts::new();
            let hooks = [scripts.hook("a", "exit 3", ""), scripts.hook("b", "touch ran", "")];
            scripts.run(moment, &hooks).unwrap();
            assert!(scripts.path("ran").exists());
        }
    }

    #[test]
    fn of_much_output_the_end_is_quoted() {
        let scripts = Scripts::new();
        let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo the end; exit 1";
        let text = scripts.run(Moment::Prestart, &[scripts.hook("h", script, "")]).unwrap_err();
        assert!(text.ends_with("x the end") && text.len() < 2300, "{}", text.len());
    }

    #[test]
    fn a_hook_is_killed_after_its_timeout() {
        let scripts = Scripts::new();
        let hook = scripts.hook("h", "echo still; exec sleep 1000", r#", "timeout": 1"#);
        let text = scripts.run(Moment::Prestart, &[hook]).unwrap_err();
        assert!(text.ends_with("ran longer than its timeout of 1 s: still"), "{text}");
    }

    #[test]
    fn an_invalid_hook_is_named() {
        let scripts = Scripts::new();
        let run = |hook: &str| scripts.run(Moment::Prestart, &[hook.to_owned()]).unwrap_err();
        let text = run(r#"{"path": "relative"}"#);
        assert_eq!(text, "the prestart hook relative is not an absolute path");
        let text = run(r#"{"path": "/no/such/hook"}"#);
        assert!(text.starts_with("the prestart hook /no/such/hook cannot be run: No such file"));
        let text = run(r#"{"path": "/bin/true", "timeout": 0}"#);
        assert!(text.ends_with("has a timeout of 0: it must be greater than 0"), "{text}");
    }

    #[test]
    fn a_hook_that_leaves_a_process_behind_is_not_waited_for() {
        let scripts = Scripts::new();
        let hook = scripts.hook("h", "sleep 1000 & echo $! > pid", "");
        scripts.run(Moment::Prestart, &[hook]).unwrap();
        let pid: i32 = scripts.read("pid").trim().parse().unwrap();
        Process::new(pid).signal(9).unwrap();
    }

    /// In a separate process: the reaper would reap the children of other tests.
    #[test]
    fn with_a_reaper_the_exit_comes_from_there() {
        if !wherry_sys::alone("hooks::tests::with_a_reaper_the_exit_comes_from_there") {
            return;
        }
        let scripts = Scripts::new();
        // Before the reaper runs, which would reap the processes that write them.
        let ends = scripts.hook("a", "exit 0", "");
        let fails = scripts.hook("b", "exit 9", "");
        let hangs = scripts.hook("c", "exec sleep 1000", r#", "timeout": 1"#);
        let reaper = Reaper::default();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    reaper.reap();
                    std::thread::yield_now();
                }
            });
            let run = |hook: String| {
                let batch = scripts.batch(Moment::Prestart, &[hook]);
                batch.run(None, Some(&reaper)).map_err(|error| error.to_string())
            };
            run(ends).unwrap();
            let text = run(fails).unwrap_err();
            assert!(text.ends_with("ended with status 9"), "{text}");
            let text = run(hangs).unwrap_err();
            assert!(text.ends_with("ran longer than its timeout of 1 s"), "{text}");
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn without_hooks_a_batch_is_empty() {
        let scripts = Scripts::new();
        assert!(scripts.batch(Moment::Prestart, &[]).is_empty());
        let other = Bundle::new(Path::new("/b"), "x");
        assert!(Batch::new(Moment::Poststop, &other, &Config::default()).is_empty());
    }
}
