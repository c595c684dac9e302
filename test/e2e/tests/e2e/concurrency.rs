//! Many containers at once, and no request that waits for another container's guest.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::thread;
use tokio::runtime::Builder;
use wherry_e2e::client::{Client, Paths, Wanted};
use wherry_e2e::images::{guests_and_tools, hello, laborious_wasm};
use wherry_e2e::{on_containerds, on_dockers};
use wherry_testing::{
    Containerd, DEADLINE, Daemon, Docker, Process, Run, processes, runtime, wait_for, wait_until,
};

fn a_hundred_at_once_all_run(containerd: &Containerd) {
    let image = hello().pack();
    containerd.load(&image);
    let runtime = runtime();
    thread::scope(|scope| {
        let run = || {
            let id = containerd.new_id();
            containerd.ctr(&["run", "--rm", "--runtime", &runtime, &image.reference, &id])
        };
        let clients: Vec<_> = (0..100).map(|_| scope.spawn(run)).collect();
        for client in clients {
            assert_eq!(client.join().expect("ctr runs").success(), "hello\n");
        }
    });
}

fn thirty_at_once_all_run(docker: &Docker) {
    let run = Run::new(&hello());
    docker.load(&hello().pack());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..30).map(|_| scope.spawn(|| docker.run(&run))).collect();
        for client in clients {
            assert_eq!(client.join().expect("docker runs").success(), "hello\n");
        }
    });
}

/// Calls a containerd within a tokio runtime, with containers of [`guests_and_tools`]. The test
/// also gets the path of a guest that takes seconds to compile and is used by no other test.
fn with_client(containerd: &Containerd, test: impl AsyncFnOnce(Client, &str)) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let module = format!("/laborious-{}-{}.wasm", containerd.namespace(), containerd.new_id());
        let image = guests_and_tools().file(&module, 0o755, laborious_wasm());
        test(Client::new(containerd, &image), &module).await;
    });
}

/// Every RPC on a container that does not exist yet; it is then created and ends.
async fn whole_life(client: &Client, id: &str, group: &str) {
    let wanted = Wanted { id, args: &["/cat.wasm"], terminal: false, group: Some(group) };
    client.make(wanted).await.expect("a container");
    let fifos = client.fifos(id, "");
    let pid = client.create(id, false, &fifos.paths()).await.expect("Create answers");
    client.start(id, "").await.expect("Start answers");
    every_rpc_while_it_runs(client, id, pid).await;
    client.kill(id, "", 9).await.expect("Kill answers");
    assert_eq!(client.wait(id, "", DEADLINE).await.expect("Wait answers"), 137);
    client.delete(id, "").await.expect("Delete answers");
    client.forget(id).await.expect("it is known");
}

async fn every_rpc_while_it_runs(client: &Client, id: &str, pid: u32) {
    assert_eq!(client.get(id, "").await.expect("State answers").pid, pid);
    assert!(client.pids(id).await.expect("Pids answers").contains(&pid));
    client.metrics(id).await.expect("Stats answers");
    client.exec(id, "e", &["/hello.wasm"], &Paths::default()).await.expect("Exec answers");
    client.start(id, "e").await.expect("Start of an exec answers");
    client.wait(id, "e", DEADLINE).await.expect("Wait for an exec answers");
    client.delete(id, "e").await.expect("Delete of an exec answers");
    client.freeze(id, true).await.expect("Pause answers");
    client.freeze(id, false).await.expect("Resume answers");
    client.close_input(id, "").await.expect("CloseIO answers");
}

/// The guest floods its output, which has no reader; it never reads its input, which is larger than
/// any pipe; and it never ends.
fn nobody_waits_for_a_guest_that_neither_reads_nor_ends(containerd: &Containerd) {
    with_client(containerd, async |client, _| {
        for terminal in [false, true] {
            let (deaf, other) = (&*containerd.new_id(), &*containerd.new_id());
            let wanted = Wanted { id: deaf, args: &["/flood.wasm"], terminal, group: Some(deaf) };
            client.make(wanted).await.expect("a container");
            let mut fifos = client.fifos(deaf, "");
            client.create(deaf, terminal, &fifos.paths()).await.expect("Create answers");
            client.start(deaf, "").await.expect("Start answers");
            let ended = {
                let (client, id) = (client.clone(), deaf.to_owned());
                tokio::spawn(async move { client.wait(&id, "", 4 * DEADLINE).await })
            };
            let too_much = vec![b'x'; 1 << 20];
            assert!(fifos.say(&too_much) < too_much.len(), "the pipe is full");
            whole_life(&client, other, deaf).await;
            let pid = client.get(deaf, "").await.expect("State answers").pid;
            every_rpc_while_it_runs(&client, deaf, pid).await;
            assert!(!ended.is_finished(), "it waits all the while");
            client.kill(deaf, "", 9).await.expect("Kill answers");
            assert_eq!(ended.await.expect("it is there").expect("Wait answers"), 137);
            client.delete(deaf, "").await.expect("Delete answers");
            client.forget(deaf).await.expect("it is known");
        }
    });
}

/// A compiler that is stopped until this is dropped.
struct Held(Pid);

