//! Sources and destinations of images.

use std::io;
use std::path::{Path, PathBuf};

use wherry_oci::daemon::{Containerd, Docker};
use wherry_oci::registry::{Registry, full_name};
use wherry_oci::{Image, Platform, Progress, layout};

use crate::args::{Common, Destination, Store};
use crate::error::{Error, Result};

/// Where an image comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A module or component.
    Module(PathBuf),
    /// A layout, or its archive.
    Layout(PathBuf),
    /// An image in a store.
    Stored(Store, String),
    /// A name in a registry.
    Registry(String),
}

impl Source {
    /// Parses a source.
    ///
    /// # Errors
    /// If it is the path of a file that does not exist.
    pub(crate) fn parse(text: &str) -> Result<Source> {
        for (prefix, store) in [("containerd:", Store::Containerd), ("docker:", Store::Docker)] {
            if let Some(name) = text.strip_prefix(prefix) {
                return Ok(Source::Stored(store, full_name(name)?));
            }
        }
        let path = Path::new(text);
        if path.exists() {
            let path = path.to_owned();
            return Ok(match layout::is_layout(&path) {
                true => Source::Layout(path),
                false if path.is_dir() => Source::Layout(path),
                false => Source::Module(path),
            });
        }
        let is_file = path.is_absolute()
            || text.starts_with('.')
            || [".wasm", ".tar"].iter().any(|suffix| text.ends_with(suffix));
        if is_file {
            return Err(Error::NoFile(path.to_owned()));
        }
        Ok(Source::Registry(full_name(text)?))
    }

    /// Reads the image. `pulled` is called with a connection to the registry that it came from.
    pub(crate) fn read(
        &self,
        common: &Common,
        platform: Option<&Platform>,
        progress: &dyn Progress,
    ) -> Result<Image> {
        match self {
            Source::Module(path) => Err(Error::NotImage(path.clone())),
            Source::Layout(path) => {
                layout::read(path, None).map_err(Error::of(path.display().to_string()))
            }
            Source::Stored(Store::Containerd, name) => {
                containerd(common).export(name).map_err(Error::of(name))
            }
            Source::Stored(Store::Docker, name) => Docker.export(name).map_err(Error::of(name)),
            Source::Registry(name) => {
                let registry = Registry::open(name, &common.registry(), progress)?;
                registry.pull(platform).map_err(Error::of(name))
            }
        }
    }
}

/// The containerd of the options.
pub(crate) fn containerd(common: &Common) -> Containerd {
    Containerd { address: common.address.clone(), namespace: common.namespace.clone() }
}

/// Writes an image to a destination. Returns the destination's name.
pub(crate) fn write(
    image: &Image,
    to: &Destination,
    common: &Common,
    progress: &dyn Progress,
) -> Result<String> {
    let name = image.name.clone();
    let named = || name.clone().ok_or(Error::NoName);
    match to.to.as_str() {
        "containerd" => {
            let name = named()?;
            containerd(common).import(image, to.force).map_err(Error::of(name))?;
            Ok(format!("containerd, namespace {}", common.namespace))
        }
        "docker" => {
            let name = named()?;
            Docker.import(image, to.force).map_err(Error::of(name))?;
            Ok("Docker".to_owned())
        }
        "registry" => {
            let registry = Registry::open(&named()?, &common.registry(), progress)?;
            registry.push(image)?;
            Ok("the registry".to_owned())
        }
        "-" => {
            let output = io::BufWriter::with_capacity(256 << 10, io::stdout().lock());
            layout::write_archive(image, output)?;
            Ok("standard output".to_owned())
        }
        path if path.ends_with(".tar") => {
            layout::write_file(image, Path::new(path))?;
            Ok(path.to_owned())
        }
        path => {
            layout::write_directory(image, Path::new(path))?;
            Ok(path.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_by_its_form() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("a"), b"\0asm\x01\0\0\0").unwrap();
        std::fs::write(path("b"), b"archive").unwrap();
        assert_eq!(Source::parse(&path("a")).unwrap(), Source::Module(path("a").into()));
        assert_eq!(Source::parse(&path("b")).unwrap(), Source::Layout(path("b").into()));
        let name = "docker.io/library/a:1".to_owned();
        assert_eq!(Source::parse("a:1").unwrap(), Source::Registry(name.clone()));
        let stored = Source::parse("docker:a:1").unwrap();
        assert_eq!(stored, Source::Stored(Store::Docker, name));
        for missing in ["./no", "/no", "no.wasm", "no.tar"] {
            let error = Source::parse(missing).unwrap_err().to_string();
            assert_eq!(error, format!("{missing}: no such file or directory"));
        }
    }
}
