//! The file that an image runs, found without unpacking the image.

use std::io::{self, Read};
use std::path::Path;

use oci_spec::image::ImageConfiguration;

use crate::artifact;
use crate::error::{OciError, Result};
use crate::files::{self, Files};
use crate::image::{Image, Manifest, Platform};
use crate::media::Packaging;

/// The size of an image's layers up to which they are read although nothing names WebAssembly.
const SMALL: u64 = 64 << 20;

/// Whether a manifest may run WebAssembly: its layers are of it, its platform is, the name of its
/// entrypoint says so, or it is small. It does not read the layers.
///
/// # Errors
/// If its configuration is missing or damaged.
pub fn may_be_wasm(image: &Image, manifest: &Manifest) -> Result<bool> {
    match Packaging::of(&manifest.content) {
        Packaging::Artifact | Packaging::WasmImage => return Ok(true),
        Packaging::Spin | Packaging::Other(_) => return Ok(false),
        Packaging::Image => {}
    }
    let config: ImageConfiguration = image.document("configuration", manifest.content.config())?;
    let is_wasm = Platform::of(&manifest.descriptor).is_some_and(|found| found.is_wasm())
        || config.architecture().to_string() == "wasm";
    let size: u64 =
        manifest.content.layers().iter().map(|layer| layer.size()).fold(0, u64::saturating_add);
    Ok(is_wasm || names_wasm(&files::command(&config)) || size <= SMALL)
}

/// Whether the first word of a command is a file name like `app.wasm`, `app.wat` or
/// `app.wasm#function`.
fn names_wasm(command: &[String]) -> bool {
    let file = command.first().and_then(|word| word.split('#').next()).unwrap_or_default();
    let extension = Path::new(file).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| ["wasm", "wat"].contains(&extension))
}

/// Calls `take` with the name, the size and the content of the file that a manifest runs. It has at
/// most `max` bytes.
///
/// # Errors
/// If the file does not exist or is too large, or a layer cannot be read; and those of `take`.
pub fn open(
    image: &Image,
    manifest: &Manifest,
    max: u64,
    take: &mut dyn FnMut(&str, u64, &mut dyn Read) -> io::Result<()>,
) -> Result<()> {
    match Packaging::of(&manifest.content) {
        Packaging::Spin => Err(OciError::Spin),
        Packaging::Other(config) => Err(OciError::UnknownConfig(config)),
        Packaging::Artifact | Packaging::WasmImage => {
            let (data, title) = artifact::module(image, &manifest.content)?;
            let name = title.unwrap_or_else(|| "app.wasm".to_owned());
            if data.size() > max {
                return Err(OciError::TooLarge {
                    kind: "file",
                    digest: name,
                    size: wherry_image::Size(data.size()),
                    max: wherry_image::Size(max),
                });
            }
            let read = take(&name, data.size(), &mut data.reader());
            read.map_err(|source| OciError::Blob { digest: name, source })
        }
        Packaging::Image => {
            let config = image.document("configuration", manifest.content.config())?;
            let files = Files::list(image, manifest)?;
            let path = files.entrypoint(&config)?;
            let name = path.display().to_string();
            files.open(&path, max, &mut |size, content| take(&name, size, content))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrypoint_names_wasm_by_its_extension() {
        let names = |word: &str| names_wasm(&[word.to_owned(), "x.wasm".to_owned()]);
        assert!(names("/app.wasm") && names("app.wat") && names("/a/app.wasm#main"));
        assert!(!names("/bin/sh") && !names("wasm") && !names(""));
        assert!(!names_wasm(&[]));
    }
}
