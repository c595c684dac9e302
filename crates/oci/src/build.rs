//! Builds an image of a WebAssembly binary.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageIndex,
    MediaType, Os, PlatformBuilder, RootFsBuilder,
};
use tar::{Builder, EntryType};
use wherry_layer::{LayerError, archive};

use crate::blob::{Data, Spool};
use crate::error::{OciError, Result};
use crate::image::{self, Blobs, Image, Manifest, Platform};
use crate::media;

/// The properties of a new image.
#[derive(Debug, Clone)]
pub struct Properties {
    /// The image's full name.
    pub name: Option<String>,
    /// The path of the binary in the image.
    pub path: String,
    /// The words of the entrypoint. Empty: the binary.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub command: Vec<String>,
    /// The environment, each `KEY=VALUE`.
    pub env: Vec<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The annotations of the manifests.
    pub annotations: BTreeMap<String, String>,
    /// The platforms, each with its manifest.
    pub platforms: Vec<Platform>,
    /// Folders whose content is a layer below the binary, the lowest first.
    pub folders: Vec<PathBuf>,
    /// The time in the configuration, as RFC 3339 writes it.
    pub created: Option<String>,
}

impl Properties {
    /// The properties of an image for every client, with the binary as `path`.
    #[must_use]
    pub fn of(path: &str) -> Properties {
        Properties {
            name: None,
            path: path.to_owned(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            user: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            platforms: Platform::usual(),
            folders: Vec::new(),
            created: None,
        }
    }
}

/// A layer of a new image.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) descriptor: Descriptor,
    /// The digest of the unpacked archive.
    pub(crate) diff_id: String,
}

/// The manifest that an image was converted from.
#[derive(Debug, Clone)]
pub(crate) struct Original {
    /// Its plain descriptor, the subject of the image's manifests.
    descriptor: Descriptor,
    /// The kind of the artifact, if the image keeps it.
    kept: Option<MediaType>,
}

impl Original {
    /// Adds its content to the blobs of the new image, unless a layer is a tar archive: Docker 26
    /// would unpack it, for each manifest of an index, and compare it with a configuration that
    /// lacks its digest.
    pub(crate) fn add(blobs: &mut Blobs, image: &Image, manifest: &Manifest) -> Result<Original> {
        let is_tar = |layer: &Descriptor| media::compression(layer.media_type().as_ref()).is_some();
        if manifest.content.layers().iter().any(is_tar) {
            return Ok(Original { descriptor: image::plain(&manifest.descriptor), kept: None });
        }
        let descriptor = blobs.add_manifest(image, manifest)?;
        Ok(Original { descriptor, kept: Some(manifest.content.config().media_type().clone()) })
    }
}

/// Builds an image. `original` is the artifact that it is made of, which the image keeps.
///
/// # Errors
/// If the binary is not WebAssembly, or a file cannot be read.
pub fn build(
    wasm: &Data,
    properties: &Properties,
    original: Option<(&Image, &Manifest)>,
) -> Result<Image> {
    let mut blobs = Blobs::default();
    let mut layers = Vec::new();
    for folder in &properties.folders {
        layers.push(add_layer(&mut blobs, folder_layer(folder)?)?);
    }
    let wasm = wasm_layer(wasm, &properties.path).map_err(|error| match error {
        LayerError::Keep(source) | LayerError::Write(source) => OciError::Temporary(source),
        source => OciError::Module { name: properties.path.clone(), source },
    })?;
    layers.push(add_layer(&mut blobs, wasm)?);
    let original = match original {
        Some((image, manifest)) => Some(Original::add(&mut blobs, image, manifest)?),
        None => None,
    };
    let config = config(properties, &layers)?;
    let shape = Shape {
        name: properties.name.clone(),
        platforms: &properties.platforms,
        annotations: &properties.annotations,
    };
    finish(blobs, &shape, &config, &layers, original)
}

/// The parts of an image besides its configuration and layers.
pub(crate) struct Shape<'a> {
    pub(crate) name: Option<String>,
    pub(crate) platforms: &'a [Platform],
    pub(crate) annotations: &'a BTreeMap<String, String>,
}

