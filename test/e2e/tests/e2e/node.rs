//! `wherry-node` as a person runs it: on a node whose containerd knows no wasm runtime.

use crate::engines::engine_in;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry_e2e::cri::{Cri, Member, api, children_of};
use wherry_e2e::images::{hello, spin};
use wherry_testing::{
    ContainerdVersion, DEADLINE, Outcome, bin_dir, busybox, call, engine, wait_until,
};

/// Starts containerd in place of the one whose number the file `pid` has. With a file `refuse`
/// beside, it does not start with a configuration that has that word in it, as a containerd that
/// dislikes its configuration.
const RESTART: &str = r#"#!/bin/bash
cd "$(dirname "$0")" || exit 1
pid=$(cat pid)
kill -KILL "$pid" 2> /dev/null
# One that our parent has not waited for has no command line any more.
while [ -s "/proc/$pid/cmdline" ] && tr '\0' ' ' < "/proc/$pid/cmdline" | grep -q containerd; do sleep 0.02; done
if [ -e refuse ] && grep -q "$(cat refuse)" node.toml; then exit 0; fi
PATH=$SEARCH setsid "$CONTAINERD" --config "$PWD/node.toml" < /dev/null >> node.log 2>&1 &
echo $! > pid
echo restarted >> restarts
"#;

/// How `wherry-node` restarts it.
enum Restart {
    /// With a command.
    Script,
    /// Through systemd, of whom this is the unit.
    Unit(String),
}

/// A containerd without our runtimes, and what `wherry-node` needs to know of it.
struct Node {
    cri: Cri,
    root: PathBuf,
    containerd: PathBuf,
    restart: Restart,
}

impl Node {
    fn start(version: ContainerdVersion) -> Node {
        Node::with(version, |text, _| text)
    }

    /// With changes to the configuration, given the node's folder.
    fn with(version: ContainerdVersion, change: impl Fn(String, &Path) -> String) -> Node {
        let cri = Cri::start(version);
        let root = cri.containerd().root().to_owned();
        let daemon = |name: &str| wherry_testing::daemon_bin(name).display().to_string();
        let text =
            fs::read_to_string(root.join("containerd.toml")).expect("the daemon has read it");
        // The tests' own containerd has the engine's runtime, at the end.
        let (text, _) = text.split_once(&format!("runtimes.{}]", engine())).expect("its table");
        let (text, _) = text.rsplit_once('\n').expect("the beginning of the table's line");
        let text = format!("# the node's own\n{text}\n");
        fs::write(root.join("node.toml"), change(text, &root)).expect("the folder is writable");
        let search = format!("{}:{}:/usr/bin:/bin:/sbin", daemon(version.name()), daemon("runc"));
        let containerd = PathBuf::from(daemon(version.name())).join("containerd");
        let script = RESTART
            .replace("$SEARCH", &search)
            .replace("$CONTAINERD", &containerd.display().to_string());
        fs::write(root.join("restart.sh"), script).expect("the folder is writable");
        fs::write(root.join("pid"), cri.containerd().daemon_pid().to_string()).expect("writable");
        let node = Node { cri, root, containerd, restart: Restart::Script };
        let script = node.root.join("restart.sh");
        assert!(Command::new("/bin/bash").arg(script).status().expect("bash").success());
        node.wait();
        fs::remove_file(node.root.join("restarts")).expect("it was restarted once");
        node
    }

    /// One that is a service of systemd's.
    fn under_systemd(version: ContainerdVersion) -> Node {
        let mut node = Node::start(version);
        let pid = fs::read_to_string(node.root.join("pid")).expect("it was started");
        assert!(
            Command::new("kill").arg("-KILL").arg(pid.trim()).status().expect("kill").success()
        );
        let unit = format!("{}.service", node.cri.containerd().namespace());
        let folder = |name: &str| wherry_testing::daemon_bin(name).display().to_string();
        let search = format!("{}:{}:/usr/bin:/bin:/sbin", folder(version.name()), folder("runc"));
        let mut command = Command::new("systemd-run");
        command.args([
            "--unit",
            &unit,
            "--property",
            "KillMode=process",
            "--property",
            "Delegate=yes",
        ]);
        command.args(["--setenv", &format!("PATH={search}")]).arg(&node.containerd);
        command.arg("--config").arg(node.root.join("node.toml"));
        call(command, None).success();
        node.restart = Restart::Unit(unit);
        node.wait();
        node
    }

