//! [`Daemon`] for containerd, through `ctr`: command lines, and the interpretation of the output.

use crate::cgroups::words_for_ctr;
use crate::container::{Container, Fifos};
use crate::containerd::Containerd;
use crate::image::Packed;
use crate::io::{Outcome, call, line_of, wait_child};
use crate::run::{Daemon, Run};
use crate::terminal::{Typed, in_terminal};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

impl Containerd {
    fn run_words(&self, run: &Run, id: &str) -> Vec<String> {
        if let Some(config) = &run.config {
            let mut config = config.clone();
            config["linux"]["cgroupsPath"] = format!("/{}/{id}", self.namespace()).into();
            let path = self.root().join(format!("{id}.json"));
            fs::write(&path, config.to_string()).expect("the scope's folder is writable");
            let path = path.display().to_string();
            let words = ["--runtime", &run.runtime, "--config", &path, id];
            return words.map(str::to_owned).to_vec();
        }
        let mut words = Vec::new();
        let mut add = |new: &[&str]| words.extend(new.iter().map(|&word| word.to_owned()));
        add(&["--runtime", &run.runtime, "--platform", &run.image.platform]);
        for pair in &run.env {
            add(&["--env", pair]);
        }
        if let Some(cwd) = &run.cwd {
            add(&["--cwd", cwd]);
        }
        if run.read_only {
            add(&["--read-only"]);
        }
        if let Some(bytes) = run.memory {
            add(&["--memory-limit", &bytes.to_string()]);
        }
        if let Some(cpus) = run.cpus {
            add(&["--cpus", &cpus.to_string()]);
        }
        for (host, inside, writable) in &run.binds {
            let options = if *writable { "rbind:rw" } else { "rbind:ro" };
            add(&[
                "--mount",
                &format!("type=bind,src={},dst={inside},options={options}", host.display()),
            ]);
        }
        for inside in &run.tmpfs {
            add(&["--mount", &format!("type=tmpfs,src=tmpfs,dst={inside},options=nosuid:nodev")]);
        }
        if let Some(name) = &run.netns {
            add(&["--with-ns", &format!("network:/run/netns/{name}")]);
        }
        words.extend(words_for_ctr(self.namespace(), id));
        words.extend(run.extra.iter().cloned());
        words.push(run.image.reference.clone());
        words.push(id.to_owned());
        if !run.args.is_empty() {
            // With `ctr`, arguments also replace the entrypoint.
            words.extend(run.image.entrypoint.iter().chain(&run.args).cloned());
        }
        words
    }

    /// The pid and state in the task's line of `ctr task ls`.
    fn task(&self, id: &str) -> Option<(i32, String)> {
        let list = self.ctr(&["task", "ls"]);
        let text = list.out();
        let line = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = line.into_iter().find(|words| words.first() == Some(&id))?;
        Some((found.get(1)?.parse().ok()?, (*found.get(2)?).to_owned()))
    }
}

impl Daemon for Containerd {
    fn name(&self) -> String {
        self.version().name().to_owned()
    }

    fn is_docker(&self) -> bool {
        false
    }

    fn containerd(&self) -> &Containerd {
        self
    }

    fn containerd_namespace(&self) -> &str {
        self.namespace()
    }

    fn load(&self, image: &Packed) {
        let once = self.load_once(&image.reference);
        once.get_or_init(|| self.import(image, self.namespace()));
    }

    fn run(&self, run: &Run) -> Outcome {
        self.load(&run.image);
        let id = self.new_id();
        let words = self.run_words(run, &id);
        let mut args = vec!["run", "--rm"];
        args.extend(words.iter().map(String::as_str));
        let outcome = call(self.ctr_command(&args), run.stdin.as_deref());
        // `--rm` does not remove a container whose task could not be created.
        self.ctr(&["containers", "rm", &id]);
        outcome
    }

    fn try_start(&self, run: &Run) -> Result<Container<'_>, Outcome> {
        self.load(&run.image);
        let id = self.new_id();
        let fifos = self.root().join("fifos").join(&id);
        fs::create_dir_all(&fifos).expect("the scope's folder is writable");
        let fifos_text = fifos.display().to_string();
        let words = self.run_words(run, &id);
        let mut args = vec!["run", "--detach", "--fifo-dir", &fifos_text];
        args.extend(words.iter().map(String::as_str));

