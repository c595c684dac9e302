//! Another process in a running container: another module, the same one, or a native program.

use wherry_e2e::images::kit;
use wherry_e2e::inside::field;
use wherry_e2e::{on_all_daemons, on_containerds, on_dockers};
use wherry_testing::{
    Containerd, DEADLINE, Daemon, Docker, Image, Process, Run, busybox, guests, wait_until,
};

/// The kit beside a native root filesystem.
fn both() -> Image {
    busybox()
        .folder("/tmp", 0o777)
        .file("/kit.wasm", 0o755, guests::bytes("kit.wasm"))
        .entrypoint(&["/kit.wasm"])
        .cmd(&["sleep", "100000"])
}

fn the_same_module_runs_with_other_arguments(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let said = daemon.exec(container.id(), &["/app.wasm", "echo", "one", "two"], b"").success();
    assert_eq!(said, "one two\n");
}

fn another_module_of_the_image_runs(daemon: &dyn Daemon) {
    let image = kit(false).file("/tool.wasm", 0o644, guests::bytes("hello.wasm"));
    let container = daemon.start(&Run::new(&image).args(&["sleep", "100000"]));
    assert_eq!(daemon.exec(container.id(), &["/tool.wasm"], b"").success(), "hello from a guest\n");
}

fn a_component_runs_too(daemon: &dyn Daemon) {
    let image = kit(false).file("/tool.wasm", 0o644, guests::bytes("hello.component.wasm"));
    let container = daemon.start(&Run::new(&image).args(&["sleep", "100000"]));
    assert_eq!(daemon.exec(container.id(), &["/tool.wasm"], b"").success(), "hello from a guest\n");
}

fn a_native_program_runs_beside_a_guest(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&both()));
    let said = daemon.exec(container.id(), &["/bin/sh", "-c", "echo native; exit 4"], b"");
    assert_eq!((said.code, said.out().as_str()), (4, "native\n"), "{said}");
}

fn a_module_runs_beside_a_native_program(daemon: &dyn Daemon) {
    let image = both().entrypoint(&["/bin/sleep"]).cmd(&["100000"]);
    let container = daemon.start(&Run::new(&image));
    assert_eq!(daemon.exec(container.id(), &["/kit.wasm", "echo", "x"], b"").success(), "x\n");
}

fn it_has_its_own_exit_code(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    for code in [0, 1, 7, 255] {
        let ended = daemon.exec(container.id(), &["/app.wasm", "exit", &code.to_string()], b"");
        assert_eq!(ended.code, code, "{ended}");
    }
    assert!(!container.ended());
}

fn a_trap_ends_it_with_134_and_a_backtrace(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let ended = daemon.exec(container.id(), &["/app.wasm", "trap", "unreachable"], b"");
    assert_eq!(ended.code, 134, "{ended}");
    assert!(ended.err().contains("unreachable"), "{ended}");
    assert!(!container.ended());
}

fn it_has_its_own_streams(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let text = "a line\n".repeat(20_000);
    let said = daemon.exec(container.id(), &["/app.wasm", "cat"], text.as_bytes()).success();
    assert!(said == text, "{} bytes of {}", said.len(), text.len());
}

fn several_run_at_once(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let id = container.id();
    std::thread::scope(|scope| {
        let execs: Vec<_> = (0..8)
            .map(|n| {
                let word = n.to_string();
                scope.spawn(move || daemon.exec(id, &["/app.wasm", "echo", &word], b"").success())
            })
            .collect();
        for (n, exec) in execs.into_iter().enumerate() {
            assert_eq!(exec.join().expect("it says why"), format!("{n}\n"));
        }
    });
}

fn it_is_in_the_containers_namespaces_and_cgroup(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&both()));
    let first = container.pid();
    let of = |pid: i32| {
        let names = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
        let namespace = |name| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
        (names.map(namespace), groups)
    };
    std::thread::scope(|scope| {
        let id = container.id();
        scope.spawn(move || daemon.exec(id, &["/bin/sleep", "3141592"], b""));
        let other = || {
            let all = wherry_testing::processes().into_iter();
            all.filter(|p| p.command == "/bin/sleep 3141592" && of(p.pid).0 == of(first).0)
                .map(|p| p.pid)
                .next()
        };
        wait_until("it runs in the namespaces", DEADLINE, || other().is_some());
        assert_eq!(of(other().expect("it runs")).1, of(first).1, "they are in the same cgroup");
        container.kill("KILL");
    });
    container.wait();
}

fn it_is_confined_as_the_container_is(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&both()));
    let said = daemon.exec(container.id(), &["/bin/cat", "/proc/self/status"], b"").success();
    let of_init = std::fs::read_to_string(format!("/proc/{}/status", container.pid()));
    let of_init = of_init.expect("it runs");
    for key in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        assert_eq!(field(&said, key), field(&of_init, key), "{key}");
    }
    // A wasm guest has the engine's filter too.
    let filters = |status| field(status, "Seccomp_filters")[0].parse::<u32>().expect("a number");
    assert_eq!(filters(&said) + 1, filters(&of_init));
}

fn it_cannot_reach_the_engine_host(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&both()));
    let ended = daemon.exec(container.id(), &["/bin/cat", "/proc/1/exe"], b"");
    assert_ne!(ended.code, 0);
    assert_eq!(ended.out(), "");
}

