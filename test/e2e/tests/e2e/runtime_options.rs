//! The runtime's options in every form in which a client of containerd sends them. Each version of
//! containerd passes them to `start` in its own way: alone, or in a message of the bootstrap
//! protocol.

use std::fs;
use std::os::unix::fs::MetadataExt;

use containerd_shim_protos::api::CreateTaskResponse;
use containerd_shim_protos::protobuf::{self, Message};
use containerd_shim_protos::shim::oci::Options;
use wherry_e2e::client::api::Any;
use wherry_e2e::client::{Client, Wanted};
use wherry_e2e::cri::{Cri, Member};
use wherry_e2e::direct::Direct;
use wherry_e2e::images::{guests_and_tools, spin, spin_wasm};
use wherry_e2e::{on_containerd_versions, on_containerds};
use wherry_testing::{
    Containerd, ContainerdVersion, DEADLINE, Daemon, Handler, Process, Run, Trace, managers,
    processes, remove_cgroup, shared, wait_for, wait_until,
};

/// The owner of a container's streams in these tests: `IoUid` and `IoGid`.
const OWNER: (u32, u32) = (4321, 8765);

/// A cgroup for the shims of a containerd, which ends with it.
fn shims_cgroup(containerd: &Containerd) -> String {
    format!("/{}/shims", containerd.namespace())
}

/// The options with an effect that another process can see. `KeyOfAnotherRuntime` has none.
fn toml(containerd: &str) -> String {
    let (uid, gid) = OWNER;
    format!(
        "ShimCgroup = \"{containerd}\"\nIoUid = {uid}\nIoGid = {gid}\n\
         KeyOfAnotherRuntime = \"value\"\n"
    )
}

/// The options with an error as their effect, and a part of it: systemd does not manage a cgroup of
/// this form, and no such plug-in exists.
const REFUSED: [(&str, &str, &str); 2] = [
    ("systemd", "SystemdCgroup = true\n", "slice:prefix:name"),
    ("plugins", "Plugins = \"/no/such\"\n", "plug-in"),
];

/// Asserts that the options of [`toml`] have their effect, or, without options, none.
fn assert_effect(shim: &Process, guest: i32, cgroup: &str, given: bool) {
    let joined = || fs::read_to_string(format!("/proc/{}/cgroup", shim.pid)).expect("it runs");
    let is_in = |line: &str| line.ends_with(&format!(":{cgroup}"));
    // A manager is not moved by the options of one container.
    if given && !shared() {
        wait_until("the shim's cgroup", DEADLINE, || joined().lines().any(is_in));
    } else {
        assert!(!joined().lines().any(is_in), "{}", joined());
    }
    let stream = fs::metadata(format!("/proc/{guest}/fd/1")).expect("the guest runs");
    let wanted = if given { OWNER } else { (0, 0) };
    assert_eq!((stream.uid(), stream.gid()), wanted, "the owner of standard output");
}

fn without_options_the_defaults_hold(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    container.wait_for_output("ready\n");
    let cgroup = shims_cgroup(containerd);
    assert_effect(&container.shims()[0], container.pid(), &cgroup, false);
}

/// `ctr run --runtime-config-path`.
fn options_of_a_file_have_their_effect(containerd: &Containerd) {
    let cgroup = shims_cgroup(containerd);
    let file = containerd.root().join("options.toml");
    let path = file.display().to_string();
    let run = Run::new(&spin()).extra(&["--runtime-config-path", &path]);
    fs::write(&file, toml(&cgroup)).expect("the daemon's folder is writable");
    let container = containerd.start(&run);
    container.wait_for_output("ready\n");
    assert_effect(&container.shims()[0], container.pid(), &cgroup, true);
    for (_, text, why) in REFUSED {
        fs::write(&file, text).expect("the daemon's folder is writable");
        let outcome = containerd.run(&run);
        assert!(outcome.code != 0 && outcome.err().contains(why), "{text}: {outcome}");
    }
}

/// Starts a container with these options through the API, passes the pids of its shim and of its
/// guest on, and removes it.
fn with_options(containerd: &Containerd, options: Any, check: impl Fn(&Process, i32)) {
    with_client(containerd, async |client| {
        let id = &*containerd.new_id();
        let wanted = Wanted { id, args: &["/spin.wasm"], terminal: false, group: None };
        client.make_with(wanted, Some(options)).await.expect("a container");
        let fifos = client.fifos(id, "");
        let guest = client.create(id, false, &fifos.paths()).await.expect("Create answers");
        client.start(id, "").await.expect("Start answers");
        let is_ours =
            |process: &Process| process.command.contains(&format!("-id {id} ")) && is_shim(process);
        let mut shims = match shared() {
            true => managers(&containerd.address()).into_iter(),
            false => processes().into_iter().filter(is_ours).collect::<Vec<_>>().into_iter(),
        };
        let shim = shims.next().expect("its shim runs");
        check(&shim, i32::try_from(guest).expect("a pid"));
        client.kill(id, "", 9).await.expect("Kill answers");
        client.wait(id, "", DEADLINE).await.expect("Wait answers");
        client.delete(id, "").await.expect("Delete answers");
        client.forget(id).await.expect("it is known");
    });
}

fn is_shim(process: &Process) -> bool {
    process.program().starts_with("containerd-shim-")
}

/// Runs this with a client of the API.
fn with_client(containerd: &Containerd, run: impl AsyncFnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        run(Client::new(containerd, &guests_and_tools())).await;
    });
}

