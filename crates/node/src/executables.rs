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
/// The end of the name of a runtime whose containers share one daemon.
const SHARED: &str = "d";

/// A runtime that can be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shim {
    /// The name in `containerd-shim-NAME-v1`: that of the engine, or of its shared mode.
    pub(crate) name: String,
    /// The engine, whose other executables the shim uses.
    pub(crate) engine: String,
}

impl Shim {
    /// The shim of this name, if a file in the directory of the shim says that it is ours.
    pub(crate) fn find(name: &str, exists: impl Fn(&str) -> bool) -> Option<Shim> {
        let engines = [Some(name), name.strip_suffix(SHARED)];
        engines.into_iter().flatten().find_map(|engine| {
            let shim = Shim { name: name.to_owned(), engine: engine.to_owned() };
            exists(&shim.host()).then_some(shim)
        })
    }

    /// Whether its containers share one daemon.
    pub(crate) fn is_shared(&self) -> bool {
        self.name != self.engine
    }

    /// The shim that containerd runs.
    pub(crate) fn shim(&self) -> String {
        format!("containerd-shim-{}-v1", self.name)
    }

    /// The engine host, which the shim runs.
    pub(crate) fn host(&self) -> String {
        format!("wherry-{}-host", self.engine)
    }

    /// The compiler and the commands for people.
    pub(crate) fn tool(&self) -> String {
        format!("wherry-{}", self.engine)
    }

    /// All executables. The shim is last: containerd must not find it before the others exist.
    pub(crate) fn files(&self) -> [String; 3] {
        [self.host(), self.tool(), self.shim()]
    }
}

/// The shims in a directory, sorted: those with the given names, or those of single containers.
pub(crate) fn shims(from: &Path, wanted: &[String]) -> Result<Vec<Shim>, NodeError> {
    let entries = fs::read_dir(from).map_err(NodeError::file("reading", from))?;
    let mut found: Vec<Shim> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_prefix("containerd-shim-")?.strip_suffix("-v1")?;
            // A shim of another project has no host of ours.
            Shim::find(name, |file| from.join(file).exists())
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        return Err(NodeError::NoEngines(from.to_owned()));
    }
    let names: Vec<&str> = found.iter().map(|shim| shim.name.as_str()).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(NodeError::UnknownEngine(unknown.clone(), names.join(", ")));
    }
    found.retain(|shim| match wanted {
        [] => !shim.is_shared(),
        names => names.contains(&shim.name),
    });
    for shim in &found {
        if let Some(missing) = shim.files().iter().find(|file| !from.join(file).exists()) {
            let path = from.join(missing);
            return Err(NodeError::Incomplete { engine: shim.engine.clone(), path });
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
    shims: &[Shim],
    bin_dir: &Path,
    record: &mut Record,
) -> Result<Vec<String>, NodeError> {
    let folder = node.root.resolve(bin_dir)?;
    record.made(node, &folder)?;
    let mut changed = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for name in shims.iter().flat_map(Shim::files) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
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

/// Runs each executable of a runtime on the host, which fails if a library is missing. The dynamic
/// loader's error names the library, or the required version of glibc.
pub(crate) fn probe(node: &Node, shim: &Shim, bin_dir: &Path) -> Result<(), NodeError> {
    for name in shim.files() {
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
    fn shims_are_found_by_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::write(dir.path().join(name), "").unwrap();
        let shim = |name: &str| Shim { name: name.to_owned(), engine: "wamr".to_owned() };
        make("containerd-shim-spind-v1");
        assert!(matches!(shims(dir.path(), &[]), Err(NodeError::NoEngines(_))));
        for name in ["containerd-shim-wamr-v1", "containerd-shim-wamrd-v1", "wherry-wamr-host"] {
            make(name);
        }
        let error = shims(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.ends_with("wherry-wamr is missing"), "{error}");
        make("wherry-wamr");
        assert_eq!(shims(dir.path(), &[]).unwrap(), [shim("wamr")]);
        let both = ["wamrd".to_owned(), "wamr".to_owned()];
        assert_eq!(shims(dir.path(), &both).unwrap(), [shim("wamr"), shim("wamrd")]);
        let error = shims(dir.path(), &["wasmer".into()]).unwrap_err().to_string();
        assert!(error.contains("\"wasmer\" is not among"), "{error}");
    }
}
