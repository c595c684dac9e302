//! A container's `config.json` with missing and wrong values: the container runs, or is refused
//! with one sentence that names the fault, and nothing stays behind.
//!
//! Most cases run on one containerd only: the shim reads the file from the bundle, without
//! containerd. A few run on each.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use wherry_e2e::beside::{Beside, is_a_sentence, lives_on};
use wherry_e2e::images::{spin, spin_wasm};
use wherry_e2e::shim::Shim;
use wherry_e2e::{on_containerds, tests_in};
use wherry_testing::{Containerd, Daemon, Leftovers, Run};

/// Every key of every object and every element of every array, as JSON pointers.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut below = |key: &str, inner: &Value| {
        let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        found.push(pointer.clone());
        pointers(inner, &pointer, found);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, inner)| below(key, inner)),
        Value::Array(elements) => {
            elements.iter().enumerate().for_each(|(at, inner)| below(&at.to_string(), inner));
        }
        _ => {}
    }
}

fn remove(config: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let key = key.replace("~1", "/").replace("~0", "~");
    match config.pointer_mut(parent).expect("it is there") {
        Value::Object(fields) => drop(fields.remove(&key)),
        Value::Array(elements) => drop(elements.remove(key.parse().expect("an index"))),
        _ => unreachable!(),
    }
}

/// Sets the value at a pointer; missing objects are created, and `-` appends to an array.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for key in pointer.split('/').skip(1) {
        at = if at.is_array() {
            let elements = at.as_array_mut().expect("it is one");
            if key == "-" {
                elements.push(Value::Null);
            }
            let index = key.parse().unwrap_or(elements.len() - 1);
            &mut elements[index]
        } else {
            &mut at[key]
        };
    }
    *at = value;
}

/// One live shim, and additional containers in it.
struct Bench<'d> {
    containerd: &'d Containerd,
    container: wherry_testing::Container<'d>,
    shim: Shim,
    config: Value,
    leftovers: Leftovers<'d>,
}

/// Containers without a cgroup path get a cgroup with their name: ids of other tests must differ.
fn id(containerd: &Containerd) -> String {
    format!("beside-{}", containerd.namespace())
}

