//! When a shim ends: with its last container, in any state of containerd and in any order
//! it asked.

use containerd_shim_protos::api::{
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, KillRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::ttrpc::Code;
use std::thread;
use std::time::{Duration, Instant};
use wherry_e2e::client::{Client, Paths, Wanted};
use wherry_e2e::direct::Direct;
use wherry_e2e::images::{guests_and_tools, hello_wasm, laborious_wasm, spin_wasm};
use wherry_e2e::needs::are_met;
use wherry_e2e::on_own_containerds;
use wherry_e2e::shim::Shim;
use wherry_testing::{Containerd, ContainerdVersion, DEADLINE, processes, wait_until};

fn shared() -> &'static Containerd {
    Containerd::shared(ContainerdVersion::V2)
}

fn create(direct: &Direct, shim: &Shim) -> Result<CreateTaskResponse, (Code, String)> {
    shim.call("Create", &direct.create_request())
}

fn start_request(direct: &Direct) -> StartRequest {
    StartRequest { id: direct.id().to_owned(), ..StartRequest::new() }
}

fn start(direct: &Direct, shim: &Shim) -> Result<StartResponse, (Code, String)> {
    shim.call("Start", &start_request(direct))
}

fn kill_request(direct: &Direct) -> KillRequest {
    KillRequest { id: direct.id().to_owned(), signal: 9, ..KillRequest::new() }
}

fn kill(direct: &Direct, shim: &Shim) -> Result<Empty, (Code, String)> {
    shim.call("Kill", &kill_request(direct))
}

fn delete_request(direct: &Direct) -> DeleteRequest {
    DeleteRequest { id: direct.id().to_owned(), ..DeleteRequest::new() }
}

fn delete(direct: &Direct, shim: &Shim) -> Result<DeleteResponse, (Code, String)> {
    shim.call("Delete", &delete_request(direct))
}

fn shutdown_request(direct: &Direct) -> ShutdownRequest {
    ShutdownRequest { id: direct.id().to_owned(), ..ShutdownRequest::new() }
}

fn shutdown(direct: &Direct, shim: &Shim) -> Result<Empty, (Code, String)> {
    shim.call("Shutdown", &shutdown_request(direct))
}

fn wait(direct: &Direct, shim: &Shim) -> Result<WaitResponse, (Code, String)> {
    shim.call("Wait", &WaitRequest { id: direct.id().to_owned(), ..WaitRequest::new() })
}

/// Whether the shim compiles a module: a process of the compiler is a child of the daemon.
fn compiles(direct: &Direct) -> bool {
    let daemon = direct.daemon();
    processes().iter().any(|process| {
        process.command.contains(" compile") && process.parent().as_ref() == Some(&daemon)
    })
}

#[test]
fn a_shutdown_during_a_create_ends_the_shim_when_that_fails() {
    if !are_met(module_path!(), "a_shutdown_during_a_create_ends_the_shim_when_that_fails") {
        return;
    }
    let direct = Direct::start(shared(), "shutdown-in-create", &laborious_wasm());
    let shim = direct.connect();
    thread::scope(|scope| {
        let created = scope.spawn(|| create(&direct, &direct.connect()));
        wait_until("the compiler", DEADLINE, || compiles(&direct));
        shutdown(&direct, &shim).expect("Shutdown answers");
        assert!(!direct.processes().is_empty(), "a Create is in progress");
        kill(&direct, &shim).expect("Kill answers");
        created.join().expect("no panic").expect_err("it was cancelled");
    });
    // Both clients are connected, and neither sends another Shutdown.
    direct.wait_gone(DEADLINE);
}

#[test]
fn a_shim_whose_containerd_was_lost_during_a_failing_create_ends() {
    if !are_met(module_path!(), "a_shim_whose_containerd_was_lost_during_a_failing_create_ends") {
        return;
    }
    let direct = Direct::start(shared(), "lost-in-create", b"not a program");
    let shim = direct.connect();
    create(&direct, &shim).expect_err("the file is not a program");
    drop(shim);
    direct.wait_gone(DEADLINE);
}

#[test]
fn a_shim_whose_container_was_cleaned_up_by_the_delete_command_ends() {
    if !are_met(module_path!(), "a_shim_whose_container_was_cleaned_up_by_the_delete_command_ends")
    {
        return;
    }
    let direct = Direct::start(shared(), "cleaned-up", &spin_wasm());
    let shim = direct.connect();
    create(&direct, &shim).expect("Create answers");
    start(&direct, &shim).expect("Start answers");
    drop(shim);
    direct.command("delete", b"");
    direct.wait_gone(DEADLINE);
}

