//! A container has the network that its daemon gives it: a namespace, addresses, names, published ports.

use std::process::Command;
use wherry_e2e::images::{files, spin};
use wherry_e2e::{on_all_daemons, on_containerds, on_dockers};
use wherry_testing::{Containerd, DEADLINE, Daemon, Docker, Run, busybox, wait_for, wait_until};

/// The network namespace of a process.
fn namespace(pid: i32) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs").display().to_string()
}

fn a_guest_is_in_a_namespace_of_its_own(daemon: &dyn Daemon) {
    let (one, two) = (daemon.start(&Run::new(&spin())), daemon.start(&Run::new(&spin())));
    let daemons = namespace(daemon.containerd().daemon_pid());
    assert_ne!(namespace(one.pid()), daemons);
    assert_ne!(namespace(two.pid()), daemons);
    assert_ne!(namespace(one.pid()), namespace(two.pid()));
}

on_all_daemons!(a_guest_is_in_a_namespace_of_its_own);

mod containerd {
    use super::*;

    /// A named network namespace that goes with the value.
    struct Netns(String);

    impl Netns {
        fn new(containerd: &Containerd) -> Netns {
            let name = format!("{}-{}", containerd.namespace(), containerd.new_id());
            let status = Command::new("ip").args(["netns", "add", &name]).status();
            assert!(status.is_ok_and(|status| status.success()), "ip netns add {name}");
            Netns(name)
        }
    }

    impl Drop for Netns {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    fn a_given_namespace_is_joined(containerd: &Containerd) {
        let netns = Netns::new(containerd);
        let container = containerd.start(&Run::new(&spin()).network_namespace(&netns.0));
        let inode = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}")).ino()
        };
        let wanted = inode(&format!("/run/netns/{}", netns.0));
        assert_eq!(inode(&format!("/proc/{}/ns/net", container.pid())), wanted);
        container.remove();
    }

    on_containerds!(a_given_namespace_is_joined);
}

mod docker {
    use super::*;

    /// A native web server that answers with one word.
    fn server() -> Run {
        let image = busybox().file("/www/index.html", 0o644, "served\n");
        Run::new(&image).args(&["httpd", "-f", "-p", "8080", "-h", "/www"])
    }

    fn a_published_port_is_reached(docker: &Docker) {
        let container = docker.start(&server().extra(&["--publish", "127.0.0.1::8080"]));
        let port = docker.docker(&["port", container.id(), "8080/tcp"]).success();
        let port = port.trim().rsplit(':').next().expect("a port").to_owned();
        let wget = busybox_of_the_host();
        let page = wait_for("an answer", DEADLINE, || {
            let outcome = docker.beside(&[&wget, "wget", "-q", "-O", "-", &format!("http://127.0.0.1:{port}/")]);
            (outcome.code == 0).then(|| outcome.out())
        });
        assert_eq!(page, "served\n");
    }

    fn containers_meet_by_name_in_a_network(docker: &Docker) {
        let name = format!("net-{}", docker.containerd().new_id());
        docker.docker(&["network", "create", &name]).success();
        let server = docker.start(&server().extra(&["--network", &name, "--network-alias", "server"]));
        let client = Run::new(&busybox()).args(&["wget", "-q", "-O", "-", "http://server:8080/"]);
        let client = client.extra(&["--network", &name]);
        wait_until("the server answers", DEADLINE, || docker.run(&client).out() == "served\n");
        server.remove();
        docker.docker(&["network", "rm", &name]).success();
    }

    fn a_guest_sees_dockers_hosts_and_names(docker: &Docker) {
        let run = Run::new(&files()).extra(&["--add-host", "somewhere:192.0.2.7", "--dns", "192.0.2.53"]);
        let hosts = docker.run(&run.clone().args(&["r", "etc/hosts"])).success();
        assert!(hosts.lines().any(|line| line.split_whitespace().eq(["192.0.2.7", "somewhere"])), "{hosts}");
        let resolv = docker.run(&run.args(&["r", "etc/resolv.conf"])).success();
        assert!(resolv.lines().any(|line| line.trim() == "nameserver 192.0.2.53"), "{resolv}");
    }

    fn busybox_of_the_host() -> String {
        wherry_testing::cache_dir().join("daemons/busybox/bin/busybox").display().to_string()
    }

    on_dockers!(
        a_published_port_is_reached,
        containers_meet_by_name_in_a_network,
        a_guest_sees_dockers_hosts_and_names,
    );
}