    fn wait(&self) {
        wait_until("containerd serves with the node's configuration", DEADLINE, || {
            self.run(&["status"]).out().contains("no, nothing is installed")
        });
    }

    /// The options by which `wherry-node` finds it.
    fn options(&self) -> Vec<String> {
        let path = |name: &str| self.root.join(name).display().to_string();
        let restart = match &self.restart {
            Restart::Script => {
                ["--restart-command".into(), format!("/bin/bash {}", path("restart.sh"))]
            }
            Restart::Unit(unit) => ["--service".into(), unit.clone()],
        };
        let mut words: Vec<String> = vec![
            "--containerd-config".into(),
            path("node.toml"),
            "--address".into(),
            path("c.sock"),
            "--containerd".into(),
            self.containerd.display().to_string(),
            "--state".into(),
            path("installed"),
        ];
        words.extend(restart);
        words
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(bin_dir().join("wherry-node"));
        command.args(self.options()).args(args);
        let outcome = call(command, None);
        self.cri.wait_ready();
        outcome
    }

    fn install(&self) -> Outcome {
        self.install_from(&bin_dir())
    }

    fn install_from(&self, from: &Path) -> Outcome {
        self.install_with(from, &[])
    }

    fn install_with(&self, from: &Path, options: &[&str]) -> Outcome {
        let (from, to) = (from.display().to_string(), self.root.join("bin").display().to_string());
        let engine = engine();
        let words =
            ["install", "--from", &from, "--bin-dir", &to, "--engines", &engine, "--timeout", "30"];
        self.run(&[words.as_slice(), options].concat())
    }

    fn restarts(&self) -> usize {
        fs::read_to_string(self.root.join("restarts")).map_or(0, |text| text.lines().count())
    }

    fn config(&self) -> String {
        fs::read_to_string(self.root.join("node.toml")).expect("the configuration is there")
    }
}

fn says_hello(node: &Node, name: &str) {
    says_hello_under(node, name, &engine());
}

fn says_hello_under(node: &Node, name: &str, handler: &str) {
    node.cri.wait_ready();
    let image = hello();
    let mut pod = node.cri.pod_under(name, handler);
    let id = pod.run(&Member::new("guest", &image));
    assert_eq!(pod.wait(&id).exit_code, 0);
    pod.wait_for_log("guest", "stdout F hello\n");
    pod.remove();
}

fn installing_makes_pods_run_and_uninstalling_leaves_what_was_there(node: &Node) {
    let before = node.config();
    let out = node.install().success();
    assert!(out.contains(&format!("the runtimes {} are ready", engine())), "{out}");
    assert_eq!(node.restarts(), 1);
    says_hello(node, "guest");
    // The default runtime is unchanged.
    let native = busybox();
    let mut pod = node.cri.pod_under("native", "");
    let id = pod.run(&Member::new("native", &native).args(&["true"]));
    assert_eq!(pod.wait(&id).exit_code, 0);
    pod.remove();
    // Twice is the same as once.
    let after = node.config();
    let out = node.install().success();
    assert!(out.contains("serves the runtimes already"), "{out}");
    assert_eq!((node.config(), node.restarts()), (after, 1));
    assert!(node.run(&["status"]).success().contains("ready:         yes"));
    // Not under a pod that needs it.
    let image = spin();
    let mut pod = node.cri.pod_under("running", &engine());
    pod.run(&Member::new("guest", &image));
    let error = node.run(&["uninstall"]).failure();
    assert!(error.contains("pods still use the runtimes: default/running"), "{error}");
    pod.remove();
    let out = node.run(&["uninstall"]).success();
    assert!(out.contains("node.toml is as it was"), "{out}");
    assert_eq!(node.config(), before);
    for name in ["bin", "installed"] {
        assert!(!node.root.join(name).exists(), "{name} was not there before");
    }
    assert!(!node.run(&["status"]).out().contains("ready:         yes"));
}

