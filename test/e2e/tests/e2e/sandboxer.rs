//! Pods that the shim makes itself, with `sandboxer = "shim"` in containerd's configuration: no
//! pause container, no pause image. `cri.rs` runs the tests of ordinary pods this way too.

use std::fs;
use std::path::PathBuf;
use wherry_e2e::cri::{Cri, Member, Pod, api, children_of};
use wherry_e2e::images::{hello, spin};
use wherry_testing::{DEADLINE, Image, Leftovers, Process, busybox, wait_until};

/// A pod with these settings.
fn pod<'c>(
    cri: &'c Cri,
    name: &str,
    pid: i32,
    change: impl FnOnce(&mut api::PodConfig),
) -> Pod<'c> {
    let mut config = cri.config(name, pid);
    change(&mut config);
    cri.pod_of(config).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn shell<'i>(name: &'i str, image: &'i Image, script: &str) -> Member<'i> {
    Member::new(name, image).args(&["sh", "-c", script])
}

fn namespace(pid: i32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap_or_else(|e| panic!("{pid} {kind}: {e}"))
}

/// A field of `/proc/PID/status`.
fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
    line.trim_start_matches(':').trim().to_owned()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it runs");
}

fn a_thread_of_the_shim_holds_the_namespaces(cri: &Cri) {
    let (native, wasm) = (busybox(), spin());
    let mut pod = pod(cri, "threaded", api::CONTAINER, |_| {});
    assert_eq!(pod.state().0, api::READY);
    let holder = pod.holder();
    let shim = pod.shims()[0].pid;
    assert_eq!(status(holder, "Tgid"), shim.to_string(), "it is a thread");
    let sidecar = pod.run(&shell("sidecar", &native, "sleep 1000000"));
    let guest = pod.run(&Member::new("guest", &wasm));
    pod.wait_for_log("guest", "stdout F ready\n");
    let pids = [&sidecar, &guest].map(|id| pod.status(id).1);
    for kind in ["ipc", "uts", "net"] {
        assert_eq!(pids.map(|pid| namespace(pid, kind)), [(); 2].map(|()| namespace(holder, kind)));
        assert_ne!(namespace(holder, kind), namespace(shim, kind), "the shim is not in it: {kind}");
    }
    assert_ne!(namespace(pids[0], "pid"), namespace(pids[1], "pid"));
    wait_until("only the containers", DEADLINE, || children_of(shim).len() == 2);
    pod.remove();
}

fn the_files_and_settings_of_the_kubelet_are_the_pods(cri: &Cri) {
    let native = busybox();
    let mut pod = pod(cri, "settings", api::CONTAINER, |config| {
        config.hostname = "web-0".to_owned();
        config.dns = Some(api::Dns {
            servers: vec!["10.0.0.10".to_owned()],
            searches: vec!["default.svc.cluster.local".to_owned()],
        });
        let linux = config.linux.as_mut().expect("it is set");
        linux.sysctls.insert("net.core.somaxconn".to_owned(), "77".to_owned());
        linux.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
    });
    let script = "hostname; cat /etc/hostname /etc/resolv.conf; cd /proc/sys;
        cat net/core/somaxconn kernel/shm_rmid_forced net/ipv4/ip_unprivileged_port_start;
        echo shared > /dev/shm/file; touch /etc/hosts && echo done";
    pod.run(&shell("writer", &native, script));
    let lines = [
        "web-0",
        "web-0",
        "search default.svc.cluster.local",
        "nameserver 10.0.0.10",
        "77",
        "1",
        "0",
        "done",
    ];
    let lines = lines.map(|line| format!("stdout F {line}\n"));
    pod.wait_for_log("writer", &lines.concat());
    pod.run(&shell("reader", &native, "cat /dev/shm/file; df -k /dev/shm | tail -1"));
    wait_until("the other container's file", DEADLINE, || {
        let log = pod.log("reader");
        log.starts_with("stdout F shared\n") && log.contains(" 65536 ")
    });
    pod.remove();
}

