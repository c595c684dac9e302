//! The versions of an executable and its engine.

use crate::{Engine, LoadError};

/// The version of this project.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Returns the engine's version, or the reason why the engine cannot be loaded.
pub fn engine_version<E: Engine + ?Sized>(engine: Result<&E, &LoadError>) -> String {
    match engine {
        Ok(engine) => engine.version().to_string(),
        Err(error) => format!("unknown: cannot load the engine: {error}"),
    }
}
