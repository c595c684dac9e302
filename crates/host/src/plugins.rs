//! Plug-ins of an engine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wherry_engine::{Engine, LoadError};

/// Why the plug-ins of an engine could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load plug-ins from {:?}: {cause}", .path.display().to_string())]
pub struct PluginError {
    path: PathBuf,
    #[source]
    cause: PluginCause,
}

#[derive(Debug, thiserror::Error)]
enum PluginCause {
    #[error("the path is not absolute")]
    Relative,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Engine(#[from] LoadError),
    #[error(
        "a plug-in started a thread, and a guest is a fork of this process, without its threads"
    )]
    Thread,
}

/// Loads an engine's plug-ins, which lie outside of the container, into this process, which forks
/// one guest. An empty path means no plug-ins.
///
/// # Errors
/// If they cannot be loaded, or start a thread.
pub fn load(engine: &dyn Engine, path: &Path) -> Result<(), PluginError> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    try_load(engine, path).map_err(|cause| PluginError { path: path.to_owned(), cause })
}

fn try_load(engine: &dyn Engine, path: &Path) -> Result<(), PluginCause> {
    if !path.is_absolute() {
        return Err(PluginCause::Relative);
    }
    path.metadata()?;
    engine.load_plugins(path)?;
    // fork(2) copies only the calling thread, and the locks that others hold stay locked.
    if fs::read_dir("/proc/self/task")?.count() > 1 {
        return Err(PluginCause::Thread);
    }
    Ok(())
}
