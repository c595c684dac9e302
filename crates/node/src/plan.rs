//! Plans the change of containerd's configuration: the file to change, and its new text.
//!
//! The candidates are in the order of preference: a separate file where containerd imports a
//! folder and merges imported files (≥ 2.0); else the file that holds the CRI plug-in's settings.
//! The installer takes the first with which containerd's effective configuration gains the runtimes
//! and nothing else.

use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Format, Runtime, Version, document, template};
use crate::error::NodeError;
use crate::node::Node;
use crate::record::Kind;

/// A separate file in a folder that containerd imports. Late in the order, as later files win.
const DROP_IN: &str = "90-wherry.toml";
/// The folder that containerd ≥ 2.2 imports where it has no configuration file.
const DEFAULT_FOLDER: (&str, &str) = ("/etc/containerd/config.toml", "/etc/containerd/conf.d");

/// A file and its new text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    /// The current text; `None` if the file does not exist.
    pub(crate) old: Option<String>,
    pub(crate) new: String,
}

/// The runtimes that a configuration shall have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'w> {
    pub(crate) runtimes: &'w [Runtime],
    /// The runtimes of an earlier installation that this one removes.
    pub(crate) gone: &'w [String],
}

/// The candidates. `effective` is containerd's current effective configuration, where it is known.
pub(crate) fn candidates(
    node: &Node,
    version: Version,
    wanted: &Wanted<'_>,
    effective: Option<&str>,
) -> Result<Vec<Edit>, NodeError> {
    let effective = effective.filter(|_| version < Version::new(2, 0));
    let Wanted { runtimes, gone } = *wanted;
    let planner = Planner { node, version, runtimes, gone, effective };
    if node.distribution.template(0).is_some() {
        return planner.generated();
    }
    if let Some(folder) = node.distribution.drop_ins() {
        let main = node.read(&node.config)?.unwrap_or_default();
        let number = planner.number(&main)?;
        return Ok(vec![planner.drop_in(&folder, number)?]);
    }
    planner.own_files()
}

struct Planner<'n> {
    node: &'n Node,
    version: Version,
    runtimes: &'n [Runtime],
    gone: &'n [String],
    effective: Option<&'n str>,
}