/// Makes a manifest for each platform, and the root: an index, or the only manifest.
pub(crate) fn finish(
    mut blobs: Blobs,
    shape: &Shape<'_>,
    config: &ImageConfiguration,
    layers: &[Layer],
    original: Option<Original>,
) -> Result<Image> {
    let name = shape.name.clone();
    let mut manifests = Vec::new();
    for platform in shape.platforms {
        let mut config = config.clone();
        config.set_os(Os::from(platform.os.as_str()));
        config.set_architecture(Arch::from(platform.architecture.as_str()));
        let config = blobs.add_json(media::CONFIG, &config)?;
        let layers = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let subject = original.as_ref().map(|original| original.descriptor.clone());
        let manifest = image::manifest(config, layers, shape.annotations, subject)?;
        let mut descriptor = blobs.add_json(media::MANIFEST, &manifest)?;
        descriptor.set_platform(Some(self::platform(&platform.os, &platform.architecture)?));
        manifests.push(descriptor);
    }
    let kept = original.and_then(|original| Some((original.descriptor, original.kept?)));
    if let (Some(_), None, None) = (manifests.first(), manifests.get(1), &kept)
        && let Some(mut only) = manifests.pop()
    {
        only.set_platform(None);
        return Ok(Image { name, root: only, blobs });
    }
    if let Some((mut descriptor, artifact_type)) = kept {
        // No client runs a manifest of this platform: signatures and the like have it too.
        descriptor.set_platform(Some(platform("unknown", "unknown")?));
        descriptor.set_artifact_type(Some(artifact_type));
        manifests.push(descriptor);
    }
    let mut index = ImageIndex::default();
    index.set_media_type(Some(MediaType::ImageIndex));
    index.set_manifests(manifests);
    let root = blobs.add_json(media::INDEX, &index)?;
    Ok(Image { name, root, blobs })
}

fn platform(os: &str, architecture: &str) -> Result<oci_spec::image::Platform> {
    let builder =
        PlatformBuilder::default().os(Os::from(os)).architecture(Arch::from(architecture));
    Ok(builder.build()?)
}

/// The configuration of all platforms.
fn config(properties: &Properties, layers: &[Layer]) -> Result<ImageConfiguration> {
    let path = Path::new("/").join(archive::relative(&properties.path));
    let entrypoint = match properties.entrypoint.as_slice() {
        [] => vec![path.display().to_string()],
        words => words.to_vec(),
    };
    let mut config = ConfigBuilder::default().entrypoint(entrypoint).build()?;
    let some = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    config.set_cmd(some(&properties.command));
    config.set_env(some(&properties.env));
    config.set_working_dir(properties.working_dir.clone());
    config.set_user(properties.user.clone());
    if !properties.labels.is_empty() {
        config.set_labels(Some(properties.labels.clone().into_iter().collect()));
    }
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build()?;
    // `finish` sets the platform.
    let mut image = ImageConfigurationBuilder::default().config(config).rootfs(rootfs).build()?;
    image.set_created(properties.created.clone());
    Ok(image)
}

/// Adds a layer, which is not compressed.
pub(crate) fn add_layer(blobs: &mut Blobs, (digest, data): (String, Data)) -> Result<Layer> {
    let descriptor = blobs.add(media::LAYER, &digest, data)?;
    Ok(Layer { descriptor, diff_id: digest })
}

/// Makes the layer of a binary: the same bytes as `wherry-layer`'s.
pub(crate) fn wasm_layer(
    wasm: &Data,
    path: &str,
) -> std::result::Result<(String, Data), LayerError> {
    let mut spool = Spool::new().map_err(|error| LayerError::Keep(std::io::Error::other(error)))?;
    wherry_layer::convert(wasm.reader(), &mut spool, path)?;
    Ok(spool.finish())
}

/// Makes a layer of a folder's content. Owners and times are left out, modes are kept.
fn folder_layer(folder: &Path) -> Result<(String, Data)> {
    let mut archive = Builder::new(Spool::new()?);
    let mut left = vec![folder.to_owned()];
    let mut all = Vec::new();
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).map_err(OciError::file("read", &next))? {
            let path = entry.map_err(OciError::file("read", &next))?.path();
            let meta = fs::symlink_metadata(&path).map_err(OciError::file("read", &path))?;
            if meta.is_dir() {
                left.push(path.clone());
            }
            all.push((path, meta));
        }
    }
    // A folder comes before its content.
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (path, meta) in all {
        let inside = path.strip_prefix(folder).unwrap_or(&path);
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(OciError::file("read", &path))?;
            let mut header = archive::header(EntryType::Symlink, 0o777, 0);
            archive.append_link(&mut header, inside, target).map_err(OciError::Temporary)?;
        } else if meta.is_dir() {
            let mut header = archive::header(EntryType::Directory, mode, 0);
            archive
                .append_data(&mut header, inside, std::io::empty())
                .map_err(OciError::Temporary)?;
        } else if meta.is_file() {
            let file = fs::File::open(&path).map_err(OciError::file("open", &path))?;
            archive::append(&mut archive, inside, mode, file, meta.len())
                .map_err(OciError::file("copy", &path))?;
        } else {
            return Err(OciError::Layout {
                path,
                reason: "a layer has files, folders and symbolic links only".to_owned(),
            });
        }
    }
    let mut spool = archive.into_inner().map_err(OciError::Temporary)?;
    spool.flush().map_err(OciError::Temporary)?;
    Ok(spool.finish())
}

