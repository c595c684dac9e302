//! The files in an image's layers.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use oci_spec::image::{Descriptor, ImageConfiguration};
use tar::{Archive, EntryType};
use wherry_image::{Entrypoint, Look, NoFile, Size};
use wherry_layer::LayerError;
use wherry_layer::framing::{Framing, WasmError};

use crate::blob::Data;
use crate::error::{OciError, Result};
use crate::image::{Image, Manifest};
use crate::media::{self, Compression};

/// The limit of a layer's unpacked size. Images of native programs have some gigabytes.
const UNPACKED_MAX: u64 = 8 << 30;
/// The limit of a compressed layer's growth, above a size that does no harm.
const GROWTH_MAX: u64 = 1000;
const HARMLESS: u64 = 64 << 20;
/// The limit of symbolic links on the way to a file, as in the kernel.
const LINKS_MAX: usize = 40;

/// A file in an image.
#[derive(Debug, Clone)]
enum Node {
    /// A regular file, in the layer of this number, under this path of the archive.
    File {
        layer: usize,
        size: u64,
    },
    Folder,
    Link(PathBuf),
}

/// The files of an image.
#[derive(Debug)]
pub struct Files<'a> {
    image: &'a Image,
    layers: &'a [Descriptor],
    nodes: BTreeMap<PathBuf, Node>,
}

impl<'a> Files<'a> {
    /// Lists the files of an image whose layers are tar archives.
    ///
    /// # Errors
    /// If a layer cannot be read, is not an archive, or unpacks to too much.
    pub fn list(image: &'a Image, manifest: &'a Manifest) -> Result<Files<'a>> {
        let layers = manifest.content.layers();
        let mut files = Files { image, layers, nodes: BTreeMap::new() };
        for (number, descriptor) in layers.iter().enumerate() {
            read_layer(image, descriptor, &mut |path, entry| {
                files.add(path, number, entry);
                Ok(true)
            })?;
        }
        Ok(files)
    }

    fn add(&mut self, path: PathBuf, layer: usize, entry: &mut dyn Entry) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(removed) = name.strip_prefix(".wh.") {
            let folder = path.parent().unwrap_or(Path::new(""));
            // An opaque folder hides all that lower layers have in it.
            let hidden =
                if removed == ".wh..opq" { folder.to_owned() } else { folder.join(removed) };
            self.nodes.retain(|other, _| {
                !other.starts_with(&hidden) || (removed == ".wh..opq" && *other == hidden)
            });
            return;
        }
        let node = match entry.kind() {
            EntryType::Regular | EntryType::Continuous => Node::File { layer, size: entry.size() },
            EntryType::Directory => Node::Folder,
            EntryType::Symlink => Node::Link(entry.target()),
            EntryType::Link => {
                // Another name of a file before it.
                match self.nodes.get(&inside(&entry.target())) {
                    Some(node) => node.clone(),
                    None => return,
                }
            }
            _ => return,
        };
        self.nodes.insert(path, node);
    }

    /// Follows symbolic links. Returns the path of a file or folder in an archive.
    fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let mut left: Vec<PathBuf> = vec![inside(path)];
        let mut found = PathBuf::new();
        let mut links = 0;
        while let Some(next) = left.pop() {
            let mut parts = next.components();
            let Some(part) = parts.next() else { continue };
            let rest = parts.as_path();
            if !rest.as_os_str().is_empty() {
                left.push(rest.to_owned());
            }
            match part {
                Component::ParentDir => {
                    found.pop();
                    continue;
                }
                Component::Normal(name) => found.push(name),
                _ => continue,
            }
            if let Some(Node::Link(target)) = self.nodes.get(&found) {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                if target.is_absolute() {
                    found.clear();
                } else {
                    found.pop();
                }
                left.push(target.strip_prefix("/").unwrap_or(target).to_owned());
            }
        }
        Some(found)
    }

    fn look(&self, path: &Path) -> Look {
        match self.resolve(path).and_then(|path| self.nodes.get(&path)) {
            Some(Node::File { .. }) => Look::Runs,
            Some(Node::Folder) => Look::Nothing(NoFile::Directory),
            _ => Look::Nothing(NoFile::Missing),
        }
    }

    /// Finds the file that the image's entrypoint names, as a container does.
    ///
    /// # Errors
    /// [`OciError::Entrypoint`].
    pub fn entrypoint(&self, config: &ImageConfiguration) -> Result<PathBuf> {
        let words = command(config);
        let settings = config.config().as_ref();
        let cwd = settings.and_then(|config| config.working_dir().clone());
        let cwd = cwd.filter(|cwd| cwd.starts_with('/')).unwrap_or_else(|| "/".to_owned());
        let env = settings.and_then(|config| config.env().as_ref());
        let path = env.and_then(|env| env.iter().find_map(|pair| pair.strip_prefix("PATH=")));
        let found = Entrypoint::resolve(&words, path, Path::new(&cwd), |path| self.look(path))
            .map_err(|error| OciError::Entrypoint(error.to_string()))?;
        Ok(found.path)
    }

    /// Reads a file. It has at most `max` bytes.
    ///
    /// # Errors
    /// If it does not exist or is too large, or its layer cannot be read.
    pub fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>> {
        let missing = || OciError::Entrypoint(format!("{}: no such file", path.display()));
        let resolved = self.resolve(path).ok_or_else(missing)?;
        let Some(Node::File { layer, size }) = self.nodes.get(&resolved) else {
            return Err(missing());
        };
        if *size > max {
            return Err(OciError::TooLarge {
                kind: "file",
                digest: path.display().to_string(),
                size: Size(*size),
                max: Size(max),
            });
        }
        let mut content = None;
        let descriptor = self.layers.get(*layer).ok_or_else(missing)?;
        read_layer(self.image, descriptor, &mut |entry_path, entry| {
            if entry_path != resolved || entry.kind() != EntryType::Regular {
                return Ok(true);
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            content = Some(bytes);
            Ok(false)
        })?;
        content.ok_or_else(missing)
    }
}

