//! The runtime `io.containerd.wherry.v1`: each container has the engine that its annotation names,
//! or the first one that runs its module.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use wherry_e2e::cri::{Cri, Member};
use wherry_e2e::images::{app, binary, exit, fields, hello, kit, spin};
use wherry_e2e::{on_all_daemons, on_containerd_versions};
use wherry_testing::{Containerd, Daemon, Handler, Image, Leftovers, Run, bin_dir};

/// The runtime.
const WHERRY: &str = "io.containerd.wherry.v1";
/// The annotation.
const ENGINE: &str = "wherry.engine";

/// The engine whose host, of those in a folder, a process executes.
pub(crate) fn engine_in(folder: &Path, pid: i32) -> &'static str {
    let identity = |path: &Path| {
        let file = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (file.dev(), file.ino())
    };
    let executed = identity(Path::new(&format!("/proc/{pid}/exe")));
    let is = |engine: &&&str| identity(&folder.join(format!("wherry-{engine}-host"))) == executed;
    ["wasmtime", "wamr"].iter().find(is).copied().unwrap_or("another")
}

fn engine_of(pid: i32) -> &'static str {
    engine_in(&bin_dir(), pid)
}

fn run(image: &Image, annotations: &[&str]) -> Run {
    let words = annotations.iter().flat_map(|pair| ["--annotation", pair]);
    Run::new(image).runtime(WHERRY).extra(&words.collect::<Vec<_>>())
}

/// A module that only engines with SIMD run.
fn simd() -> Image {
    fields("simd", r#"(func (export "_start") (drop (i32x4.splat (i32.const 1))))"#)
}

/// A module that no engine runs.
fn alien() -> Image {
    let fields =
        r#"(import "alien" "call" (func)) (memory (export "memory") 1) (func (export "_start"))"#;
    app("alien", binary(&format!("(module {fields})")))
}

fn an_annotation_names_the_engine(daemon: &dyn Daemon) {
    for (annotations, engine) in [
        (&[][..], "wasmtime"),
        (&["wherry.engine=wamr"], "wamr"),
        (&["wherry.engine=wasmtime"], "wasmtime"),
        (&["run.oci.handler=wamr"], "wamr"),
        (&["run.oci.handler=wasm", "module.wasm.image/variant=compat-smart"], "wasmtime"),
    ] {
        let container = daemon.start(&run(&spin(), annotations));
        container.wait_for_output("ready\n");
        assert_eq!(engine_of(container.pid()), engine, "{annotations:?}");
        container.kill("KILL");
        container.wait();
    }
}

fn an_exit_code_arrives_with_each_engine(daemon: &dyn Daemon) {
    for annotation in ["wherry.engine=wasmtime", "wherry.engine=wamr"] {
        assert_eq!(daemon.run(&run(&exit(7), &[annotation])).code, 7, "{annotation}");
    }
}

fn an_engine_that_is_not_installed_is_one_sentence(daemon: &dyn Daemon) {
    let text = daemon.run(&run(&hello(), &["wherry.engine=wasmer"])).failure();
    let sentence = "annotation wherry.engine: the engine \"wasmer\" is not installed, or \
                    WHERRY_ENGINES leaves it out; installed are wasmtime, wamr";
    assert!(text.contains(sentence), "{text}");
}

fn an_engine_that_was_named_and_refuses_is_the_error(daemon: &dyn Daemon) {
    let text = daemon.run(&run(&simd(), &["wherry.engine=wamr"])).failure();
    assert!(text.contains("it uses SIMD, which WAMR does not support"), "{text}");
    assert!(!text.contains("Wasmtime"), "{text}");
}

fn what_runs_nowhere_gets_the_reason_of_each_engine(daemon: &dyn Daemon) {
    let text = daemon.run(&run(&alien(), &[])).failure();
    let reason = "/app.wasm: no installed engine runs it: wasmtime: missing import alien::call: ";
    assert!(
        text.contains(reason) && text.contains("; wamr: missing import alien::call: "),
        "{text}"
    );
}

on_all_daemons!(
    an_annotation_names_the_engine,
    an_exit_code_arrives_with_each_engine,
    an_engine_that_is_not_installed_is_one_sentence,
    an_engine_that_was_named_and_refuses_is_the_error,
    what_runs_nowhere_gets_the_reason_of_each_engine,
);

/// Of a containerd whose first choice is the engine that runs less.
fn the_next_engine_runs_what_the_first_one_refuses(containerd: &Containerd) {
    // The lasting effects of a first container, such as parents of cgroups, do not count.
    assert_eq!(containerd.run(&run(&hello(), &[])).success(), "hello\n");
    let leftovers = Leftovers::snapshot(containerd);
    assert_eq!(containerd.run(&run(&simd(), &[])).code, 0);
    let container = containerd.start(&run(&spin(), &[]));
    container.wait_for_output("ready\n");
    assert_eq!(engine_of(container.pid()), "wamr", "it is the first choice");
    container.kill("KILL");
    container.wait();
    container.remove();
    let container = containerd.start(&run(&kit(true), &[]).args(&["sleep", "100000"]));
    container.wait_for_output("ready\n");
    assert_eq!(engine_of(container.pid()), "wasmtime", "it is a component");
    // As its first process: the other engine is tried first.
    let shown = containerd.exec(container.id(), &["/app.wasm", "show"], b"").success();
    assert!(shown.contains("/app.wasm"), "{shown}");
    container.kill("KILL");
    container.wait();
    container.remove();
    leftovers.assert_none_new();
}

mod order {
    #[allow(unused_imports, reason = "tests_in looks for them here")]
    use super::*;
    on_containerd_versions!(
        version => &Containerd::start_with(version, &[("WHERRY_ENGINES", "wamr,wasmtime")]);
        the_next_engine_runs_what_the_first_one_refuses
    );
}

/// In Kubernetes: by an annotation of the container, and by one of the pod for a container.
fn engines_share_a_pod(cri: &Cri) {
    let image = spin();
    let mut config = cri.config("engines", wherry_e2e::cri::api::CONTAINER);
    config.annotations.insert("wherry.engine/third".to_owned(), "wamr".to_owned());
    let mut pod = cri.pod_of_under(config, "wherry").expect("the pod runs");
    let first = pod.run(&Member::new("first", &image));
    let second = pod.run(&Member::new("second", &image).annotation(ENGINE, "wamr"));
    let third = pod.run(&Member::new("third", &image));
    for (name, id, engine) in
        [("first", &first, "wasmtime"), ("second", &second, "wamr"), ("third", &third, "wamr")]
    {
        pod.wait_for_log(name, "stdout F ready\n");
        assert_eq!(engine_of(pod.status(id).1), engine, "{name}");
    }
    assert_eq!(pod.shims().len(), 1, "{:#?}", pod.shims());
    pod.remove();
}

/// The handler as `wherry-node install` writes it.
fn handlers() -> [Handler; 1] {
    let list = r#"["wherry.engine", "wherry.engine/*", "run.oci.handler"]"#;
    [Handler {
        name: "wherry".to_owned(),
        runtime: WHERRY.to_owned(),
        keys: format!("pod_annotations = {list}\ncontainer_annotations = {list}\n"),
        ..Handler::default()
    }]
}

mod cri {
    #[allow(unused_imports, reason = "tests_in looks for them here")]
    use super::*;
    on_containerd_versions!(
        version => &::wherry_e2e::cri::Cri::start_with(version, &crate::engines::handlers());
        engines_share_a_pod
    );
}
