//! TOML files in, TOML files out.

use super::*;

fn runtime(handler: &str) -> Runtime {
    Runtime {
        handler: handler.to_owned(),
        runtime_type: format!("io.containerd.{handler}.v1"),
        runtime_path: None,
        systemd_cgroup: true,
        sandboxer: crate::config::Sandboxer::Podsandbox,
        annotations: &[],
        without_pause_image: false,
    }
}

fn as_runc(handler: &str) -> Runtime {
    Runtime {
        runtime_type: "io.containerd.runc.v2".to_owned(),
        runtime_path: Some(format!("/opt/wherry/bin/containerd-shim-{handler}-v1")),
        ..runtime(handler)
    }
}

const OLD: Version = Version::new(1, 7);
const NEW: Version = Version::new(2, 1);

#[test]
fn an_empty_file_becomes_a_whole_one() {
    let text = add("", 3, &[as_runc("wasmtime")]).unwrap();
    assert_eq!(
        text,
        r#"version = 3

# Added by wherry-node; `wherry-node uninstall` removes it.
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasmtime]
runtime_type = "io.containerd.runc.v2"
runtime_path = "/opt/wherry/bin/containerd-shim-wasmtime-v1"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasmtime.options]
SystemdCgroup = true
"#
    );
}

#[test]
fn what_makes_the_pods_can_be_changed() {
    let shim = Runtime {
        sandboxer: crate::config::Sandboxer::Shim,
        without_pause_image: true,
        ..runtime("wamr")
    };
    let text = add("", 3, &[shim]).unwrap();
    let keys = "sandboxer = \"shim\"\ndisable_pause_image_pull = true\n";
    assert!(text.contains(keys), "{text}");
    let back = add(&text, 3, &[runtime("wamr")]).unwrap();
    assert_eq!(back, text.replace(keys, ""));
}

#[test]
fn comments_order_and_odd_spacing_stay() {
    let text = r#"# top
version   =  2   # two

root = "/data" # where
[plugins]
  # the CRI plug-in
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image='pause:3'
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = true
  [plugins."io.containerd.internal.v1.opt"]
    path = "/opt" # end
# last words
"#;
    let edited = add(text, 2, &[runtime("wamr"), runtime("wasmtime")]).unwrap();
    let lines: Vec<&str> = edited.lines().collect();
    // Every old line is there, in the old order.
    let mut at = lines.iter();
    for line in text.lines() {
        assert!(at.any(|new| *new == line), "{line:?} moved or went in:\n{edited}");
    }
    assert!(edited.contains(
        "# Added by wherry-node; `wherry-node uninstall` removes it.\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.wasmtime]\n"
    ));
    assert_eq!(remove(&edited, &["wamr", "wasmtime"]).unwrap(), text);
    assert_eq!(add(&edited, 2, &[runtime("wamr"), runtime("wasmtime")]).unwrap(), edited);
}

#[test]
fn a_runtime_of_the_same_name_keeps_its_other_settings() {
    let text = r#"version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.wasmtime]
  runtime_type = "io.containerd.spin.v2" # ours once
  pod_annotations = ["a.*"]
"#;
    let edited = add(text, 3, &[runtime("wasmtime")]).unwrap();
    assert!(edited.contains("pod_annotations = [\"a.*\"]"), "{edited}");
    assert!(edited.contains("\"io.containerd.wasmtime.v1\""), "{edited}");
    assert!(!edited.contains("spin"), "{edited}");
}

#[test]
fn tables_that_are_written_inline_are_extended_inline() {
    let text = "version = 3\nplugins = { \"io.containerd.cri.v1.runtime\" = { containerd = { runtimes = { \
                runc = { runtime_type = \"io.containerd.runc.v2\" } } } } }\n";
    let edited = add(text, 3, &[runtime("wamr")]).unwrap();
    let value: toml::Table = toml::from_str(&edited).unwrap();
    let runtimes = &value["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"];
    assert_eq!(runtimes["wamr"]["options"]["SystemdCgroup"].as_bool(), Some(true));
    assert_eq!(runtimes["runc"]["runtime_type"].as_str(), Some("io.containerd.runc.v2"));
}

