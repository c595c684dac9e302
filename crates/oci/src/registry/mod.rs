//! Pull from and push to a registry, through oci-client.

mod credentials;
mod download;
mod explain;

use std::future::Future;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use futures_util::stream;
use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::Value;
use wherry_image::Size;

use crate::blob::{self, Data};
use crate::error::{OciError, Result};
use crate::image::{DOCUMENT_MAX, Image, Platform};
use crate::media;
use crate::progress::Progress;

/// The media types of the documents that a name may mean.
const DOCUMENTS: [&str; 4] = [
    media::INDEX,
    media::MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// The size of the pieces of an upload.
const PIECE: usize = 1 << 20;
/// The pause before the first repetition of a request. It doubles with each.
const PAUSE: Duration = Duration::from_millis(500);

/// How to connect to registries.
#[derive(Debug, Clone)]
pub struct Options {
    /// Use HTTP without TLS.
    pub plain_http: bool,
    /// Files of certificates in PEM form that are accepted besides the machine's.
    pub certificates: Vec<PathBuf>,
    /// The number of repetitions of a failed request.
    pub retries: u32,
    /// The time after which a registry that sends nothing has stalled.
    pub timeout: Duration,
    /// The folder of incomplete downloads.
    pub downloads: PathBuf,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            plain_http: false,
            certificates: Vec::new(),
            retries: 4,
            timeout: Duration::from_secs(30),
            downloads: download::folder(),
        }
    }
}

/// A connection to the registry of one image.
pub struct Registry<'p> {
    runtime: tokio::runtime::Runtime,
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    options: Options,
    progress: &'p dyn Progress,
}

/// Parses an image's name, and completes a short one as Docker does.
///
/// # Errors
/// [`OciError::Reference`].
pub fn full_name(name: &str) -> Result<String> {
    parse(name).map(|reference| reference.whole())
}

fn parse(name: &str) -> Result<Reference> {
    Reference::from_str(name)
        .map_err(|error| OciError::Reference { name: name.to_owned(), reason: error.to_string() })
}

