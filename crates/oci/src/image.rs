//! An image: a tree of content from an index or a manifest down to the layers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use oci_spec::image::{
    Descriptor, Digest, ImageIndex, ImageManifest, ImageManifestBuilder, MediaType, SCHEMA_VERSION,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wherry_image::Size;

use crate::blob::{self, Data};
use crate::error::{OciError, Result};
use crate::media;

/// The limit of an index, a manifest or a configuration: the one that registries have.
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// The limit of a manifest's layers: the kernel's overlay accepts no more in Docker's form.
pub const LAYERS_MAX: usize = 127;
/// The limit of an index's manifests.
const MANIFESTS_MAX: usize = 256;

/// The platform of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The operating system, like `linux` or `wasi`.
    pub os: String,
    /// The architecture, like `amd64` or `wasm`.
    pub architecture: String,
}

impl Platform {
    /// The platform of WebAssembly.
    #[must_use]
    pub fn wasm() -> Platform {
        Platform { os: "wasi".to_owned(), architecture: "wasm".to_owned() }
    }

    /// The platform of this machine, for clients that run no other.
    #[must_use]
    pub fn own() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }

    /// Those of an image that every client of this machine runs.
    #[must_use]
    pub fn usual() -> Vec<Platform> {
        vec![Platform::wasm(), Platform::own()]
    }

    /// Whether it is one of WebAssembly's: some tools write `wasip1/wasm`.
    #[must_use]
    pub fn is_wasm(&self) -> bool {
        self.architecture == "wasm"
    }

    /// The platform of a manifest in an index.
    #[must_use]
    pub fn of(descriptor: &Descriptor) -> Option<Platform> {
        let platform = descriptor.platform().as_ref()?;
        let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
        Some(Platform { os, architecture })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

impl FromStr for Platform {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Platform> {
        let is_word = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match text.split_once('/') {
            Some((os, architecture)) if is_word(os) && is_word(architecture) => {
                Ok(Platform { os: os.to_owned(), architecture: architecture.to_owned() })
            }
            _ => Err(OciError::Platform(text.to_owned())),
        }
    }
}

/// Makes a descriptor.
///
/// # Errors
/// If the digest is malformed.
pub fn descriptor(media_type: &str, digest: &str, size: u64) -> Result<Descriptor> {
    let parsed = Digest::from_str(digest).map_err(|error| OciError::Invalid {
        kind: "digest",
        digest: digest.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Descriptor::new(MediaType::from(media_type), size, parsed))
}

/// Whether a manifest of an index is for WebAssembly or this machine, or for no platform.
#[must_use]
pub fn runs_here(descriptor: &Descriptor) -> bool {
    Platform::of(descriptor).is_none_or(|found| found.is_wasm() || found == Platform::own())
}

/// An image or artifact, with its content.
#[derive(Debug, Clone)]
pub struct Image {
    /// The full name, if it has one.
    pub name: Option<String>,
    /// The index or manifest.
    pub root: Descriptor,
    pub(crate) blobs: Blobs,
}

/// A manifest of an image.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its descriptor, in an index with a platform.
    pub descriptor: Descriptor,
    /// The manifest.
    pub content: ImageManifest,
}

impl Image {
    /// Reads an image from its root on. `fetch` returns the content of a descriptor, or `None` if
    /// the source lacks it. `wanted` selects the manifests of an index.
    ///
    /// # Errors
    /// If a document is missing, damaged, invalid or too large, or a layer is missing.
    pub fn read(
        root: Descriptor,
        name: Option<String>,
        wanted: &dyn Fn(&Descriptor) -> bool,
        fetch: &mut dyn FnMut(&Descriptor) -> Result<Option<Data>>,
    ) -> Result<Image> {
        let mut image = Image { name, root: root.clone(), blobs: Blobs::default() };
        let mut left = vec![(root, 0_u32)];
        while let Some((descriptor, depth)) = left.pop() {
            let media_type = descriptor.media_type().to_string();
            let in_index = depth > 0;
            let (is_index, is_manifest) =
                (media::is_index(&media_type), media::is_manifest(&media_type));
            if !is_index && !is_manifest {
                if in_index {
                    // An index may name other documents.
                    continue;
                }
                return Err(OciError::Invalid {
                    kind: "image",
                    digest: descriptor.digest().to_string(),
                    reason: format!("it has the media type {media_type}, not that of a manifest"),
                });
            }
            let Some(data) = fetch(&descriptor)? else {
                // An export has the manifests of some platforms only.
                if in_index {
                    continue;
                }
                return Err(missing("manifest", &descriptor));
            };
            image.blobs.keep(&descriptor, data);
            if is_index {
                let index: ImageIndex = image.document("index", &descriptor)?;
                if depth > 1 || index.manifests().len() > MANIFESTS_MAX {
                    return Err(OciError::Invalid {
                        kind: "index",
                        digest: descriptor.digest().to_string(),
                        reason: format!("it has more than {MANIFESTS_MAX} manifests, or is nested"),
                    });
                }
                let children = index.manifests().iter().filter(|child| wanted(child));
                left.extend(children.rev().map(|child| (child.clone(), depth + 1)));
            } else {
                let manifest = image.manifest(&descriptor)?;
                for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
                    if image.blobs.0.contains_key(blob.digest().as_ref()) {
                        continue;
                    }
                    let data = fetch(blob)?.ok_or_else(|| missing("layer", blob))?;
                    image.blobs.keep(blob, data);
                }
            }
        }
        Ok(image)
    }

    /// The content of a descriptor.
    ///
    /// # Errors
    /// If the image lacks it, or it has another size.
    pub fn blob(&self, kind: &'static str, descriptor: &Descriptor) -> Result<&Data> {
        let digest = descriptor.digest().to_string();
        let data = self.blobs.0.get(&digest).ok_or_else(|| missing(kind, descriptor))?;
        if data.size() != descriptor.size() {
            let (found, expected) = (Size(data.size()), Size(descriptor.size()));
            return Err(OciError::WrongSize { digest, found, expected });
        }
        Ok(data)
    }

    /// Reads an index, a manifest or a configuration, and verifies its digest.
    ///
    /// # Errors
    /// If it is missing, damaged, invalid or too large.
    pub fn document<T: DeserializeOwned>(
        &self,
        kind: &'static str,
        descriptor: &Descriptor,
    ) -> Result<T> {
        let digest = descriptor.digest().to_string();
        let bytes = self.blob(kind, descriptor)?.bytes(kind, &digest, DOCUMENT_MAX)?;
        verify(&digest, &blob::digest(&bytes))?;
        serde_json::from_slice(&bytes).map_err(|error| OciError::Invalid {
            kind,
            digest,
            reason: error.to_string(),
        })
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<ImageManifest> {
        let manifest: ImageManifest = self.document("manifest", descriptor)?;
        let layers = manifest.layers().len();
        if layers > LAYERS_MAX {
            let (digest, max) = (descriptor.digest().to_string(), LAYERS_MAX);
            return Err(OciError::TooManyLayers { digest, layers, max });
        }
        Ok(manifest)
    }

    /// The manifests that the image has, those of the root's index in its order.
    ///
    /// # Errors
    /// If one is damaged or invalid.
    pub fn manifests(&self) -> Result<Vec<Manifest>> {
        let mut found = Vec::new();
        let mut left = vec![self.root.clone()];
        while let Some(descriptor) = left.pop() {
            let media_type = descriptor.media_type().to_string();
            if !self.blobs.0.contains_key(descriptor.digest().as_ref()) {
                continue;
            }
            if media::is_index(&media_type) {
                let index: ImageIndex = self.document("index", &descriptor)?;
                left.extend(index.manifests().iter().rev().cloned());
            } else if media::is_manifest(&media_type) {
                let content = self.manifest(&descriptor)?;
                found.push(Manifest { descriptor, content });
            }
        }
        Ok(found)
    }

    /// The manifest for WebAssembly, or that of this machine, or the only one.
    ///
    /// # Errors
    /// [`OciError::NoPlatform`], or the image is damaged.
    pub fn preferred(&self, platform: Option<&Platform>) -> Result<Manifest> {
        let manifests = self.manifests()?;
        let wanted = platform.map_or_else(Platform::usual, |platform| vec![platform.clone()]);
        let find = |matches: &dyn Fn(&Platform) -> bool| {
            let of = |manifest: &&Manifest| Platform::of(&manifest.descriptor);
            manifests.iter().find(|manifest| of(manifest).is_some_and(|found| matches(&found)))
        };
        let wasm = || find(&|found| platform.is_none() && found.is_wasm());
        let only = match (manifests.as_slice(), platform) {
            // The platform of an image without an index is in its configuration.
            ([only], None) => Some(only),
            ([only], Some(_)) if only.descriptor.platform().is_none() => Some(only),
            _ => None,
        };
        let first = find(&|found| wanted.first() == Some(found)).or_else(wasm);
        let found = first.or_else(|| find(&|found| wanted.contains(found))).or(only);
        found.cloned().ok_or_else(|| {
            let names = |platforms: Vec<String>| {
                if platforms.is_empty() { "none".to_owned() } else { platforms.join(", ") }
            };
            OciError::NoPlatform {
                wanted: names(wanted.iter().map(ToString::to_string).collect()),
                found: names(self.platforms()),
            }
        })
    }

    /// Whether the image has each manifest of its index.
    ///
    /// # Errors
    /// If a manifest or the index is damaged.
    pub fn is_complete(&self) -> Result<bool> {
        if !media::is_index(self.root.media_type().as_ref()) {
            return Ok(true);
        }
        let index: ImageIndex = self.document("index", &self.root)?;
        let has = |child: &Descriptor| self.blobs.0.contains_key(child.digest().as_ref());
        Ok(index.manifests().iter().all(has))
    }

    /// The image of one of its manifests, without an index.
    ///
    /// # Errors
    /// If a blob of the manifest is missing.
    pub fn only(&self, manifest: &Manifest) -> Result<Image> {
        let mut blobs = Blobs::default();
        let root = blobs.add_manifest(self, manifest)?;
        Ok(Image { name: self.name.clone(), root, blobs })
    }

    /// The platforms in the root's index.
    #[must_use]
    pub fn platforms(&self) -> Vec<String> {
        let index: Result<ImageIndex> = self.document("index", &self.root);
        let manifests = index.map(|index| index.manifests().clone()).unwrap_or_default();
        manifests.iter().filter_map(Platform::of).map(|platform| platform.to_string()).collect()
    }

    /// All blobs with their digests.
    pub fn blobs(&self) -> impl Iterator<Item = (&str, &Data)> {
        self.blobs.0.iter().map(|(digest, data)| (digest.as_str(), data))
    }

    /// The size of all blobs in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs.0.values().map(Data::size).sum()
    }

    /// Reads all blobs and compares their digests.
    ///
    /// # Errors
    /// If one cannot be read or is damaged.
    pub fn verify(&self) -> Result<()> {
        for manifest in self.manifests()? {
            let content = &manifest.content;
            for descriptor in std::iter::once(content.config()).chain(content.layers()) {
                self.blob("layer", descriptor)?;
            }
        }
        for (digest, data) in &self.blobs.0 {
            let found = blob::digest_of(data.reader())
                .map_err(|source| OciError::Blob { digest: digest.clone(), source })?;
            verify(digest, &found)?;
        }
        Ok(())
    }
}

