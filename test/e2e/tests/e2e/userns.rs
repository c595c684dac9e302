//! Containers with a user namespace: root inside has no rights outside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use wherry_e2e::images::{glutton, hello, kit, kits, spin};
use wherry_e2e::{on_containerds, on_docker_versions, tests_in};
use wherry_testing::{
    Containerd, Daemon, Docker, DockerVersion, Image, Leftovers, Run, Typed, busybox, guests,
};

/// The first of the ids outside.
const FIRST: u32 = 200_000;
const MAP: &str = "0 200000 65536";

/// A Docker with `userns-remap`, for the tests of this file. On 28 the user exists on the machine.
fn remapped(version: DockerVersion) -> &'static Docker {
    static REMAPPED: [OnceLock<Docker>; 3] = [const { OnceLock::new() }; 3];
    let user = if version == DockerVersion::V26 { "default" } else { "daemon" };
    REMAPPED[version as usize].get_or_init(|| Docker::start_remapped(version, user, FIRST))
}

/// The request for the namespace: Docker's configuration, or options of `ctr`.
fn run(daemon: &dyn Daemon, image: &Image) -> Run {
    if daemon.is_docker() {
        return Run::new(image);
    }
    // An image for each test: two clients that map the files of one image at the same time collide.
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let map = MAP.replace(' ', ":");
    Run::new(&image.clone().file("/test", 0o644, test)).extra(&["--uidmap", &map, "--gidmap", &map])
}

/// An image of native programs and a module.
fn both() -> Image {
    busybox()
        .folder("/tmp", 0o777)
        .file("/kit.wasm", 0o755, guests::bytes("kit.wasm"))
        .entrypoint(&["/kit.wasm"])
        .cmd(&["sleep", "100000"])
}

/// A field of a process's status, its words joined.
fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn root_inside_is_another_outside(daemon: &dyn Daemon) {
    for image in kits() {
        let container = daemon.start(&run(daemon, &image).args(&["sleep", "100000"]));
        let pid = container.pid();
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("it runs");
        assert_eq!(words(&map), MAP);
        assert_eq!(status(pid, "Uid"), "200000 200000 200000 200000");
        assert_eq!(status(pid, "Gid"), "200000 200000 200000 200000");
    }
    let script = "id -u; cat /proc/self/uid_map; touch /own; stat -c %u /own";
    let said = daemon.run(&run(daemon, &busybox()).args(&["/bin/sh", "-c", script])).success();
    assert_eq!(words(&said), format!("0 {MAP} 0"));
}

/// A folder on the host that belongs to the container's root, below one that only root can enter.
fn secret_folder(daemon: &dyn Daemon, name: &str) -> PathBuf {
    let secret = daemon.containerd().root().join(format!("secret-{name}"));
    let folder = secret.join("volume");
    fs::create_dir_all(&folder).expect("the scope is writable");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o700)).expect("ours");
    chown(&folder, Some(FIRST), Some(FIRST)).expect("ours");
    folder
}

fn files_on_a_volume_belong_to_whom_it_is_outside(daemon: &dyn Daemon) {
    let folder = secret_folder(daemon, "volume");
    let run = run(daemon, &kit(false)).bind(&folder, "/data");
    daemon.run(&run.clone().args(&["write", "/data/a", "text"])).success();
    let meta = fs::metadata(folder.join("a")).expect("it was written");
    assert_eq!((meta.uid(), meta.gid()), (FIRST, FIRST));
    // Files of an unmapped owner keep it.
    chown(&folder, Some(0), Some(0)).expect("ours");
    let said = daemon.run(&run.args(&["write", "/data/b", "text"]));
    assert_ne!(said.code, 0, "{said}");
    assert!(!folder.join("b").exists());
}

fn exec_joins_it(daemon: &dyn Daemon) {
    let container = daemon.start(&run(daemon, &both()).args(&["sleep", "100000"]));
    let (id, pid) = (container.id(), container.pid());
    let script = "id -u; cat /proc/self/uid_map; touch /tmp/own; stat -c %u /tmp/own";
    let said = daemon.exec(id, &["/bin/sh", "-c", script], b"").success();
    assert_eq!(words(&said), format!("0 {MAP} 0"));
    let said = daemon.exec(id, &["/bin/sh", "-c", "ls -l /proc/self/ns"], b"").success();
    for name in ["user", "pid", "mnt", "net", "ipc", "uts"] {
        let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs");
        assert!(said.contains(&link.display().to_string()), "{name}: {said}");
    }
    let said = daemon.exec(id, &["/bin/cat", "/proc/self/status"], b"").success();
    for field in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
        assert_eq!(line.map(words), Some(status(pid, field)), "{field}");
    }
    // A guest that is exec'd cannot write where only the host's root may.
    assert_eq!(daemon.exec(id, &["/kit.wasm", "echo", "hi"], b"").success(), "hi\n");
    let said = daemon.exec(id, &["/kit.wasm", "write", "/proc/sys/kernel/domainname", "x"], b"");
    assert_ne!(said.code, 0, "{said}");
}

