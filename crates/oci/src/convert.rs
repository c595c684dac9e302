//! Artifacts to images, and back.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageConfiguration, RootFsBuilder};
use sha2::{Digest as _, Sha256};
use wherry_image::MODULE_MAX;

use crate::artifact;
use crate::blob::{self, Data};
use crate::build::{self, Layer, Original, Properties, Shape};
use crate::entries;
use crate::error::{OciError, Result};
use crate::files::{self, Files};
use crate::image::{Blobs, Image, Manifest, Platform};
use crate::media::{self, Compression, Packaging};

/// Converts an artifact, or an image with layers of WebAssembly, to an image that every client
/// runs. The image keeps the original manifest, and its labels and annotations. The same original
/// makes the same image.
///
/// # Errors
/// If there is nothing to convert, or the image is damaged or of a kind that no client runs.
pub fn to_image(image: &Image, platforms: &[Platform]) -> Result<Image> {
    let manifest = image.preferred(None)?;
    match Packaging::of(&manifest.content) {
        Packaging::Image => Err(OciError::Ordinary),
        Packaging::Spin => Err(OciError::Spin),
        Packaging::Other(config) => Err(OciError::UnknownConfig(config)),
        Packaging::Artifact => of_artifact(image, &manifest, platforms),
        Packaging::WasmImage => of_wasm_image(image, &manifest, platforms),
    }
}

fn of_artifact(image: &Image, manifest: &Manifest, platforms: &[Platform]) -> Result<Image> {
    let (wasm, title) = artifact::module(image, &manifest.content)?;
    let mut properties = Properties::of(&build::file_name(title.as_deref()));
    properties.name.clone_from(&image.name);
    properties.platforms = platforms.to_vec();
    properties.annotations = annotations(manifest);
    properties.labels.clone_from(&properties.annotations);
    build::build(&wasm, &properties, Some((image, manifest)))
}

fn annotations(manifest: &Manifest) -> BTreeMap<String, String> {
    manifest.content.annotations().clone().unwrap_or_default().into_iter().collect()
}

fn of_wasm_image(image: &Image, manifest: &Manifest, platforms: &[Platform]) -> Result<Image> {
    let mut config: ImageConfiguration =
        image.document("configuration", manifest.content.config())?;
    let layers = manifest.content.layers();
    let is_wasm = |layer: &Descriptor| media::is_wasm(layer.media_type().as_ref());
    let modules = layers.iter().filter(|layer| is_wasm(layer)).count();
    let entry = entry_path(&config).filter(|_| modules == 1);
    let mut blobs = Blobs::default();
    let (mut new, mut path) = (Vec::new(), None);
    for (number, layer) in layers.iter().enumerate() {
        let data = image.blob("layer", layer)?;
        if is_wasm(layer) {
            let title = layer.annotations().as_ref().and_then(|annotations| {
                annotations.get("org.opencontainers.image.title").map(String::as_str)
            });
            let file = entry.clone().unwrap_or_else(|| build::file_name(title));
            let converted = build::wasm_layer(data, &file).map_err(|source| OciError::NotWasm {
                digest: layer.digest().to_string(),
                source,
            })?;
            new.push(build::add_layer(&mut blobs, converted)?);
            path = Some(file);
        } else {
            let descriptor =
                blobs.add(layer.media_type().as_ref(), layer.digest().as_ref(), data.clone())?;
            let diff_id = diff_id(image, &config, layers, number, layer)?;
            new.push(Layer { descriptor, diff_id });
        }
    }
    if let (true, Some(path)) = (files::command(&config).is_empty(), path) {
        let mut settings = config.config().clone().unwrap_or_default();
        settings.set_entrypoint(Some(vec![path]));
        config.set_config(Some(settings));
    }
    let diff_ids: Vec<String> = new.iter().map(|layer| layer.diff_id.clone()).collect();
    config.set_rootfs(RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build()?);
    // A history that counts other layers than there are is an error for some clients.
    config.set_history(None);
    let original = Original::add(&mut blobs, image, manifest)?;
    let annotations = annotations(manifest);
    let shape = Shape { name: image.name.clone(), platforms, annotations: &annotations };
    build::finish(blobs, &shape, &config, &new, Some(original))
}

/// Returns the path that the entrypoint of an image with layers of WebAssembly names. `None`: it
/// names none, or one that only a search would find.
fn entry_path(config: &ImageConfiguration) -> Option<String> {
    let words = files::command(config);
    let file = words.first()?.split('#').next()?;
    if file.is_empty() || file.ends_with('/') {
        return None;
    }
    let cwd = config.config().as_ref().and_then(|config| config.working_dir().clone());
    let cwd = cwd.unwrap_or_else(|| "/".to_owned());
    Some(Path::new("/").join(cwd).join(file).display().to_string())
}

