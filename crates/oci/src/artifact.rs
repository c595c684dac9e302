//! The CNCF's Wasm OCI artifact layout: one layer of WebAssembly, and a configuration that
//! describes it.
//!
//! <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>

use std::collections::BTreeMap;

use oci_spec::image::ImageManifest;
use serde::{Deserialize, Serialize};

use crate::blob::{self, Data};
use crate::error::{OciError, Result};
use crate::image::{self, Blobs, Image};
use crate::media;
use crate::module::{Facts, Kind};

/// The time in an artifact without another one: its configuration must have one.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// The configuration of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmConfig {
    /// The time at which it was made, as RFC 3339 writes it.
    #[serde(default)]
    pub created: Option<String>,
    /// The author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// `wasm`.
    #[serde(default)]
    pub architecture: String,
    /// `wasip1` or `wasip2`.
    #[serde(default)]
    pub os: String,
    /// The digests of all layers, so that different artifacts have different configurations.
    #[serde(default)]
    pub layer_digests: Vec<String>,
    /// The interfaces of a component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Interfaces>,
}

/// The interfaces of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    /// The exported interfaces and functions.
    #[serde(default)]
    pub exports: Vec<String>,
    /// The imported ones.
    #[serde(default)]
    pub imports: Vec<String>,
    /// The world that it was made for, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl WasmConfig {
    /// Returns the configuration of a binary.
    #[must_use]
    pub fn of(facts: &Facts, layer: &str, created: Option<&str>) -> WasmConfig {
        let component = (facts.kind != Kind::Module).then(|| Interfaces {
            exports: facts.exports.clone(),
            imports: facts.imports.clone(),
            target: target(facts).map(str::to_owned),
        });
        WasmConfig {
            created: Some(created.unwrap_or(NO_TIME).to_owned()),
            author: None,
            architecture: "wasm".to_owned(),
            os: if component.is_some() { "wasip2" } else { "wasip1" }.to_owned(),
            layer_digests: vec![layer.to_owned()],
            component,
        }
    }

    /// Parses a configuration.
    ///
    /// # Errors
    /// If it is not JSON of this form.
    pub fn parse(bytes: &[u8]) -> std::result::Result<WasmConfig, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

/// Returns the world of WASI that a component's exports belong to.
fn target(facts: &Facts) -> Option<&str> {
    let has = |interface: &str| {
        facts.exports.iter().any(|export| export.split('@').next() == Some(interface))
    };
    if has("wasi:http/incoming-handler") {
        Some("wasi:http/proxy")
    } else if has("wasi:cli/run") {
        Some("wasi:cli/command")
    } else {
        None
    }
}

/// Makes an artifact of a binary. `title` is the name of the file.
///
/// # Errors
/// If the binary is invalid or too large, or cannot be read.
pub fn make(
    wasm: &Data,
    name: Option<String>,
    title: &str,
    annotations: &BTreeMap<String, String>,
    created: Option<&str>,
) -> Result<Image> {
    let bytes = wasm.bytes("file", title, wherry_image::MODULE_MAX)?;
    let facts = Facts::of(&bytes)?;
    let digest = blob::digest(&bytes);
    let mut blobs = Blobs::default();
    let mut layer = blobs.add(media::WASM, &digest, wasm.clone())?;
    let title = [("org.opencontainers.image.title".to_owned(), title.to_owned())];
    layer.set_annotations(Some(title.into_iter().collect()));
    let config = blobs.add_json(media::WASM_CONFIG, &WasmConfig::of(&facts, &digest, created))?;
    let manifest = image::manifest(config, vec![layer], annotations, None)?;
    let root = blobs.add_json(media::MANIFEST, &manifest)?;
    Ok(Image { name, root, blobs })
}

/// Returns the layer of WebAssembly of an artifact, and its file's name if it has one.
///
/// # Errors
/// [`OciError::SeveralModules`] or [`OciError::NoModule`], or the layer is missing.
pub fn module(image: &Image, manifest: &ImageManifest) -> Result<(Data, Option<String>)> {
    let is_wasm = |media_type: &str| media::is_wasm(media_type);
    let layers = manifest.layers();
    let mut modules: Vec<_> =
        layers.iter().filter(|layer| is_wasm(layer.media_type().as_ref())).collect();
    // `oras push` gives a file the media type of a tar archive, unless the user names another.
    if let ([], [only]) = (modules.as_slice(), layers.as_slice()) {
        let mut head = Vec::new();
        let data = image.blob("layer", only)?;
        let read =
            std::io::Read::read_to_end(&mut std::io::Read::take(data.reader(), 4), &mut head);
        read.map_err(|source| OciError::Blob { digest: only.digest().to_string(), source })?;
        if head == b"\0asm" {
            modules.push(only);
        }
    }
    match modules.as_slice() {
        [layer] => {
            let title = layer
                .annotations()
                .as_ref()
                .and_then(|annotations| annotations.get("org.opencontainers.image.title").cloned());
            Ok((image.blob("layer", layer)?.clone(), title))
        }
        [] => {
            let found: Vec<String> =
                layers.iter().map(|layer| layer.media_type().to_string()).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            Err(OciError::NoModule(format!(
                "the artifact contains no WebAssembly; the media types of its layers: {found}"
            )))
        }
        several => Err(OciError::SeveralModules(several.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(wat: &str) -> Image {
        let wasm = Data::from(wat::parse_str(wat).unwrap());
        let labels = [("a".to_owned(), "b".to_owned())].into_iter().collect();
        make(&wasm, None, "app.wasm", &labels, None).unwrap()
    }

    fn config(image: &Image) -> WasmConfig {
        let manifest = image.preferred(None).unwrap();
        image.document("configuration", manifest.content.config()).unwrap()
    }

    #[test]
    fn a_modules_configuration_has_no_interfaces() {
        let config = config(&artifact("(module)"));
        assert_eq!((config.os.as_str(), config.architecture.as_str()), ("wasip1", "wasm"));
        assert_eq!(config.component, None);
        assert_eq!(config.created.as_deref(), Some(NO_TIME));
    }

    #[test]
    fn a_components_configuration_has_its_interfaces() {
        let image = artifact(
            r#"(component (import "wasi:cli/stdin@0.2.0" (instance $i))
                 (export "wasi:cli/run@0.2.0" (instance $i)))"#,
        );
        let config = config(&image);
        let component = config.component.unwrap();
        assert_eq!(config.os, "wasip2");
        assert_eq!(component.imports, ["wasi:cli/stdin@0.2.0"]);
        assert_eq!(component.exports, ["wasi:cli/run@0.2.0"]);
        assert_eq!(component.target.as_deref(), Some("wasi:cli/command"));
    }

    #[test]
    fn the_same_binary_makes_the_same_artifact() {
        let digest = |text: &str| artifact(text).root.digest().to_string();
        assert_eq!(digest("(module)"), digest("(module)"));
        assert_ne!(digest("(module)"), digest("(module (memory 1))"));
    }

    #[test]
    fn a_configuration_of_another_form_is_an_error() {
        assert!(WasmConfig::parse(b"1").is_err());
        assert!(WasmConfig::parse(br#"{"component": 1}"#).is_err());
        assert!(WasmConfig::parse(b"{}").is_ok());
    }
}