fn a_terminal_is_its_users(daemon: &dyn Daemon) {
    let nothing = Typed { after: "", keys: b"" };
    let script = ["/bin/sh", "-c", "stat -c %u /dev/pts/0; echo written > /dev/pts/0"];
    let user = run(daemon, &busybox()).extra(&["--user", "1234:1234"]).args(&script);
    let ended = daemon.run_in_terminal(&user, &nothing);
    assert_eq!(ended.code, 0, "{ended}");
    assert!(words(&ended.out()).contains("1234 written"), "{ended}");
    let container = daemon.start(&run(daemon, &both()));
    let ended = daemon.exec_in_terminal(container.id(), &script, &nothing);
    assert_eq!(ended.code, 0, "{ended}");
    assert!(words(&ended.out()).contains("0 written"), "{ended}");
    let ended = daemon.exec_in_terminal(container.id(), &["/kit.wasm", "tty"], &nothing);
    assert!(ended.out().contains("0 terminal"), "{ended}");
}

fn a_user_may_open_its_streams_anew(daemon: &dyn Daemon) {
    let script = "echo out > /dev/stdout; echo err > /dev/stderr";
    let run = run(daemon, &busybox()).extra(&["--user", "1234:1234"]);
    let ended = daemon.run(&run.args(&["/bin/sh", "-c", script]));
    assert_eq!((ended.out().as_str(), ended.err().as_str(), ended.code), ("out\n", "err\n", 0));
}

fn it_lives_as_any_other(daemon: &dyn Daemon) {
    assert_eq!(daemon.run(&run(daemon, &hello())).success(), "hello\n");
    let container = daemon.start(&run(daemon, &spin()).memory(64 << 20));
    container.wait_for_output("ready");
    let state = || fs::read_to_string(format!("/proc/{}/status", container.pid()));
    daemon.freeze(container.id(), true).success();
    assert!(state().is_ok_and(|text| text.contains("Uid:")));
    daemon.freeze(container.id(), false).success();
    container.kill("TERM");
    assert_eq!(container.wait(), 143);
    let container = daemon.start(&run(daemon, &glutton()).memory(64 << 20));
    assert_eq!(container.wait(), 137);
}

on_containerds!(
    root_inside_is_another_outside,
    files_on_a_volume_belong_to_whom_it_is_outside,
    exec_joins_it,
    it_lives_as_any_other,
);

/// The `ctr` of 1.6 cannot set a user.
mod as_a_user {
    use super::{a_terminal_is_its_users, a_user_may_open_its_streams_anew};

    wherry_e2e::tests_in!(
        containerd_1_7,
        Containerd::shared(ContainerdVersion::V1_7),
        a_terminal_is_its_users,
        a_user_may_open_its_streams_anew
    );
    wherry_e2e::tests_in!(
        containerd_2,
        Containerd::shared(ContainerdVersion::V2),
        a_terminal_is_its_users,
        a_user_may_open_its_streams_anew
    );
    wherry_e2e::tests_in!(
        containerd_2_4,
        Containerd::shared(ContainerdVersion::V2_4),
        a_terminal_is_its_users,
        a_user_may_open_its_streams_anew
    );
}

macro_rules! on_remapped_dockers {
    ($($test:ident),+ $(,)?) => {
        on_docker_versions!(version => crate::userns::remapped(version); $($test),+);
    };
}

on_remapped_dockers!(
    root_inside_is_another_outside,
    files_on_a_volume_belong_to_whom_it_is_outside,
    exec_joins_it,
    a_terminal_is_its_users,
    a_user_may_open_its_streams_anew,
    it_lives_as_any_other,
);

mod docker {
    use super::*;

    fn limits_statistics_and_update_work(docker: &Docker) {
        let container = docker.start(&Run::new(&spin()).memory(64 << 20));
        let id = container.id();
        let shown = docker.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", id]);
        assert!(shown.success().contains("/ 64MiB"));
        docker.docker(&["update", "--memory", "80m", "--memory-swap", "80m", id]).success();
        let shown = docker.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", id]);
        assert!(shown.success().contains("/ 80MiB"));
        let top = docker.docker(&["top", id, "-o", "pid,uid"]).success();
        assert!(words(&top).contains(&format!("{} {FIRST}", container.pid())), "{top}");
        docker.docker(&["stop", "--time", "10", id]).success();
        assert_eq!(container.wait(), 143);
    }

