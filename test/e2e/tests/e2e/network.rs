//! A container has the network that its daemon gives it: a namespace, addresses, names, published
//! ports.

use std::process::Command;
use wherry_e2e::images::{app, binary, files, net, spin};
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

    /// A named network namespace. Dropping it removes it.
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
            // A failing test may have made none.
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

    fn guests_talk_in_a_shared_namespace(containerd: &Containerd) {
        let netns = Netns::new(containerd);
        let up = Command::new("ip").args(["-netns", &netns.0, "link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|status| status.success()));
        let image = net().file("/etc/hosts", 0o644, "127.0.0.1 server\n");
        let run = |args: &[&str]| Run::new(&image).network_namespace(&netns.0).args(args);
        let tcp = containerd.start(&run(&["tcp-serve", "7000"]));
        let udp = containerd.start(&run(&["udp-serve", "7001"]));
        wait_until("the TCP server answers", DEADLINE, || {
            containerd.run(&run(&["tcp-get", "server", "7000"])).out() == "hello over tcp\n"
        });
        assert_eq!(containerd.run(&run(&["lookup", "server"])).success(), "127.0.0.1\n");
        wait_until("the UDP server listens", DEADLINE, || {
            let sockets =
                std::fs::read_to_string(format!("/proc/{}/net/udp", udp.pid())).unwrap_or_default();
            sockets.contains(":1B59 ")
        });
        assert_eq!(
            containerd.run(&run(&["udp-send", "127.0.0.1", "7001", "a datagram"])).success(),
            "a datagram\n"
        );
        // This port has no listener.
        let refused = containerd.run(&run(&["tcp-get", "127.0.0.1", "7002"]));
        assert!(refused.failure().contains("connection refused"), "{refused}");
        tcp.remove();
        udp.remove();
    }

    on_containerds!(a_given_namespace_is_joined, guests_talk_in_a_shared_namespace);
}

/// A server that sends a few words to each client, with WasmEdge's sockets for modules.
const SOCKET_SERVER: &str = r#"(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_bind" (func $bind (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_listen" (func $listen (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  ;; Two buffers and their lengths: the address 0.0.0.0, and the words.
  (data (i32.const 16) "\40\00\00\00\04\00\00\00")
  (data (i32.const 24) "\50\00\00\00\0e\00\00\00")
  (data (i32.const 80) "from a module\n")
  (func $check (param $errno i32) (if (local.get $errno) (then unreachable)))
  (func (export "_start")
    (call $check (call $open (i32.const 1) (i32.const 2) (i32.const 0)))
    (call $check (call $bind (i32.load (i32.const 0)) (i32.const 16) (i32.const 7000)))
    (call $check (call $listen (i32.load (i32.const 0)) (i32.const 8)))
    (loop $next
      (call $check (call $accept (i32.load (i32.const 0)) (i32.const 4)))
      (call $check
        (call $send (i32.load (i32.const 4)) (i32.const 24) (i32.const 1) (i32.const 0) (i32.const 8)))
      (call $check (call $close (i32.load (i32.const 4))))
      (br $next))))"#;

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
            let outcome = docker.beside(&[
                &wget,
                "wget",
                "-q",
                "-O",
                "-",
                &format!("http://127.0.0.1:{port}/"),
            ]);
            (outcome.code == 0).then(|| outcome.out())
        });
        assert_eq!(page, "served\n");
    }

    fn containers_meet_by_name_in_a_network(docker: &Docker) {
        let name = format!("net-{}", docker.containerd().new_id());
        docker.docker(&["network", "create", &name]).success();
        let server =
            docker.start(&server().extra(&["--network", &name, "--network-alias", "server"]));
        let client = Run::new(&busybox()).args(&["wget", "-q", "-O", "-", "http://server:8080/"]);
        let client = client.extra(&["--network", &name]);
        wait_until("the server answers", DEADLINE, || docker.run(&client).out() == "served\n");
        server.remove();
        docker.docker(&["network", "rm", &name]).success();
    }

    fn guests_meet_by_name_in_a_network(docker: &Docker) {
        let name = format!("net-{}", docker.containerd().new_id());
        docker.docker(&["network", "create", &name]).success();
        let run = |args: &[&str]| Run::new(&net()).args(args).extra(&["--network", &name]);
        let tcp =
            docker.start(&run(&["tcp-serve", "7000"]).extra(&["--network-alias", "tcp-server"]));
        let udp =
            docker.start(&run(&["udp-serve", "7001"]).extra(&["--network-alias", "udp-server"]));
        tcp.wait_for_output("ready\n");
        udp.wait_for_output("ready\n");
        // Docker's name server answers inside the container's namespace.
        let address =
            docker.inspect(tcp.id(), "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
        let found = docker.run(&run(&["lookup", "tcp-server"])).success();
        assert_eq!(Some(found.trim()), address.as_deref());
        assert_eq!(
            docker.run(&run(&["tcp-get", "tcp-server", "7000"])).success(),
            "hello over tcp\n"
        );
        let answer = docker.run(&run(&["udp-send", "udp-server", "7001", "a datagram"]));
        assert_eq!(answer.success(), "a datagram\n");
        tcp.remove();
        udp.remove();
        docker.docker(&["network", "rm", &name]).success();
    }

    fn a_guests_published_port_is_reached(docker: &Docker) {
        let run =
            Run::new(&net()).args(&["tcp-serve", "7000"]).extra(&["--publish", "127.0.0.1::7000"]);
        let container = docker.start(&run);
        container.wait_for_output("ready\n");
        let port = docker.docker(&["port", container.id(), "7000/tcp"]).success();
        let port = port.trim().rsplit(':').next().expect("a port").to_owned();
        let script = format!("echo ping | {} nc -w 10 127.0.0.1 {port}", busybox_of_the_host());
        assert_eq!(docker.beside(&["sh", "-c", &script]).success(), "ping\n");
    }

    fn a_modules_server_answers_on_a_published_port(docker: &Docker) {
        let image = app("socket-server", binary(SOCKET_SERVER));
        let container = docker.start(&Run::new(&image).extra(&["--publish", "127.0.0.1::7000"]));
        let port = docker.docker(&["port", container.id(), "7000/tcp"]).success();
        let port = port.trim().rsplit(':').next().expect("a port").to_owned();
        let script = format!("{} nc -w 10 127.0.0.1 {port} < /dev/null", busybox_of_the_host());
        wait_until("an answer", DEADLINE, || {
            docker.beside(&["sh", "-c", &script]).out() == "from a module\n"
        });
    }

    fn without_a_network_there_is_none(docker: &Docker) {
        let run =
            Run::new(&net()).args(&["tcp-get", "192.0.2.1", "80"]).extra(&["--network", "none"]);
        let outcome = docker.run(&run);
        assert!(outcome.failure().contains("connect"), "{outcome}");
    }

    fn a_guest_sees_dockers_hosts_and_names(docker: &Docker) {
        let run =
            Run::new(&files()).extra(&["--add-host", "somewhere:192.0.2.7", "--dns", "192.0.2.53"]);
        let hosts = docker.run(&run.clone().args(&["r", "etc/hosts"])).success();
        assert!(
            hosts.lines().any(|line| line.split_whitespace().eq(["192.0.2.7", "somewhere"])),
            "{hosts}"
        );
        let resolv = docker.run(&run.args(&["r", "etc/resolv.conf"])).success();
        assert!(resolv.lines().any(|line| line.trim() == "nameserver 192.0.2.53"), "{resolv}");
        // Name lookup uses them.
        let found = docker.run(
            &Run::new(&net())
                .args(&["lookup", "somewhere"])
                .extra(&["--add-host", "somewhere:192.0.2.7"]),
        );
        assert_eq!(found.success(), "192.0.2.7\n");
    }

    fn busybox_of_the_host() -> String {
        wherry_testing::cache_dir().join("daemons/busybox/bin/busybox").display().to_string()
    }

    on_dockers!(
        a_published_port_is_reached,
        containers_meet_by_name_in_a_network,
        guests_meet_by_name_in_a_network,
        a_guests_published_port_is_reached,
        a_modules_server_answers_on_a_published_port,
        without_a_network_there_is_none,
        a_guest_sees_dockers_hosts_and_names,
    );
}
