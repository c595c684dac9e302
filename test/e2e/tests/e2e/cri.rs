//! Kubernetes: pods through containerd's CRI plugin, with the runtime handler and the options of a
//! node's configuration.

use std::fs;
use wherry_e2e::cri::{Cri, Member, api};
use wherry_e2e::images::{exit, glutton, hello, spin};
use wherry_testing::{DEADLINE, Image, Leftovers, Process, busybox, shared, wait_until};

fn a_wasm_container_runs_with_log_and_exit_code(cri: &Cri) {
    let (hello, seven) = (hello(), exit(7));
    let mut pod = cri.pod("simple");
    let first = pod.run(&Member::new("hello", &hello));
    let status = pod.wait(&first);
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    pod.wait_for_log("hello", "stdout F hello\n");
    let second = pod.run(&Member::new("seven", &seven));
    let status = pod.wait(&second);
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    pod.remove();
}

/// One shim serves the pause container, a native sidecar and a guest.
fn a_pod_has_one_shim(cri: &Cri) {
    let (native, wasm) = (busybox(), spin());
    let mut pod = cri.pod("one-shim");
    let sidecar =
        pod.run(&Member::new("sidecar", &native).args(&["sh", "-c", "echo $$; sleep 1000000"]));
    let guest = pod.run(&Member::new("guest", &wasm));
    pod.wait_for_log("sidecar", "stdout F 1\n");
    pod.wait_for_log("guest", "stdout F ready\n");
    let shims = pod.shims();
    assert_eq!(shims.len(), 1, "{shims:#?}");
    let (pause, (_, sidecar), (_, guest)) =
        (pod.holder(), pod.status(&sidecar), pod.status(&guest));
    assert_eq!(pod.state().0, api::READY);
    let ipc = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/ipc")).expect("it runs");
    assert_eq!((ipc(sidecar), ipc(guest)), (ipc(pause), ipc(pause)), "the pod's namespace");
    // Another pod has another shim.
    let other = cri.pod("other");
    assert_ne!(other.shims(), shims);
    other.remove();
    pod.remove();
    wait_until("the shim's end", DEADLINE, || Process::of(shims[0].pid).is_none());
}

fn processes_are_shared_where_the_pod_says_so(cri: &Cri) {
    let (native, wasm) = (busybox(), spin());
    let mut pod = cri.pod_of_shared_processes("shared");
    let guest = pod.run(&Member::new("guest", &wasm));
    let sidecar = pod.run(&Member::new("sidecar", &native).args(&["sleep", "1000000"]));
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).expect("it runs");
    let pause = namespace(pod.holder());
    assert_eq!(namespace(pod.status(&guest).1), pause);
    assert_eq!(namespace(pod.status(&sidecar).1), pause);
    assert_ne!(pause, fs::read_link("/proc/self/ns/pid").expect("we run"));
    pod.stop(&guest);
    assert_eq!(pod.wait(&guest).exit_code, 143);
    assert_eq!(pod.status(&sidecar).0.state, api::RUNNING, "the sidecar continues");
    pod.remove();
}