fn the_runtime_for_all_engines_gets_the_annotations_of_a_pod(node: &Node) {
    let before = node.config();
    let (from, to) = (bin_dir().display().to_string(), node.root.join("bin"));
    let bin = to.display().to_string();
    let words = ["install", "--from", &from, "--bin-dir", &bin, "--timeout", "30", "--engines"];
    let error = node.run(&[&words[..], &["wherry"]].concat()).failure();
    assert!(error.contains("the runtime wherry runs nothing alone"), "{error}");
    let out = node.run(&[&words[..], &["wamr,wasmtime,wherry"]].concat()).success();
    assert!(out.contains("the runtimes wamr, wasmtime, wherry are ready"), "{out}");
    node.cri.wait_ready();
    let image = spin();
    let mut config = node.cri.config("annotated", api::CONTAINER);
    config.annotations.insert("wherry.engine/second".to_owned(), "wamr".to_owned());
    let mut pod = node.cri.pod_of_under(config, "wherry").expect("the pod runs");
    for (name, engine) in [("first", "wasmtime"), ("second", "wamr")] {
        let id = pod.run(&Member::new(name, &image));
        pod.wait_for_log(name, "stdout F ready\n");
        assert_eq!(engine_in(&to, pod.status(&id).1), engine, "{name}");
    }
    assert!(node.run(&["doctor"]).out().contains("wherry"), "it is among the runtimes");
    pod.remove();
    node.run(&["uninstall"]).success();
    assert_eq!(node.config(), before);
    assert!(!to.exists(), "it was not there before");
}

fn an_upgrade_replaces_executables_under_running_pods(node: &Node) {
    node.install().success();
    let image = spin();
    let mut pod = node.cri.pod_under("old", &engine());
    let guest = pod.run(&Member::new("guest", &image));
    pod.wait_for_log("guest", "stdout F ready\n");
    // Another version: an ELF file may have bytes behind its end.
    let newer = node.root.join("newer");
    fs::create_dir(&newer).expect("the folder is writable");
    let engine = engine();
    let files = [
        format!("containerd-shim-{engine}-v1"),
        format!("wherry-{engine}-host"),
        format!("wherry-{engine}"),
    ];
    for file in &files {
        let mut bytes = fs::read(bin_dir().join(file)).expect("it is built");
        bytes.push(0);
        fs::write(newer.join(file), bytes).expect("the folder is writable");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(newer.join(file), mode).expect("it is ours");
    }
    let out = node.install_from(&newer).success();
    assert_eq!(out.matches("installed ").count(), files.len(), "{out}");
    assert_eq!(node.restarts(), 1, "executables alone need no restart");
    assert_eq!(pod.status(&guest).0.state, api::RUNNING);
    says_hello(node, "new");
    pod.stop(&guest);
    assert_eq!(pod.wait(&guest).exit_code, 143, "the old shim serves its pod to the end");
    pod.remove();
    node.run(&["uninstall"]).success();
    assert!(!node.root.join("bin").exists());
}

fn a_configuration_that_containerd_does_not_serve_with_is_taken_back(node: &Node) {
    let before = node.config();
    fs::write(node.root.join("refuse"), "wherry-node").expect("the folder is writable");
    let to = node.root.join("bin").display().to_string();
    let from = bin_dir().display().to_string();
    let engine = engine();
    let words =
        ["install", "--from", &from, "--bin-dir", &to, "--engines", &engine, "--timeout", "3"];
    let error = node.run(&words).failure();
    assert!(
        error.contains("after the restart containerd did not list the runtimes within 3 s"),
        "{error}"
    );
    assert!(error.contains("is back and containerd serves with it"), "{error}");
    assert_eq!(node.config(), before);
    assert!(node.run(&["status"]).out().contains("ready:         no, the handler"));
    node.run(&["uninstall"]).success();
    assert!(!node.root.join("bin").exists());
}

fn a_configuration_of_version_1_is_refused_and_left_alone(node: &Node) {
    let before = node.config();
    let old =
        before.lines().filter(|line| !line.starts_with("version")).collect::<Vec<_>>().join("\n");
    fs::write(node.root.join("node.toml"), &old).expect("the folder is writable");
    let error = node.install().failure();
    assert!(error.contains("version 1 of the configuration format is not supported"), "{error}");
    assert_eq!((node.config(), node.restarts()), (old, 0));
}

