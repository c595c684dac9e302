//! The record of an installation: the installed files and the original ones, so that `uninstall`
//! restores them.
//!
//! It is written before a file of the host is changed, so that an interrupted installation can be
//! undone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{document, template};
use crate::error::NodeError;
use crate::files::{self, digest};
use crate::node::Node;

/// The folder of replaced files, in the record's.
const KEPT: &str = "kept";
const FILE: &str = "record.json";

/// An installation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: String,
    pub(crate) engines: Vec<String>,
    pub(crate) bin_dir: PathBuf,
    /// The files that were written, executables before the configuration.
    pub(crate) files: Vec<Written>,
    /// The directories that were made, outer ones first.
    pub(crate) dirs: Vec<PathBuf>,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    /// The digest of the content that `install` wrote.
    digest: String,
    /// The name of the copy of the original; `None` without an original.
    original: Option<String>,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Executable,
    /// A TOML file.
    Document,
    /// A Go template of a TOML file.
    Template,
}

/// The result of restoring a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// It has its original content.
    Back,
    /// It was changed after the installation: only the runtimes were removed.
    Stripped,
    /// It was replaced or removed after the installation.
    Left,
}

impl Record {
    /// Reads the record; an empty one if nothing was installed.
    pub(crate) fn load(node: &Node) -> Result<Record, NodeError> {
        let path = node.root.resolve(&node.state.join(FILE))?;
        let Some(bytes) = files::read(&path)? else { return Ok(Record::default()) };
        serde_json::from_slice(&bytes).map_err(|source| NodeError::Record { path, source })
    }

    /// Whether something was installed.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Record::default()
    }

    /// Writes the record.
    pub(crate) fn save(&mut self, node: &Node) -> Result<(), NodeError> {
        let folder = node.root.resolve(&node.state)?;
        self.made(node, &folder)?;
        let path = folder.join(FILE);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|source| NodeError::Record { path: path.clone(), source })?;
        files::replace(&path, &bytes, 0o600)
    }

    /// Creates a directory and records the directories that did not exist.
    pub(crate) fn made(&mut self, node: &Node, folder: &Path) -> Result<(), NodeError> {
        let made = files::make_dir(folder)?;
        self.dirs.extend(made.iter().map(|path| node.root.host_path(path)));
        Ok(())
    }

    /// Copies the file at `path`, where `new` will be written, and saves the record.
    pub(crate) fn keep(
        &mut self,
        node: &Node,
        path: &Path,
        kind: Kind,
        new: &[u8],
    ) -> Result<(), NodeError> {
        let current = files::read(&node.root.resolve(path)?)?;
        let known = self.files.iter().position(|file| file.path == path);
        let known = known.map(|at| self.files.remove(at));
        let ours =
            |file: &Written| current.as_ref().is_some_and(|bytes| digest(bytes) == file.digest);
        let original = match known {
            Some(file) if ours(&file) => file.original,
            // Changed since, or the first time: `uninstall` has to leave all of it that is not
            // ours.
            _ => match current.map(|bytes| self.stripped(kind, bytes)) {
                None => None,
                Some(bytes) => Some(self.copy(node, path, &bytes)?),
            },
        };
        self.files.push(Written { path: path.to_owned(), kind, digest: digest(new), original });
        self.save(node)
    }

    /// Whether the installation wrote this file.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    fn copy(&mut self, node: &Node, path: &Path, bytes: &[u8]) -> Result<String, NodeError> {
        let folder = node.root.resolve(&node.state.join(KEPT))?;
        self.made(node, &folder)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = digest(path.as_os_str().as_encoded_bytes());
        let name = format!("{name}-{number:.8}");
        files::replace(&folder.join(&name), bytes, 0o600)?;
        Ok(name)
    }

    /// Removes the runtimes from a file's content.
    fn stripped(&self, kind: Kind, bytes: Vec<u8>) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(&bytes) else { return bytes };
        let handlers: Vec<&str> = self.engines.iter().map(String::as_str).collect();
        let text = match kind {
            Kind::Executable => None,
            // An invalid file is left as it is.
            Kind::Document => document::remove(text, &handlers).ok(),
            Kind::Template => Some(template::remove(text)),
        };
        text.map_or(bytes, String::into_bytes)
    }

    /// Restores the original of a file.
    pub(crate) fn restore(&self, node: &Node, file: &Written) -> Result<Restored, NodeError> {
        let path = node.root.resolve(&file.path)?;
        let Some(current) = files::read(&path)? else { return Ok(Restored::Left) };
        if digest(&current) != file.digest {
            let stripped = self.stripped(file.kind, current.clone());
            if stripped == current {
                return Ok(Restored::Left);
            }
            files::replace(&path, &stripped, 0o644)?;
            return Ok(Restored::Stripped);
        }
        let Some(name) = &file.original else {
            files::remove(&path)?;
            return Ok(Restored::Back);
        };
        let kept = node.root.resolve(&node.state.join(KEPT).join(name))?;
        let bytes = std::fs::read(&kept).map_err(NodeError::file("reading", &kept))?;
        files::replace(&path, &bytes, 0o644)?;
        Ok(Restored::Back)
    }

    /// Removes the copies, the record, and the created directories that are empty.
    pub(crate) fn erase(&self, node: &Node) -> Result<(), NodeError> {
        let state = node.root.resolve(&node.state)?;
        let kept = state.join(KEPT);
        if kept.exists() {
            std::fs::remove_dir_all(&kept).map_err(NodeError::file("removing", &kept))?;
        }
        files::remove(&state.join(FILE))?;
        for folder in self.dirs.iter().rev() {
            // Fails for a directory with other files in it, which stays.
            let _ = std::fs::remove_dir(node.root.resolve(folder)?);
        }
        Ok(())
    }
}
