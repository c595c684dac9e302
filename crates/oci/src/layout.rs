//! OCI layouts: an image as a directory, or as a tar archive that `ctr images import`, `docker
//! load` and tools for registries take.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex, MediaType, SCHEMA_VERSION};
use serde_json::json;
use tar::{Archive, Builder, EntryType};
use wherry_layer::archive;

use crate::blob::Data;
use crate::error::{OciError, Result};
use crate::image::{DOCUMENT_MAX, Image, Platform, json, plain};
use crate::media;

const INDEX: &str = "index.json";
const MARK: &str = "oci-layout";
const VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotations with an image's name: containerd's full one, and the layout's.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The limit of an archive's entries: an image of 127 layers in 256 manifests has fewer.
const ENTRIES_MAX: usize = 100_000;

/// Returns true for a path that has the form of a layout: a directory with an index, or a file that
/// is not WebAssembly.
#[must_use]
pub fn is_layout(path: &Path) -> bool {
    if path.is_dir() {
        return path.join(INDEX).exists();
    }
    let mut head = [0; 4];
    let is_wasm = File::open(path).and_then(|file| file.read_exact_at(&mut head, 0));
    path.is_file() && (is_wasm.is_err() || &head != b"\0asm")
}

/// Reads the image of a layout. `name` chooses one of several.
///
/// # Errors
/// If it is not a layout, or the image is incomplete, damaged or invalid.
pub fn read(path: &Path, name: Option<&str>) -> Result<Image> {
    if path.is_dir() {
        let fetch = |entry: &str| {
            let file = path.join(entry);
            match File::open(&file).and_then(Data::of_file) {
                Ok(data) => Ok(Some(data)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(OciError::file("read", file)(error)),
            }
        };
        return read_with(path, name, &fetch);
    }
    let file = File::open(path).map_err(OciError::file("open", path))?;
    let entries = entries(path, &file)?;
    let file = Arc::new(file);
    let fetch = |entry: &str| {
        let data = entries.get(entry).map(|(offset, size)| Data::File {
            file: Arc::clone(&file),
            offset: *offset,
            size: *size,
        });
        Ok(data)
    };
    read_with(path, name, &fetch)
}

/// Finds the files of an archive: their offsets and sizes.
fn entries(path: &Path, file: &File) -> Result<HashMap<String, (u64, u64)>> {
    let fault = |reason: String| OciError::Layout { path: path.to_owned(), reason };
    let mut reader = BufReader::new(file);
    reader.rewind().map_err(OciError::file("read", path))?;
    let mut archive = Archive::new(reader);
    let mut found = HashMap::new();
    let all = archive.entries_with_seek().map_err(|error| fault(error.to_string()))?;
    for entry in all {
        let entry = entry.map_err(|error| {
            fault(format!("it is neither WebAssembly nor a tar archive of an image: {error}"))
        })?;
        if found.len() >= ENTRIES_MAX {
            return Err(fault(format!("the archive has more than {ENTRIES_MAX} files")));
        }
        if entry.header().entry_type() == EntryType::Regular {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            found.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(found)
}

fn read_with(
    path: &Path,
    name: Option<&str>,
    fetch: &dyn Fn(&str) -> Result<Option<Data>>,
) -> Result<Image> {
    let fault = |reason: String| OciError::Layout { path: path.to_owned(), reason };
    let data = fetch(INDEX)?.ok_or_else(|| {
        fault("it has no index.json: expected an OCI layout, or the archive of one".to_owned())
    })?;
    let bytes = data.bytes("file", &path.join(INDEX).display().to_string(), DOCUMENT_MAX)?;
    let index: ImageIndex = serde_json::from_slice(&bytes)
        .map_err(|error| fault(format!("its index.json is invalid: {error}")))?;
    let root = choose(index.manifests(), name).map_err(fault)?;
    let found = name_of(&root).or_else(|| name.map(str::to_owned));
    // The layout's annotations are not the image's.
    Image::read(plain(&root), found, &|_| true, &mut |descriptor| {
        let (algorithm, digits) = (descriptor.digest().algorithm(), descriptor.digest().digest());
        fetch(&format!("blobs/{algorithm}/{digits}"))
    })
}

fn choose(manifests: &[Descriptor], name: Option<&str>) -> std::result::Result<Descriptor, String> {
    if let (Some(name), true) = (name, manifests.len() != 1) {
        let named = |manifest: &&Descriptor| annotation(manifest, name);
        let found = manifests.iter().find(named).cloned();
        return found.ok_or_else(|| format!("it has no image of the name {name}"));
    }
    match manifests {
        [] => Err("its index.json names no image".to_owned()),
        [only] => Ok(only.clone()),
        several => {
            let names: Vec<String> = several.iter().filter_map(name_of).collect();
            Err(format!("it has {} images, name one: {}", several.len(), names.join(", ")))
        }
    }
}

fn annotation(manifest: &Descriptor, name: &str) -> bool {
    let annotations = manifest.annotations().iter().flatten();
    annotations
        .into_iter()
        .any(|(key, value)| [FULL_NAME, REF_NAME].contains(&&**key) && value == name)
}

fn name_of(manifest: &Descriptor) -> Option<String> {
    let annotations = manifest.annotations().as_ref()?;
    annotations.get(FULL_NAME).or_else(|| annotations.get(REF_NAME)).cloned()
}

/// Returns the index of a layout with this image.
fn index(image: &Image, mut others: Vec<Descriptor>) -> Result<Vec<u8>> {
    let mut root = image.root.clone();
    if let Some(name) = &image.name {
        others.retain(|other| !annotation(other, name));
        let tag = name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag);
        let annotations = [(FULL_NAME, name.as_str()), (REF_NAME, tag)];
        let annotations =
            annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter();
        root.set_annotations(Some(annotations.collect()));
    } else {
        others.retain(|other| other.digest() != root.digest());
    }
    others.push(root);
    let mut index = ImageIndex::default();
    index.set_schema_version(SCHEMA_VERSION);
    index.set_media_type(Some(MediaType::ImageIndex));
    index.set_manifests(others);
    json(&index)
}

/// Writes an image into the directory of a layout, which may have other images.
///
/// # Errors
/// If a file cannot be written, or a blob is damaged. The index is written last, so that an
/// incomplete image has no name.
pub fn write_directory(image: &Image, directory: &Path) -> Result<()> {
    let write = |path: &Path, content: &mut dyn Read| -> Result<()> {
        let parent = path.parent().unwrap_or(directory);
        fs::create_dir_all(parent).map_err(OciError::file("create", parent))?;
        let mut file =
            tempfile::NamedTempFile::new_in(parent).map_err(OciError::file("write to", parent))?;
        io::copy(content, &mut file).map_err(OciError::file("write", path))?;
        readable(file.as_file()).map_err(OciError::file("write", path))?;
        file.persist(path).map_err(|error| OciError::file("write", path)(error.error))?;
        Ok(())
    };
    let index_path = directory.join(INDEX);
    let others = match fs::read(&index_path) {
        Ok(bytes) => {
            let old: ImageIndex =
                serde_json::from_slice(&bytes).map_err(|error| OciError::Layout {
                    path: directory.to_owned(),
                    reason: format!("its index.json is invalid: {error}"),
                })?;
            old.manifests().clone()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(OciError::file("read", index_path)(error)),
    };
    for (digest, data) in image.blobs() {
        let path = directory.join(blob_path(digest));
        if fs::metadata(&path).is_ok_and(|found| found.len() == data.size()) {
            continue;
        }
        write(&path, &mut data.reader())?;
    }
    write(&directory.join(MARK), &mut &*VERSION)?;
    write(&index_path, &mut index(image, others)?.as_slice())
}

/// Gives a file the mode 0644: temporary files have 0600.
fn readable(file: &File) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// Writes an image as an archive.
///
/// # Errors
/// If a blob cannot be read, or the archive cannot be written.
pub fn write_archive(image: &Image, output: impl Write) -> Result<()> {
    let mut builder = Builder::new(output);
    let mut file = |path: &str, content: &mut dyn Read, size: u64| {
        archive::append(&mut builder, Path::new(path), 0o644, content, size)
            .map_err(OciError::Archive)
    };
    let index = index(image, Vec::new())?;
    file(MARK, &mut &*VERSION, VERSION.len() as u64)?;
    file(INDEX, &mut index.as_slice(), index.len() as u64)?;
    if let Some(manifest) = for_docker(image)? {
        file("manifest.json", &mut manifest.as_slice(), manifest.len() as u64)?;
    }
    for (digest, data) in image.blobs() {
        file(&blob_path(digest), &mut data.reader(), data.size())?;
    }
    builder.into_inner().and_then(|mut output| output.flush()).map_err(OciError::Archive)
}

/// Writes the archive of an image to a file, which appears only when it is complete.
///
/// # Errors
/// If it cannot be written.
pub fn write_file(image: &Image, path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(parent)
        .map_err(OciError::file("write to", parent))?;
    write_archive(image, BufWriter::with_capacity(256 << 10, file.as_file()))?;
    file.persist(path).map_err(|error| OciError::file("write", path)(error.error))?;
    Ok(())
}

/// Returns the list of images for a Docker whose store reads no layout. It has one image of a name:
/// that of this machine's platform.
fn for_docker(image: &Image) -> Result<Option<Vec<u8>>> {
    let manifests = image.manifests()?;
    let images: Vec<_> = manifests
        .iter()
        .filter(|manifest| media::is_config(manifest.content.config().media_type().as_ref()))
        .collect();
    let is_own = |descriptor: &Descriptor| {
        let own = Platform::own();
        descriptor.platform().as_ref().is_some_and(|platform| {
            platform.os().to_string() == own.os
                && platform.architecture().to_string() == own.architecture
        })
    };
    let own = images.iter().find(|manifest| is_own(&manifest.descriptor)).or(images.first());
    let Some(manifest) = own else { return Ok(None) };
    let layers = manifest.content.layers().iter();
    let layers: Vec<PathBuf> =
        layers.map(|layer| PathBuf::from(blob_path(layer.digest().as_ref()))).collect();
    let names: Vec<&String> = image.name.iter().collect();
    let config = blob_path(manifest.content.config().digest().as_ref());
    json(&json!([{"Config": config, "RepoTags": names, "Layers": layers}])).map(Some)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