/// The init process is the only part of the pod that other containers can see.
fn a_shared_pid_namespace_has_a_confined_init_process(cri: &Cri) {
    let native = busybox();
    let mut pod = pod(cri, "shared", api::POD, |_| {});
    let init = pod.holder();
    // An orphan, which its new parent has to reap.
    let script =
        "echo $(cat /proc/1/comm) $$; (sleep 0.1 &); sleep 0.5; ps | grep -c '\\[sleep\\]';
        ls /proc/1/root/ 2> /dev/null | wc -l; kill -9 1; kill -TERM 1; sleep 1000000";
    let sidecar = pod.run(&shell("sidecar", &native, script));
    pod.wait_for_log("sidecar", "stdout F wherry-pod 2\nstdout F 0\nstdout F 0\n");
    let pid = pod.status(&sidecar).1;
    for kind in ["pid", "ipc", "uts", "net"] {
        assert_eq!(namespace(pid, kind), namespace(init, kind), "{kind}");
    }
    assert_eq!(status(init, "NSpid").split_whitespace().last(), Some("1"));
    for (field, value) in [
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Uid", "65535\t65535\t65535\t65535"),
    ] {
        assert_eq!(status(init, field), value, "{field}");
    }
    assert_eq!(pod.exec(&sidecar, &["cat", "/proc/1/comm"]).0, "wherry-pod\n");
    pod.remove();
    wait_until("its end", DEADLINE, || Process::of(init).is_none());
}

fn a_pod_whose_init_process_ends_is_not_ready(cri: &Cri) {
    let wasm = spin();
    let mut pod = pod(cri, "killed-init", api::POD, |_| {});
    let guest = pod.run(&Member::new("guest", &wasm));
    kill(pod.holder());
    assert_eq!(pod.wait(&guest).exit_code, 137, "it ends with its pid namespace");
    wait_until("a pod that is not ready", DEADLINE, || pod.state().0 == api::NOT_READY);
    pod.remove();
}

fn containers_end_with_their_pod(cri: &Cri) {
    let wasm = spin();
    let mut pod = pod(cri, "stopped", api::CONTAINER, |_| {});
    let guest = pod.run(&Member::new("guest", &wasm));
    assert!(pod.memory_of(&guest) > 0);
    pod.stop_pod();
    wait_until("a pod that is not ready", DEADLINE, || pod.state().0 == api::NOT_READY);
    assert_eq!(pod.status(&guest).0.state, api::EXITED);
    pod.stop_pod();
    pod.remove();
}