/// The blobs of an image by their digests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blobs(BTreeMap<String, Data>);

impl Blobs {
    fn keep(&mut self, descriptor: &Descriptor, data: Data) {
        self.0.insert(descriptor.digest().to_string(), data);
    }

    /// Adds a blob. Returns its descriptor.
    pub(crate) fn add(&mut self, media_type: &str, digest: &str, data: Data) -> Result<Descriptor> {
        let descriptor = descriptor(media_type, digest, data.size())?;
        self.keep(&descriptor, data);
        Ok(descriptor)
    }

    /// Adds a document. Returns its descriptor.
    pub(crate) fn add_json(
        &mut self,
        media_type: &str,
        value: &impl Serialize,
    ) -> Result<Descriptor> {
        let bytes = json(value)?;
        self.add(media_type, &blob::digest(&bytes), bytes.into())
    }

    /// Adds all blobs of a manifest of another image. Returns its plain descriptor.
    pub(crate) fn add_manifest(
        &mut self,
        other: &Image,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        let content = &manifest.content;
        for descriptor in
            [&manifest.descriptor, content.config()].into_iter().chain(content.layers())
        {
            let data = other.blob("layer", descriptor)?.clone();
            self.keep(descriptor, data);
        }
        Ok(plain(&manifest.descriptor))
    }
}

