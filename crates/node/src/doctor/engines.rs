//! Checks of each runtime's executables: whether containerd finds them, whether they run, and
//! plug-ins.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::Value;

use super::daemon::search_path;
use super::{Checked, Findings};
use crate::executables::{self, Engine};

/// A runtime whose executables run.
pub(super) struct Found {
    pub(super) engine: String,
    /// Its shim, by the host's path.
    pub(super) shim: PathBuf,
}

/// Checks Wherry's runtimes in containerd's configuration, and returns those whose executables run.
pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Vec<Found> {
    let configured = checked.running.as_ref().ok().and_then(|running| {
        running.config.pointer("/containerd/runtimes").and_then(Value::as_object).cloned()
    });
    let mut found = Vec::new();
    for (handler, runtime) in configured.unwrap_or_default() {
        let Some((name, path)) = shim(&runtime) else { continue };
        let installed = checked.record.engines.contains(&handler);
        let search = search_path(checked);
        let path = path.or_else(|| checked.node.root.find_program(&name, &search));
        let Some(path) = path.filter(|path| checked.node.root.exists(path)) else {
            if installed {
                not_found(checked, &name, &search, findings);
            }
            continue;
        };
        let engine = Engine { name: engine_of(&name).to_owned() };
        let beside = path.parent().unwrap_or(Path::new("/"));
        if !installed && !engine.is_all() && !checked.node.root.exists(beside.join(engine.host())) {
            // A shim of another project.
            continue;
        }
        plugins(checked, &handler, &runtime, findings);
        if runs(checked, &engine, beside, findings) {
            found.push(Found { engine: engine.name, shim: path });
        }
    }
    found
}

/// The name of a runtime's shim and, if it is configured, its path.
fn shim(runtime: &Value) -> Option<(String, Option<PathBuf>)> {
    let text = |key: &str| runtime.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let as_type = text("runtimeType").filter(|kind| kind.starts_with('/'));
    if let Some(path) = text("runtimePath").or(as_type) {
        let name = Path::new(path).file_name()?.to_str()?.to_owned();
        return Some((name, Some(path.into())));
    }
    let (engine, version) =
        text("runtimeType")?.strip_prefix("io.containerd.")?.rsplit_once('.')?;
    Some((format!("containerd-shim-{engine}-{version}"), None))
}

fn engine_of(shim: &str) -> &str {
    let name = shim.strip_prefix("containerd-shim-").unwrap_or(shim);
    name.rsplit_once('-').map_or(name, |(engine, _)| engine)
}

/// Reports a shim that containerd does not find. A shell, whose PATH differs, may find it.
fn not_found(checked: &Checked, name: &str, search: &str, findings: &mut Findings) {
    let shells = std::env::var("PATH").unwrap_or_default();
    let elsewhere = checked.node.root.find_program(name, &shells);
    let text = match elsewhere {
        Some(path) => {
            format!("containerd does not find {name}, though a shell does: {}", path.display())
        }
        None => format!("containerd does not find {name}"),
    };
    let advice = format!("put it into one of {search}, or run wherry-node install");
    findings.fail("executables", text, &advice);
}

fn runs(checked: &Checked, engine: &Engine, folder: &Path, findings: &mut Findings) -> bool {
    let mounted = checked.node.root.resolve(folder).ok().and_then(|path| statvfs(&path).ok());
    if mounted.is_some_and(|of| of.flags().contains(FsFlags::ST_NOEXEC)) {
        findings.fail(
            "executables",
            format!("{} is on a filesystem that is mounted noexec", folder.display()),
            "install elsewhere: wherry-node install --bin-dir DIR",
        );
        return false;
    }
    match executables::probe(&checked.node, engine, folder) {
        Ok(()) => {
            findings.ok("executables", format!("{} in {} run", engine.name, folder.display()));
            true
        }
        Err(error) => {
            findings.fail(
                "executables",
                error.to_string(),
                "install the library that is named; the runtimes need glibc 2.28 or newer",
            );
            false
        }
    }
}

/// WasmEdge's plug-ins are files that the runtime's options name.
fn plugins(checked: &Checked, handler: &str, runtime: &Value, findings: &mut Findings) {
    let named = runtime.pointer("/options/Plugins").and_then(Value::as_str);
    for path in named.into_iter().flat_map(|text| text.split(':')).filter(|path| !path.is_empty()) {
        if checked.node.root.exists(path) {
            findings.ok("plug-ins", format!("{handler}: {path}"));
        } else {
            findings.fail(
                "plug-ins",
                format!("{handler}: {path} does not exist"),
                "install the plug-in, or correct the runtime's option Plugins in containerd's configuration",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_shim_is_named_by_type_or_by_path() {
        let by_type = json!({"runtimeType": "io.containerd.wamr.v1", "runtimePath": ""});
        assert_eq!(shim(&by_type), Some(("containerd-shim-wamr-v1".to_owned(), None)));
        let by_path = json!({"runtimeType": "io.containerd.runc.v2", "runtimePath": "/b/containerd-shim-wamr-v1"});
        let (name, path) = shim(&by_path).unwrap();
        assert_eq!(engine_of(&name), "wamr");
        assert_eq!(path.as_deref(), Some(Path::new("/b/containerd-shim-wamr-v1")));
    }
}
