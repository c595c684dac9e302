//! Credentials from Docker's configuration and its helpers.

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};
use oci_client::secrets::RegistryAuth;

use crate::error::{OciError, Result};

/// The name under which Docker's configuration has the credentials of its own registry.
const DOCKER: &str = "https://index.docker.io/v1/";

/// Returns the credentials for a registry. Without any, requests are anonymous.
pub(super) fn of(registry: &str) -> Result<RegistryAuth> {
    let name = if registry == "docker.io" { DOCKER } else { registry };
    let fault = |reason: String| OciError::Credentials { registry: registry.to_owned(), reason };
    match get_credential(name) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(RegistryAuth::Basic(user, password))
        }
        Ok(DockerCredential::IdentityToken(_)) => Err(fault(format!(
            "Docker's configuration has an identity token, which this program cannot exchange; \
             `docker login {registry}` with a password or an access token replaces it"
        ))),
        Err(
            CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigNotFound,
        ) => Ok(RegistryAuth::Anonymous),
        // A helper without credentials for this registry fails with this text.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            Ok(RegistryAuth::Anonymous)
        }
        Err(CredentialRetrievalError::HelperFailure { helper, stdout, stderr }) => {
            let text = format!("{} {}", stdout.trim(), stderr.trim());
            Err(fault(format!("{helper} failed: {}", text.trim())))
        }
        Err(error) => Err(fault(error.to_string())),
    }
}
