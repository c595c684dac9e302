//! Credentials from Docker's configuration and its helpers.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::secrets::RegistryAuth;

use crate::error::{OciError, Result};

/// The name of docker.io in Docker's configuration.
const DOCKER: &str = "https://index.docker.io/v1/";

/// Returns the credentials for a registry. Without any, requests are anonymous.
pub(super) fn of(registry: &str) -> Result<RegistryAuth> {
    let name = if registry == "docker.io" { DOCKER } else { registry };
    let fault = |reason: String| OciError::Credentials { registry: registry.to_owned(), reason };
    let Some(path) = configuration() else { return Ok(RegistryAuth::Anonymous) };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(RegistryAuth::Anonymous);
        }
        Err(error) => return Err(OciError::file("read", path)(error)),
    };
    match get_credential_from_reader(file, name) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(RegistryAuth::Basic(user, password))
        }
        Ok(DockerCredential::IdentityToken(_)) => Err(fault(format!(
            "Docker's configuration has an identity token, which this program cannot exchange; \
             `docker login {registry}` with a password or an access token replaces it"
        ))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        Err(CredentialRetrievalError::ConfigReadError) => {
            Err(fault(format!("{} is not Docker's configuration", path.display())))
        }
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

/// Returns the path of Docker's configuration. `None`: the user has no home.
fn configuration() -> Option<PathBuf> {
    let of =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = of("DOCKER_CONFIG").or_else(|| of("HOME").map(|home| home.join(".docker")))?;
    Some(folder.join("config.json"))
}
