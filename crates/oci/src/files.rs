//! The files in an image's layers.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use oci_spec::image::{Descriptor, ImageConfiguration};
use tar::EntryType;
use wherry_image::{Entrypoint, Look, NoFile, Size};
use wherry_layer::LayerError;
use wherry_layer::framing::{Framing, WasmError};

use crate::blob::Data;
use crate::entries::{Entry, each_entry};
use crate::error::{OciError, Result};
use crate::image::{Image, Manifest};

/// The limit of the memory for the names in an image, in bytes. Images of native programs have some
/// hundred thousand files.
const NAMES_MAX: usize = 128 << 20;
/// The memory for a file besides its name, in bytes.
const NODE: usize = 100;
/// The limit of symbolic links on the way to a file, as in the kernel.
const LINKS_MAX: usize = 40;

/// A file in an image.
#[derive(Debug, Clone)]
enum Node {
    /// A regular file, in the layer of this number, and its path in the archive if that is another
    /// one.
    File {
        layer: usize,
        size: u64,
        at: Option<Box<Path>>,
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
    /// The memory for names so far.
    names: usize,
}

impl<'a> Files<'a> {
    /// Lists the files of an image whose layers are tar archives.
    ///
    /// # Errors
    /// If a layer cannot be read, is not an archive, or unpacks to too much.
    pub fn list(image: &'a Image, manifest: &'a Manifest) -> Result<Files<'a>> {
        let layers = manifest.content.layers();
        let mut files = Files { image, layers, nodes: BTreeMap::new(), names: 0 };
        for (number, descriptor) in layers.iter().enumerate() {
            each_entry(image, descriptor, &mut |path, entry| {
                files.add(path, number, entry)?;
                Ok(true)
            })?;
        }
        Ok(files)
    }

    fn add(&mut self, path: PathBuf, layer: usize, entry: &mut dyn Entry) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(removed) = name.strip_prefix(".wh.") {
            let folder = path.parent().unwrap_or(Path::new(""));
            // An opaque folder hides all that lower layers have in it.
            let hidden =
                if removed == ".wh..opq" { folder.to_owned() } else { folder.join(removed) };
            // Paths below a folder follow it.
            let below = self.nodes.range(hidden.clone()..).map(|(other, _)| other);
            let below: Vec<PathBuf> =
                below.take_while(|other| other.starts_with(&hidden)).cloned().collect();
            for other in below.iter().filter(|other| removed != ".wh..opq" || **other != hidden) {
                self.nodes.remove(other);
            }
            return Ok(());
        }
        let node = match entry.kind() {
            EntryType::Regular | EntryType::Continuous => {
                Node::File { layer, size: entry.size(), at: None }
            }
            EntryType::Directory => Node::Folder,
            EntryType::Symlink => Node::Link(entry.target()),
            EntryType::Link => {
                // Another name of a file before it.
                let target = inside(&entry.target());
                match self.nodes.get(&target) {
                    Some(Node::File { layer, size, at: None }) => {
                        let at = Some(target.into_boxed_path());
                        Node::File { layer: *layer, size: *size, at }
                    }
                    Some(node) => node.clone(),
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        let more = match &node {
            Node::Link(target) => target.as_os_str().len(),
            Node::File { at: Some(at), .. } => at.as_os_str().len(),
            _ => 0,
        };
        self.names += path.as_os_str().len() + more + NODE;
        if self.names > NAMES_MAX {
            let text = format!("the names of its files take more than {}", Size(NAMES_MAX as u64));
            return Err(io::Error::other(text));
        }
        self.nodes.insert(path, node);
        Ok(())
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
        let mut bytes = Vec::new();
        self.open(path, max, &mut |_, content| content.read_to_end(&mut bytes).map(drop))?;
        Ok(bytes)
    }

    /// Calls `take` with the size and the content of a file. It has at most `max` bytes.
    ///
    /// # Errors
    /// As for [`Files::read`], and those of `take`.
    pub fn open(
        &self,
        path: &Path,
        max: u64,
        take: &mut dyn FnMut(u64, &mut dyn Read) -> io::Result<()>,
    ) -> Result<()> {
        let missing = || OciError::Entrypoint(format!("{}: no such file", path.display()));
        let resolved = self.resolve(path).ok_or_else(missing)?;
        let Some(Node::File { layer, size, at }) = self.nodes.get(&resolved) else {
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
        let at = at.as_deref().unwrap_or(&resolved);
        let mut found = false;
        let descriptor = self.layers.get(*layer).ok_or_else(missing)?;
        each_entry(self.image, descriptor, &mut |entry_path, mut entry| {
            if entry_path != at || entry.kind() != EntryType::Regular {
                return Ok(true);
            }
            found = true;
            take(*size, &mut entry)?;
            Ok(false)
        })?;
        if found { Ok(()) } else { Err(missing()) }
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
pub(crate) fn inside(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .collect()
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
