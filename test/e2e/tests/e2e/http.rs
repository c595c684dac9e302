//! A component with a handler of HTTP is a server.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use wherry_e2e::images::{app, http, http_and_program, http_of_later_version};
use wherry_e2e::{on_all_daemons, on_containerds, on_dockers};
use wherry_testing::{
    Capability, Container, Containerd, DEADLINE, Daemon, Docker, Outcome, Run, busybox, call, can,
    wait_for, wait_until,
};

/// Whether the engine under test has components. Others refuse a server as every component.
fn serves() -> bool {
    can(Capability::Components)
}

/// An option of a container.
fn option(run: Run, name: &str, value: &str) -> Run {
    run.extra(&["--annotation", &format!("wherry.http.{name}={value}")])
}

/// A command in the network of a container.
fn inside(container: &Container<'_>, words: &[&str], stdin: Option<&[u8]>) -> Outcome {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", container.pid())).args(words);
    call(command, stdin)
}

/// Starts a server. Its loopback interface is up, which `ctr` leaves to others.
fn start<'d>(daemon: &'d dyn Daemon, run: &Run) -> Container<'d> {
    let container = daemon.start(run);
    inside(&container, &["ip", "link", "set", "lo", "up"], None).success();
    container
}

/// A request with curl. The path may be a whole address.
fn curl(container: &Container<'_>, options: &[&str], path: &str) -> Outcome {
    curl_with(container, options, path, None)
}

fn curl_with(
    container: &Container<'_>,
    options: &[&str],
    path: &str,
    stdin: Option<&[u8]>,
) -> Outcome {
    let address = if path.starts_with("http") {
        path.to_owned()
    } else {
        format!("http://127.0.0.1:8080{path}")
    };
    let words = ["curl", "--silent", "--show-error", "--max-time", "120"];
    inside(container, &[&words[..], options, &[&address]].concat(), stdin)
}

/// The body of a response.
fn get(container: &Container<'_>, path: &str) -> String {
    curl(container, &[], path).success()
}

/// The status of a response.
fn status(container: &Container<'_>, options: &[&str], path: &str) -> String {
    let options = [options, &["--output", "/dev/null", "--write-out", "%{http_code}"]].concat();
    curl(container, &options, path).out()
}

fn a_component_with_a_handler_serves_when_start_returns(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let image = http().file("/etc/motd", 0o644, "of the image\n");
    let server = start(daemon, &Run::new(&image).env("GREETING", "hello"));
    // No attempt is repeated: the server listens.
    assert_eq!(get(&server, "/hello"), "hello\n");
    assert!(get(&server, "/env").contains("GREETING=hello\n"));
    assert_eq!(get(&server, "/file?/etc/motd"), "of the image\n");
    assert_eq!(
        curl(&server, &["--header", "X-A: 1", "--header", "X-A: 2"], "/header?x-a").out(),
        "1\n2\n"
    );
    assert_eq!(status(&server, &[], "/status?418"), "418");
    assert_eq!(status(&server, &[], "/missing"), "404");
    // The connection is kept, and a client of HTTP/1.0 is served, too.
    let twice = curl(&server, &["--write-out", "%{num_connects}\n"], "/hello?[1-2]").success();
    assert_eq!(twice, "hello\n1\nhello\n0\n");
    assert_eq!(curl(&server, &["--http1.0", "--header", "Host:"], "/hello").success(), "hello\n");
}

fn components_of_every_version_of_wasi_0_2_serve(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &Run::new(&http_of_later_version()));
    assert_eq!(get(&server, "/hello"), "hello\n");
}

fn a_body_is_streamed_in_both_directions(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &option(Run::new(&http()), "memory", "4Mi"));
    // Larger than the memory of the guest.
    let sent: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    for options in
        [&["--data-binary", "@-"][..], &["--http2-prior-knowledge", "--data-binary", "@-"]]
    {
        let outcome = curl_with(&server, options, "/echo", Some(&sent));
        assert_eq!(outcome.code, 0, "{}", outcome.err());
        assert!(outcome.stdout == sent, "{} bytes came back", outcome.stdout.len());
    }
}

fn http_2_and_trailers_are_served(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &Run::new(&http()));
    let options = ["--http2-prior-knowledge", "--write-out", "%{http_version} %header{x-check}"];
    assert_eq!(curl(&server, &options, "/hello").success(), "hello\n2 ");
    let trailers = ["--http2-prior-knowledge", "--dump-header", "-"];
    let shown = curl(&server, &trailers, "/trailers").success();
    assert!(shown.contains("body\n") && shown.contains("x-check: sent"), "{shown}");
}

