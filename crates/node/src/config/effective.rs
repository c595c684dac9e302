//! The effective configuration of containerd, as `containerd config dump` prints it.
//!
//! containerd merges files by rules that differ between versions: before 2.0 an imported file's
//! plug-in section replaces the main file's whole section. So this module compares the result and
//! does not implement the rules.

use toml::{Table, Value};

use super::{Format, Runtime};

/// Returns why a changed configuration does not have the intended effect; `None` if it has. Both
/// texts are outputs of `containerd config dump`. The runtimes in `gone` may be missing afterwards.
pub(crate) fn fault(
    before: &str,
    after: &str,
    runtimes: &[Runtime],
    gone: &[String],
) -> Option<String> {
    let parse = |text: &str| toml::from_str::<Table>(text).map_err(|e| e.message().to_owned());
    let (mut before, mut after) = match (parse(before), parse(after)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(e), _) | (_, Err(e)) => return Some(format!("prints no valid TOML: {e}")),
    };
    for runtime in runtimes {
        let found = find(&after, &runtime.handler);
        let text = |key: &str| found.and_then(|table| table.get(key)).and_then(Value::as_str);
        if text("runtime_type") != Some(&runtime.runtime_type) {
            return Some(format!("does not show the runtime {}", runtime.handler));
        }
        if text("runtime_path").unwrap_or_default()
            != runtime.runtime_path.as_deref().unwrap_or_default()
        {
            return Some(format!("shows another path of the runtime {}", runtime.handler));
        }
        let by_shim = text("sandboxer").filter(|sandboxer| *sandboxer == "shim");
        if by_shim != runtime.sandboxer_key() {
            return Some(format!("shows another sandboxer of the runtime {}", runtime.handler));
        }
    }
    let ours = runtimes.iter().map(|runtime| &runtime.handler).chain(gone);
    let handlers: Vec<&str> = ours.map(String::as_str).collect();
    for table in [&mut before, &mut after] {
        // 1.x lists there which files were read.
        table.remove("imports");
        for format in [Format::V2, Format::V3] {
            remove(table, &format.path(), &handlers);
        }
    }
    difference(&before, &after, "").map(|key| format!("shows that `{key}` changed too"))
}

/// The table of a runtime, in either format.
fn find<'t>(table: &'t Table, handler: &str) -> Option<&'t Table> {
    [Format::V2, Format::V3].iter().find_map(|format| {
        let mut table = table;
        for name in format.path() {
            table = table.get(name)?.as_table()?;
        }
        table.get(handler)?.as_table()
    })
}

/// Removes the runtimes of these names, and then the tables around them that are empty.
pub(crate) fn remove(table: &mut Table, path: &[&str], handlers: &[&str]) {
    let Some((name, rest)) = path.split_first() else {
        for handler in handlers {
            table.remove(*handler);
        }
        return;
    };
    if let Some(Value::Table(inner)) = table.get_mut(*name) {
        remove(inner, rest, handlers);
        if inner.is_empty() {
            table.remove(*name);
        }
    }
}

/// Returns the path of the first key whose value differs.
fn difference(before: &Table, after: &Table, path: &str) -> Option<String> {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for key in before.keys().chain(after.keys()) {
        match (before.get(key), after.get(key)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(Value::Table(a)), Some(Value::Table(b))) => return difference(a, b, &join(key)),
            _ => return Some(join(key)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
version = 2
imports = ["/etc/containerd/config.toml"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "mirror/pause:1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#;

    fn runtime() -> Runtime {
        Runtime {
            handler: "wamr".into(),
            runtime_type: "io.containerd.wamr.v1".into(),
            runtime_path: None,
            systemd_cgroup: false,
            sandboxer: crate::config::Sandboxer::Podsandbox,
            annotations: &[],
            without_pause_image: false,
        }
    }

    fn added(text: &str) -> String {
        format!(
            "{text}[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.wamr]\n\
             runtime_type = \"io.containerd.wamr.v1\"\nruntime_path = \"\"\n"
        )
    }

    #[test]
    fn a_configuration_that_gained_the_runtimes_alone_is_good() {
        assert_eq!(fault(BEFORE, &added(BEFORE), &[runtime()], &[]), None);
        let other_imports = added(BEFORE).replace("config.toml", "other.toml");
        assert_eq!(fault(BEFORE, &other_imports, &[runtime()], &[]), None);
    }

    #[test]
    fn a_lost_setting_is_named() {
        let after = added(BEFORE).replace("mirror/pause:1", "registry.k8s.io/pause:3.6");
        assert_eq!(
            fault(BEFORE, &after, &[runtime()], &[]).unwrap(),
            "shows that `plugins.io.containerd.grpc.v1.cri.sandbox_image` changed too"
        );
    }

    #[test]
    fn a_missing_runtime_is_named() {
        assert_eq!(
            fault(BEFORE, BEFORE, &[runtime()], &[]).unwrap(),
            "does not show the runtime wamr"
        );
    }
}
