//! The runtimes' executables: finds and installs them, and checks that they run on the host.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::NodeError;
use crate::files;
use crate::node::Node;
use crate::record::{Kind, Record};
use crate::root::SEARCH_PATH;

/// The directory of a host's own programs, which is in the PATH of every containerd.
const USUAL: &str = "/usr/local/bin";
/// The directory to use if that one is not writable, or if containerd must not find the shims.
const OWN: &str = "/opt/wherry/bin";
/// This program, which is installed too: for `doctor` and `uninstall` on the host.
const SELF: &str = "wherry-node";

/// The runtime for all engines, which has a shim alone.
pub(crate) const ALL: &str = "wherry";

/// A runtime, by the names of its executables: an engine's; that of its shared mode, which has the
/// engine's name with a `d` and another shim; or [`ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Engine {
    pub(crate) name: String,
    /// The name in those of the engine host and the compiler.
    programs: String,
}

impl Engine {
    /// The engine with executables of this name.
    pub(crate) fn named(name: &str) -> Engine {
        Engine { name: name.to_owned(), programs: name.to_owned() }
    }

    /// The engine, or the shared mode of one, if `exists` holds for its engine host.
    pub(crate) fn find(name: &str, exists: impl Fn(&str) -> bool) -> Option<Engine> {
        if name == ALL {
            return Some(Engine::named(name));
        }
        [Some(name), name.strip_suffix('d')]
            .into_iter()
            .flatten()
            .map(|programs| Engine { programs: programs.to_owned(), ..Engine::named(name) })
            .find(|engine| exists(&engine.host()))
    }

    fn is_shared(&self) -> bool {
        self.name != self.programs
    }

    /// The shim that containerd runs.
    pub(crate) fn shim(&self) -> String {
        format!("containerd-shim-{}-v1", self.name)
    }

    /// The engine host, which the shim runs.
    pub(crate) fn host(&self) -> String {
        format!("wherry-{}-host", self.programs)
    }

    /// The compiler and the commands for people.
    pub(crate) fn tool(&self) -> String {
        format!("wherry-{}", self.programs)
    }

    /// Whether it is the runtime for all engines.
    pub(crate) fn is_all(&self) -> bool {
        self.name == ALL
    }

    /// All executables. The shim is last: containerd must not find it before the others exist.
    pub(crate) fn files(&self) -> Vec<String> {
        if self.is_all() {
            return vec![self.shim()];
        }
        vec![self.host(), self.tool(), self.shim()]
    }
}

/// The engines in a directory, sorted. If names are given, only those with these names, which may
/// be of a shared mode.
pub(crate) fn engines(from: &Path, wanted: &[String]) -> Result<Vec<Engine>, NodeError> {
    let entries = fs::read_dir(from).map_err(NodeError::file("reading", from))?;
    let mut found: Vec<Engine> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_prefix("containerd-shim-")?.strip_suffix("-v1")?;
            // A shim of another project has no host of ours.
            Engine::find(name, |host| from.join(host).exists())
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.iter().all(Engine::is_all) {
        return Err(NodeError::NoEngines(from.to_owned()));
    }
    let names: Vec<&str> = found.iter().map(|engine| engine.name.as_str()).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(NodeError::UnknownEngine(unknown.clone(), names.join(", ")));
    }
    found.retain(|engine| match wanted {
        [] => !engine.is_shared(),
        wanted => wanted.contains(&engine.name),
    });
    if found.iter().all(Engine::is_all) {
        // It would have nothing to run a guest with.
        return Err(NodeError::NoEngineBesideAll);
    }
    for engine in &found {
        if let Some(missing) = engine.files().iter().find(|file| !from.join(file).exists()) {
            let path = from.join(missing);
            return Err(NodeError::Incomplete { engine: engine.name.clone(), path });
        }
    }
    Ok(found)
}