fn a_trap_is_500_and_harms_no_other_request(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &Run::new(&http()));
    let long = ["--parallel", "--parallel-immediate"];
    let mixed = [
        "http://127.0.0.1:8080/stream?50",
        "http://127.0.0.1:8080/trap",
        "http://127.0.0.1:8080/trap",
        "http://127.0.0.1:8080/sleep?100",
    ];
    let outcome = inside(&server, &[&["curl", "--silent"][..], &long, &mixed].concat(), None);
    let body = outcome.out();
    assert_eq!(body.matches("line\n").count(), 50, "{outcome}");
    assert!(body.contains("slept\n"), "{outcome}");
    assert_eq!(body.matches("Internal Server Error\n").count(), 2, "{outcome}");
    wait_until("the reason", DEADLINE, || {
        let text = String::from_utf8_lossy(&server.stderr()).into_owned();
        text.contains(
            "GET /trap: wasm trap: wasm `unreachable` instruction executed\nwasm backtrace:\n",
        )
    });
    assert_eq!(status(&server, &[], "/none"), "500");
    assert_eq!(status(&server, &[], "/exit?3"), "500");
    assert_eq!(status(&server, &[], "/refused"), "502");
    // 18: the body is incomplete.
    assert_eq!(curl(&server, &[], "/cut").code, 18);
    assert_eq!(get(&server, "/hello"), "hello\n");
}

fn limits_end_a_request_and_no_other(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let mut run = Run::new(&http());
    for (name, value) in
        [("timeout", "700ms"), ("memory", "8Mi"), ("body", "1k"), ("headers", "8k")]
    {
        run = option(run, name, value);
    }
    let server = start(daemon, &run);
    assert_eq!(status(&server, &[], "/spin"), "504");
    assert_eq!(status(&server, &[], "/sleep?100000"), "504");
    assert_eq!(status(&server, &[], "/grow"), "500");
    wait_until("the limit's name", DEADLINE, || {
        let text = String::from_utf8_lossy(&server.stderr()).into_owned();
        text.contains("annotation wherry.http.timeout")
            && text.contains("annotation wherry.http.memory")
    });
    let large = "x".repeat(1025);
    assert_eq!(status(&server, &["--data", &large], "/echo"), "413");
    let chunked = ["--header", "Transfer-Encoding: chunked", "--data", &large];
    assert_eq!(status(&server, &chunked, "/hello"), "200");
    let field = format!("X-Large: {}", "x".repeat(9000));
    assert_eq!(status(&server, &["--header", &field], "/hello"), "431");
    assert_eq!(get(&server, "/hello"), "hello\n");
}

fn a_guest_that_computes_delays_no_other(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &option(Run::new(&http()), "timeout", "3s"));
    let spin = "http://127.0.0.1:8080/spin?[1-3]";
    let mixed = [
        "curl",
        "--silent",
        "--parallel",
        "--parallel-immediate",
        "--write-out",
        "%{url} done\n",
        spin,
    ];
    let outcome =
        inside(&server, &[&mixed[..], &["http://127.0.0.1:8080/hello?[1-50]"]].concat(), None);
    let body = outcome.out();
    assert_eq!(body.matches("hello\n").count(), 50, "{outcome}");
    // The responses in time come before those that the limit ended.
    let last = body.rfind("hello?").expect("a response");
    assert!(body.find("spin?").expect("a response") > last, "{outcome}");
}

fn requests_above_the_number_at_once_wait(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &option(Run::new(&http()), "requests", "2"));
    let urls = "http://127.0.0.1:8080/sleep?50&[1-20]";
    let words = ["curl", "--silent", "--parallel", "--parallel-immediate", urls];
    assert_eq!(inside(&server, &words, None).success(), "slept\n".repeat(20));
}

fn a_thousand_requests_print_whole_lines(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &Run::new(&http()));
    let urls = "http://127.0.0.1:8080/print?2&[1-1000]";
    let words =
        ["curl", "--silent", "--parallel", "--parallel-immediate", "--parallel-max", "250", urls];
    assert_eq!(inside(&server, &words, None).success(), "printed\n".repeat(1000));
    assert_eq!(get(&server, "/partial"), "printed\n");
    let line = "the first half of a line and the second half of it\n";
    let expected = line.repeat(2000) + "partial\n";
    wait_until("all lines", DEADLINE, || server.stdout().len() >= expected.len());
    assert!(String::from_utf8_lossy(&server.stdout()) == expected, "a line is divided");
}