/// Returns the digest of a layer's unpacked archive.
fn diff_id(
    image: &Image,
    config: &ImageConfiguration,
    layers: &[Descriptor],
    number: usize,
    layer: &Descriptor,
) -> Result<String> {
    match media::compression(layer.media_type().as_ref()) {
        Some(Compression::None) => Ok(layer.digest().to_string()),
        Some(Compression::Zstd) => {
            let known = config.rootfs().diff_ids();
            match known.get(number).filter(|_| known.len() == layers.len()) {
                Some(diff_id) => Ok(diff_id.clone()),
                None => Err(OciError::Invalid {
                    kind: "configuration",
                    digest: layer.digest().to_string(),
                    reason: "it has no diff_id for this layer".to_owned(),
                }),
            }
        }
        Some(Compression::Gzip) | None => {
            let mut hash = Sha256::new();
            entries::unpacked(image, layer, &mut hash)?;
            Ok(blob::text(hash))
        }
    }
}

/// Converts an image to an artifact. An image that was made of an artifact gives the original.
///
/// # Errors
/// If its entrypoint is not WebAssembly, or it is damaged.
pub fn to_artifact(image: &Image) -> Result<Image> {
    for manifest in image.manifests()? {
        if Packaging::of(&manifest.content) == Packaging::Artifact {
            return image.only(&manifest);
        }
    }
    let manifest = image.preferred(None)?;
    let (wasm, title) = module(image, &manifest)?;
    let mut labels = annotations(&manifest);
    let config: Result<ImageConfiguration> =
        image.document("configuration", manifest.content.config());
    if let Some(settings) = config.ok().and_then(|config| config.config().clone()) {
        labels.extend(settings.labels().clone().unwrap_or_default());
    }
    artifact::make(&wasm, image.name.clone(), &title, &labels, None)
}