/// Runs it as the chart's pod does: the host's root is another directory, and `setpriv` may take
/// capabilities away.
fn in_pod(node: &Node, setpriv: &str, what: &str) -> Outcome {
    let host = node.root.join("host");
    fs::create_dir_all(&host).expect("the folder is writable");
    let words = node.options().iter().map(|word| format!("'{word}' ")).collect::<String>();
    let (program, host) = (bin_dir().join("wherry-node"), host.display());
    let program = program.display();
    // The namespaces that it enters for the restart's command: our own in place of the first
    // process's, which a machine may forbid root to enter.
    let ours = std::process::id();
    let script = format!(
        "mount --rbind / '{host}' && mount --bind /proc/{ours}/ns '{host}/proc/1/ns' && \
         exec {setpriv} '{program}' --root '{host}' {words} {what}"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let outcome = call(command, None);
    node.cri.wait_ready();
    outcome
}

fn install_words(node: &Node) -> String {
    let (from, to, engine) = (bin_dir(), node.root.join("bin"), engine());
    format!("install --from '{}' --bin-dir '{}' --engines {engine}", from.display(), to.display())
}

fn the_hosts_root_may_be_another_directory(node: &Node) {
    in_pod(node, "", &install_words(node)).success();
    says_hello(node, "guest");
    let out = in_pod(node, "", "doctor").success();
    assert!(out.contains(&format!("{} ran a module to its end", engine())), "{out}");
    in_pod(node, "", "uninstall").success();
    assert!(!node.root.join("bin").exists());
}

fn the_doctor_names_what_is_missing(node: &Node) {
    node.install().success();
    let out = node.run(&["doctor"]).success();
    assert!(out.contains(&format!("{} ran a module to its end", engine())), "{out}");
    let host = node.root.join("bin").join(format!("wherry-{}-host", engine()));
    fs::remove_file(host).expect("it was installed");
    let out = node.run(&["doctor"]);
    out.failure();
    let out = out.out();
    assert!(
        out.contains("FAIL executables:") && out.contains("-host does not run on this host"),
        "{out}"
    );
    // Repaired by another installation.
    node.install().success();
    node.run(&["doctor"]).success();
    node.run(&["uninstall"]).success();
}

macro_rules! on_nodes {
    ($($test:ident),+ $(,)?) => {
        mod each {
            use super::*;
            wherry_e2e::on_containerd_versions!(version => &super::Node::start(version); $($test),+);
        }
    };
}

on_nodes!(
    installing_makes_pods_run_and_uninstalling_leaves_what_was_there,
    the_runtime_for_all_engines_gets_the_annotations_of_a_pod,
    an_upgrade_replaces_executables_under_running_pods,
    a_configuration_that_containerd_does_not_serve_with_is_taken_back,
    a_configuration_of_version_1_is_refused_and_left_alone,
    the_hosts_root_may_be_another_directory,
    the_doctor_names_what_is_missing,
    the_shared_mode_is_installed_where_it_is_named,
);

/// containerd 2 merges imported files.
#[test]
fn an_imported_folder_gets_a_file_and_the_main_file_stays() {
    let node = Node::with(ContainerdVersion::V2, |text, root| {
        let folder = root.join("conf.d");
        fs::create_dir(&folder).expect("the folder is writable");
        text.replacen(
            "version",
            &format!("imports = [\"{}/*.toml\"]\nversion", folder.display()),
            1,
        )
    });
    let before = node.config();
    node.install().success();
    assert_eq!(node.config(), before);
    assert!(node.root.join("conf.d/90-wherry.toml").exists());
    says_hello(&node, "guest");
    node.run(&["uninstall"]).success();
    assert!(!node.root.join("conf.d/90-wherry.toml").exists());
}

fn the_shared_mode_is_installed_where_it_is_named(node: &Node) {
    let before = node.config();
    let shared = format!("{}d", engine());
    let both = format!("{},{shared}", engine());
    let (from, to) = (bin_dir().display().to_string(), node.root.join("bin").display().to_string());
    let words = ["install", "--from", &from, "--bin-dir", &to, "--engines", &both];
    let out = node.run(&[words.as_slice(), &["--timeout", "30"]].concat()).success();
    assert!(out.contains(&format!("the runtimes {}, {shared} are ready", engine())), "{out}");
    says_hello_under(node, "single", &engine());
    says_hello_under(node, "shared", &shared);
    let said = node.run(&["doctor"]).out();
    assert!(said.contains(&format!("{shared} in {to} run")), "{said}");
    // Without its name it goes.
    node.install().success();
    assert!(!node.config().contains(&shared), "{}", node.config());
    node.run(&["uninstall"]).success();
    assert_eq!(node.config(), before);
}

/// The choice may change under pods that run.
fn the_shim_makes_the_pods_where_the_installer_is_asked_for_it(node: &Node) {
    let before = node.config();
    let out = node.install_with(&bin_dir(), &["--sandboxer", "shim"]).success();
    assert!(out.contains("are ready"), "{out}");
    let image = spin();
    let mut of_shim = node.cri.pod_under("of-shim", &engine());
    let guest = of_shim.run(&Member::new("guest", &image));
    of_shim.wait_for_log("guest", "stdout F ready\n");
    let shim = of_shim.shims()[0].pid;
    wait_until("the container alone", DEADLINE, || children_of(shim).len() == 1);

    node.install().success();
    assert_eq!(node.restarts(), 2);
    let mut paused = node.cri.pod_under("paused", &engine());
    paused.run(&Member::new("guest", &image));
    paused.wait_for_log("guest", "stdout F ready\n");
    let shim = paused.shims()[0].pid;
    wait_until("the pause container and the guest", DEADLINE, || children_of(shim).len() == 2);
    paused.remove();
    assert_eq!(of_shim.status(&guest).0.state, api::RUNNING);
    of_shim.remove();
    node.run(&["uninstall"]).success();
    assert_eq!(node.config(), before);
}

mod shim_sandboxer {
    #[allow(unused_imports, reason = "tests_in looks for them here")]
    use super::*;
    wherry_e2e::tests_in!(
        containerd_2_4,
        &super::super::Node::start(ContainerdVersion::V2_4),
        the_shim_makes_the_pods_where_the_installer_is_asked_for_it
    );
}

/// Before 2.0 an imported file replaces the main file's settings of the CRI plug-in.
#[test]
fn before_2_0_the_imported_file_with_the_plugins_settings_is_edited() {
    let node = Node::with(ContainerdVersion::V1_7, |text, root| {
        let folder = root.join("conf.d");
        fs::create_dir(&folder).expect("the folder is writable");
        let (main, plugin) = text.split_once("[plugins.").expect("the plug-in's table");
        let imported = format!("version = 2\n[plugins.{plugin}");
        fs::write(folder.join("10-cri.toml"), imported).expect("the folder is writable");
        main.replacen(
            "version",
            &format!("imports = [\"{}/*.toml\"]\nversion", folder.display()),
            1,
        )
    });
    let before = node.config();
    node.install().success();
    assert_eq!(node.config(), before);
    says_hello(&node, "guest");
    node.run(&["uninstall"]).success();
    assert_eq!(node.config(), before);
}

/// The one test that has systemd do it: on the virtual machine, with the privileges that the chart
/// gives.
#[test]
fn systemd_restarts_containerd() {
    if !Path::new("/run/systemd/system").exists() {
        println!("not tried: this machine has no systemd");
        return;
    }
    let node = Node::under_systemd(ContainerdVersion::V1_6);
    let before = node.config();
    let confined = "setpriv --no-new-privs --bounding-set -all,+sys_chroot,+chown";
    let out = in_pod(&node, confined, &install_words(&node)).success();
    assert!(out.contains("restarting wherry-"), "{out}");
    says_hello(&node, "guest");
    let out = node.run(&["doctor"]).success();
    assert!(!out.contains("skip TasksMax"), "{out}");
    in_pod(&node, confined, "uninstall").success();
    assert_eq!(node.config(), before);
    let Restart::Unit(unit) = &node.restart else { panic!("it is a unit") };
    let mut stop = Command::new("systemctl");
    stop.args(["stop", unit]);
    call(stop, None).success();
}