impl<'p> Registry<'p> {
    /// Prepares a connection. It is opened by the first request.
    ///
    /// # Errors
    /// If the name, a certificate or Docker's configuration is invalid.
    pub fn open(name: &str, options: &Options, progress: &'p dyn Progress) -> Result<Registry<'p>> {
        let reference = parse(name)?;
        // Fails if another part of the process has installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut certificates = Vec::new();
        for path in &options.certificates {
            certificates.extend(read_certificates(path)?);
        }
        let config = ClientConfig {
            protocol: if options.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: certificates,
            // One request for each blob: not every registry takes pieces.
            use_monolithic_push: true,
            connect_timeout: Some(options.timeout),
            read_timeout: Some(options.timeout),
            user_agent: concat!("wherry/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| OciError::Registry {
            reference: reference.whole(),
            reason: explain::reason(&error, &reference, options.timeout),
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(OciError::Network)?;
        let auth = credentials::of(reference.registry())?;
        runtime.block_on(client.store_auth_if_needed(reference.resolve_registry(), &auth));
        let options = options.clone();
        Ok(Registry { runtime, client, auth, reference, options, progress })
    }

    /// The full name of the image.
    #[must_use]
    pub fn name(&self) -> String {
        self.reference.whole()
    }

    /// Downloads an image or artifact: of an index, the manifests for WebAssembly or this machine,
    /// or those of `platform`. An interrupted download continues where it ended.
    ///
    /// # Errors
    /// If the registry refuses or stalls, or the content is damaged, invalid or too large.
    pub fn pull(&self, platform: Option<&Platform>) -> Result<Image> {
        let (root, document) = self.document(&self.reference)?;
        let wanted = platform.map_or_else(Platform::usual, |platform| vec![platform.clone()]);
        let is_wanted = |descriptor: &Descriptor| {
            Platform::of(descriptor).is_none_or(|found| {
                // An index of this program has the artifact that it was made of.
                let is_original = found.os == "unknown"
                    && descriptor
                        .artifact_type()
                        .as_ref()
                        .is_some_and(|kind| kind.as_ref() == media::WASM_CONFIG);
                let is_wasm = platform.is_none() && found.is_wasm();
                is_original || is_wasm || wanted.contains(&found)
            })
        };
        let mut downloads = download::Folder::open(&self.options.downloads)?;
        let image = Image::read(root.clone(), Some(self.name()), &is_wanted, &mut |descriptor| {
            if descriptor.digest() == root.digest() {
                return Ok(Some(document.clone()));
            }
            let media_type = descriptor.media_type().to_string();
            if media::is_index(&media_type) || media::is_manifest(&media_type) {
                let reference = self.reference.clone_with_digest(descriptor.digest().to_string());
                return self.document(&reference).map(|(_, data)| Some(data));
            }
            self.download(descriptor, &mut downloads).map(Some)
        })?;
        downloads.clear();
        Ok(image)
    }

    /// Downloads an index or a manifest.
    fn document(&self, reference: &Reference) -> Result<(Descriptor, Data)> {
        let (bytes, _) =
            self.repeat(|| self.client.pull_manifest_raw(reference, &self.auth, &DOCUMENTS))?;
        // The registry's header may be missing or wrong.
        let digest = blob::digest(&bytes);
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(OciError::TooLarge {
                kind: "manifest",
                digest,
                size: Size(bytes.len() as u64),
                max: Size(DOCUMENT_MAX),
            });
        }
        let invalid =
            |reason: String| OciError::Invalid { kind: "manifest", digest: digest.clone(), reason };
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        // The field is optional in both documents.
        let media_type = match value.get("mediaType").and_then(Value::as_str) {
            Some(media_type) => media_type,
            None if value.get("manifests").is_some() => media::INDEX,
            None => media::MANIFEST,
        };
        let parsed = Digest::from_str(&digest).map_err(|error| invalid(error.to_string()))?;
        let data = Data::from(bytes.to_vec());
        Ok((Descriptor::new(MediaType::from(media_type), data.size(), parsed), data))
    }

    /// Uploads an image or artifact: what the registry lacks of it, its root last.
    ///
    /// # Errors
    /// If the registry refuses or stalls, or a blob cannot be read.
    pub fn push(&self, image: &Image) -> Result<String> {
        let mut done = Vec::new();
        let manifests = image.manifests()?;
        for manifest in &manifests {
            for descriptor in
                std::iter::once(manifest.content.config()).chain(manifest.content.layers())
            {
                if !done.contains(descriptor.digest()) {
                    self.push_blob(image, descriptor)?;
                    done.push(descriptor.digest().clone());
                }
            }
        }
        for manifest in &manifests {
            if manifest.descriptor.digest() != image.root.digest() {
                self.push_document(image, &manifest.descriptor, None)?;
            }
        }
        self.push_document(image, &image.root, self.reference.tag())?;
        Ok(image.root.digest().to_string())
    }

    fn push_blob(&self, image: &Image, descriptor: &Descriptor) -> Result<()> {
        let digest = descriptor.digest().to_string();
        let data = image.blob("layer", descriptor)?;
        if self.repeat(|| self.client.blob_exists(&self.reference, &digest))? {
            return Ok(());
        }
        self.progress.begin(&label("upload", &digest), data.size());
        let pushed = self.repeat(|| {
            let pieces = stream::unfold(Some(data.reader()), |reader| async move {
                let mut reader = reader?;
                let mut piece = Vec::new();
                let read =
                    std::io::Read::by_ref(&mut reader).take(PIECE as u64).read_to_end(&mut piece);
                match read {
                    Ok(0) => None,
                    Ok(_) => Some((Ok(piece.into()), Some(reader))),
                    Err(error) => Some((Err(OciDistributionError::IoError(error)), None)),
                }
            });
            self.client.push_blob_stream(&self.reference, pieces, &digest, Some(data.size()))
        });
        self.progress.end();
        pushed.map(drop)
    }

    fn push_document(
        &self,
        image: &Image,
        descriptor: &Descriptor,
        tag: Option<&str>,
    ) -> Result<()> {
        let digest = descriptor.digest().to_string();
        let data = image.blob("manifest", descriptor)?.bytes("manifest", &digest, DOCUMENT_MAX)?;
        // A digest in the place of the tag gives the same address.
        let reference = Reference::with_tag(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            tag.unwrap_or(&digest).to_owned(),
        );
        self.repeat(|| {
            let media_type = descriptor.media_type().to_string();
            let (reference, data) = (&reference, data.clone());
            async move {
                let media_type = media_type
                    .parse()
                    .map_err(|_| OciDistributionError::UnsupportedMediaTypeError(media_type))?;
                self.client.push_manifest_raw(reference, data, media_type).await
            }
        })
        .map(drop)
    }

    /// Whether a cosign signature of the image is in the registry: under the tag that cosign
    /// derives from the digest, or among the referrers.
    ///
    /// # Errors
    /// If the registry refuses or stalls.
    pub fn is_signed(&self, digest: &str) -> Result<bool> {
        let tag = format!("{}.sig", digest.replace(':', "-"));
        let reference = Reference::with_tag(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            tag,
        );
        let found =
            self.runtime.block_on(self.client.fetch_manifest_digest(&reference, &self.auth));
        match found {
            Ok(_) => return Ok(true),
            Err(error) if explain::is_missing(&error) => {}
            Err(error) => return Err(self.fault(&error)),
        }
        let subject = self.reference.clone_with_digest(digest.to_owned());
        let referrers = self.repeat(|| self.client.pull_referrers(&subject, None))?;
        Ok(referrers.manifests.iter().any(|entry| {
            let kind = entry.artifact_type.as_deref().unwrap_or_default();
            kind.starts_with("application/vnd.dev.cosign.")
                || kind.starts_with("application/vnd.dev.sigstore.")
        }))
    }

    /// Sends a request, and repeats it after a failure that may pass.
    fn repeat<T, F>(&self, mut request: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, OciDistributionError>>,
    {
        let mut attempt = 0;
        loop {
            match self.runtime.block_on(request()) {
                Ok(answer) => return Ok(answer),
                Err(error) if attempt < self.options.retries && explain::may_pass(&error) => {
                    self.wait(attempt, &error);
                    attempt += 1;
                }
                Err(error) => return Err(self.fault(&error)),
            }
        }
    }

    /// Waits before a repetition, and reports the reason.
    fn wait(&self, attempt: u32, error: &OciDistributionError) {
        let reason = explain::reason(error, &self.reference, self.options.timeout);
        self.progress.note(&format!("{reason}; trying again"));
        let pause = PAUSE.saturating_mul(1 << attempt.min(6));
        std::thread::sleep(pause);
    }

    fn fault(&self, error: &OciDistributionError) -> OciError {
        OciError::Registry {
            reference: self.name(),
            reason: explain::reason(error, &self.reference, self.options.timeout),
        }
    }
}

/// Returns the label of a transfer: an action and the first digits of the digest.
fn label(action: &str, digest: &str) -> String {
    let digits = digest.split_once(':').map_or(digest, |(_, digits)| digits);
    format!("{action} {}", digits.get(..12).unwrap_or(digits))
}

/// Reads the certificates of a PEM file.
fn read_certificates(path: &Path) -> Result<Vec<Certificate>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::fs::read_to_string(path).map_err(OciError::file("read", path))?;
    let found: Vec<Certificate> = text
        .split_inclusive(END)
        .filter(|part| part.ends_with(END))
        .map(|part| Certificate {
            encoding: CertificateEncoding::Pem,
            data: part.as_bytes().to_vec(),
        })
        .collect();
    if found.is_empty() {
        return Err(OciError::Certificate {
            path: path.to_owned(),
            reason: "it has no certificate in PEM form".to_owned(),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_dockers() {
        for (short, long) in [
            ("app", "docker.io/library/app:latest"),
            ("my/app:1.0", "docker.io/my/app:1.0"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ] {
            assert_eq!(full_name(short).unwrap(), long);
        }
        let error = full_name("A B").unwrap_err().to_string();
        assert!(error.starts_with("invalid image name \"A B\": "), "{error}");
    }

    #[test]
    fn a_file_of_certificates_may_have_several() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        std::fs::write(file.path(), format!("{one}# two\n{one}")).unwrap();
        assert_eq!(read_certificates(file.path()).unwrap().len(), 2);
        std::fs::write(file.path(), "no").unwrap();
        assert!(read_certificates(file.path()).is_err());
    }
}
