//! Hosts in, edits out: each distribution, each form of configuration.

use super::*;
use crate::config::Sandboxer;
use crate::distribution::Distribution;
use crate::root::HostRoot;
use std::fs;

/// The candidates on a host of these files: path, kind and new text of each.
fn plan(
    distribution: Distribution,
    version: (u32, u32),
    files: &[(&str, &str)],
) -> Result<Vec<(String, Kind, String)>, String> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let node = Node {
        root: HostRoot::new(dir.path()),
        distribution,
        socket: distribution.socket().into(),
        config: distribution.config().into(),
        containerd: None,
        units: Vec::new(),
        restart_command: None,
        state: "/var/lib/wherry/node".into(),
    };
    let version = Version::new(version.0, version.1);
    let (directory, sandboxer) = (Path::new("/usr/local/bin"), Sandboxer::Podsandbox);
    let runtimes = [Runtime::new("wamr", directory, true, version, true, sandboxer)];
    let gone = ["wasmer".to_owned()];
    let wanted = Wanted { runtimes: &runtimes, gone: &gone };
    let edits = candidates(&node, version, &wanted, None).map_err(|e| e.to_string())?;
    Ok(edits.into_iter().map(|e| (e.path.display().to_string(), e.kind, e.new)).collect())
}

fn paths(edits: &[(String, Kind, String)]) -> Vec<&str> {
    edits.iter().map(|(path, ..)| path.as_str()).collect()
}

const MAIN: &str = "/etc/containerd/config.toml";
const OWN: &str = "/etc/containerd/conf.d/90-wherry.toml";

#[test]
fn a_missing_file_becomes_one_of_the_version_that_containerd_reads() {
    let edits = plan(Distribution::Plain, (1, 7), &[]).unwrap();
    assert_eq!(paths(&edits), [MAIN]);
    assert!(edits[0].2.starts_with("version = 2\n"), "{}", edits[0].2);
    let edits = plan(Distribution::Plain, (2, 1), &[]).unwrap();
    assert_eq!(paths(&edits), [MAIN]);
    assert!(edits[0].2.starts_with("version = 3\n"), "{}", edits[0].2);
}

#[test]
fn containerd_2_2_without_a_file_gets_a_file_in_its_folder() {
    let edits = plan(Distribution::Plain, (2, 2), &[]).unwrap();
    assert_eq!(paths(&edits), [OWN, MAIN]);
    // A file that imports nothing imports the folder neither.
    let edits = plan(Distribution::Plain, (2, 2), &[(MAIN, "version = 3\n")]).unwrap();
    assert_eq!(paths(&edits), [MAIN]);
}

#[test]
fn an_imported_folder_gets_a_file_of_the_main_files_version() {
    let main = "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    let edits = plan(Distribution::Plain, (2, 1), &[(MAIN, main)]).unwrap();
    assert_eq!(paths(&edits), [OWN, MAIN]);
    assert!(edits[0].2.contains("version = 2\n"), "{}", edits[0].2);
    assert!(edits[0].2.contains("io.containerd.grpc.v1.cri"), "{}", edits[0].2);
}

#[test]
fn a_relative_import_starts_at_the_main_file() {
    let main = "version = 3\nimports = [\"parts/*.toml\"]\n";
    let edits = plan(Distribution::Plain, (2, 1), &[(MAIN, main)]).unwrap();
    assert_eq!(paths(&edits), ["/etc/containerd/parts/90-wherry.toml", MAIN]);
}

#[test]
fn before_2_0_the_imported_file_that_holds_the_plugin_is_edited() {
    let main =
        "version = 2\nimports = [\"conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\"]\n";
    let imported = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"x\"\n";
    let files = [
        (MAIN, main),
        ("/etc/containerd/conf.d/10-cri.toml", imported),
        ("/etc/containerd/conf.d/20-other.toml", "version = 2\n"),
    ];
    let edits = plan(Distribution::Plain, (1, 7), &files).unwrap();
    assert_eq!(paths(&edits), ["/etc/containerd/conf.d/10-cri.toml"]);
    assert!(edits[0].2.contains("sandbox_image = \"x\""), "{}", edits[0].2);
    let edits = plan(Distribution::Plain, (1, 7), &[files[0], files[2]]).unwrap();
    assert_eq!(paths(&edits), [MAIN]);
}

