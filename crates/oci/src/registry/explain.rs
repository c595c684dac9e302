//! The errors of oci-client, in sentences for a user.

use std::time::Duration;

use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_spec::distribution::Reference;

/// Returns the reason of a failure, with advice where there is one.
pub(super) fn reason(
    error: &OciDistributionError,
    reference: &Reference,
    timeout: Duration,
) -> String {
    let registry = reference.registry();
    if is_refused(error) {
        return format!(
            "the registry refused access: the image does not exist, or its credentials are missing, wrong or \
             expired; `docker login {registry}` stores new ones"
        );
    }
    if is_missing(error) {
        return "the registry has no such image".to_owned();
    }
    match error {
        OciDistributionError::RequestError(request) if request.is_timeout() => stalled(timeout),
        OciDistributionError::IoError(error) if root(error).contains("timed out") => {
            stalled(timeout)
        }
        OciDistributionError::RequestError(request) if request.is_connect() => {
            let cause = root(request);
            let advice = if cause.contains("InvalidContentType") || cause.contains("wrong version")
            {
                "; --plain-http connects without TLS"
            } else if cause.contains("certificate") || cause.contains("UnknownIssuer") {
                "; --certificate names the file of its authority"
            } else {
                ""
            };
            format!("cannot connect to {registry}: {cause}{advice}")
        }
        OciDistributionError::RequestError(request) => {
            format!("the connection to {registry} failed: {}", root(request))
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let texts: Vec<String> = envelope
                .errors
                .iter()
                .map(|error| format!("{} ({:?})", error.message, error.code))
                .collect();
            format!("the registry answered: {}", texts.join("; "))
        }
        OciDistributionError::ServerError { code, message, .. } => {
            let line = message.lines().next().unwrap_or_default();
            let line: String = line.chars().take(200).collect();
            format!("the registry answered with the status {code} {line}").trim_end().to_owned()
        }
        OciDistributionError::IoError(error) => {
            format!("the connection to {registry} failed: {}", root(error))
        }
        other => other.to_string(),
    }
}

fn stalled(timeout: Duration) -> String {
    let seconds = timeout.as_secs();
    format!("the registry stalled: nothing arrived for {seconds} s; --timeout waits longer")
}

/// Returns the text of the innermost cause.
fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn has_code(error: &OciDistributionError, codes: &[OciErrorCode]) -> bool {
    match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| codes.contains(&error.code))
        }
        _ => false,
    }
}

fn is_refused(error: &OciDistributionError) -> bool {
    matches!(
        error,
        OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. }
    ) || has_code(error, &[OciErrorCode::Unauthorized, OciErrorCode::Denied])
        || matches!(error, OciDistributionError::RequestError(request)
            if request.status().is_some_and(|status| [401, 403].contains(&status.as_u16())))
}

/// Returns true if the registry lacks the requested content.
pub(super) fn is_missing(error: &OciDistributionError) -> bool {
    use OciErrorCode::{BlobUnknown, ManifestUnknown, NameUnknown, NotFound};
    matches!(
        error,
        OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. }
    ) || has_code(error, &[ManifestUnknown, NameUnknown, NotFound, BlobUnknown])
}

/// Returns true for oci-client's own comparison of a digest, which arrives as an error of the
/// stream.
pub(super) fn is_damage(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<DigestError>())
}

/// Returns true for a failure that a repetition may not have.
pub(super) fn may_pass(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ServerError { code, .. } => *code == 429 || *code >= 500,
        OciDistributionError::RequestError(request) => {
            let status = request.status().map(|status| status.as_u16());
            // A certificate does not become valid.
            !request.is_builder()
                && !root(request).contains("certificate")
                && status.is_none_or(|code| code == 429 || code >= 500)
        }
        OciDistributionError::IoError(error) => !is_damage(error),
        _ => has_code(error, &[OciErrorCode::Toomanyrequests]),
    }
}