        // Its input stays open until it has exited: otherwise `ctr` would close the container's.
        let mut command = with_late_end(&self.ctr_command(&args));
        let (out, err) = (fifos.join("ctr.out"), fifos.join("ctr.err"));
        command.stdin(Stdio::piped());
        command
            .stdout(fs::File::create(&out).expect("writable"))
            .stderr(fs::File::create(&err).expect("writable"));
        let mut client = command.spawn().expect("ctr runs");
        let streams =
            Fifos::open(&fifos, &id, || client.try_wait().is_ok_and(|status| status.is_some()));
        let keep_open = client.stdin.take();
        let status = wait_child("ctr run --detach", &mut client);
        drop(keep_open);
        let read = |path: &Path| fs::read(path).unwrap_or_default();
        let outcome = Outcome {
            code: status.code().unwrap_or(-1),
            stdout: read(&out),
            stderr: read(&err),
            command: line_of(&command),
        };
        match streams {
            Some(streams) if status.success() => {
                Ok(Container::new(self, &id, streams.drain(&id, &outcome)))
            }
            _ => {
                self.ctr(&["containers", "rm", &id]);
                Err(outcome)
            }
        }
    }

    fn pid(&self, id: &str) -> Option<i32> {
        self.task(id).filter(|(_, state)| state != "STOPPED").map(|(pid, _)| pid)
    }

    fn ended(&self, id: &str) -> bool {
        // An empty list may also mean that the daemon did not answer.
        let list = self.ctr(&["task", "ls"]);
        list.code == 0 && self.task(id).is_none_or(|(_, state)| state == "STOPPED")
    }

    fn kill(&self, id: &str, signal: &str) -> Outcome {
        let named = !signal.starts_with(|first: char| first.is_ascii_digit());
        let signal = if named { format!("SIG{signal}") } else { signal.to_owned() };
        self.ctr(&["task", "kill", "--signal", &signal, id])
    }

    fn exec(&self, id: &str, words: &[&str], stdin: &[u8]) -> Outcome {
        let exec_id = self.new_id();
        let args = [&["task", "exec", "--exec-id", &exec_id, id], words].concat();
        call(self.ctr_command(&args), Some(stdin))
    }

    fn exec_in_terminal(&self, id: &str, words: &[&str], typed: &Typed<'_>) -> Outcome {
        let exec_id = self.new_id();
        let args = [&["task", "exec", "--tty", "--exec-id", &exec_id, id], words].concat();
        in_terminal(&self.ctr_command(&args), typed)
    }

    fn run_in_terminal(&self, run: &Run, typed: &Typed<'_>) -> Outcome {
        self.load(&run.image);
        let words = self.run_words(run, &self.new_id());
        let mut args = vec!["run", "--rm", "--tty"];
        args.extend(words.iter().map(String::as_str));
        in_terminal(&self.ctr_command(&args), typed)
    }

    fn freeze(&self, id: &str, frozen: bool) -> Outcome {
        self.ctr(&["task", if frozen { "pause" } else { "resume" }, id])
    }

    fn take_exit_code(&self, id: &str) -> i32 {
        let deleted = self.ctr(&["task", "rm", id]);
        deleted.success();
        // `ctr` prints the code only if it is not 0, and only in a warning.
        let said = deleted.err();
        let code =
            said.split("non-zero exit code ").nth(1).map(|rest| rest.trim_end_matches(['"', '\n']));
        code.map_or(0, |code| code.parse().unwrap_or_else(|_| panic!("no exit code: {deleted}")))
    }

    fn remove(&self, id: &str) -> Outcome {
        if self.task(id).is_some() {
            let deleted = self.ctr(&["task", "rm", "--force", id]);
            if deleted.code != 0 {
                return deleted;
            }
        }
        self.ctr(&["containers", "rm", id])
    }
}

/// The same command with a delayed exit: `ctr run --detach` reads the container's first output
/// while it exits, and would lose the bytes that it has read and not written. strace holds the exit
/// for 50 ms.
fn with_late_end(client: &Command) -> Command {
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--seccomp-bpf", "--quiet=all", "--output=/dev/null"]);
    command.args(["--trace=exit_group", "--inject=exit_group:delay_enter=50000"]);
    command.arg(client.get_program()).args(client.get_args());
    for (name, value) in client.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}