/// Finds the binary that a manifest runs, and its file's name.
///
/// # Errors
/// If the manifest has none, or the image is damaged.
pub fn module(image: &Image, manifest: &Manifest) -> Result<(Data, String)> {
    match Packaging::of(&manifest.content) {
        Packaging::Spin => Err(OciError::Spin),
        Packaging::Other(config) => Err(OciError::UnknownConfig(config)),
        Packaging::Artifact | Packaging::WasmImage => {
            let (data, title) = artifact::module(image, &manifest.content)?;
            Ok((data, title.unwrap_or_else(|| "app.wasm".to_owned())))
        }
        Packaging::Image => {
            let config = image.document("configuration", manifest.content.config())?;
            let files = Files::list(image, manifest)?;
            let path = files.entrypoint(&config)?;
            let bytes = files.read(&path, MODULE_MAX)?;
            if !bytes.starts_with(b"\0asm") {
                return Err(OciError::Entrypoint(path.display().to_string()));
            }
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("app.wasm");
            Ok((Data::from(bytes), name.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn artifact() -> Image {
        let labels = [("k".to_owned(), "v".to_owned())].into_iter().collect();
        let wasm = Data::from(MODULE.to_vec());
        artifact::make(&wasm, Some("r/a:1".to_owned()), "hello.wasm", &labels, None).unwrap()
    }

    fn manifest_of(layers: &[(&str, &[u8])], config: (&str, &[u8])) -> Image {
        let mut blobs = Blobs::default();
        let mut add = |media_type: &str, bytes: &[u8]| {
            blobs.add(media_type, &blob::digest(bytes), Data::from(bytes.to_vec())).unwrap()
        };
        let config = add(config.0, config.1);
        let layers = layers.iter().map(|(media_type, bytes)| add(media_type, bytes)).collect();
        let manifest = crate::image::manifest(config, layers, &BTreeMap::new(), None).unwrap();
        let root = blobs.add_json(media::MANIFEST, &manifest).unwrap();
        Image { name: None, root, blobs }
    }

    fn wasm_image(layers: &[(&str, &[u8])]) -> Image {
        let settings = ConfigBuilder::default().entrypoint(vec!["run.wasm#main".to_owned()]);
        let config = ImageConfigurationBuilder::default()
            .os("wasi")
            .architecture("wasm")
            .config(settings.build().unwrap())
            .rootfs(RootFsBuilder::default().typ("layers").diff_ids(Vec::new()).build().unwrap())
            .build()
            .unwrap();
        manifest_of(layers, (media::CONFIG, &serde_json::to_vec(&config).unwrap()))
    }

    #[test]
    fn an_artifact_becomes_an_image_that_keeps_it() {
        let original = artifact();
        let image = to_image(&original, &Platform::usual()).unwrap();
        image.verify().unwrap();
        assert_eq!(image.platforms().last().unwrap(), "unknown/unknown");
        let manifest = image.preferred(None).unwrap();
        let config: ImageConfiguration =
            image.document("configuration", manifest.content.config()).unwrap();
        let settings = config.config().as_ref().unwrap();
        assert_eq!(settings.entrypoint().as_ref().unwrap(), &["/hello.wasm"]);
        assert_eq!(settings.labels().as_ref().unwrap()["k"], "v");
        let subject = manifest.content.subject().as_ref().unwrap();
        assert_eq!(subject.digest(), original.root.digest());
        // And back.
        assert_eq!(to_artifact(&image).unwrap().root.digest(), original.root.digest());
        assert_eq!(
            to_image(&original, &Platform::usual()).unwrap().root.digest(),
            image.root.digest()
        );
    }

    #[test]
    fn every_media_type_of_wasm_is_converted() {
        for media_type in media::WASM_LAYERS {
            let image = wasm_image(&[(media_type, MODULE)]);
            let converted = to_image(&image, &Platform::usual()).unwrap();
            converted.verify().unwrap();
            let manifest = converted.preferred(None).unwrap();
            let files = Files::list(&converted, &manifest).unwrap();
            let found = files.read(Path::new("/run.wasm"), 100).unwrap();
            assert_eq!(found, MODULE, "{media_type}");
        }
    }

    #[test]
    fn layers_of_wasm_and_of_tar_are_mixed_in_their_order() {
        let mut tar = Vec::new();
        wherry_layer::archive::write(&b"x"[..], 1, "/etc/x", &mut tar).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &tar).unwrap();
        let gzip = gzip.finish().unwrap();
        let compressed = format!("{}+gzip", media::LAYER);
        let image = wasm_image(&[(&compressed, &gzip), (media::WASM, MODULE)]);
        let converted = to_image(&image, &Platform::usual()).unwrap();
        // A client that unpacks every manifest would fail with the original.
        assert!(!converted.platforms().contains(&"unknown/unknown".to_owned()));
        let manifest = converted.preferred(None).unwrap();
        let config: ImageConfiguration =
            converted.document("configuration", manifest.content.config()).unwrap();
        assert_eq!(config.rootfs().diff_ids()[0], blob::digest(&tar));
        let files = Files::list(&converted, &manifest).unwrap();
        assert_eq!(files.read(Path::new("/etc/x"), 9).unwrap(), b"x");
        assert_eq!(files.read(Path::new("/run.wasm"), 9).unwrap(), MODULE);
    }

    #[test]
    fn bad_input_is_one_sentence() {
        let two = [(media::WASM, MODULE), (media::WASM, b"\0asm\x0d\0\x01\0".as_slice())];
        let refused = |image: &Image| to_image(image, &Platform::usual()).unwrap_err().to_string();
        let config = (media::WASM_CONFIG, b"{}".as_slice());
        assert!(refused(&manifest_of(&two, config)).contains("2 layers of WebAssembly"));
        assert!(refused(&manifest_of(&[], config)).contains("contains no WebAssembly"));
        let tar = vec![b'a'; 1024];
        let text = refused(&manifest_of(&[(media::WASM, &tar)], config));
        assert!(text.contains("not WebAssembly but a file of an unknown format"), "{text}");
        let other = ("application/vnd.cncf.helm.config.v1+json", b"{}".as_slice());
        assert!(refused(&manifest_of(&[], other)).contains("vnd.cncf.helm.config"));
        let spin = ("application/vnd.fermyon.spin.application.v1+config", b"{}".as_slice());
        assert!(refused(&manifest_of(&two, spin)).contains("Spin application"));
        let many: Vec<_> = (0..10_000).map(|_| (media::WASM, MODULE)).collect();
        let text = refused(&manifest_of(&many, config));
        assert!(text.contains("has 10000 layers, more than the 127"), "{text}");
    }

    #[test]
    fn wasm_in_place_of_a_tar_archive_is_named() {
        let image = wasm_image(&[(media::LAYER, MODULE)]);
        let manifest = image.preferred(None).unwrap();
        let error = module(&image, &manifest).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "as its media type application/vnd.oci.image.layer.v1.tar says: it is WebAssembly"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_compressed_bomb_is_refused() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let mut header = wherry_layer::archive::header(tar::EntryType::Regular, 0o644, 1 << 40);
        header.set_path("zeros").unwrap();
        header.set_cksum();
        std::io::Write::write_all(&mut gzip, header.as_bytes()).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 80 << 20), &mut gzip).unwrap();
        let compressed = format!("{}+gzip", media::LAYER);
        let image = wasm_image(&[(&compressed, &gzip.finish().unwrap())]);
        let manifest = image.preferred(None).unwrap();
        let error = module(&image, &manifest).unwrap_err().to_string();
        assert!(
            error.contains("unpacks to more than 67.1 MB")
                || error.contains("unpacks to more than 8"),
            "{error}"
        );
    }
}