/// Returns a descriptor without its platform and annotations.
pub(crate) fn plain(descriptor: &Descriptor) -> Descriptor {
    let (media_type, digest) = (descriptor.media_type().clone(), descriptor.digest().clone());
    Descriptor::new(media_type, descriptor.size(), digest)
}

/// Makes a manifest.
pub(crate) fn manifest(
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: &BTreeMap<String, String>,
    subject: Option<Descriptor>,
) -> Result<ImageManifest> {
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()?;
    if !annotations.is_empty() {
        manifest.set_annotations(Some(annotations.clone().into_iter().collect()));
    }
    manifest.set_subject(subject);
    Ok(manifest)
}

/// Serialises with sorted keys: oci-spec has maps without an order.
pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(value).map_err(OciError::Json)?;
    serde_json::to_vec(&value).map_err(OciError::Json)
}

/// Compares digests.
pub(crate) fn verify(expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    if !expected.starts_with("sha256:") {
        return Err(OciError::Algorithm(expected.to_owned()));
    }
    Err(OciError::WrongDigest { expected: expected.to_owned(), found: found.to_owned() })
}

fn missing(kind: &'static str, descriptor: &Descriptor) -> OciError {
    OciError::Missing { kind, digest: descriptor.digest().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_read_as_clients_write_it() {
        let read = |text: &str| text.parse::<Platform>().map(|platform| platform.to_string());
        assert_eq!(read("wasi/wasm").unwrap(), "wasi/wasm");
        for wrong in ["", "linux", "linux/", "/amd64", "a b/c", "linux/arm/v7"] {
            assert_eq!(
                read(wrong).unwrap_err().to_string(),
                format!(
                    "invalid platform {wrong:?}: expected OS/ARCHITECTURE, like linux/amd64 or wasi/wasm"
                )
            );
        }
    }
}