/// Returns the words of an image's command.
#[must_use]
pub fn command(config: &ImageConfiguration) -> Vec<String> {
    let Some(config) = config.config() else { return Vec::new() };
    let entrypoint = config.entrypoint().iter().flatten();
    entrypoint.chain(config.cmd().iter().flatten()).cloned().collect()
}

/// Returns a path without the root and without `.`; a leading `..` is dropped.
fn inside(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .collect()
}

/// An entry of a layer.
trait Entry: Read {
    fn kind(&self) -> EntryType;
    fn size(&self) -> u64;
    fn target(&self) -> PathBuf;
}

impl<R: Read> Entry for tar::Entry<'_, R> {
    fn kind(&self) -> EntryType {
        self.header().entry_type()
    }

    fn size(&self) -> u64 {
        tar::Entry::size(self)
    }

    fn target(&self) -> PathBuf {
        self.link_name().ok().flatten().map(|target| target.into_owned()).unwrap_or_default()
    }
}

/// Calls `each` with the path and the content of each entry, until it returns false.
fn read_layer(
    image: &Image,
    descriptor: &Descriptor,
    each: &mut dyn FnMut(PathBuf, &mut dyn Entry) -> io::Result<bool>,
) -> Result<()> {
    let media_type = descriptor.media_type().to_string();
    let not_tar = |error: &io::Error, reader: &Bounded<'_>| not_tar(descriptor, error, reader);
    let mut reader = Bounded::new(image.blob("layer", descriptor)?, &media_type, descriptor)?;
    let mut failure = None;
    {
        let mut archive = Archive::new(&mut reader);
        match archive.entries() {
            Err(error) => failure = Some(error),
            Ok(entries) => {
                for entry in entries {
                    let mut entry = match entry {
                        Ok(entry) => entry,
                        Err(error) => {
                            failure = Some(error);
                            break;
                        }
                    };
                    let path = match entry.path() {
                        Ok(path) => inside(&path),
                        Err(error) => {
                            failure = Some(error);
                            break;
                        }
                    };
                    match each(path, &mut entry) {
                        Ok(true) => {}
                        Ok(false) => return Ok(()),
                        Err(error) => {
                            failure = Some(error);
                            break;
                        }
                    }
                }
            }
        }
    }
    match failure {
        Some(error) => Err(not_tar(&error, &reader)),
        None => Ok(()),
    }
}