fn an_invalid_setting_is_one_sentence_and_leaves_nothing(cri: &Cri) {
    let leftovers = after_a_first_pod(cri);
    let mut config = cri.config("invalid", api::CONTAINER);
    let linux = config.linux.as_mut().expect("it is set");
    linux.sysctls.insert("net.ipv4.no_such".to_owned(), "1".to_owned());
    let error = cri.pod_of(config).err().expect("the kernel lacks the parameter");
    assert!(error.contains("cannot set sysctl net.ipv4.no_such to \"1\": No such file"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    leftovers.assert_none_new();
}

/// The lasting effects of a daemon's first pod (images, parents of cgroups) do not count.
fn after_a_first_pod(cri: &Cri) -> Leftovers<'_> {
    let (native, wasm) = (busybox(), spin());
    let mut pod = pod(cri, "first", api::CONTAINER, |_| {});
    pod.run(&Member::new("guest", &wasm));
    pod.run(&shell("sidecar", &native, "true"));
    let shim = pod.shims()[0].pid;
    pod.remove();
    wait_until("the shim's end", DEADLINE, || Process::of(shim).is_none());
    Leftovers::snapshot(cri.containerd())
}

fn a_pod_survives_containerd(cri: &Cri) {
    let leftovers = after_a_first_pod(cri);
    let (native, wasm, brief) = (busybox(), spin(), hello());
    for pid in [api::CONTAINER, api::POD] {
        let mut pod = pod(cri, &format!("survivor-{pid}"), pid, |_| {});
        let sidecar = pod.run(&shell("sidecar", &native, "sleep 1000000"));
        let guest = pod.run(&Member::new("guest", &wasm));
        let before = [&sidecar, &guest].map(|id| pod.status(id).1);
        let shim = pod.shims()[0].pid;
        cri.restart();
        assert_eq!(pod.state().0, api::READY);
        assert_eq!([&sidecar, &guest].map(|id| pod.status(id).1), before, "the same processes");
        assert_eq!(pod.exec(&sidecar, &["echo", "works"]), ("works\n".to_owned(), 0));
        let late = pod.run(&Member::new("late", &brief));
        assert_eq!(pod.wait(&late).exit_code, 0);
        let other = pod.run(&shell("other", &native, "sleep 1000000"));
        assert_eq!(namespace(pod.status(&other).1, "ipc"), namespace(before[0], "ipc"));
        assert_eq!(pod.shims()[0].pid, shim);
        pod.remove();
        wait_until("the shim's end", DEADLINE, || Process::of(shim).is_none());
    }
    leftovers.assert_none_new();
}

fn a_pod_whose_shim_is_killed_leaves_nothing_behind(cri: &Cri) {
    let leftovers = after_a_first_pod(cri);
    let (native, wasm) = (busybox(), spin());
    for pid in [api::CONTAINER, api::POD] {
        let mut pod = pod(cri, &format!("orphan-{pid}"), pid, |_| {});
        let sidecar = pod.run(&shell("sidecar", &native, "sleep 1000000"));
        let guest = pod.run(&Member::new("guest", &wasm));
        kill(pod.shims()[0].pid);
        for id in [&sidecar, &guest] {
            assert_ne!(pod.wait(id).exit_code, 0);
        }
        wait_until("a pod that is not ready", DEADLINE, || pod.state().0 == api::NOT_READY);
        pod.remove();
    }
    leftovers.assert_none_new();
}

fn a_pod_that_is_removed_after_a_restart_ends(cri: &Cri) {
    let leftovers = after_a_first_pod(cri);
    let pod = pod(cri, "forgotten", api::CONTAINER, |_| {});
    let shim = pod.shims()[0].clone();
    cri.restart();
    pod.remove();
    wait_until("the shim's end", DEADLINE, || Process::of(shim.pid).is_none());
    leftovers.assert_none_new();
}

fn the_hosts_namespaces_are_the_pods_where_it_says_so(cri: &Cri) {
    let native = busybox();
    let mut pod = pod(cri, "hosts", api::CONTAINER, |config| {
        let linux = config.linux.as_mut().expect("it is set");
        let security = linux.security.as_mut().expect("it is set");
        let namespaces = security.namespaces.as_mut().expect("they are set");
        (namespaces.network, namespaces.ipc) = (api::NODE, api::NODE);
    });
    let sidecar = pod.run(&shell("sidecar", &native, "sleep 1000000"));
    let (pid, shim) = (pod.status(&sidecar).1, pod.shims()[0].pid);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(pid, kind), namespace(shim, kind), "{kind}");
    }
    pod.remove();
}

macro_rules! with_the_shims_pods {
    ($module:ident, $version:ident: $($test:ident),+; alone: $($alone:ident),+ $(,)?) => {
        wherry_e2e::tests_in!(
            $module,
            ::wherry_e2e::cri::Cri::shared_with_shim_sandboxer(ContainerdVersion::$version),
            $($test),+
        );
        #[allow(non_snake_case, reason = "it has the name of the version")]
        mod $version {
            #[allow(unused_imports, reason = "tests_in looks for them here")]
            use super::*;
            wherry_e2e::tests_in!(
                $module,
                &::wherry_e2e::cri::Cri::start_with_shim_sandboxer(ContainerdVersion::$version),
                $($alone),+
            );
        }
    };
}

with_the_shims_pods!(containerd_2, V2:
    a_thread_of_the_shim_holds_the_namespaces,
    the_files_and_settings_of_the_kubelet_are_the_pods,
    a_shared_pid_namespace_has_a_confined_init_process,
    a_pod_whose_init_process_ends_is_not_ready,
    containers_end_with_their_pod;
    alone:
    a_pod_survives_containerd,
    a_pod_whose_shim_is_killed_leaves_nothing_behind,
    an_invalid_setting_is_one_sentence_and_leaves_nothing,
    a_pod_that_is_removed_after_a_restart_ends,
);
with_the_shims_pods!(containerd_2_4, V2_4:
    a_thread_of_the_shim_holds_the_namespaces,
    the_files_and_settings_of_the_kubelet_are_the_pods,
    a_shared_pid_namespace_has_a_confined_init_process,
    a_pod_whose_init_process_ends_is_not_ready,
    containers_end_with_their_pod,
    the_hosts_namespaces_are_the_pods_where_it_says_so;
    alone:
    a_pod_survives_containerd,
    a_pod_whose_shim_is_killed_leaves_nothing_behind,
    an_invalid_setting_is_one_sentence_and_leaves_nothing,
);
