//! A `config.json` of any bytes, through all that is read of it before anything is made: the group,
//! the configuration itself, its validation, the cgroup's name, the entrypoint, and
//! libcontainer's own reading. The same bytes are runtime options, the configuration of a pod, and
//! a program's first bytes.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use libcontainer::config::YoukiConfig;
use libcontainer::user_ns::UserNamespaceConfig;
use libcontainer::validator::Validator;
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::{LinuxResources, Process, Spec};
use tempfile::TempDir;
use wherry_bundle::{Bundle, Config, parse};
use wherry_cgroup::CgroupName;
use wherry_host::validate;
use wherry_image::{Entrypoint, Kind, Look, NoFile};
use wherry_task::options;
use wherry_task::sandbox::pod_config;

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| TempDir::new_in("/dev/shm").expect("there is room"));
    std::fs::write(folder.path().join("config.json"), bytes).expect("there is room");

    let bundle = Bundle::new(folder.path(), "fuzz");
    if let Err(error) = wherry_shim::group::of(folder.path(), "fuzz") {
        sentence(&error.to_string());
    }
    match bundle.config() {
        Ok(config) => named_cgroup(&bundle, &config),
        Err(error) => sentence(&error.to_string()),
    }
    match bundle.spec() {
        Ok(spec) => configuration(&bundle, &spec),
        Err(error) => sentence(&error.to_string()),
    }
    // Most inputs are refused: only a panic is a fault here and below.
    let _ = parse::<Process>(bytes).map(|process| validate::process(&process));
    let _ = parse::<LinuxResources>(bytes);
    for type_url in ["containerd.runc.v1.Options", "runtimeoptions.v1.Options", "x"] {
        let any =
            Any { type_url: type_url.to_owned(), value: bytes.to_vec(), ..Default::default() };
        if let Err(error) = options::parse(Some(&any)) {
            sentence(&error.to_string());
        }
    }
    pod(bytes);
    let _ = Kind::of(bytes);
});

/// The `PodSandboxConfig` of a CreateSandbox request.
fn pod(bytes: &[u8]) {
    let mut request = CreateSandboxRequest { sandbox_id: "fuzz".to_owned(), ..Default::default() };
    let options = request.options.mut_or_insert_default();
    options.type_url = "runtime.v1.PodSandboxConfig".to_owned();
    options.value = bytes.to_vec();
    if let Err(error) = pod_config::of(request) {
        sentence(&error.to_string());
    }
}

/// One readable line.
fn sentence(text: &str) {
    assert!(!text.is_empty() && !text.contains("Error("), "{text}");
}

fn named_cgroup(bundle: &Bundle, config: &Config) {
    for systemd in [false, true] {
        match CgroupName::parse(config.cgroups_path(), bundle.id(), systemd) {
            // Everything that is made or removed below that name stays below the hierarchy's root.
            Ok(name) => assert!(
                !name.path.as_os_str().is_empty()
                    && !name.path.display().to_string().contains("/../")
            ),
            Err(error) => sentence(&error.to_string()),
        }
    }
}

fn configuration(bundle: &Bundle, spec: &Spec) {
    if let Err(error) = validate::spec(spec) {
        sentence(&error.to_string());
        return;
    }
    let process = spec.process().as_ref().expect("it was checked");
    assert!(process.cwd().is_absolute());
    let path = process.env().iter().flatten().find_map(|pair| pair.strip_prefix("PATH="));
    let args = process.args().clone().unwrap_or_default();
    // Files that are everywhere, nowhere, and here and there.
    let everywhere = |_: &Path| Look::Runs;
    let nowhere = |_: &Path| Look::Nothing(NoFile::Missing);
    let somewhere = |file: &Path| match file.as_os_str().len() % 3 {
        0 => Look::Runs,
        1 => Look::NotExecutable,
        _ => Look::Nothing(NoFile::Missing),
    };
    let all: [&dyn Fn(&Path) -> Look; 3] = [&everywhere, &nowhere, &somewhere];
    for found in all {
        if let Ok(entrypoint) = Entrypoint::resolve(&args, path, process.cwd(), found) {
            assert!(entrypoint.path.is_absolute());
        }
    }
    // As above: libcontainer may refuse, and must not panic.
    let _ = Validator::validate_spec(spec);
    let _ = UserNamespaceConfig::new(spec);
    let _ = YoukiConfig::from_spec(spec, bundle.id());
}