impl Held {
    /// Stops the compiler that reads a module of this name, once it computes.
    fn compiler_of(module: &str) -> Held {
        let compiles = |pid: i32| {
            let input = std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap_or_default();
            // It reads the image's file, at its path on the host.
            input.ends_with(module.trim_start_matches('/')) && ticks_of(pid) > 20
        };
        let find = || {
            let mut all = processes().into_iter();
            let compiler = |process: &Process| process.command.contains(" compile");
            all.find(|process| compiler(process) && compiles(process.pid))
                .map(|process| process.pid)
        };
        let pid = Pid::from_raw(wait_for("the compiler", DEADLINE, find));
        kill(pid, Signal::SIGSTOP).expect("it still runs");
        Held(pid)
    }
}

/// The processor time of a process, in clock ticks.
fn ticks_of(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain blanks.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

fn nobody_waits_for_a_create_that_compiles(containerd: &Containerd) {
    with_client(containerd, async |client, module| {
        let (first, slow, other) =
            (&*containerd.new_id(), &*containerd.new_id(), &*containerd.new_id());
        let make = async |id: &str, module: &str| {
            let wanted = Wanted { id, args: &[module], terminal: false, group: Some(first) };
            client.make(wanted).await.expect("a container");
        };
        make(first, "/cat.wasm").await;
        let fifos = client.fifos(first, "");
        client.create(first, false, &fifos.paths()).await.expect("Create answers");
        client.start(first, "").await.expect("Start answers");
        make(slow, module).await;
        let created = {
            let (client, id) = (client.clone(), slow.to_owned());
            tokio::spawn(async move { client.create(&id, false, &Paths::default()).await })
        };
        let module = module.to_owned();
        let held = tokio::task::spawn_blocking(move || Held::compiler_of(&module));
        let held = held.await.expect("there is one");
        whole_life(&client, other, first).await;
        let pid = client.get(first, "").await.expect("State answers").pid;
        every_rpc_while_it_runs(&client, first, pid).await;
        assert!(!created.is_finished(), "it compiles all the while");
        drop(held);
        created.await.expect("it is there").expect("Create answers");
        for id in [slow, first] {
            client.kill(id, "", 9).await.expect("Kill answers");
            client.wait(id, "", DEADLINE).await.expect("Wait answers");
            client.delete(id, "").await.expect("Delete answers");
            client.forget(id).await.expect("it is known");
        }
    });
}

/// This includes Kill, Wait and Delete of the same container.
fn nobody_waits_for_an_exec_that_compiles(containerd: &Containerd) {
    with_client(containerd, async |client, module| {
        let id = &*containerd.new_id();
        let wanted = Wanted { id, args: &["/cat.wasm"], terminal: false, group: None };
        client.make(wanted).await.expect("a container");
        let fifos = client.fifos(id, "");
        let pid = client.create(id, false, &fifos.paths()).await.expect("Create answers");
        client.start(id, "").await.expect("Start answers");
        client.exec(id, "slow", &[module], &Paths::default()).await.expect("Exec answers");
        let started = {
            let (client, id) = (client.clone(), id.to_owned());
            tokio::spawn(async move { client.start(&id, "slow").await })
        };
        let module = module.to_owned();
        let held = tokio::task::spawn_blocking(move || Held::compiler_of(&module));
        let held = held.await.expect("there is one");
        every_rpc_while_it_runs(&client, id, pid).await;
        client.get(id, "slow").await.expect("State of the exec answers");
        client.kill(id, "", 9).await.expect("Kill answers");
        assert_eq!(client.wait(id, "", DEADLINE).await.expect("Wait answers"), 137);
        assert!(!started.is_finished(), "it compiles all the while");
        client.delete(id, "").await.expect("Delete answers");
        // The shim has no container left, and its compiler no request.
        wait_until("the compiler's end", DEADLINE, || Process::of(held.0.as_raw()).is_none());
        started.await.expect("it is there").expect_err("there is nothing left to start in");
        client.forget(id).await.expect("it is known");
    });
}

fn an_exec_whose_pipes_nobody_opens_starts(containerd: &Containerd) {
    with_client(containerd, async |client, _| {
        let id = &*containerd.new_id();
        let wanted = Wanted { id, args: &["/cat.wasm"], terminal: false, group: None };
        client.make(wanted).await.expect("a container");
        let open = client.fifos(id, "");
        let pid = client.create(id, false, &open.paths()).await.expect("Create answers");
        client.start(id, "").await.expect("Start answers");
        let fifos = client.unopened_fifos(id, "flood");
        client.exec(id, "flood", &["/flood.wasm"], &fifos.paths()).await.expect("Exec answers");
        client.start(id, "flood").await.expect("Start of the exec answers");
        every_rpc_while_it_runs(&client, id, pid).await;
        client.kill(id, "flood", 9).await.expect("Kill of the exec answers");
        assert_eq!(client.wait(id, "flood", DEADLINE).await.expect("Wait answers"), 137);
        client.delete(id, "flood").await.expect("Delete of the exec answers");
        client.kill(id, "", 9).await.expect("Kill answers");
        client.wait(id, "", DEADLINE).await.expect("Wait answers");
        client.delete(id, "").await.expect("Delete answers");
        client.forget(id).await.expect("it is known");
    });
}

on_containerds!(
    a_hundred_at_once_all_run,
    nobody_waits_for_a_guest_that_neither_reads_nor_ends,
    nobody_waits_for_a_create_that_compiles,
    nobody_waits_for_an_exec_that_compiles,
    an_exec_whose_pipes_nobody_opens_starts,
);

mod docker {
    use super::*;
    on_dockers!(thirty_at_once_all_run);
}
