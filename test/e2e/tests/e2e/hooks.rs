//! OCI hooks: programs that a configuration names for moments of a container's life.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry_e2e::{on_containerds, on_own_containerds};
use wherry_testing::{
    Container, Containerd, DEADLINE, Daemon, Image, Leftovers, Run, busybox, guests, wait_until,
};

const MOMENTS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn both() -> Image {
    busybox()
        .folder("/tmp", 0o777)
        .file("/kit.wasm", 0o755, guests::bytes("kit.wasm"))
        .entrypoint(&["/kit.wasm"])
        .cmd(&["sleep", "100000"])
}

/// A folder on the host that hooks write to, and a configuration to add hooks to: that of a
/// container made by `ctr`, which also lends its root filesystem.
struct Ground<'d> {
    lender: Container<'d>,
    config: Value,
    folder: PathBuf,
}

impl<'d> Ground<'d> {
    fn new(containerd: &'d Containerd) -> Ground<'d> {
        let lender = containerd.start(&Run::new(&both()));
        let folder = containerd.root().join(format!("hooks-{}", lender.id()));
        fs::create_dir_all(&folder).expect("the scope is writable");
        let text = fs::read_to_string(lender.bundle().join("config.json")).expect("a bundle");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["root"] = json!({"path": lender.bundle().join("rootfs")});
        config["annotations"] = json!({"colour": "blue"});
        let out =
            json!({"type": "bind", "source": folder, "destination": "/out", "options": ["rbind"]});
        config["mounts"].as_array_mut().expect("mounts").push(out);
        Ground { lender, config, folder }
    }

    /// The guest's arguments, and the hooks of each moment.
    fn run(&self, args: &[&str], hooks: Value) -> Run {
        let mut config = self.config.clone();
        config["process"]["args"] = json!(args);
        config["hooks"] = hooks;
        Run::new(&both()).config(config)
    }

    /// A hook that runs a shell command. Inside the container the folder is `/out`.
    fn hook(&self, moment: &str, command: &str) -> Value {
        let folder = if moment == "startContainer" { Path::new("/out") } else { &self.folder };
        let script = format!("cd {}\n{command}", folder.display());
        json!({"path": "/bin/sh", "args": ["sh", "-c", script, moment]})
    }

    fn read(&self, name: &str) -> String {
        let path = self.folder.join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

fn each_runs_at_its_moment_in_its_namespaces_and_is_told_of_the_container(containerd: &Containerd) {
    let ground = Ground::new(containerd);
    let script = |moment: &str| {
        // The process in the state exists, and it is the container's.
        let named = match moment {
            "prestart" | "createRuntime" | "poststart" => {
                r#"ls -l /proc/$(sed 's/.*"pid":\([0-9]*\).*/\1/' state)/ns >> ns"#
            }
            _ => "",
        };
        let named = named.replace("state", &format!("{moment}.state"));
        format!(
            "echo {moment} >> order; cat > {moment}.state; ls -l /proc/self/ns > ns; {named}
            cat ns > {moment}.ns"
        )
    };
    let hooks: Value = MOMENTS
        .iter()
        .map(|&moment| (moment.to_owned(), json!([ground.hook(moment, &script(moment))])))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let container = containerd.start(&ground.run(&["/kit.wasm", "sleep", "100000"], hooks));
    let (id, pid, bundle) = (container.id().to_owned(), container.pid(), container.bundle());
    let namespace = |pid: i32, name: &str| {
        let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs");
        link.display().to_string()
    };
    for name in ["mnt", "net", "pid"] {
        let (daemons, guests) = (namespace(containerd.daemon_pid(), name), namespace(pid, name));
        for moment in &MOMENTS[..5] {
            let text = ground.read(&format!("{moment}.ns"));
            let own = text.lines().find(|line| line.contains(&format!("{name}:["))).expect("one");
            let outside = !moment.ends_with("Container");
            assert!(own.contains(if outside { &daemons } else { &guests }), "{moment}: {text}");
            if outside {
                assert!(text.contains(&guests), "{moment}: {text} does not name {guests}");
            }
        }
    }
    container.remove();
    assert_eq!(ground.read("order"), MOMENTS.map(|moment| format!("{moment}\n")).concat());
    let status = ["creating", "creating", "creating", "created", "running", "stopped"];
    for (moment, status) in MOMENTS.into_iter().zip(status) {
        let state: Value = serde_json::from_str(&ground.read(&format!("{moment}.state")))
            .unwrap_or_else(|e| panic!("{moment}: {e}"));
        let seen = match moment {
            "createContainer" | "startContainer" => json!(1),
            "poststop" => Value::Null,
            _ => json!(pid),
        };
        assert_eq!(state["pid"], seen, "{moment}: {state}");
        assert_eq!(state["id"], json!(id), "{moment}: {state}");
        assert_eq!(state["status"], json!(status), "{moment}: {state}");
        assert_eq!(state["bundle"], json!(bundle), "{moment}: {state}");
        assert_eq!(state["ociVersion"], ground.config["ociVersion"], "{moment}: {state}");
        assert_eq!(state["annotations"], json!({"colour": "blue"}), "{moment}: {state}");
    }
}

fn it_gets_its_arguments_and_environment(containerd: &Containerd) {
    let ground = Ground::new(containerd);
    let mut hook = ground.hook("prestart", "echo $0 $COLOUR ${HOME-none} > said");
    hook["env"] = json!(["COLOUR=green"]);
    let bare = ground.hook("prestart", "env > inherited");
    let mut run = ground.run(&["/kit.wasm", "echo", "hi"], json!({"prestart": [hook, bare]}));
    run = run.args(&[""; 0]);
    assert_eq!(containerd.run(&run).success(), "hi\n");
    assert_eq!(ground.read("said"), "prestart green none\n");
    assert!(ground.read("inherited").contains("PATH="), "as runc's hooks have it");
}

/// As a network plug-in does: the pid in the state leads to the network namespace.
fn a_hook_sets_up_the_network(containerd: &Containerd) {
    let ground = Ground::new(containerd);
    let script = r#"pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/')
        nsenter --net=/proc/$pid/ns/net ip addr add 10.98.76.5/32 dev lo"#;
    let hooks = json!({"createRuntime": [ground.hook("createRuntime", script)]});
    let container = containerd.start(&ground.run(&["/kit.wasm", "sleep", "100000"], hooks));
    let mut command = Command::new("nsenter");
    command.args([&format!("--net=/proc/{}/ns/net", container.pid()), "ip", "addr", "show", "lo"]);
    let shown = command.output().expect("nsenter runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("10.98.76.5"), "{shown}");
}

/// As the hooks for GPUs do: into the mount namespace, before pivot_root.
fn a_hook_puts_files_into_the_container(containerd: &Containerd) {
    let ground = Ground::new(containerd);
    let root = ground.lender.bundle().join("rootfs");
    let script = format!(
        r#"pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/')
        nsenter --mount=/proc/$pid/ns/mnt sh -c 'mount -t tmpfs x {0}/tmp && echo injected > {0}/tmp/a'"#,
        root.display()
    );
    let inside = "cd {root} && mount -t tmpfs y dev/shm && echo too > dev/shm/b";
    let inside = inside.replace("{root}", &root.display().to_string());
    for moment in ["prestart", "createRuntime"] {
        let hooks = json!({
            moment: [ground.hook(moment, &script)],
            "createContainer": [ground.hook("createContainer", &inside)],
        });
        for (file, said) in [("/tmp/a", "injected\n"), ("/dev/shm/b", "too\n")] {
            let run = ground.run(&["/kit.wasm", "read", file], hooks.clone());
            assert_eq!(containerd.run(&run).success(), said, "{moment}");
        }
        assert!(!root.join("tmp/a").exists(), "{moment}: it is mounted on the host as well");
    }
}

fn a_failing_one_is_the_error_and_undoes_the_container(containerd: &Containerd) {
    let ground = Ground::new(containerd);
    for moment in &MOMENTS[..4] {
        let fails = ground.hook(moment, "echo oh dear >&2; exit 3");
        let after = ground.hook(moment, "touch not-this-one");
        let mut hangs = ground.hook(moment, "exec sleep 100000");
        hangs["timeout"] = json!(1);
        let missing = json!({"path": "/no/such/hook"});
        let cases = [
            (fails, format!("the {moment} hook /bin/sh ended with status 3: oh dear")),
            (hangs, format!("the {moment} hook /bin/sh ran longer than its timeout of 1 s")),
            (missing, format!("the {moment} hook /no/such/hook cannot be run: No such file")),
        ];
        for (hook, sentence) in cases {
            // The first case has none.
            let _ = fs::remove_file(ground.folder.join("poststop"));
            let gone = ground.hook("poststop", "cat > poststop");
            let hooks = json!({*moment: [hook, after], "poststop": [gone]});
            let said = containerd.run(&ground.run(&["/kit.wasm", "echo", "hi"], hooks)).failure();
            assert!(said.contains(&sentence), "{said}");
            wait_until("poststop", DEADLINE, || ground.folder.join("poststop").exists());
            assert!(ground.read("poststop").contains(r#""status":"stopped""#));
        }
    }
    assert!(!ground.folder.join("not-this-one").exists());
}

fn a_failing_one_after_the_start_is_a_warning(containerd: &Containerd) {
    let ground = Ground::new(containerd);
    let hooks = |moment: &str| {
        let fails = ground.hook(moment, &format!("echo a pity >&2; exit 4 # {moment}"));
        json!([fails, ground.hook(moment, &format!("touch {moment}"))])
    };
    let hooks = json!({"poststart": hooks("poststart"), "poststop": hooks("poststop")});
    let run = ground.run(&["/kit.wasm", "echo", "hi"], hooks);
    assert_eq!(containerd.run(&run).success(), "hi\n");
    for moment in ["poststart", "poststop"] {
        assert!(ground.folder.join(moment).exists(), "the one after the failing one was left out");
        let sentence = format!("the {moment} hook /bin/sh ended with status 4: a pity");
        wait_until("the warning", DEADLINE, || {
            fs::read_to_string(containerd.log_path()).is_ok_and(|log| log.contains(&sentence))
        });
    }
}

fn one_that_hangs_holds_up_its_own_container_alone(containerd: &Containerd) {
    let mut ground = Ground::new(containerd);
    // One shim serves both.
    let pod = format!("pod-{}", ground.lender.id());
    ground.config["annotations"] = json!({"io.containerd.runc.v2.group": pod});
    let first = containerd.start(&ground.run(&["/kit.wasm", "sleep", "100000"], json!({})));
    for moment in MOMENTS {
        let script =
            format!("touch {moment}.hangs; while [ ! -e {moment}.go ]; do sleep 0.02; done");
        let hooks = json!({moment: [ground.hook(moment, &script)]});
        let run = ground.run(&["/kit.wasm", "echo", "hi"], hooks);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| containerd.run(&run));
            let hangs = ground.folder.join(format!("{moment}.hangs"));
            wait_until(&format!("{moment}: it hangs"), DEADLINE, || hangs.exists());
            let said = containerd.exec(first.id(), &["/kit.wasm", "echo", "meanwhile"], b"");
            assert_eq!(said.success(), "meanwhile\n");
            assert!(!second.is_finished(), "{moment}: Create did not wait for the hook");
            fs::write(ground.folder.join(format!("{moment}.go")), "").expect("ours");
            assert_eq!(second.join().expect("it ran").success(), "hi\n");
        });
    }
}

on_containerds!(
    each_runs_at_its_moment_in_its_namespaces_and_is_told_of_the_container,
    it_gets_its_arguments_and_environment,
    a_hook_sets_up_the_network,
    a_hook_puts_files_into_the_container,
    a_failing_one_is_the_error_and_undoes_the_container,
    a_failing_one_after_the_start_is_a_warning,
    one_that_hangs_holds_up_its_own_container_alone,
);

mod alone {
    use super::*;

    fn nothing_is_left_of_a_container_whose_hook_fails_or_whose_shim_dies(containerd: &Containerd) {
        let ground = Ground::new(containerd);
        let with = |moment: &str, command: &str| {
            let hooks = json!({
                moment: [ground.hook(moment, command)],
                "poststop": [ground.hook("poststop", "echo gone >> gone")],
            });
            ground.run(&["/kit.wasm", "sleep", "100000"], hooks)
        };
        containerd.run(&with("prestart", "false")).failure();
        let leftovers = Leftovers::snapshot(containerd);
        for moment in &MOMENTS[..4] {
            containerd.run(&with(moment, "exit 1")).failure();
        }
        leftovers.assert_none_new();
        fs::remove_file(ground.folder.join("gone")).expect("it was written");

        let container = containerd.start(&with("prestart", "true"));
        for shim in container.shims() {
            let status = Command::new("kill").args(["-KILL", &shim.pid.to_string()]).status();
            assert!(status.is_ok_and(|status| status.success()));
        }
        wait_until("the exit is reported", DEADLINE, || container.ended());
        container.remove();
        leftovers.assert_none_new();
        assert_eq!(ground.read("gone"), "gone\n", "poststop ran once");
    }

    on_own_containerds!(nothing_is_left_of_a_container_whose_hook_fails_or_whose_shim_dies);
}
