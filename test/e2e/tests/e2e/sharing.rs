//! Resources that containers share with each other and with the host: names, processes, memory, the
//! network, cgroups.

use std::fs;
use wherry_e2e::images::{kit, net, spin};
use wherry_e2e::inside::{field, look, of};
use wherry_e2e::on_dockers;
use wherry_testing::{Daemon, Docker, Run, busybox};

fn sleeper(options: &[&str]) -> Run {
    Run::new(&kit(false)).args(&["sleep", "100000"]).extra(options)
}

fn a_container_has_its_own_name(docker: &Docker) {
    let words = ["--hostname", "otto", "--domainname", "example.org"];
    let (kernel, file) = ("read /proc/sys/kernel/hostname", "read /etc/hostname");
    let domain = "read /proc/sys/kernel/domainname";
    let said = look(docker, &kit(false), &words, &[kernel, file, domain, "show"]);
    assert_eq!((of(&said, kernel), of(&said, file)), ("otto\n", "otto\n"));
    assert_eq!(of(&said, domain), "example.org\n");
    assert!(said.contains("\nenv HOSTNAME=otto"), "{said}");
    let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    let said = look(docker, &kit(false), &["--uts", "host"], &[kernel]);
    assert_eq!(of(&said, kernel), own);
}

fn processes_are_seen_where_they_are_shared(docker: &Docker) {
    let (status, first) = ("read /proc/self/status", "read /proc/1/cmdline");
    let shown = |words: &[&str], more: &[&str]| {
        let said = look(docker, &kit(false), words, &[&[status, first], more].concat());
        let pid = field(&said, "Pid")[0].parse::<u32>().expect("a number");
        let listed = if more.is_empty() { "" } else { of(&said, more[0]) };
        let seen = listed.lines().filter(|name| name.parse::<u32>().is_ok()).count();
        (pid, seen, of(&said, first).to_owned())
    };
    let all = ["list /proc"];
    let (pid, seen, _) = shown(&[], &all);
    assert_eq!((pid, seen), (1, 1));
    let other = docker.start(&sleeper(&[]));
    let with = format!("container:{}", other.id());
    let (pid, seen, line) = shown(&["--pid", &with], &all);
    assert!(pid > 1 && seen == 2 && line.contains("sleep"), "{pid}, {seen}, {line}");
    // Without a list: processes of the host come and go.
    let (pid, _, line) = shown(&["--pid", "host"], &[]);
    assert!(pid > 1, "{pid}");
    assert_eq!(line, fs::read_to_string("/proc/1/cmdline").expect("it runs"));
}

fn memory_is_shared_where_both_agree(docker: &Docker) {
    let other = docker.start(&sleeper(&["--ipc", "shareable"]));
    docker.exec(other.id(), &["/app.wasm", "write", "/dev/shm/note", "shared"], b"").success();
    let with = format!("container:{}", other.id());
    let said = look(docker, &kit(false), &["--ipc", &with], &["read /dev/shm/note"]);
    assert!(said.ends_with("\nshared"), "{said}");
    let name = format!("wherry-{}", docker.containerd().namespace());
    let note = format!("/dev/shm/{name}");
    fs::write(&note, "of the host").expect("it is writable");
    let said = look(docker, &kit(false), &["--ipc", "host"], &[&format!("read {note}")]);
    fs::remove_file(&note).expect("it is there");
    assert!(said.ends_with("\nof the host"), "{said}");
}

fn another_containers_network_is_joined(docker: &Docker) {
    let server = docker.start(&Run::new(&net()).args(&["tcp-serve", "7000"]));
    server.wait_for_output("ready\n");
    let run = |network: &str| {
        let run = Run::new(&net()).args(&["tcp-get", "127.0.0.1", "7000"]);
        docker.run(&run.extra(&["--network", network]))
    };
    let outcome = run(&format!("container:{}", server.id()));
    assert_eq!(outcome.success(), "hello over tcp\n");
    assert!(run("bridge").failure().contains("connection refused"));
}

fn the_hosts_network_is_the_hosts(docker: &Docker) {
    let run = Run::new(&net()).args(&["tcp-serve", "7043"]).extra(&["--network", "host"]);
    let server = docker.start(&run);
    server.wait_for_output("ready\n");
    let busybox = wherry_testing::cache_dir().join("daemons/busybox/bin/busybox");
    let script = format!("echo ping | {} nc -w 10 127.0.0.1 7043", busybox.display());
    assert_eq!(docker.beside(&["sh", "-c", &script]).success(), "ping\n");
}

fn the_bridge_gives_an_address_and_names(docker: &Docker) {
    let words = ["--mac-address", "02:42:ac:11:00:99", "--dns-search", "example.org"];
    let words = [&words[..], &["--dns-option", "ndots:3", "--dns", "192.0.2.53"]].concat();
    let (mac, resolv) = ("read /sys/class/net/eth0/address", "read /etc/resolv.conf");
    let said = look(docker, &kit(false), &words, &[mac, resolv]);
    assert_eq!(of(&said, mac), "02:42:ac:11:00:99\n");
    for line in ["nameserver 192.0.2.53", "search example.org", "options ndots:3"] {
        assert!(of(&said, resolv).lines().any(|found| found == line), "{line}: {said}");
    }
}

fn a_linked_container_is_known_by_its_alias(docker: &Docker) {
    let image = busybox().file("/www/index.html", 0o644, "served\n");
    let server = docker.start(&Run::new(&image).args(&["httpd", "-f", "-p", "80", "-h", "/www"]));
    let address = docker.inspect(server.id(), "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    let run = Run::new(&net()).args(&["lookup", "peer"]);
    let outcome = docker.run(&run.extra(&["--link", &format!("{}:peer", server.id())]));
    assert_eq!(Some(outcome.success().trim()), address.as_deref());
}

fn cgroups_are_hidden_where_told(docker: &Docker) {
    let line = "read /proc/self/cgroup";
    // Version 1's named hierarchy of systemd is visible to all.
    let paths = |said: &str| -> Vec<String> {
        let lines = of(said, line).lines().filter(|line| !line.contains("name=systemd"));
        lines.filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
    };
    let private = paths(&look(docker, &kit(false), &["--cgroupns", "private"], &[line]));
    assert!(private.iter().all(|path| path == "/"), "{private:?}");
    let parent = format!("/{}/special", docker.containerd().namespace());
    let words = ["--cgroupns", "host", "--cgroup-parent", &parent];
    let shown = paths(&look(docker, &kit(false), &words, &[line]));
    assert!(shown.iter().any(|path| path.starts_with(&format!("{parent}/"))), "{shown:?}");
    let container = docker.start(&Run::new(&spin()).extra(&["--cgroup-parent", &parent]));
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).expect("runs");
    assert!(groups.contains(&format!("{parent}/{}", container.id())), "{groups}");
}

on_dockers!(
    a_container_has_its_own_name,
    processes_are_seen_where_they_are_shared,
    memory_is_shared_where_both_agree,
    another_containers_network_is_joined,
    the_hosts_network_is_the_hosts,
    the_bridge_gives_an_address_and_names,
    a_linked_container_is_known_by_its_alias,
    cgroups_are_hidden_where_told,
);