/// The name of a binary's file in an image: its own, if it is a plain name.
#[must_use]
pub fn file_name(title: Option<&str>) -> String {
    let name = title.and_then(|title| Path::new(title).file_name()?.to_str());
    let plain = name.filter(|name| {
        !name.starts_with('.') && !name.contains('#') && !name.chars().any(char::is_control)
    });
    plain.map_or_else(|| wherry_layer::DEFAULT_PATH.to_owned(), |name| format!("/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn properties() -> Properties {
        let mut properties = Properties::of("/app.wasm");
        properties.name = Some("docker.io/library/app:1".to_owned());
        properties.platforms = vec![Platform::wasm(), "linux/amd64".parse().unwrap()];
        properties.labels.extend([("b".into(), "2".into()), ("a".into(), "1".into())]);
        properties
    }

    fn built(properties: &Properties) -> Image {
        build(&Data::from(MODULE.to_vec()), properties, None).unwrap()
    }

    #[test]
    fn the_same_input_makes_the_same_digest() {
        let digest = built(&properties()).root.digest().to_string();
        for _ in 0..20 {
            assert_eq!(built(&properties()).root.digest().to_string(), digest);
        }
    }

    #[test]
    fn an_image_has_a_manifest_for_each_platform() {
        let image = built(&properties());
        image.verify().unwrap();
        assert_eq!(image.platforms(), ["wasi/wasm", "linux/amd64"]);
        let manifest = image.preferred(Some(&"linux/amd64".parse().unwrap())).unwrap();
        let config: oci_spec::image::ImageConfiguration =
            image.document("configuration", manifest.content.config()).unwrap();
        assert_eq!(config.os().to_string(), "linux");
        let settings = config.config().as_ref().unwrap();
        assert_eq!(settings.entrypoint().as_ref().unwrap(), &["/app.wasm"]);
        assert_eq!(settings.labels().as_ref().unwrap().len(), 2);
        assert_eq!(config.rootfs().diff_ids().len(), manifest.content.layers().len());
        let missing = image.preferred(Some(&"linux/arm64".parse().unwrap())).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "the image has no manifest for linux/arm64; it has wasi/wasm, linux/amd64"
        );
    }

    #[test]
    fn another_platform_of_wasm_is_found_unless_one_is_asked_for() {
        let mut properties = properties();
        properties.platforms =
            ["linux/amd64", "wasip1/wasm"].map(|text| text.parse().unwrap()).into();
        let image = built(&properties);
        let found = image.preferred(None).unwrap();
        assert_eq!(Platform::of(&found.descriptor).unwrap().os, "wasip1");
        assert!(image.preferred(Some(&Platform::wasm())).is_err());
    }

    #[test]
    fn an_image_of_one_platform_has_no_index() {
        let mut properties = properties();
        properties.platforms.truncate(1);
        let image = built(&properties);
        assert_eq!(image.root.media_type().to_string(), media::MANIFEST);
        assert_eq!(image.manifests().unwrap().len(), 1);
    }

    #[test]
    fn a_folder_becomes_the_lower_layer() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/motd"), "hello").unwrap();
        std::os::unix::fs::symlink("motd", folder.path().join("etc/link")).unwrap();
        let mut properties = properties();
        properties.folders = vec![folder.path().to_owned()];
        let image = built(&properties);
        let manifest = image.preferred(None).unwrap();
        assert_eq!(manifest.content.layers().len(), 2);
        let files = crate::files::Files::list(&image, &manifest).unwrap();
        assert_eq!(files.read(Path::new("/etc/link"), 10).unwrap(), b"hello");
        assert_eq!(files.read(Path::new("/app.wasm"), 10).unwrap(), MODULE);
        assert_eq!(built(&properties).root.digest(), image.root.digest());
    }

    #[test]
    fn a_file_that_is_not_wasm_is_refused() {
        let error = build(&Data::from(b"{}".to_vec()), &properties(), None).unwrap_err();
        assert!(error.to_string().starts_with("/app.wasm: not WebAssembly but JSON"), "{error}");
    }

    #[test]
    fn the_name_of_a_file_is_kept_if_it_is_plain() {
        assert_eq!(file_name(Some("hello.wasm")), "/hello.wasm");
        assert_eq!(file_name(Some("../../hello.wasm")), "/hello.wasm");
        for other in [None, Some(""), Some(".."), Some("a#b"), Some("a\nb")] {
            assert_eq!(file_name(other), "/app.wasm");
        }
    }
}
