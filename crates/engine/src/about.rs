//! Versions of the executables, and the words that ask for them.

use crate::{Engine, LoadError};

/// The version of this project.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether a command asks for the version.
#[must_use]
pub fn is_version(word: &str) -> bool {
    ["version", "--version", "-version", "-v", "-V"].contains(&word)
}

/// Whether a command asks for help.
#[must_use]
pub fn is_help(word: &str) -> bool {
    ["help", "--help", "-help", "-h"].contains(&word)
}

/// The engine's version, or why it cannot be loaded.
pub fn engine_version<E: Engine + ?Sized>(engine: Result<&E, &LoadError>) -> String {
    match engine {
        Ok(engine) => engine.version().to_string(),
        Err(error) => format!("unknown: cannot load the engine: {error}"),
    }
}

/// The versions of an executable and its engine, and where to look for advisories. `role` follows
/// the engine in the executable's name; it may be empty.
pub fn version<E: Engine + ?Sized>(role: &str, engine: Result<&E, &LoadError>) -> String {
    let name = engine.map_or("ENGINE", Engine::name);
    let dash = if role.is_empty() { "" } else { "-" };
    let mut text =
        format!("wherry-{name}{dash}{role} {VERSION}, engine {}\n", engine_version(engine));
    if let Ok(engine) = engine {
        let project = engine.version().advisories;
        text.push_str(&format!("advisories: the security page of the project {project}\n"));
    }
    text
}