/// Returns the error for a layer that cannot be read as an archive.
fn not_tar(descriptor: &Descriptor, error: &io::Error, reader: &Bounded<'_>) -> OciError {
    let digest = descriptor.digest().to_string();
    if reader.exceeded {
        return OciError::Bomb { digest, max: Size(reader.max) };
    }
    let reason = if reader.head.starts_with(b"\0asm") {
        "it is WebAssembly".to_owned()
    } else {
        error.to_string()
    };
    OciError::NotTar { digest, media_type: descriptor.media_type().to_string(), reason }
}

/// Reads a layer to its end, for the digest of its unpacked content.
///
/// # Errors
/// If it cannot be read, or unpacks to too much.
pub fn unpacked(
    image: &Image,
    descriptor: &Descriptor,
    output: &mut impl io::Write,
) -> Result<u64> {
    let media_type = descriptor.media_type().to_string();
    let mut reader = Bounded::new(image.blob("layer", descriptor)?, &media_type, descriptor)?;
    io::copy(&mut reader, output).map_err(|error| not_tar(descriptor, &error, &reader))
}

/// A layer's unpacked content, up to a limit.
struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    /// The first bytes, by which another format is named.
    head: Vec<u8>,
    left: u64,
    max: u64,
    exceeded: bool,
}

impl Bounded<'_> {
    fn new<'a>(data: &Data, media_type: &str, descriptor: &Descriptor) -> Result<Bounded<'a>> {
        let max = data.size().saturating_mul(GROWTH_MAX).clamp(HARMLESS, UNPACKED_MAX);
        let (inner, max): (Box<dyn Read>, u64) = match media::compression(media_type) {
            Some(Compression::None) => (Box::new(data.reader()), data.size()),
            Some(Compression::Gzip) => {
                (Box::new(MultiGzDecoder::new(io::BufReader::new(data.reader()))), max)
            }
            Some(Compression::Zstd) | None => {
                return Err(OciError::NotTar {
                    digest: descriptor.digest().to_string(),
                    media_type: media_type.to_owned(),
                    reason: "this program reads tar archives and those that gzip compressed"
                        .to_owned(),
                });
            }
        };
        Ok(Bounded { inner, head: Vec::new(), left: max, max, exceeded: false })
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if self.head.len() < 4 {
            self.head.extend(bytes.iter().take(4));
        }
        let Some(left) = self.left.checked_sub(count as u64) else {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.left = left;
        Ok(count)
    }
}

/// Checks a layer of WebAssembly: it is whole, and has no other format.
///
/// # Errors
/// [`OciError::NotWasm`], or it cannot be read.
pub fn check_wasm(digest: &str, data: &Data) -> Result<()> {
    let wrong = |error: WasmError| OciError::NotWasm {
        digest: digest.to_owned(),
        source: LayerError::from(error),
    };
    let mut framing = Framing::default();
    let mut reader = data.reader();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = reader
            .read(&mut buffer)
            .map_err(|source| OciError::Blob { digest: digest.to_owned(), source })?;
        if count == 0 {
            break;
        }
        framing.feed(buffer.get(..count).unwrap_or_default()).map_err(wrong)?;
    }
    framing.finish().map(drop).map_err(wrong)
}
