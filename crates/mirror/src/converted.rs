//! The images that were made of artifacts, and the conversion.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use hyper::header::HeaderMap;
use oci_spec::image::{Descriptor, ImageIndex};
use wherry_oci::media::{self, Packaging};
use wherry_oci::{Data, Image, Platform, blob, convert, image};

use crate::target::Target;
use crate::upstream::Registries;
use crate::{MirrorError, platforms};

/// How many images are kept, and their size. One that was removed is made again for its tag.
const IMAGES_MAX: usize = 64;
const SIZE_MAX: u64 = 2 << 30;
/// How many digests of documents that stay as they are are remembered.
const ORDINARY_MAX: usize = 10_000;

/// An image that was made of an artifact.
#[derive(Debug, Clone)]
struct Entry {
    registry: String,
    name: String,
    /// The digest of the artifact's manifest or index.
    original: String,
    image: Image,
}

/// Content of such an image.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The digest of the artifact's manifest or index.
    pub(crate) original: String,
    pub(crate) digest: String,
    pub(crate) data: Data,
    pub(crate) media_type: String,
}

/// The images, the last used one last.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    entries: Mutex<VecDeque<Entry>>,
    ordinary: Mutex<HashSet<String>>,
    /// Is held during a conversion: two requests for one artifact convert it once, and the memory
    /// is that of one.
    converting: tokio::sync::Mutex<()>,
}

impl Converted {
    /// Finds content that was made of an artifact of this name.
    pub(crate) fn find(&self, target: &Target, digest: &str) -> Option<Found> {
        self.first(target, |entry| {
            let (_, data) = entry.image.blobs().find(|(found, _)| *found == digest)?;
            Some(Found {
                original: entry.original.clone(),
                digest: digest.to_owned(),
                data: data.clone(),
                media_type: entry.media_type(digest),
            })
        })
    }

    /// Finds the root of the image that was made of an artifact.
    fn of_original(&self, target: &Target, original: &str) -> Option<Found> {
        let root = self.first(target, |entry| {
            (entry.original == original).then(|| entry.image.root.digest().to_string())
        });
        self.find(target, &root?)
    }

    /// The first answer of an image of this name, which becomes the last used one.
    fn first<T>(&self, target: &Target, find: impl Fn(&Entry) -> Option<T>) -> Option<T> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let of_name =
            |entry: &Entry| entry.registry == target.registry.name && entry.name == target.name;
        let (index, found) = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| of_name(entry))
            .find_map(|(index, entry)| Some((index, find(entry)?)))?;
        let used = entries.remove(index)?;
        entries.push_back(used);
        Some(found)
    }

    fn insert(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push_back(entry);
        let size = |entries: &VecDeque<Entry>| {
            entries.iter().map(|entry| entry.image.size()).fold(0, u64::saturating_add)
        };
        while entries.len() > 1 && (entries.len() > IMAGES_MAX || size(&entries) > SIZE_MAX) {
            entries.pop_front();
        }
    }

    /// Whether a document is known to stay as it is.
    pub(crate) fn is_ordinary(&self, digest: &str) -> bool {
        self.ordinary.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn remember_ordinary(&self, digest: String) {
        let mut ordinary = self.ordinary.lock().unwrap_or_else(PoisonError::into_inner);
        if ordinary.len() >= ORDINARY_MAX {
            ordinary.clear();
        }
        ordinary.insert(digest);
    }

    /// Returns the root of the image that is made of the manifest or index `bytes`. `None`: it
    /// stays as it is.
    pub(crate) async fn convert(
        &self,
        registries: &Registries,
        target: &Target,
        media_type: &str,
        bytes: &[u8],
        headers: &HeaderMap,
    ) -> Result<Option<Found>, MirrorError> {
        let original = blob::digest(bytes);
        if self.is_ordinary(&original) {
            return Ok(None);
        }
        let _converting = self.converting.lock().await;
        if let Some(found) = self.of_original(target, &original) {
            return Ok(Some(found));
        }
        let root = image::descriptor(media_type, &original, bytes.len() as u64)?;
        let source = Source { registries, target, headers };
        let Some(artifact) = source.read(root, bytes).await? else {
            self.remember_ordinary(original);
            return Ok(None);
        };
        // Reads, digests and writes the module.
        let image = tokio::task::spawn_blocking(move || convert::to_image(&artifact, &platforms()))
            .await
            .map_err(|error| MirrorError::Start(error.to_string()))??;
        let (registry, name) = (target.registry.name.clone(), target.name.clone());
        self.insert(Entry { registry, name, original: original.clone(), image });
        Ok(self.of_original(target, &original))
    }
}