fn a_missing_program_is_said(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let ended = daemon.exec(container.id(), &["/nope.wasm"], b"");
    // Docker 26 returns 126 for every exec that does not start.
    let codes: &[i32] = if daemon.is_docker() { &[126, 127] } else { &[1] };
    assert!(codes.contains(&ended.code), "{ended}");
    let said = ended.out() + &ended.err();
    assert!(said.contains("/nope.wasm") && said.contains("no such file"), "{said}");
    assert!(!container.ended());
}

fn it_dies_with_the_container(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
    let (id, first) = (container.id(), container.pid());
    std::thread::scope(|scope| {
        let exec = scope.spawn(move || daemon.exec(id, &["/app.wasm", "spin"], b""));
        let others = || {
            let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            let own = namespace(first);
            let all = wherry_testing::processes();
            all.into_iter()
                .filter(|p| p.pid != first && namespace(p.pid) == own)
                // The running process has this name; while it is created it has another.
                .filter(|p| p.command == "/app.wasm spin")
                .collect::<Vec<_>>()
        };
        wait_until("it runs", DEADLINE, || !others().is_empty());
        let other = others().first().map(|p| p.pid).expect("it runs");
        container.kill("KILL");
        assert_eq!(exec.join().expect("it says why").code, 137);
        wait_until("it is gone", DEADLINE, || Process::of(other).is_none());
    });
}

fn a_container_that_has_ended_takes_none(daemon: &dyn Daemon) {
    let container = daemon.start(&Run::new(&kit(false)).args(&["exit", "0"]));
    wait_until("it has ended", DEADLINE, || container.ended());
    let said = daemon.exec(container.id(), &["/app.wasm", "echo", "x"], b"");
    assert_ne!(said.code, 0, "{said}");
    assert!(
        (said.out() + &said.err()).contains("running") || said.err().contains("stopped"),
        "{said}"
    );
}

fn user_environment_and_directory_are_the_requests(docker: &Docker) {
    let container = docker.start(&Run::new(&both()));
    let id = container.id();
    let words = ["exec", "--user", "1234:1234", "--env", "MORE=x", "--workdir", "/tmp"];
    let said =
        docker.docker(&[&words[..], &[id, "/bin/sh", "-c", "id -u; pwd; echo $MORE"]].concat());
    assert_eq!(said.success(), "1234\n/tmp\nx\n");
    let said = docker.docker(&[&words[..], &[id, "/kit.wasm", "show"]].concat()).success();
    assert!(said.contains("env MORE=x\n") && said.contains("env PWD=/tmp\n"), "{said}");
}

fn a_healthcheck_is_an_exec(docker: &Docker) {
    let health = |command: &str| {
        let run = Run::new(&both()).extra(&["--health-interval", "1s", "--health-cmd", command]);
        let run = run.extra(&["--health-retries", "1"]);
        let container = docker.start(&run);
        wherry_testing::wait_for("the first check", DEADLINE, || {
            docker
                .inspect(container.id(), "{{.State.Health.Status}}")
                .filter(|status| status != "starting")
        })
    };
    assert_eq!(health("exit 0"), "healthy");
    assert_eq!(health("exit 1"), "unhealthy");
}

on_all_daemons!(
    the_same_module_runs_with_other_arguments,
    another_module_of_the_image_runs,
    a_component_runs_too,
    a_native_program_runs_beside_a_guest,
    a_module_runs_beside_a_native_program,
    it_has_its_own_exit_code,
    a_trap_ends_it_with_134_and_a_backtrace,
    it_has_its_own_streams,
    several_run_at_once,
    it_is_in_the_containers_namespaces_and_cgroup,
    it_is_confined_as_the_container_is,
    it_cannot_reach_the_engine_host,
    a_missing_program_is_said,
    it_dies_with_the_container,
    a_container_that_has_ended_takes_none,
);

mod docker {
    use super::*;

    fn user_environment_and_directory(docker: &Docker) {
        user_environment_and_directory_are_the_requests(docker);
    }

    fn healthcheck(docker: &Docker) {
        a_healthcheck_is_an_exec(docker);
    }

    on_dockers!(user_environment_and_directory, healthcheck);
}

mod names {
    use super::*;

    /// No exec id collides with a file that the shim or libcontainer keeps in the bundle.
    fn ids_that_are_names_of_files_work(containerd: &Containerd) {
        let image = kit(false).pack();
        containerd.load(&image);
        let runtime = wherry_testing::runtime();
        for id in ["rootfs", "wherry", "work"] {
            let words = ["run", "--rm", "--runtime", &runtime, &image.reference, id];
            let said = containerd.ctr(&[&words[..], &["/app.wasm", "echo", id]].concat());
            assert_eq!(said.success(), format!("{id}\n"));
        }
        let container = containerd.start(&Run::new(&kit(false)).args(&["sleep", "100000"]));
        for exec_id in ["state", "youki_config", "state"] {
            let words = ["task", "exec", "--exec-id", exec_id, container.id(), "/app.wasm"];
            let said = containerd.ctr(&[&words[..], &["echo", exec_id]].concat());
            assert_eq!(said.success(), format!("{exec_id}\n"));
        }
    }

    on_containerds!(ids_that_are_names_of_files_work);
}
