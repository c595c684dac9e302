//! Create: a container comes into being, with its first process.

use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse};
use ttrpc::Code;
use wherry_container::StdioPaths;
use wherry_container::{Config, Container, ContainerConfig};

use crate::convert;
use crate::error::{from_container, status, unimplemented};
use crate::options;
use crate::service::Service;

pub(crate) async fn create(
    service: &Service,
    request: CreateTaskRequest,
) -> ttrpc::Result<CreateTaskResponse> {
    valid_id(&request.id)?;
    if !request.bundle.starts_with('/') {
        let text = format!("the bundle {:?} is no absolute path", request.bundle);
        return Err(status(Code::INVALID_ARGUMENT, text));
    }
    if !request.checkpoint.is_empty() {
        return Err(unimplemented("restoring from a checkpoint"));
    }
    let Some(reserved) = service.registry().reserve(&request.id) else {
        let text = format!("container {:?} already exists", request.id);
        return Err(status(Code::ALREADY_EXISTS, text));
    };
    let options = options::parse(request.options.as_ref())
        .map_err(|text| status(Code::INVALID_ARGUMENT, text))?;
    let config = Config {
        container: ContainerConfig {
            id: request.id,
            bundle: request.bundle.into(),
            rootfs: request.rootfs.iter().map(convert::mount).collect(),
            terminal: request.terminal,
            options,
        },
        stdio: StdioPaths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr },
        cancel: reserved.cancel(),
    };
    let container = Container::create(service.runtime(), config)
        .await
        .map_err(|error| from_container(&error))?;
    let mut response = CreateTaskResponse::new();
    response.pid = convert::pid(container.pid());
    reserved.fill(container);
    Ok(response)
}

/// An id becomes part of paths.
pub(super) fn valid_id(id: &str) -> ttrpc::Result<()> {
    let fits = !id.is_empty()
        && id.len() <= 255
        && id != "."
        && id != ".."
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits {
        return Ok(());
    }
    let text = format!("{id:?} is no id: it takes letters, digits, '-', '_' and '.'");
    Err(status(Code::INVALID_ARGUMENT, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_directory() {
        for id in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(valid_id(id).is_err(), "{id:?}");
        }
        for id in ["a", "A-b_c.d", "..a"] {
            assert!(valid_id(id).is_ok(), "{id:?}");
        }
    }
}
