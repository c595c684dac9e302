//! Create: creates a container with its init process, which waits for Start.

use std::path::Path;

use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse};
use wherry_bundle::Bundle;
use wherry_container::{Config, Container, ContainerConfig, StdioPaths};
use wherry_sys::measure::{Clock, Measurement};

use crate::convert;
use crate::error::{Error, Result};
use crate::options;
use crate::service::Service;

pub(crate) async fn create(
    service: &Service,
    request: CreateTaskRequest,
) -> Result<CreateTaskResponse> {
    check_id("container", &request.id)?;
    if !request.bundle.starts_with('/') {
        return Err(Error::RelativeBundle(request.bundle));
    }
    if !request.checkpoint.is_empty() {
        return Err(Error::Unsupported("restoring from a checkpoint"));
    }
    let reserved = service.registry().reserve(&request.id, Path::new(&request.bundle))?;
    let options = options::parse(request.options.as_ref())?;
    let pod = service.pod_of(&Bundle::new(Path::new(&request.bundle), &request.id));
    let pod = pod.map(|pod| pod.bundle());
    let config = Config {
        container: ContainerConfig {
            id: request.id,
            bundle: request.bundle.into(),
            rootfs: request.rootfs.iter().map(convert::mount).collect(),
            terminal: request.terminal,
            pod,
            options,
        },
        stdio: StdioPaths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr },
        cancel: reserved.cancel(),
    };
    let clock = Clock::start();
    let created = Container::create(service.runtime(), config).await;
    let (id, success) = (reserved.id(), created.is_ok());
    clock.report(|took| Measurement::Created { id, success, took });
    let container = created?;
    let mut response = CreateTaskResponse::new();
    response.pid = convert::pid(container.pid());
    reserved.fill(container);
    Ok(response)
}

/// Checks an id, which becomes part of paths. `kind`: "container" or "exec".
pub(crate) fn check_id(kind: &'static str, id: &str) -> Result<()> {
    let valid = !id.is_empty()
        && id.len() <= 255
        && id != "."
        && id != ".."
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if valid {
        return Ok(());
    }
    Err(Error::InvalidId { kind, id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_directory() {
        for id in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(check_id("container", id).is_err(), "{id:?}");
        }
        for id in ["a", "A-b_c.d", "..a"] {
            assert!(check_id("container", id).is_ok(), "{id:?}");
        }
    }

    #[test]
    fn an_invalid_id_is_named_with_what_is_allowed() {
        assert_eq!(
            check_id("container", "a/b").unwrap_err().to_string(),
            "invalid container id \"a/b\": allowed are letters, digits, '-', '_' and '.', 255 at most"
        );
    }
}