impl<'d> Bench<'d> {
    fn new(containerd: &'d Containerd) -> Bench<'d> {
        let container = containerd.start(&Run::new(&spin()));
        let shim = Shim::of(&container);
        let config = Beside::config_like(&container, containerd, &id(containerd));
        // Parents of cgroups are created with the first container and stay.
        assert_eq!(Beside::new(containerd, &id(containerd), &config).run(&shim), Ok(0));
        let leftovers = Leftovers::snapshot(containerd);
        Bench { containerd, container, shim, config, leftovers }
    }

    /// Runs a container with this configuration. Returns its exit code, or the error.
    fn run(&self, what: &str, config: &Value) -> Result<u32, String> {
        let beside = Beside::new(self.containerd, &id(self.containerd), config);
        let result = beside.run(&self.shim);
        let mut files: Vec<_> = fs::read_dir(beside.path())
            .expect("it is there")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        files.sort();
        assert_eq!(files, ["config.json", "rootfs"], "{what}");
        result.map_err(|(_, text)| {
            is_a_sentence(&text);
            text
        })
    }

    /// Asserts that a container runs, or is refused with a sentence that contains one of the
    /// pointer's keys.
    fn runs_or_says(&self, what: &str, pointer: &str, config: &Value) {
        match self.run(what, config) {
            Ok(code) => assert_eq!(code, 0, "{what}"),
            Err(text) => {
                let said = text.to_lowercase();
                let keys = pointer.split('/').filter(|key| key.parse::<usize>().is_err());
                let mut words = keys.map(|key| match key {
                    "args" => "exec".to_owned(),
                    "mounts" => "mount".to_owned(),
                    other => other.to_lowercase(),
                });
                let named = words.any(|word| !word.is_empty() && said.contains(&word));
                assert!(named || said.contains("no entrypoint"), "{what}: {text}");
            }
        }
    }

    fn ends(self) {
        self.leftovers.assert_none_new();
        lives_on(self.containerd, &self.container);
    }
}

fn with_any_field_missing_it_runs_or_says_what_is_wrong(containerd: &Containerd) {
    let bench = Bench::new(containerd);
    let mut all = Vec::new();
    pointers(&bench.config, "", &mut all);
    assert!(all.len() > 100, "{all:?}");
    for pointer in &all {
        let mut config = bench.config.clone();
        remove(&mut config, pointer);
        bench.runs_or_says(&format!("without {pointer}"), pointer, &config);
    }
    // Required keys.
    for pointer in ["/linux", "/process", "/process/cwd", "/root", "/root/path", "/ociVersion"] {
        let mut config = bench.config.clone();
        remove(&mut config, pointer);
        bench.run(pointer, &config).expect_err(pointer);
    }
    // Optional keys.
    for pointer in ["/linux/cgroupsPath", "/linux/resources", "/process/env", "/process/rlimits"] {
        let mut config = bench.config.clone();
        remove(&mut config, pointer);
        assert_eq!(bench.run(pointer, &config), Ok(0), "without {pointer}");
    }
    bench.ends();
}

fn with_a_value_of_the_wrong_type_it_runs_or_says_what_is_wrong(containerd: &Containerd) {
    let bench = Bench::new(containerd);
    let mut all = Vec::new();
    pointers(&bench.config, "", &mut all);
    // Elements of a list are alike: the first two represent all.
    all.retain(|pointer| {
        pointer.split('/').all(|key| {
            key.parse::<usize>().is_ok_and(|index| index < 2) || key.parse::<usize>().is_err()
        })
    });
    let wrong = [json!(null), json!(-1), json!("x"), json!({"a": 1}), json!([7]), json!(true)];
    for pointer in &all {
        for value in &wrong {
            let mut config = bench.config.clone();
            set(&mut config, pointer, value.clone());
            bench.runs_or_says(&format!("{pointer} = {value}"), pointer, &config);
        }
    }
    bench.ends();
}

/// A value, its pointer, and a word of the error; none if a container can run with it.
fn hostile_values(containerd: &Containerd) -> Vec<(&'static str, Value, Option<&'static str>)> {
    let long = "x".repeat(10_000);
    let mount = |kind: &str, source: &str, destination: &str, options: &[&str]| json!({"type": kind, "source": source, "destination": destination, "options": options});
    let device = |kind: &str, path: &str, major: i64| json!([{"type": kind, "path": path, "major": major, "minor": 3}]);
    vec![
        ("/ociVersion", json!("2.0.0"), Some("ociVersion")),
        ("/ociVersion", json!(long), Some("ociVersion")),
        ("/process/user/uid", json!(-1), Some("process.user.uid")),
        ("/process/user/uid", json!(4_294_967_295_u32), Some("uid")),
        ("/process/user/gid", json!(1.5), Some("process.user.gid")),
        ("/process/user/additionalGids", json!([-1]), Some("additionalGids")),
        ("/process/rlimits/0/type", json!("RLIMIT_NONSENSE"), Some("rlimits")),
        ("/process/rlimits/0/soft", json!(-1), Some("rlimits")),
        ("/process/rlimits/0/soft", json!(u64::MAX), Some("RLIMIT_NOFILE")),
        (
            "/process/rlimits/0",
            json!({"type": "RLIMIT_NOFILE", "soft": 7, "hard": 7}),
            Some("RLIMIT_NOFILE"),
        ),
        (
            "/process/rlimits/0",
            json!({"type": "RLIMIT_NOFILE", "soft": u64::MAX, "hard": u64::MAX}),
            Some("open files"),
        ),
        ("/process/cwd", json!("relative"), Some("process.cwd")),
        ("/process/cwd", json!(""), Some("process.cwd")),
        ("/process/cwd", json!("/app.wasm"), Some("/app.wasm")),
        ("/process/cwd", json!("/made/when/missing"), None),
        ("/process/cwd", json!("/../../../made"), None),
        ("/process/args", json!([]), Some("no entrypoint")),
        ("/process/args", json!([""]), Some("no entrypoint")),
        ("/process/args", json!(["/app.wasm", "a\0b"]), Some("NUL")),
        ("/process/args", json!([long]), Some("exec")),
        ("/process/env", json!(["no equals sign", "=", "", "=x", "A=B=C"]), None),
        ("/process/env", json!([format!("LONG={}", "x".repeat(100_000))]), None),
        ("/process/env", json!(["A=\0"]), Some("NUL")),
        ("/process/oomScoreAdj", json!(99_999), Some("oom_score_adj")),
        ("/process/capabilities/bounding", json!(["CAP_NONSENSE"]), Some("capabilities.bounding")),
        ("/process/capabilities/permitted", json!([]), Some("capabilities.permitted")),
        ("/process/capabilities/effective", json!([]), None),
        ("/process/scheduler", json!({"policy": "SCHED_NONSENSE"}), Some("scheduler")),
        ("/root/path", json!("/no/such/root"), Some("/no/such/root")),
        ("/root/path", json!("config.json"), Some("config.json")),
        ("/hostname", json!(long), Some("hostname")),
        ("/hostname", json!(""), None),
        ("/domainname", json!(long), Some("domainname")),
        ("/annotations", json!({"a": 7}), Some("annotations")),
        ("/annotations", json!({"a": null}), Some("annotations")),
        ("/annotations", json!({"": long}), None),
        ("/mounts/-", mount("tmpfs", "tmpfs", "../../../escaped", &[]), Some("../../../escaped")),
        ("/mounts/-", mount("tmpfs", "tmpfs", "/../../../escaped", &[]), None),
        ("/mounts/-", mount("nosuchfs", "none", "/m", &[]), Some("/m")),
        ("/mounts/-", mount("tmpfs", "tmpfs", "/m", &["nonsense=1"]), Some("/m")),
        ("/mounts/-", mount("bind", "/no/such/source", "/m", &["rbind"]), Some("/no/such/source")),
        ("/mounts/-", mount("tmpfs", "tmpfs", "/app.wasm/below", &[]), Some("/app.wasm/below")),
        ("/linux/namespaces/0/type", json!("nonsense"), Some("namespaces")),
        ("/linux/namespaces/4/path", json!("/no/such/namespace"), Some("/no/such/namespace")),
        ("/linux/namespaces/4/path", json!("/etc/passwd"), Some("/etc/passwd")),
        ("/linux/maskedPaths", json!(["/no/such/path", "relative", ""]), None),
        ("/linux/readonlyPaths", json!(["/no/such/path"]), None),
        ("/linux/cgroupsPath", json!("/../../../etc"), Some("linux.cgroupsPath")),
        ("/linux/cgroupsPath", json!("../x"), Some("linux.cgroupsPath")),
        ("/linux/cgroupsPath", json!("/"), Some("linux.cgroupsPath")),
        ("/linux/cgroupsPath", json!(""), Some("linux.cgroupsPath")),
        // Every process in it would end with the container.
        (
            "/linux/cgroupsPath",
            json!(format!("/{}", containerd.namespace())),
            Some("linux.cgroupsPath"),
        ),
        ("/linux/devices", device("z", "/dev/x", 1), Some("linux.devices")),
        ("/linux/devices", device("c", "/dev/x", -1), Some("/dev/x")),
        ("/linux/devices", device("c", "/../../../escaped", 1), Some("escaped")),
        ("/linux/sysctl", json!({"kernel.nonsense": "1"}), Some("kernel.nonsense")),
        ("/linux/sysctl", json!({"net.ipv4.ip_forward": "nonsense"}), Some("ip_forward")),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NONSENSE"}), Some("linux.seccomp")),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}), Some("seccomp")),
        ("/linux/resources/memory", json!({"limit": -7}), Some("memory")),
        ("/linux/resources/memory", json!({"limit": 4096}), Some("memory")),
        ("/linux/resources/cpu", json!({"quota": 1}), Some("cpu")),
        ("/linux/resources/pids", json!({"limit": "many"}), Some("linux.resources.pids")),
        ("/linux/rootfsPropagation", json!("nonsense"), Some("ropagation")),
    ]
}

fn a_hostile_value_does_no_harm(containerd: &Containerd) {
    let bench = Bench::new(containerd);
    let mut wrong = Vec::new();
    for (pointer, value, word) in hostile_values(containerd) {
        let mut config = bench.config.clone();
        set(&mut config, pointer, value.clone());
        let what = format!("{pointer} = {value:.100}");
        match (bench.run(&what, &config), word) {
            (Ok(0), None) => {}
            (Err(text), Some(word)) if text.contains(word) => {}
            (result, _) => wrong.push(format!("{what}: {result:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for path in ["/escaped", "/made"] {
        assert!(!Path::new(path).exists(), "{path} was made on the host");
    }
    bench.ends();
}

/// Capabilities that the configuration does not mention are not given to root.
fn without_capabilities_there_are_none(containerd: &Containerd) {
    let bench = Bench::new(containerd);
    for pointer in ["/process/capabilities", "/process/capabilities/permitted"] {
        let mut config = bench.config.clone();
        remove(&mut config, pointer);
        set(&mut config, "/process/args", json!(["/spin.wasm"]));
        if pointer != "/process/capabilities" {
            set(&mut config, "/process/capabilities/effective", json!([]));
        }
        let beside = Beside::new(containerd, &id(containerd), &config);
        fs::write(beside.path().join("rootfs/spin.wasm"), spin_wasm()).expect("it is writable");
        let created = beside.create(&bench.shim).unwrap_or_else(|(_, text)| panic!("{text}"));
        let status = fs::read_to_string(format!("/proc/{}/status", created.pid)).expect("it waits");
        let sets: Vec<&str> = status.lines().filter(|line| line.starts_with("Cap")).collect();
        let all = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        for name in all {
            let none = format!("{name}:\t{:016x}", 0);
            assert!(sets.contains(&none.as_str()), "without {pointer}: {sets:?}");
        }
        beside.delete(&bench.shim).expect("it was never started");
    }
    bench.ends();
}

fn what_is_missing_is_said_everywhere(containerd: &Containerd) {
    let bench = Bench::new(containerd);
    for pointer in ["/process", "/root/path", "/linux/namespaces", "/mounts/0", "/process/env"] {
        let mut config = bench.config.clone();
        remove(&mut config, pointer);
        bench.runs_or_says(pointer, pointer, &config);
    }
    lives_on(containerd, &bench.container);
}

on_containerds!(what_is_missing_is_said_everywhere);
tests_in!(
    own,
    &Containerd::start(ContainerdVersion::V2),
    with_any_field_missing_it_runs_or_says_what_is_wrong,
    with_a_value_of_the_wrong_type_it_runs_or_says_what_is_wrong,
    a_hostile_value_does_no_harm,
    without_capabilities_there_are_none
);