#[test]
fn version_one_is_refused_with_the_files_path() {
    let error = plan(Distribution::Plain, (1, 6), &[(MAIN, "disabled_plugins = [\"cri\"]\n")]);
    let error = error.unwrap_err();
    assert!(error.starts_with("/etc/containerd/config.toml: version 1 of the"), "{error}");
}

const K3S: &str = "/var/lib/rancher/k3s/agent/etc/containerd";

#[test]
fn an_old_k3s_gets_a_template() {
    let main = format!("{K3S}/config.toml");
    let edits = plan(Distribution::K3s, (1, 7), &[(&main, "version = 2\n")]).unwrap();
    assert_eq!(paths(&edits), [format!("{K3S}/config.toml.tmpl")]);
    assert!(edits[0].2.starts_with("{{ template \"base\" . }}\n"), "{}", edits[0].2);
    assert_eq!(edits[0].1, Kind::Template);
}

#[test]
fn k3s_with_containerd_2_gets_a_template_of_version_3() {
    let main = format!("{K3S}/config.toml");
    let edits = plan(Distribution::K3s, (2, 0), &[(&main, "version = 3\n")]).unwrap();
    assert_eq!(paths(&edits), [format!("{K3S}/config-v3.toml.tmpl")]);
    // The template that its operator wrote, even if it is the old one.
    let template = format!("{K3S}/config.toml.tmpl");
    let files = [(main.as_str(), "version = 2\n"), (template.as_str(), "version = 2\n# own\n")];
    let edits = plan(Distribution::K3s, (2, 0), &files).unwrap();
    assert_eq!(paths(&edits), [template.as_str()]);
    assert!(edits[0].2.starts_with("version = 2\n# own\n"), "{}", edits[0].2);
    assert!(edits[0].2.contains("io.containerd.grpc.v1.cri"), "{}", edits[0].2);
}

#[test]
fn a_new_k3s_gets_a_file_in_its_folder() {
    let main = format!("{K3S}/config.toml");
    let text = format!("version = 3\nimports = [\"{K3S}/config-v3.toml.d/*.toml\"]\n");
    let edits = plan(Distribution::K3s, (2, 1), &[(&main, &text)]).unwrap();
    assert_eq!(
        paths(&edits),
        [format!("{K3S}/config-v3.toml.d/90-wherry.toml"), format!("{K3S}/config-v3.toml.tmpl")]
    );
}

#[test]
fn k0s_gets_a_file_in_its_own_folder() {
    let files = [("/etc/k0s/containerd.toml", "# k0s_managed=true\nversion = 2\n")];
    let edits = plan(Distribution::K0s, (1, 7), &files).unwrap();
    assert_eq!(paths(&edits), ["/etc/k0s/containerd.d/90-wherry.toml"]);
    assert!(edits[0].2.starts_with("version = 2\n"), "{}", edits[0].2);
}

#[test]
fn microk8s_gets_its_template_edited() {
    let path = "/var/snap/microk8s/current/args/containerd-template.toml";
    let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"${SNAPSHOTTER}\"\n";
    let edits = plan(Distribution::Microk8s, (1, 6), &[(path, text)]).unwrap();
    assert_eq!(paths(&edits), [path]);
    assert!(edits[0].2.starts_with(text), "{}", edits[0].2);
}

#[test]
fn an_engine_that_is_not_installed_any_more_goes() {
    let text = "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.wasmer]\nruntime_type = \"x\"\n";
    let edits = plan(Distribution::Plain, (2, 1), &[(MAIN, text)]).unwrap();
    assert!(!edits[0].2.contains("wasmer") && edits[0].2.contains("wamr"), "{}", edits[0].2);
}