fn wrong_options_are_errors_of_create(daemon: &dyn Daemon) {
    for (name, value, reason) in [
        ("adress", "x", "the nearest is wherry.http.address"),
        ("timeout", "soon", "\"soon\" is not a time"),
        ("address", "8080", "\"8080\" is not an address and a port"),
    ] {
        let failed = daemon.run(&option(Run::new(&http()), name, value)).failure();
        let annotation = format!("annotation wherry.http.{name}: ");
        assert!(failed.contains(&annotation) && failed.contains(reason), "{failed}");
    }
    if serves() {
        let failed = daemon.run(&Run::new(&http()).env("PORT", "http")).failure();
        assert!(failed.contains("variable PORT: \"http\" is not a port"), "{failed}");
    }
}

fn addresses_and_ports_are_those_of_the_options(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &Run::new(&http()).env("PORT", "81"));
    assert_eq!(get(&server, "http://127.0.0.1:81/hello"), "hello\n");
    // Both families.
    let server = start(daemon, &option(Run::new(&http()), "address", "[::]:8080"));
    assert_eq!(get(&server, "http://[::1]:8080/hello"), "hello\n");
    assert_eq!(get(&server, "/hello"), "hello\n");
}

fn sigterm_ends_a_server_after_the_requests_in_flight(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &Run::new(&http()));
    let pid = server.pid().to_string();
    let net = format!("--net=/proc/{pid}/ns/net");
    let mut client = Command::new("nsenter")
        .args([&net, "curl", "--silent", "--no-buffer", "http://127.0.0.1:8080/stream?200"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl runs");
    let mut first = [0; 5];
    let mut stdout = client.stdout.take().expect("piped");
    stdout.read_exact(&mut first).expect("a line");
    server.kill("TERM");
    wait_until("connections are refused", DEADLINE, || {
        // 7: no connection.
        curl(&server, &[], "/hello").code == 7
    });
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("lines");
    assert_eq!(rest, "line\n".repeat(199));
    assert!(client.wait().expect("our own child").success());
    assert_eq!(server.wait(), 0);
}

/// A request whose response does not end by itself. Its first line has arrived.
struct Endless(Child);

impl Endless {
    fn begin(server: &Container<'_>) -> Endless {
        let net = format!("--net=/proc/{}/ns/net", server.pid());
        let url = "http://127.0.0.1:8080/stream?1000000";
        let mut command = Command::new("nsenter");
        command.args([&net, "curl", "--silent", "--no-buffer", url]).stdout(Stdio::piped());
        let mut client = command.spawn().expect("curl runs");
        let mut first = [0; 5];
        client.stdout.as_mut().expect("piped").read_exact(&mut first).expect("a line");
        Endless(client)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_second_sigterm_ends_a_server_at_once(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &option(Run::new(&http()), "grace", "1h"));
    let _client = Endless::begin(&server);
    server.kill("TERM");
    wait_until("connections are refused", DEADLINE, || curl(&server, &[], "/hello").code == 7);
    server.kill("TERM");
    assert_eq!(server.wait(), 143);
}

fn the_grace_period_ends_requests_that_do_not_end(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let server = start(daemon, &option(Run::new(&http()), "grace", "300ms"));
    let _client = Endless::begin(&server);
    server.kill("TERM");
    assert_eq!(server.wait(), 0);
    let text = String::from_utf8_lossy(&server.stderr()).into_owned();
    assert!(text.contains("did not end within the time"), "{text}");
}

fn requests_are_sent_to_other_servers(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    // Docker replaces it.
    let image = http().file("/etc/hosts", 0o644, "127.0.0.1 localhost\n");
    let server = start(daemon, &Run::new(&image));
    assert_eq!(get(&server, "/fetch?http://127.0.0.1:8080/hello"), "200\nhello\n");
    assert_eq!(get(&server, "/fetch?http://localhost:8080/status?404"), "404\nstatus\n");
    // No server: `connection-refused`, the seventh of the errors.
    assert_eq!(get(&server, "/fetch?http://127.0.0.1:9/"), "error 6\n");
    // A server without TLS.
    assert_eq!(get(&server, "/fetch?https://127.0.0.1:8080/"), "error 12\n");
    // A proxy gets the whole address; this one is the guest itself, for which `x` has no path.
    let proxied = Run::new(&http()).env("http_proxy", "http://127.0.0.1:8080");
    let server = start(daemon, &proxied);
    assert_eq!(get(&server, "/fetch?http://no.such.host/hello"), "200\nhello\n");
}

fn a_program_with_a_handler_is_a_server_on_demand(daemon: &dyn Daemon) {
    if !serves() {
        return;
    }
    let image = http_and_program();
    assert_eq!(daemon.run(&Run::new(&image)).success(), "program\n");
    let server = start(daemon, &Run::new(&image.entrypoint(&["/app.wasm#http"])));
    assert_eq!(get(&server, "/hello"), "hello\n");
    // Its code can be interrupted, too.
    let limited =
        option(Run::new(&http_and_program().entrypoint(&["/app.wasm#http"])), "timeout", "300ms");
    assert_eq!(status(&start(daemon, &limited), &[], "/spin"), "504");
    let failed = daemon.run(&Run::new(&http().entrypoint(&["/app.wasm#run"]))).failure();
    assert!(failed.contains("no function \"run\"") && failed.contains("#http"), "{failed}");
}

on_all_daemons!(
    a_component_with_a_handler_serves_when_start_returns,
    components_of_every_version_of_wasi_0_2_serve,
    a_body_is_streamed_in_both_directions,
    http_2_and_trailers_are_served,
    a_trap_is_500_and_harms_no_other_request,
    limits_end_a_request_and_no_other,
    a_guest_that_computes_delays_no_other,
    requests_above_the_number_at_once_wait,
    a_thousand_requests_print_whole_lines,
    wrong_options_are_errors_of_create,
    addresses_and_ports_are_those_of_the_options,
    sigterm_ends_a_server_after_the_requests_in_flight,
    a_second_sigterm_ends_a_server_at_once,
    the_grace_period_ends_requests_that_do_not_end,
    requests_are_sent_to_other_servers,
    a_program_with_a_handler_is_a_server_on_demand,
);

mod docker {
    use super::*;

    fn a_published_port_is_served(docker: &Docker) {
        if !serves() {
            return;
        }
        let server = docker.start(&Run::new(&http()).extra(&["--publish", "127.0.0.1::8080"]));
        let port = docker.docker(&["port", server.id(), "8080/tcp"]).success();
        let address = format!("http://{}/hello", port.trim());
        let page = wait_for("an answer", DEADLINE, || {
            let outcome = docker.beside(&["curl", "--silent", &address]);
            (outcome.code == 0).then(|| outcome.out())
        });
        assert_eq!(page, "hello\n");
    }

    fn a_port_that_is_taken_is_the_error_of_start(docker: &Docker) {
        if !serves() {
            return;
        }
        let first = docker.start(&Run::new(&http()));
        let network = format!("container:{}", first.id());
        let second = Run::new(&http()).extra(&["--network", &network]);
        let failed = docker.run(&second).failure();
        let text = "cannot listen on 0.0.0.0:8080: another process listens on it";
        assert!(failed.contains(text), "{failed}");
        let other = option(second, "address", "0.0.0.0:8081");
        let other = docker.start(&other);
        assert_eq!(get(&other, "http://127.0.0.1:8081/hello"), "hello\n");
        assert_eq!(get(&first, "/hello"), "hello\n");
    }

    fn a_native_client_reaches_a_server_by_its_name(docker: &Docker) {
        if !serves() {
            return;
        }
        let name = format!("http-{}", docker.containerd().new_id());
        docker.docker(&["network", "create", &name]).success();
        let server = Run::new(&http()).extra(&["--network", &name, "--network-alias", "server"]);
        let server = docker.start(&server);
        let client =
            Run::new(&busybox()).args(&["wget", "-q", "-O", "-", "http://server:8080/hello"]);
        let client = client.extra(&["--network", &name]);
        assert_eq!(docker.run(&client).success(), "hello\n");
        server.remove();
        docker.docker(&["network", "rm", &name]).success();
    }

    on_dockers!(
        a_published_port_is_served,
        a_port_that_is_taken_is_the_error_of_start,
        a_native_client_reaches_a_server_by_its_name,
    );
}

mod containerd {
    use super::*;

    fn a_server_on_the_hosts_network_serves(containerd: &Containerd) {
        if !serves() {
            return;
        }
        // A port that no other test uses; another daemon's test has it on another address.
        let address = format!(
            "127.0.{}.{}:18081",
            std::process::id() % 200 + 1,
            containerd.daemon_pid() % 200 + 1
        );
        let run = option(Run::new(&http()).extra(&["--net-host"]), "address", &address);
        let server = containerd.start(&run);
        assert_eq!(curl(&server, &[], &format!("http://{address}/hello")).success(), "hello\n");
        let failed = containerd.run(&run).failure();
        assert!(failed.contains(&format!("cannot listen on {address}: ")), "{failed}");
    }

    fn a_component_of_another_world_is_refused(containerd: &Containerd) {
        let component = "(component (component $c) (export \"acme:a/b@1.0.0\" (component $c)))";
        let wasm = wat::parse_str(component).expect("a component");
        let failed = containerd.run(&Run::new(&app("no-world", wasm))).failure();
        if serves() {
            let text = "does not export wasi:cli/run@0.2 or wasi:http/incoming-handler@0.2";
            assert!(failed.contains(text), "{failed}");
        }
    }

    on_containerds!(a_server_on_the_hosts_network_serves, a_component_of_another_world_is_refused);
}
