//! Media types, and the ways to package WebAssembly.

use oci_spec::image::ImageManifest;

/// An image's manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer: a tar archive that is not compressed.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The configuration of the CNCF's Wasm OCI artifact layout.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// A layer of WebAssembly in that layout.
pub const WASM: &str = "application/wasm";

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const SPIN_CONFIG: &str = "application/vnd.fermyon.spin.application.v1+config";

/// The layers that are a WebAssembly binary.
pub const WASM_LAYERS: [&str; 4] = [
    WASM,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// The configurations of artifacts that may be WebAssembly: the layout's own, wasm-to-oci's, the
/// older image specification's, and those of `oras push` without a configuration.
const ARTIFACT_CONFIGS: [&str; 5] = [
    WASM_CONFIG,
    "application/vnd.wasm.config.v1+json",
    "application/vnd.module.wasm.config.v1+json",
    "application/vnd.oci.empty.v1+json",
    "application/vnd.unknown.config.v1+json",
];

/// The compression of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A tar archive as it is.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// Returns true for a manifest.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    [MANIFEST, DOCKER_MANIFEST].contains(&media_type)
}

/// Returns true for an index of manifests.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    [INDEX, DOCKER_LIST].contains(&media_type)
}

/// Returns true for an image's configuration.
#[must_use]
pub fn is_config(media_type: &str) -> bool {
    [CONFIG, DOCKER_CONFIG].contains(&media_type)
}

/// Returns true for a layer that is a WebAssembly binary.
#[must_use]
pub fn is_wasm(media_type: &str) -> bool {
    WASM_LAYERS.contains(&media_type)
}

/// Returns the compression of a layer that is a tar archive. `None`: it is another kind of layer.
#[must_use]
pub fn compression(media_type: &str) -> Option<Compression> {
    match media_type {
        LAYER | DOCKER_LAYER => Some(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// The way in which a manifest packages its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packaging {
    /// An image of tar archives, which every client runs.
    Image,
    /// An image with layers of WebAssembly, which clients cannot unpack.
    WasmImage,
    /// An artifact: WebAssembly without an image's configuration.
    Artifact,
    /// An application of Spin's.
    Spin,
    /// Another artifact, with the media type of its configuration.
    Other(String),
}

impl Packaging {
    /// Returns the packaging of a manifest.
    #[must_use]
    pub fn of(manifest: &ImageManifest) -> Packaging {
        let config = manifest.config().media_type().to_string();
        let layers: Vec<String> =
            manifest.layers().iter().map(|layer| layer.media_type().to_string()).collect();
        if config == SPIN_CONFIG || layers.iter().any(|layer| layer == SPIN_CONFIG) {
            return Packaging::Spin;
        }
        let has_wasm = layers.iter().any(|layer| is_wasm(layer));
        if is_config(&config) {
            return if has_wasm { Packaging::WasmImage } else { Packaging::Image };
        }
        // Other artifacts, such as charts, may use the empty configuration too: then the first
        // bytes of the only layer decide.
        if ARTIFACT_CONFIGS.contains(&config.as_str()) {
            return Packaging::Artifact;
        }
        Packaging::Other(config)
    }

    /// Returns the name for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Packaging::Image => "image",
            Packaging::WasmImage => "image with WebAssembly layers",
            Packaging::Artifact => "artifact",
            Packaging::Spin => "Spin application",
            Packaging::Other(_) => "unknown artifact",
        }
    }
}
