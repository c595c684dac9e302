//! The entries of a layer, within bounds: a layer is content of strangers.

use std::io::{self, Read};
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use oci_spec::image::Descriptor;
use tar::{Archive, EntryType, PaxExtensions};
use wherry_image::Size;

use crate::blob::Data;
use crate::error::{OciError, Result};
use crate::files::inside;
use crate::image::Image;
use crate::media::{self, Compression};

/// The limit of a layer's unpacked size. Images of native programs have some gigabytes.
const UNPACKED_MAX: u64 = 8 << 30;
/// The limit of a compressed layer's growth, above a size that does no harm.
const GROWTH_MAX: u64 = 1000;
const HARMLESS: u64 = 64 << 20;
/// The limit of a path: the kernel's.
const PATH: u64 = 4096;
/// The limit of the extended attributes of an entry.
const EXTENSIONS_MAX: u64 = 1 << 20;

/// An entry of a layer.
pub(crate) trait Entry: Read {
    fn kind(&self) -> EntryType;
    fn size(&self) -> u64;
    fn target(&self) -> PathBuf;
}

struct Item<'a, R: Read> {
    inner: tar::Entry<'a, R>,
    target: Option<PathBuf>,
}

impl<R: Read> Read for Item<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl<R: Read> Entry for Item<'_, R> {
    fn kind(&self) -> EntryType {
        self.inner.header().entry_type()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn target(&self) -> PathBuf {
        let own = || self.inner.link_name().ok().flatten().map(|target| target.into_owned());
        self.target.clone().or_else(own).unwrap_or_default()
    }
}

/// Calls `each` with the path and the content of each entry, until it returns false.
pub(crate) fn each_entry(
    image: &Image,
    descriptor: &Descriptor,
    each: &mut dyn FnMut(PathBuf, &mut dyn Entry) -> io::Result<bool>,
) -> Result<()> {
    let media_type = descriptor.media_type().to_string();
    let mut reader = Bounded::new(image.blob("layer", descriptor)?, &media_type, descriptor)?;
    walk(&mut reader, each).map_err(|error| not_tar(descriptor, &error, &reader))
}

/// The names of the next entry, from the entries before it.
#[derive(Default)]
struct Names {
    path: Option<PathBuf>,
    target: Option<PathBuf>,
}

fn walk(
    reader: &mut Bounded<'_>,
    each: &mut dyn FnMut(PathBuf, &mut dyn Entry) -> io::Result<bool>,
) -> io::Result<()> {
    let mut archive = Archive::new(reader);
    let mut names = Names::default();
    // The library itself reads names of any length into memory.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::GNULongName => names.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => names.target = Some(long_name(&mut entry)?),
            EntryType::XHeader => names.extend(&mut entry)?,
            EntryType::XGlobalHeader => {}
            // More blocks than its size says may follow.
            EntryType::GNUSparse => return Err(invalid("it has a sparse file")),
            _ => {
                let Names { path, target } = std::mem::take(&mut names);
                let path = match path {
                    Some(path) => path,
                    None => entry.path()?.into_owned(),
                };
                if !each(inside(&path), &mut Item { inner: entry, target })? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

impl Names {
    /// Reads the entry of the POSIX form.
    fn extend(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let bytes = read_up_to(entry, EXTENSIONS_MAX)?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension?;
            match extension.key_bytes() {
                b"path" => self.path = Some(to_path(extension.value_bytes())?),
                b"linkpath" => self.target = Some(to_path(extension.value_bytes())?),
                b"size" => return Err(invalid("it has a file of more than 8 GB")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Reads the entry of GNU's form: a name that ends with a zero.
fn long_name(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let bytes = read_up_to(entry, PATH + 1)?;
    to_path(bytes.strip_suffix(&[0]).unwrap_or(&bytes))
}

fn to_path(bytes: &[u8]) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    if bytes.len() as u64 > PATH || bytes.contains(&0) {
        return Err(invalid("it has a path that no file can have"));
    }
    Ok(std::ffi::OsStr::from_bytes(bytes).into())
}

fn read_up_to(entry: &mut tar::Entry<'_, impl Read>, max: u64) -> io::Result<Vec<u8>> {
    if entry.size() > max {
        return Err(invalid("it has a name or attributes beyond the limits of a filesystem"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
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
pub(crate) fn unpacked(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Blobs;
    use std::path::Path;

    /// The paths, targets and contents of an archive.
    fn entries(tar: Vec<u8>) -> std::result::Result<Vec<(PathBuf, PathBuf, String)>, String> {
        let mut blobs = Blobs::default();
        let digest = crate::blob::digest(&tar);
        let layer = blobs.add(media::LAYER, &digest, Data::from(tar)).unwrap();
        let image = Image { name: None, root: layer.clone(), blobs };
        let mut found = Vec::new();
        let listed = each_entry(&image, &layer, &mut |path, entry| {
            let (target, mut content) = (entry.target(), String::new());
            entry.read_to_string(&mut content)?;
            found.push((path, target, content));
            Ok(true)
        });
        listed.map(|()| found).map_err(|error| error.to_string())
    }

    fn archive(write: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        write(&mut builder);
        builder.into_inner().unwrap()
    }

    fn header(kind: EntryType, size: u64) -> tar::Header {
        wherry_layer::archive::header(kind, 0o644, size)
    }

    #[test]
    fn long_names_of_both_forms_are_read() {
        let long = format!("{}/app.wasm", "d/".repeat(150));
        let tar = archive(|tar| {
            tar.append_data(&mut header(EntryType::Regular, 1), &long, &b"x"[..]).unwrap();
            tar.append_link(&mut header(EntryType::Symlink, 0), "link", &long).unwrap();
            tar.append_pax_extensions([("path", b"pax/name".as_slice())]).unwrap();
            tar.append_data(&mut header(EntryType::Regular, 1), "short", &b"y"[..]).unwrap();
        });
        let file = |path: &str, target: &str, content: &str| {
            (inside(Path::new(path)), PathBuf::from(target), content.to_owned())
        };
        let expected = [file(&long, "", "x"), file("link", &long, ""), file("pax/name", "", "y")];
        assert_eq!(entries(tar).unwrap(), expected);
    }

    #[test]
    fn names_beyond_the_limits_are_refused() {
        for (kind, size) in [(EntryType::GNULongName, 5000), (EntryType::XHeader, 2 << 20)] {
            let tar = archive(|tar| {
                let zeros = vec![b'a'; size as usize];
                tar.append_data(&mut header(kind, size), "name", zeros.as_slice()).unwrap();
            });
            let error = entries(tar).unwrap_err();
            assert!(error.contains("beyond the limits of a filesystem"), "{error}");
        }
    }
}
