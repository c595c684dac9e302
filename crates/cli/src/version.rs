//! `wherry-E version`: the versions of this program and of the engine.

use serde_json::json;
use wherry_engine::about::{VERSION, engine_version};
use wherry_engine::{Engine, LoadError};

/// Returns the text of `--version` after the program's name.
pub(crate) fn text<E: Engine>(engine: Result<&E, &LoadError>) -> String {
    let mut text = format!("{VERSION}, engine {}\n", engine_version(engine));
    if let Ok(engine) = engine {
        let project = engine.version().advisories;
        text.push_str(&format!("advisories: the security page of the project {project}\n"));
    }
    text
}

/// Returns the versions as JSON. `engine` is null if the engine cannot be loaded, and `error` has
/// the reason.
pub(crate) fn json<E: Engine>(engine: Result<&E, &LoadError>) -> String {
    let value = match engine {
        Ok(engine) => {
            let version = engine.version();
            json!({
                "version": VERSION,
                "engine": engine.name(),
                "engineVersion": version.number,
                "engineReleased": version.released,
                "advisories": version.advisories,
            })
        }
        Err(error) => json!({"version": VERSION, "engine": null, "error": error.to_string()}),
    };
    format!("{value:#}\n")
}