impl Entry {
    /// The media type of a manifest or index. The type of a blob has no meaning for a client.
    fn media_type(&self, digest: &str) -> String {
        if self.image.root.digest().as_ref() == digest {
            return self.image.root.media_type().to_string();
        }
        let manifests = self.image.manifests().unwrap_or_default();
        let found = manifests.iter().find(|found| found.descriptor.digest().as_ref() == digest);
        found.map_or_else(
            || "application/octet-stream".to_owned(),
            |found| found.descriptor.media_type().to_string(),
        )
    }
}

/// An artifact in a registry.
struct Source<'a> {
    registries: &'a Registries,
    target: &'a Target,
    headers: &'a HeaderMap,
}

impl Source<'_> {
    /// Downloads an artifact. `None`: every client runs it as it is, or none does.
    async fn read(&self, root: Descriptor, bytes: &[u8]) -> Result<Option<Image>, MirrorError> {
        let mut documents = vec![(root.clone(), bytes.to_vec())];
        if media::is_index(root.media_type().as_ref()) {
            let Ok(index) = serde_json::from_slice::<ImageIndex>(bytes) else { return Ok(None) };
            let is_native = |child: &Descriptor| {
                Platform::of(child).is_some_and(|found| !found.is_wasm() && found.os != "unknown")
            };
            if index.manifests().iter().any(is_native) {
                return Ok(None);
            }
            let of_wasm = |child: &&Descriptor| {
                Platform::of(child).is_none_or(|found| found.is_wasm())
                    && media::is_manifest(child.media_type().as_ref())
            };
            // One is enough: the conversion takes the first.
            let Some(child) = index.manifests().iter().find(of_wasm) else { return Ok(None) };
            let digest = child.digest().to_string();
            let document = self.registries.document(self.target, &digest, self.headers).await?;
            documents.push((child.clone(), document));
        }
        let Some((descriptor, document)) = documents.last() else { return Ok(None) };
        let Ok(manifest) = serde_json::from_slice(document) else { return Ok(None) };
        let wanted = matches!(Packaging::of(&manifest), Packaging::Artifact | Packaging::WasmImage);
        if !wanted || manifest.layers().len() > image::LAYERS_MAX {
            return Ok(None);
        }
        // Other artifacts have the empty configuration too.
        let is_module = |layer: &Descriptor| media::is_wasm(layer.media_type().as_ref());
        if !manifest.layers().iter().any(is_module) && manifest.layers().len() != 1 {
            return Ok(None);
        }
        let kept = descriptor.digest().clone();
        let mut blobs = Vec::new();
        for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
            let (digest, size) = (blob.digest().to_string(), blob.size());
            let data = self.registries.blob(self.target, &digest, size, self.headers).await?;
            blobs.push((digest, data));
        }
        let is_kept = move |descriptor: &Descriptor| *descriptor.digest() == kept;
        let read = Image::read(root, None, &is_kept, &mut |descriptor| {
            let digest = descriptor.digest();
            let document = documents.iter().find(|(found, _)| found.digest() == digest);
            if let Some((_, bytes)) = document {
                return Ok(Some(Data::from(bytes.clone())));
            }
            let blob = blobs.iter().find(|(found, _)| *found == digest.to_string());
            Ok(blob.map(|(_, data)| data.clone()))
        });
        Ok(Some(read?))
    }
}