/// The directory to install to: that of the command line, else that of the last installation, else
/// the first writable default directory.
pub(crate) fn bin_dir(
    node: &Node,
    named: Option<&Path>,
    record: &Record,
) -> Result<PathBuf, NodeError> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    if !record.bin_dir.as_os_str().is_empty() {
        return Ok(record.bin_dir.clone());
    }
    let usual: &[&str] = if node.distribution.wants_path() { &[OWN] } else { &[USUAL, OWN] };
    let mut reasons = Vec::new();
    for path in usual {
        match files::can_write(&node.root.resolve(Path::new(path))?) {
            Ok(()) => return Ok(path.into()),
            Err(e) => reasons.push(format!("{path}: {e}")),
        }
    }
    Err(NodeError::NoBinDir(reasons.join(", ")))
}

/// Whether containerd finds a program in this directory by its name.
pub(crate) fn in_path(node: &Node, bin_dir: &Path) -> bool {
    !node.distribution.wants_path() && SEARCH_PATH.split(':').any(|path| Path::new(path) == bin_dir)
}

/// Installs the executables by rename, and returns the names of the new and changed ones. Running
/// shims keep the files that they were started from.
pub(crate) fn install(
    node: &Node,
    from: &Path,
    engines: &[Engine],
    bin_dir: &Path,
    record: &mut Record,
) -> Result<Vec<String>, NodeError> {
    let folder = node.root.resolve(bin_dir)?;
    record.made(node, &folder)?;
    let mut changed = Vec::new();
    let mut names: Vec<String> = engines.iter().flat_map(Engine::files).collect();
    if from.join(SELF).exists() {
        names.push(SELF.to_owned());
    }
    for name in names {
        let (source, target) = (from.join(&name), folder.join(&name));
        if same_file(&source, &target) {
            // Installed by hand: `uninstall` must not remove it.
            continue;
        }
        let bytes = fs::read(&source).map_err(NodeError::file("reading", &source))?;
        if files::read(&target)?.as_ref() == Some(&bytes) {
            continue;
        }
        record.keep(node, &bin_dir.join(&name), Kind::Executable, &bytes)?;
        files::replace(&target, &bytes, 0o755)?;
        changed.push(name);
    }
    Ok(changed)
}

fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    id(a).is_some() && id(a) == id(b)
}

/// Runs each executable of an engine on the host, which fails if a library is missing. The dynamic
/// loader's error names the library, or the required version of glibc.
pub(crate) fn probe(node: &Node, engine: &Engine, bin_dir: &Path) -> Result<(), NodeError> {
    for name in engine.files().into_iter().rev() {
        let path = bin_dir.join(name);
        let failed = |reason: String| NodeError::DoesNotRun { path: path.clone(), reason };
        let output =
            node.root.command(&path).arg("-v").output().map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(if text.is_empty() { output.status.to_string() } else { text }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_found_by_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::write(dir.path().join(name), "").unwrap();
        make("containerd-shim-spin-v1");
        assert!(matches!(engines(dir.path(), &[]), Err(NodeError::NoEngines(_))));
        for name in ["containerd-shim-wamr-v1", "wherry-wamr-host"] {
            make(name);
        }
        let error = engines(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.ends_with("wherry-wamr is missing"), "{error}");
        make("wherry-wamr");
        make("containerd-shim-wamrd-v1");
        assert_eq!(engines(dir.path(), &[]).unwrap(), [Engine::named("wamr")]);
        make("containerd-shim-wherry-v1");
        let found = engines(dir.path(), &[]).unwrap();
        assert_eq!(
            found.iter().map(Engine::shim).collect::<Vec<_>>(),
            ["containerd-shim-wamr-v1", "containerd-shim-wherry-v1"]
        );
        let error = engines(dir.path(), &["wherry".into()]).unwrap_err();
        assert!(matches!(error, NodeError::NoEngineBesideAll), "{error}");
        let error = engines(dir.path(), &["wasmer".into()]).unwrap_err().to_string();
        assert!(error.contains("\"wasmer\" is not among"), "{error}");
        let [shared] = &engines(dir.path(), &["wamrd".into()]).unwrap()[..] else {
            panic!("there is one")
        };
        let files = ["wherry-wamr-host", "wherry-wamr", "containerd-shim-wamrd-v1"];
        assert_eq!(shared.files(), files.map(str::to_owned));
    }
}
