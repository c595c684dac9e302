//! The description of an image or artifact.

use oci_spec::image::{Descriptor, ImageConfiguration};
use serde_json::{Value, json};

use crate::artifact::WasmConfig;
use crate::convert;
use crate::error::Result;
use crate::files;
use crate::image::{Image, Manifest, Platform};
use crate::media::{self, Packaging};
use crate::module::Facts;

/// The description of a manifest and its binary.
#[derive(Debug, Clone)]
pub struct Description {
    /// The image's name.
    pub name: Option<String>,
    /// The digest of the index or manifest.
    pub digest: String,
    /// How it packages the binary.
    pub packaging: Packaging,
    /// The size of all blobs in bytes.
    pub size: u64,
    /// The platforms in the index.
    pub platforms: Vec<String>,
    /// The words of an image's command.
    pub command: Vec<String>,
    /// The layers.
    pub layers: Vec<Descriptor>,
    /// The configuration of an artifact.
    pub config: Option<WasmConfig>,
    /// The facts about the binary, or the reason why they are unknown.
    pub module: std::result::Result<(u64, Facts), String>,
}

/// Describes an image or artifact.
///
/// # Errors
/// If it is damaged. An image without WebAssembly is described too.
pub fn describe(image: &Image, platform: Option<&Platform>) -> Result<Description> {
    let manifest = image.preferred(platform)?;
    let packaging = Packaging::of(&manifest.content);
    let config_type = manifest.content.config().media_type().to_string();
    let command = match packaging {
        Packaging::Image | Packaging::WasmImage => {
            let config: ImageConfiguration =
                image.document("configuration", manifest.content.config())?;
            files::command(&config)
        }
        _ => Vec::new(),
    };
    let config = match config_type == media::WASM_CONFIG {
        true => Some(image.document("configuration", manifest.content.config())?),
        false => None,
    };
    Ok(Description {
        name: image.name.clone(),
        digest: image.root.digest().to_string(),
        packaging,
        size: image.size(),
        platforms: image.platforms(),
        command,
        layers: manifest.content.layers().clone(),
        config,
        module: facts(image, &manifest).map_err(|error| error.to_string()),
    })
}

fn facts(image: &Image, manifest: &Manifest) -> Result<(u64, Facts)> {
    let (data, name) = convert::module(image, manifest)?;
    let bytes = data.bytes("file", &name, wherry_image::MODULE_MAX)?;
    Ok((bytes.len() as u64, Facts::of(&bytes)?))
}

impl Description {
    /// Returns it as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": layer.media_type(),
                    "digest": layer.digest(),
                    "size": layer.size(),
                })
            })
            .collect();
        let (module, reason) = match &self.module {
            Ok((size, facts)) => (Some(module_json(*size, facts)), None),
            Err(reason) => (None, Some(reason)),
        };
        json!({
            "name": self.name,
            "digest": self.digest,
            "kind": self.packaging.name(),
            "bytes": self.size,
            "platforms": self.platforms,
            "command": self.command,
            "layers": layers,
            "config": self.config,
            "module": module,
            "reason": reason,
        })
    }
}

/// Returns the facts about a binary as JSON.
#[must_use]
pub fn module_json(size: u64, facts: &Facts) -> Value {
    let engines: Vec<Value> = facts
        .engines
        .iter()
        .map(|engine| {
            json!({"name": engine.name, "runs": engine.refusal.is_none(), "reason": engine.refusal})
        })
        .collect();
    json!({
        "kind": facts.kind.name(),
        "bytes": size,
        "wasi": facts.wasi,
        "imports": facts.imports,
        "exports": facts.exports,
        "wit": facts.wit,
        "needs": facts.needs,
        "engines": engines,
        "languages": facts.languages,
        "tools": facts.tools,
    })
}