/// containerd restarts while a container waits for Start, and gives it up. containerd 2.1 leaks the
/// connection that it made before.
fn given_up_by_a_client_that_stays(id: &str, give_up: impl Fn(&Direct)) {
    let direct = Direct::start(shared(), id, &spin_wasm());
    let shim = direct.connect();
    create(&direct, &shim).expect("Create answers");
    drop(shim);
    let _leaked = direct.connect();
    give_up(&direct);
    direct.wait_gone(DEADLINE);
}

#[test]
fn a_shim_that_is_given_up_with_a_created_container_ends_while_a_client_is_connected() {
    if !are_met(
        module_path!(),
        "a_shim_that_is_given_up_with_a_created_container_ends_while_a_client_is_connected",
    ) {
        return;
    }
    given_up_by_a_client_that_stays("given-up", |direct| {
        direct.command("delete", b"");
    });
}

/// The `delete` command has run before Create used the bundle.
#[test]
fn a_created_container_whose_bundle_was_deleted_is_removed_with_its_shim() {
    if !are_met(
        module_path!(),
        "a_created_container_whose_bundle_was_deleted_is_removed_with_its_shim",
    ) {
        return;
    }
    given_up_by_a_client_that_stays("no-bundle", |direct| {
        std::fs::remove_dir_all(direct.path()).expect("the bundle can be removed");
    });
}

#[test]
fn an_id_can_be_used_again_after_the_delete_command() {
    let direct = Direct::start(shared(), "used-again", &spin_wasm());
    let shim = direct.connect();
    create(&direct, &shim).expect("Create answers");
    direct.command("delete", b"");
    // The daemon may have forgotten it by now: the command's probe of the socket is a client that
    // has disconnected.
    if let Err((code, text)) = wait(&direct, &shim) {
        assert_eq!(code, Code::NOT_FOUND, "{text}");
    }
    create(&direct, &shim).expect("the id is free");
    kill(&direct, &shim).expect("Kill answers");
    wait(&direct, &shim).expect("Wait answers");
    delete(&direct, &shim).expect("Delete answers");
    shutdown(&direct, &shim).expect("Shutdown answers");
    drop(shim);
    direct.wait_gone(DEADLINE);
}

/// Requests that arrive while the shim ends are answered, and their connections are not closed
/// under them.
#[test]
fn a_kill_that_meets_the_end_of_the_shim_is_answered() {
    if !are_met(module_path!(), "a_kill_that_meets_the_end_of_the_shim_is_answered") {
        return;
    }
    for round in 0..10 {
        let direct = Direct::start(shared(), &format!("kill-at-end-{round}"), &hello_wasm());
        let (shim, other) = (direct.connect(), direct.connect());
        create(&direct, &shim).expect("Create answers");
        start(&direct, &shim).expect("Start answers");
        wait(&direct, &shim).expect("Wait answers");
        delete(&direct, &shim).expect("Delete answers");
        thread::scope(|scope| {
            let kills = scope.spawn(|| {
                for _ in 0..20 {
                    let (code, text) = kill(&direct, &other).expect_err("it is deleted");
                    assert_eq!(code, Code::NOT_FOUND, "{text}");
                }
            });
            shutdown(&direct, &shim).expect("Shutdown answers");
            kills.join().expect("each is answered");
        });
        let (code, text) = create(&direct, &other).expect_err("the shim ends");
        assert_eq!(code, Code::UNAVAILABLE, "{text}");
        drop((shim, other));
        direct.wait_gone(DEADLINE);
    }
}

/// One shim that gets requests in a random order from clients that come and go, until containerd is
/// lost. `seed` repeats an order.
fn in_one_order(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let direct = Direct::start(shared(), &format!("order-{seed}"), &hello_wasm());
    let mut log = Vec::new();
    thread::scope(|scope| {
        let mut clients = vec![direct.connect()];
        for _ in 0..random.usize(3..14) {
            if !direct.socket().exists() {
                break;
            }
            let name = ["create", "start", "kill", "delete", "shutdown", "connect", "disconnect"];
            let choice = random.usize(0..name.len());
            log.push(name[choice]);
            let direct = &direct;
            // In the background: the next request is sent before this one is answered.
            let send = |send: fn(&Direct, &Shim)| {
                if let Some(shim) = direct.try_connect() {
                    scope.spawn(move || send(direct, &shim));
                }
            };
            match choice {
                0 => send(|direct, shim| shim.try_call("Create", &direct.create_request())),
                1 => send(|direct, shim| shim.try_call("Start", &start_request(direct))),
                2 => send(|direct, shim| shim.try_call("Kill", &kill_request(direct))),
                3 => send(|direct, shim| shim.try_call("Delete", &delete_request(direct))),
                4 => send(|direct, shim| shim.try_call("Shutdown", &shutdown_request(direct))),
                5 => clients.extend(direct.try_connect()),
                _ => drop(clients.pop()),
            }
            thread::sleep(Duration::from_millis(random.u64(0..40)));
        }
    });
    // containerd is lost. After its return it runs `delete` for each bundle.
    direct.command("delete", b"");
    let lost = Instant::now();
    wait_until(&format!("the end of the shim, seed {seed}: {log:?}"), DEADLINE, || {
        direct.processes().is_empty() && !direct.socket().exists()
    });
    assert!(lost.elapsed() < Duration::from_secs(45), "seed {seed}: {log:?}");
}