    /// The namespaces of another container belong to its user namespace, which is joined too.
    fn another_containers_network_can_be_shared(docker: &Docker) {
        let first = docker.start(&Run::new(&spin()));
        let network = format!("container:{}", first.id());
        let run = Run::new(&spin()).extra(&["--network", &network]);
        let second = docker.start(&run);
        for name in ["net", "user"] {
            let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("it runs");
            assert_eq!(of(second.pid()), of(first.pid()), "{name}");
        }
    }

    fn the_hosts_can_be_asked_for(docker: &Docker) {
        let run = Run::new(&busybox()).extra(&["--userns", "host"]);
        let said = docker.run(&run.args(&["/bin/cat", "/proc/self/uid_map"])).success();
        assert_eq!(words(&said), "0 0 4294967295");
    }

    on_remapped_dockers!(
        limits_statistics_and_update_work,
        another_containers_network_can_be_shared,
        the_hosts_can_be_asked_for,
    );
}

mod alone {
    use super::*;

    fn nothing_is_left(docker: &Docker) {
        let folder = secret_folder(docker, "left");
        let run = Run::new(&kit(false)).bind(&folder, "/data");
        let run = run.args(&["write", "/data/a", "text"]);
        docker.run(&run).success();
        let leftovers = Leftovers::snapshot(docker);
        docker.run(&run).success();
        docker.start(&Run::new(&spin())).remove();
        docker.run(&Run::new(&kit(false)).bind(&folder, "/kit").args(&["nonsense"])).failure();
        leftovers.assert_none_new();
        assert!(folder.join("a").exists(), "the volume is as it was");
    }

    tests_in!(
        docker_28,
        &Docker::start_remapped(DockerVersion::V28, "default", crate::userns::FIRST),
        nothing_is_left
    );
}

mod idmapped {
    use super::*;

    /// The image's files are mapped by the mount, and not copied.
    fn an_image_is_mapped_in_place(containerd: &Containerd) {
        let run = |image: &Image| run(containerd, image).extra(&["--remap-labels"]);
        let said = containerd.run(&run(&kit(false)).args(&["echo", "hi"])).success();
        assert_eq!(said, "hi\n");
        let script = "stat -c %u /bin/busybox; touch /new; stat -c %u /new";
        let said = containerd.run(&run(&busybox()).args(&["/bin/sh", "-c", script])).success();
        assert_eq!(words(&said), "0 0");
    }

    /// Kubernetes mounts volumes like this into a pod with `hostUsers: false`.
    fn a_volume_is_mapped_where_it_is_mounted(containerd: &Containerd) {
        let folder = secret_folder(containerd, "idmapped");
        chown(&folder, Some(0), Some(0)).expect("ours");
        let lender = containerd.start(&run(containerd, &both()));
        let text = fs::read_to_string(lender.bundle().join("config.json")).expect("a bundle");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let ids = serde_json::json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
        let mount = serde_json::json!({
            "type": "bind", "source": folder, "destination": "/data",
            "options": ["rbind", "ridmap"], "uidMappings": ids, "gidMappings": ids,
        });
        config["root"] = serde_json::json!({"path": lender.bundle().join("rootfs")});
        config["mounts"].as_array_mut().expect("mounts").push(mount);
        config["process"]["args"] = serde_json::json!(["/kit.wasm", "write", "/data/a", "text"]);
        containerd.run(&Run::new(&both()).config(config)).success();
        // Owned by root inside, and by root on the disk.
        assert_eq!(owner(&folder.join("a")), 0);
    }

    fn owner(path: &Path) -> u32 {
        fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).uid()
    }

    on_containerds!(a_volume_is_mapped_where_it_is_mounted);

    /// The `ctr` of 1.6 has no option for it.
    mod with_labels {
        use super::an_image_is_mapped_in_place;

        wherry_e2e::tests_in!(
            containerd_1_7,
            Containerd::shared(ContainerdVersion::V1_7),
            an_image_is_mapped_in_place
        );
        wherry_e2e::tests_in!(
            containerd_2,
            Containerd::shared(ContainerdVersion::V2),
            an_image_is_mapped_in_place
        );
        wherry_e2e::tests_in!(
            containerd_2_4,
            Containerd::shared(ContainerdVersion::V2_4),
            an_image_is_mapped_in_place
        );
    }
}
