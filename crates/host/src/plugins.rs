//! Plug-ins of an engine.

use std::fs;
use std::path::Path;

use wherry_engine::Engine;
use wherry_protocol::{Failure, FailureKind};

/// Loads an engine's plug-ins, which lie outside of the container, into this process, which forks one
/// guest. An empty path: none.
///
/// # Errors
/// If they cannot be loaded, or start a thread.
pub fn load(engine: &dyn Engine, path: &Path) -> Result<(), Failure> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let failed = |text: String| {
        let text = format!("cannot load plug-ins from {:?}: {text}", path.display().to_string());
        Failure::new(FailureKind::Invalid, text)
    };
    if !path.is_absolute() {
        return Err(failed("the path is not absolute".to_owned()));
    }
    path.metadata().map_err(|error| failed(error.to_string()))?;
    engine.load_plugins(path).map_err(|error| failed(error.to_string()))?;
    // fork(2) copies only the calling thread, and the locks that others hold stay locked.
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(failed("a plug-in started a thread when it was loaded".to_owned()));
    }
    Ok(())
}