#[test]
fn in_any_order_of_requests_the_shim_ends_when_containerd_is_lost() {
    if !are_met(module_path!(), "in_any_order_of_requests_the_shim_ends_when_containerd_is_lost") {
        return;
    }
    let first = fastrand::u64(0..1 << 32);
    for round in 0..3 {
        thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || in_one_order(first + round * 8 + number));
            }
        });
    }
}

/// Waits for a condition, and lets other tasks of the runtime run meanwhile.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// containerd is killed while Create compiles a module, and started again.
fn a_containerd_killed_during_a_create_leaves_no_shim(containerd: &Containerd) {
    let image = guests_and_tools().file("/slow.wasm", 0o755, laborious_wasm());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let id = &*containerd.new_id();
        let shims = || {
            let mut shims = processes().into_iter();
            shims.any(|process| process.command.contains(&format!("-id {id} ")))
        };
        let make = async |client: &Client, module: &str| {
            let wanted = Wanted { id, args: &[module], terminal: false, group: None };
            client.make(wanted).await.expect("a container");
        };
        let client = Client::new(containerd, &image);
        make(&client, "/slow.wasm").await;
        let created = {
            let (client, id) = (client.clone(), id.to_owned());
            tokio::spawn(async move { client.create(&id, false, &Paths::default()).await })
        };
        until("the shim", shims).await;
        // The module takes seconds to compile.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!created.is_finished(), "{:?}", created.await);
        containerd.kill9();
        assert!(created.await.expect("no panic").is_err());
        containerd.start_again();
        until("the shim's end", || !shims()).await;
        // A new connection: the daemon is another.
        let client = Client::new(containerd, &image);
        client.forget(id).await.expect("no task is left");
        make(&client, "/cat.wasm").await;
        client.create(id, false, &Paths::default()).await.expect("the id can be used again");
        client.kill(id, "", 9).await.expect("Kill answers");
        client.wait(id, "", DEADLINE).await.expect("Wait answers");
        client.delete(id, "").await.expect("Delete answers");
        client.forget(id).await.expect("it is known");
        until("the shim's end", || !shims()).await;
    });
}

on_own_containerds!(a_containerd_killed_during_a_create_leaves_no_shim);

/// State and Wait report an exit when its output has been read, or after a short time without a
/// reader.
#[test]
fn an_exit_is_told_when_the_output_has_been_read() {
    let direct = Direct::start(shared(), "output-read", &hello_wasm());
    let shim = direct.connect();
    let stdout = direct.path().join("stdout");
    nix::unistd::mkfifo(&stdout, nix::sys::stat::Mode::S_IRWXU).expect("it is writable");
    let mut request = direct.create_request();
    request.stdout = stdout.display().to_string();
    let reader = std::fs::File::options().read(true).write(true).open(&stdout).expect("a pipe");
    let _: CreateTaskResponse = shim.call("Create", &request).expect("Create answers");
    let begin = Instant::now();
    start(&direct, &shim).expect("Start answers");
    assert_eq!(wait(&direct, &shim).expect("Wait answers").exit_status, 0);
    assert!(
        begin.elapsed() >= Duration::from_millis(80),
        "the output was not read: {:?}",
        begin.elapsed()
    );
    let id = direct.id().to_owned();
    let state: StateResponse =
        shim.call("State", &StateRequest { id, ..StateRequest::new() }).expect("State answers");
    assert_eq!(state.exit_status, 0);
    drop(reader);
    delete(&direct, &shim).expect("Delete answers");
    shutdown(&direct, &shim).expect("Shutdown answers");
    drop(shim);
    direct.wait_gone(DEADLINE);
}