/// Returns the error of Create with these options.
fn refused(containerd: &Containerd, options: Any) -> String {
    let mut said = String::new();
    with_client(containerd, async |client| {
        let id = &*containerd.new_id();
        let wanted = Wanted { id, args: &["/spin.wasm"], terminal: false, group: None };
        client.make_with(wanted, Some(options)).await.expect("a container");
        let fifos = client.fifos(id, "");
        let status = client.create(id, false, &fifos.paths()).await.expect_err("it is refused");
        said = status.message().to_owned();
        client.forget(id).await.expect("it is known");
    });
    said
}

fn message_of_runc(options: &Options) -> Any {
    Any {
        type_url: "containerd.runc.v1.Options".to_owned(),
        value: options.write_to_bytes().expect("a complete message"),
    }
}

/// `containerd.runc.v1.Options`, which Go clients send.
fn options_of_runcs_message_have_their_effect(containerd: &Containerd) {
    let cgroup = shims_cgroup(containerd);
    let (io_uid, io_gid) = OWNER;
    let options = Options { shim_cgroup: cgroup.clone(), io_uid, io_gid, ..Options::new() };
    with_options(containerd, message_of_runc(&options), |shim, guest| {
        assert_effect(shim, guest, &cgroup, true);
    });
    let options = Options { systemd_cgroup: true, ..Options::new() };
    let said = refused(containerd, message_of_runc(&options));
    let (_, _, why) = REFUSED[0];
    assert!(said.contains(why), "{said}");
}

/// `runtimeoptions.v1.Options` with the TOML in the message.
fn options_of_a_message_with_toml_have_their_effect(containerd: &Containerd) {
    /// Its third field.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Generic {
        #[prost(bytes = "vec", tag = "3")]
        config_body: Vec<u8>,
    }
    let message = |text: &str| Any {
        type_url: "runtimeoptions.v1.Options".to_owned(),
        value: prost::Message::encode_to_vec(&Generic { config_body: text.into() }),
    };
    let cgroup = shims_cgroup(containerd);
    with_options(containerd, message(&toml(&cgroup)), |shim, guest| {
        assert_effect(shim, guest, &cgroup, true);
    });
    for (_, text, why) in REFUSED {
        let said = refused(containerd, message(text));
        assert!(said.contains(why), "{text}: {said}");
    }
}

on_containerds!(
    without_options_the_defaults_hold,
    options_of_a_file_have_their_effect,
    options_of_runcs_message_have_their_effect,
    options_of_a_message_with_toml_have_their_effect,
);

/// `NoPivotRoot`, which leaves no trace but its system calls.
#[test]
fn without_a_pivot_the_root_filesystem_is_moved() {
    let containerd = Containerd::shared(ContainerdVersion::V2);
    for (no_pivot_root, wanted, other) in
        [(false, "pivot_root(", "MS_MOVE"), (true, "MS_MOVE", "pivot_root(")]
    {
        let direct = Direct::start(containerd, &format!("pivot-{no_pivot_root}"), &spin_wasm());
        let shim = direct.connect();
        let daemon = direct.daemon();
        let is_host = |process: &Process| process.parent().as_ref() == Some(&daemon);
        let host = wait_for("the engine host", DEADLINE, || processes().into_iter().find(is_host));
        let options = ["--trace=pivot_root,mount"];
        let trace = Trace::attach(containerd, &[daemon.pid, host.pid], &options);
        let mut request = direct.create_request();
        let options = message_of_runc(&Options { no_pivot_root, ..Options::new() });
        let mut any = protobuf::well_known_types::any::Any::new();
        (any.type_url, any.value) = (options.type_url, options.value);
        request.options = Some(any).into();
        let _: CreateTaskResponse = shim.call("Create", &request).expect("Create answers");
        wait_until(wanted, DEADLINE, || trace.lines().contains(wanted));
        assert!(!trace.lines().contains(other), "{}", trace.lines());
        drop(trace);
        direct.command("delete", b"");
        drop(shim);
        direct.wait_gone(DEADLINE);
    }
}

/// The options of a handler in containerd's configuration. containerd 1.6 passes the name of a file
/// alone.
fn options_of_a_handler_have_their_effect(version: ContainerdVersion) {
    let cgroup = format!("/options-{}-{}", version.name(), std::process::id());
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let handler = |name: &str, options: &str| {
        let (name, mut options) = (name.to_owned(), options.to_owned());
        if version == ContainerdVersion::V1_6 {
            let file = folder.path().join(&name);
            fs::write(&file, options).expect("it is writable");
            options = format!("ConfigPath = {file:?}\n");
        }
        Handler { name, options, ..Handler::default() }
    };
    let mut handlers = vec![handler("none", ""), handler("all", &toml(&cgroup))];
    handlers.extend(REFUSED.map(|(name, text, _)| handler(name, text)));
    let cri = Cri::start_with(version, &handlers);
    for (name, given) in [("none", false), ("all", true)] {
        let mut pod = cri.pod_under(name, name);
        let image = spin();
        let guest = pod.run(&Member::new("guest", &image));
        pod.wait_for_log("guest", "stdout F ready\n");
        assert_effect(&pod.shims()[0], pod.status(&guest).1, &cgroup, given);
        pod.remove();
    }
    for (name, text, why) in REFUSED {
        let error = cri.refused_pod(name, name);
        assert!(error.contains(why), "{text}: {error}");
    }
    remove_cgroup(&cgroup);
}

mod kubernetes {
    use super::*;

    on_containerd_versions!(version => version; options_of_a_handler_have_their_effect);
}
