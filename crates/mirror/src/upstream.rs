//! Requests to registries, with the client's credentials.

use std::fs;
use std::io::Write as _;

use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, RANGE, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};
use wherry_oci::image::DOCUMENT_MAX;
use wherry_oci::{Data, OciError, blob};

use crate::target::Target;
use crate::{MirrorError, Options};

/// The largest blob that is converted: the largest module that a shim reads.
const BLOB_MAX: u64 = 1 << 30;
/// The headers of a client that a registry gets.
const HANDED_ON: [hyper::header::HeaderName; 4] = [ACCEPT, AUTHORIZATION, RANGE, USER_AGENT];

/// The clients of registries.
#[derive(Debug, Clone)]
pub(crate) struct Registries {
    /// Leaves redirections to the mirror's client.
    plain: Client,
    /// Follows redirections.
    following: Client,
}

impl Registries {
    pub(crate) fn new(options: &Options) -> Result<Registries, MirrorError> {
        // Fails if another part of the process has installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut certificates = Vec::new();
        for path in &options.certificates {
            let invalid = |reason: String| MirrorError::Certificate { path: path.clone(), reason };
            let text = fs::read(path).map_err(|error| invalid(error.to_string()))?;
            let found = reqwest::Certificate::from_pem_bundle(&text)
                .map_err(|error| invalid(root(&error)))?;
            certificates.extend(found);
        }
        let client = |policy: Policy| {
            Client::builder()
                .redirect(policy)
                .connect_timeout(options.timeout)
                .read_timeout(options.timeout)
                .tls_certs_merge(certificates.clone())
                .build()
                .map_err(|error| MirrorError::Start(root(&error)))
        };
        Ok(Registries { plain: client(Policy::none())?, following: client(Policy::limited(5))? })
    }

    /// Hands a request on.
    pub(crate) async fn pass(
        &self,
        method: &Method,
        target: &Target,
        headers: &HeaderMap,
    ) -> Result<Response, MirrorError> {
        send(&self.plain, method, target, &target.path, headers).await
    }

    /// Downloads a manifest or index by its digest.
    pub(crate) async fn document(
        &self,
        target: &Target,
        digest: &str,
        headers: &HeaderMap,
    ) -> Result<Vec<u8>, MirrorError> {
        let path = format!("/v2/{}/manifests/{digest}", target.name);
        let mut headers = headers.clone();
        headers.remove(RANGE);
        let response = send(&self.plain, &Method::GET, target, &path, &headers).await?;
        document(target, check(target, &path, response)?).await
    }

    /// Downloads a blob to a temporary file, and compares its size and digest.
    pub(crate) async fn blob(
        &self,
        target: &Target,
        digest: &str,
        size: u64,
        headers: &HeaderMap,
    ) -> Result<Data, MirrorError> {
        if size > BLOB_MAX {
            return Err(MirrorError::Oci(OciError::TooLarge {
                kind: "layer",
                digest: digest.to_owned(),
                size: wherry_oci::Size(size),
                max: wherry_oci::Size(BLOB_MAX),
            }));
        }
        let path = format!("/v2/{}/blobs/{digest}", target.name);
        let mut headers = headers.clone();
        headers.remove(RANGE);
        headers.remove(ACCEPT);
        let response = send(&self.following, &Method::GET, target, &path, &headers).await?;
        let mut response = check(target, &path, response)?;
        let mut spool = blob::Spool::new()?;
        let mut left = size;
        while let Some(piece) = response.chunk().await.map_err(|error| fault(target, &error))? {
            let Some(rest) = left.checked_sub(piece.len() as u64) else { break };
            left = rest;
            spool.write_all(&piece).map_err(OciError::Temporary)?;
        }
        let (found, data) = spool.finish();
        if found != digest {
            let expected = digest.to_owned();
            return Err(MirrorError::Oci(OciError::WrongDigest { expected, found }));
        }
        Ok(data)
    }
}

/// Reads the body of a manifest or index.
pub(crate) async fn document(
    target: &Target,
    mut response: Response,
) -> Result<Vec<u8>, MirrorError> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| fault(target, &error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > DOCUMENT_MAX {
            let registry = target.registry.name.clone();
            let reason = "a manifest has more than 4 MiB".to_owned();
            return Err(MirrorError::Upstream { registry, reason });
        }
    }
    Ok(bytes)
}

fn check(target: &Target, path: &str, response: Response) -> Result<Response, MirrorError> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(MirrorError::Status {
        registry: target.registry.name.clone(),
        path: path.to_owned(),
        status: response.status().as_u16(),
    })
}

async fn send(
    client: &Client,
    method: &Method,
    target: &Target,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, MirrorError> {
    let host = match target.registry.name.as_str() {
        "docker.io" => "registry-1.docker.io",
        name => name,
    };
    let scheme = if target.registry.plain_http { "http" } else { "https" };
    let mut request = client.request(method.clone(), format!("{scheme}://{host}{path}"));
    for name in &HANDED_ON {
        for value in headers.get_all(name) {
            request = request.header(name, value);
        }
    }
    request.send().await.map_err(|error| fault(target, &error))
}

fn fault(target: &Target, error: &reqwest::Error) -> MirrorError {
    let reason = match error.is_timeout() {
        true => "the registry stalled".to_owned(),
        false => root(error),
    };
    MirrorError::Upstream { registry: target.registry.name.clone(), reason }
}

/// Returns the text of the innermost cause.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