#[test]
fn dotted_keys_are_extended() {
    let text = "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\"]\ncontainerd.runtimes.runc.runtime_type = \
                \"io.containerd.runc.v2\"\n";
    let edited = add(text, 3, &[runtime("wamr")]);
    // Either it is added and all else stays, or it is refused; `add` itself compares.
    assert!(edited.is_err() || edited.unwrap().contains("wamr"));
}

#[test]
fn something_else_of_a_tables_name_is_refused() {
    let error = add("version = 2\nplugins = 7\n", 2, &[runtime("wamr")]).unwrap_err();
    assert_eq!(error.to_string(), "plugins is not a table");
}

#[test]
fn a_comment_alone_is_kept() {
    let edited = add("# nothing here\n", 2, &[runtime("wamr")]).unwrap();
    assert!(edited.contains("# nothing here") && edited.contains("version = 2"), "{edited}");
}

#[test]
fn version_one_is_refused_with_words() {
    for text in ["version = 1\n", "disabled_plugins = [\"cri\"]\n", "[plugins.cri]\n"] {
        let error = head(text, OLD).unwrap_err();
        assert!(error.to_string().contains("containerd config migrate"), "{error}");
    }
}

#[test]
fn a_version_that_containerd_cannot_read_is_refused() {
    let error = head("version = 3\n", OLD).unwrap_err();
    assert_eq!(
        error.to_string(),
        "version 3 of the configuration format, but containerd 1.7 reads at most version 2"
    );
    assert_eq!(head("version = 3\n", NEW).unwrap().version, Some(3));
    assert_eq!(head("version = 2\n", NEW).unwrap().version, Some(2));
    assert_eq!(head("version = 4\n", Version::new(2, 4)).unwrap().version, Some(4));
}

#[test]
fn imports_are_listed() {
    let head =
        head("version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\", \"x.toml\"]\n", NEW);
    assert_eq!(head.unwrap().imports, ["/etc/containerd/conf.d/*.toml", "x.toml"]);
}

#[test]
fn invalid_toml_is_reported_with_its_place() {
    let error = head("version = 2\n[plugins\n", OLD).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn a_missing_or_comments_only_file_has_no_version() {
    assert_eq!(head("# only words\n", OLD).unwrap().version, None);
    assert_eq!(head("", OLD).unwrap().version, None);
}

/// What `containerd config dump` of 1.7 prints of a file that names no runtime.
const EFFECTIVE: &str = r#"version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".containerd]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
          pod_annotations = []
          runtime_type = "io.containerd.runc.v2"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = false
"#;

#[test]
fn before_2_0_the_default_runtime_is_written_out() {
    let text = "version = 2 # mine\nroot = \"/data\"\n";
    let edited = add_beside(text, 2, &[runtime("wamr")], Some(EFFECTIVE)).unwrap();
    assert!(edited.starts_with(text), "{edited}");
    assert!(edited.contains(
        r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
pod_annotations = []
runtime_type = "io.containerd.runc.v2"
"#
    ));
    assert!(edited.contains("runtimes.wamr]"), "{edited}");
    // One that is named is left alone.
    let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"x\"\n";
    let edited = add_beside(text, 2, &[runtime("wamr")], Some(EFFECTIVE)).unwrap();
    assert!(edited.starts_with(text) && !edited.contains("runc.v2"), "{edited}");
}

#[test]
fn the_runtime_for_all_engines_gets_the_annotations_that_name_one() {
    let dir = std::path::Path::new("/usr/local/bin");
    let sandboxer = crate::config::Sandboxer::Podsandbox;
    let all = Runtime::new("wherry", dir, true, Version::new(2, 4), false, sandboxer);
    let text = add("", 3, std::slice::from_ref(&all)).unwrap();
    let list = r#"["wherry.engine", "wherry.engine/*", "run.oci.handler"]"#;
    for key in ["pod_annotations", "container_annotations"] {
        assert!(text.contains(&format!("{key} = {list}\n")), "{text}");
    }
    assert_eq!(add(&text, 3, &[all]).unwrap(), text, "a second time changes nothing");
    let template = crate::config::template::add(
        None,
        Format::V3,
        &[Runtime::new("wherry", dir, true, Version::new(2, 4), false, sandboxer)],
    );
    assert!(template.contains(&format!("  pod_annotations = {list}\n")), "{template}");
}