fn a_missing_entrypoint_is_one_sentence(cri: &Cri) {
    let image = Image::new("gone").file("/other", 0o644, "x").entrypoint(&["/app.wasm"]);
    let mut pod = cri.pod("missing");
    let id = pod.create(&Member::new("missing", &image));
    let error = pod.start(&id).expect_err("there is nothing to start");
    assert!(error.contains("/app.wasm") && error.contains("no such file or directory"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    // The kubelet shows it as the reason for the container's end.
    let status = pod.wait(&id);
    assert!(status.message.contains("/app.wasm"), "{status:?}");
    pod.remove();
}

fn too_much_memory_is_oom_killed(cri: &Cri) {
    let image = glutton();
    let mut pod = cri.pod("glutton");
    let id = pod.run(&Member::new("glutton", &image).memory(64 << 20));
    let status = pod.wait(&id);
    assert_eq!(status.exit_code, 137);
    wait_until("OOMKilled", DEADLINE, || pod.status(&id).0.reason == "OOMKilled");
    assert_eq!(pod.state().0, api::READY, "the pod continues");
    pod.remove();
}

fn stopping_needs_no_kill(cri: &Cri) {
    let image = spin();
    let mut pod = cri.pod("stopped");
    let id = pod.run(&Member::new("guest", &image));
    pod.wait_for_log("guest", "stdout F ready\n");
    pod.stop(&id);
    assert_eq!(pod.wait(&id).exit_code, 143);
    pod.remove();
}

fn a_pod_survives_containerd_and_leaves_nothing_behind(cri: &Cri) {
    let (native, wasm) = (busybox(), spin());
    let leftovers = {
        // The lasting effects of a daemon's first pod (images, parents of cgroups) do not count as
        // leftovers.
        let mut pod = cri.pod("first");
        pod.run(&Member::new("guest", &wasm));
        pod.run(&Member::new("sidecar", &native).args(&["true"]));
        let shim = pod.shims()[0].pid;
        pod.remove();
        let ended = || Process::of(shim).is_none();
        wait_until("the shim's end", DEADLINE, || shared() || ended());
        Leftovers::snapshot(cri.containerd())
    };
    let mut pod = cri.pod("survivor");
    // It prints a line each time the file is created.
    let script =
        "n=0; while sleep 0.1; do [ -e /go ] && rm /go && n=$((n+1)) && echo line $n; done";
    let sidecar = pod.run(&Member::new("sidecar", &native).args(&["sh", "-c", script]));
    let guest = pod.run(&Member::new("guest", &wasm));
    let print = |times: usize| {
        let pid = pod.status(&sidecar).1;
        fs::write(format!("/proc/{pid}/root/go"), "").expect("its root is there");
        let lines = (1..=times).map(|n| format!("stdout F line {n}\n"));
        pod.wait_for_log("sidecar", &lines.collect::<String>());
    };
    print(1);
    let pids = || (pod.state(), pod.status(&sidecar).1, pod.status(&guest).1);
    let before = pids();
    cri.restart();
    assert_eq!(pids(), before, "they are still the same processes");
    for id in [&sidecar, &guest] {
        assert_eq!(pod.status(id).0.state, api::RUNNING);
    }
    print(2);
    pod.stop(&guest);
    assert_eq!(pod.wait(&guest).exit_code, 143);
    let late = pod.run(&Member::new("late", &wasm));
    assert_eq!(pod.shims().len(), 1, "it joins the pod's shim: {:#?}", pod.shims());
    assert_eq!(pod.status(&late).0.state, api::RUNNING);
    pod.remove();
    leftovers.assert_none_new();
}

macro_rules! on_kubernetes {
    ($start:ident: $($test:ident),+ $(,)?) => {
        mod $start {
            #[allow(unused_imports, reason = "tests_in looks for them here")]
            use super::*;
            wherry_e2e::on_containerd_versions!(
                version => &::wherry_e2e::cri::Cri::$start(version);
                $($test),+
            );
        }
    };
}

on_kubernetes!(shared:
    a_wasm_container_runs_with_log_and_exit_code,
    a_pod_has_one_shim,
    processes_are_shared_where_the_pod_says_so,
    a_missing_entrypoint_is_one_sentence,
    too_much_memory_is_oom_killed,
    stopping_needs_no_kill,
);
mod shim_sandboxer {
    #[allow(unused_imports, reason = "tests_in looks for them here")]
    use super::*;
    wherry_e2e::tests_in!(
        containerd_2,
        ::wherry_e2e::cri::Cri::shared_with_shim_sandboxer(ContainerdVersion::V2),
        a_wasm_container_runs_with_log_and_exit_code,
        a_pod_has_one_shim,
        processes_are_shared_where_the_pod_says_so,
        a_missing_entrypoint_is_one_sentence,
        too_much_memory_is_oom_killed,
        stopping_needs_no_kill
    );
}
on_kubernetes!(start: a_pod_survives_containerd_and_leaves_nothing_behind);