impl Planner<'_> {
    /// The version number in a main file; that of a new file if it has none.
    fn number(&self, main: &str) -> Result<i64, NodeError> {
        let head = document::head(main, self.version).map_err(self.about(&self.node.config))?;
        Ok(head.version.unwrap_or_else(|| self.version.format().version()))
    }

    /// k3s and rke2 write containerd's configuration when they start, from a template and, in newer
    /// releases, with a folder of imported files.
    fn generated(&self) -> Result<Vec<Edit>, NodeError> {
        let main = self.node.read(&self.node.config)?.unwrap_or_default();
        let number = self.number(&main)?;
        let mut found = Vec::new();
        if let Some(folder) = self.imported_folder(&main) {
            found.push(self.drop_in(&folder, number)?);
        }
        let templates = [3, 2].into_iter().filter(|version| *version <= self.version.format_max());
        let templates: Vec<_> = templates
            .filter_map(|version| Some((version, self.node.distribution.template(version)?)))
            .collect();
        let existing = templates.iter().find(|(_, path)| self.node.root.exists(path));
        let fitting =
            templates.iter().find(|(version, _)| Format::of(*version) == Format::of(number));
        if let Some((version, path)) = existing.or(fitting) {
            let old = self.node.read(path)?;
            let new = template::add(old.as_deref(), Format::of(*version), self.runtimes);
            found.push(Edit { path: path.clone(), kind: Kind::Template, old, new });
        }
        Ok(found)
    }

    /// Configuration files that administrators write.
    fn own_files(&self) -> Result<Vec<Edit>, NodeError> {
        let old = self.node.read(&self.node.config)?;
        let main = old.clone().unwrap_or_default();
        let number = self.number(&main)?;
        let mut found = Vec::new();
        let (config, folder) = DEFAULT_FOLDER;
        let by_default =
            self.version >= Version::new(2, 2) && self.node.config == Path::new(config);
        if old.is_none() && by_default {
            found.push(self.drop_in(Path::new(folder), number)?);
        } else if let Some(folder) = self.imported_folder(&main) {
            found.push(self.drop_in(&folder, number)?);
        }
        // Before 2.0 the last file with a section of the plug-in wins as a whole.
        let section = if self.version < Version::new(2, 0) {
            self.last_section(&main, number)?
        } else {
            None
        };
        let path = section.unwrap_or_else(|| self.node.config.clone());
        found.push(self.document(path, number)?);
        Ok(found)
    }

    /// The folder of the first import pattern that matches every TOML file. Before 2.0 a separate
    /// file would replace the CRI plug-in's settings instead of being merged into them.
    fn imported_folder(&self, main: &str) -> Option<PathBuf> {
        let head = document::head(main, self.version).ok()?;
        let pattern = head.imports.iter().find(|pattern| pattern.ends_with("/*.toml"))?;
        let folder = Path::new(pattern).parent().filter(|_| self.version >= Version::new(2, 0))?;
        Some(self.node.config.parent().unwrap_or(Path::new("/")).join(folder))
    }

    /// The last imported file that has settings of the CRI plug-in.
    fn last_section(&self, main: &str, number: i64) -> Result<Option<PathBuf>, NodeError> {
        let head = document::head(main, self.version).map_err(self.about(&self.node.config))?;
        let folder = self.node.config.parent().unwrap_or(Path::new("/"));
        let mut last = None;
        for pattern in head.imports {
            for path in self.expand(&folder.join(pattern))? {
                let text = self.node.read(&path)?.unwrap_or_default();
                if document::has_plugin(&text, Format::of(number)) {
                    last = Some(path);
                }
            }
        }
        Ok(last)
    }

    /// The files of a pattern whose last part may have one `*`, sorted as containerd sorts them.
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, NodeError> {
        let name = pattern.file_name().unwrap_or_default().to_string_lossy();
        let Some((start, end)) = name.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
        let folder = pattern.parent().unwrap_or(Path::new("/"));
        let entries = std::fs::read_dir(self.node.root.resolve(folder)?).into_iter().flatten();
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let fits = |name: &String| {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        };
        let mut found: Vec<PathBuf> = names.filter(fits).map(|name| folder.join(name)).collect();
        found.sort();
        Ok(found)
    }

    /// A separate file. It has the version of the main file, because containerd 2.0 to 2.3 convert
    /// all files by one version number.
    fn drop_in(&self, folder: &Path, number: i64) -> Result<Edit, NodeError> {
        let path = folder.join(DROP_IN);
        let old = self.node.read(&path)?;
        let new = document::add("", number, self.runtimes).map_err(self.about(&path))?;
        Ok(Edit { path, kind: Kind::Document, old, new })
    }

    fn document(&self, path: PathBuf, number: i64) -> Result<Edit, NodeError> {
        let old = self.node.read(&path)?;
        let gone: Vec<&str> = self.gone.iter().map(String::as_str).collect();
        let text = document::remove(old.as_deref().unwrap_or_default(), &gone);
        let text = text.map_err(self.about(&path))?;
        // Without those that go, which the running daemon still has.
        let effective = self.effective.map(|text| document::remove(text, &gone)).transpose();
        let effective = effective.map_err(self.about(&path))?;
        let new = document::add_beside(&text, number, self.runtimes, effective.as_deref());
        let new = new.map_err(self.about(&path))?;
        Ok(Edit { path, kind: Kind::Document, old, new })
    }

    fn about(&self, path: &Path) -> impl FnOnce(ConfigError) -> NodeError + use<> {
        let path = path.to_owned();
        move |source| NodeError::Config { path, source }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
