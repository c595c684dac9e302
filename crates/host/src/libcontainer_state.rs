//! libcontainer's state of a container, `state.json`, which libcontainer writes in the engine host.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use wherry_bundle::Bundle;

use crate::error::HostError;

/// The state of a container.
#[derive(Debug)]
pub(crate) struct ContainerState {
    path: PathBuf,
    value: Value,
}

impl ContainerState {
    /// Reads the state of the container in a bundle.
    pub(crate) fn of(bundle: &Bundle) -> Result<ContainerState, HostError> {
        let path = bundle.state().join("state.json");
        let value = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match value {
            Ok(value) => Ok(ContainerState { path, value }),
            Err(error) => Err(HostError::path("read", &path, error)),
        }
    }

    /// Sets the status to running: libcontainer adds a process only to a running container.
    pub(crate) fn mark_running(mut self) -> Result<(), HostError> {
        match self.value.get_mut("status") {
            Some(status) if status != "running" => *status = "running".into(),
            _ => return Ok(()),
        }
        // Through a temporary file: another exec may read it, or do the same.
        let temporary = self.path.with_extension(std::process::id().to_string());
        fs::write(&temporary, self.value.to_string())
            .and_then(|()| fs::rename(&temporary, &self.path))
            .map_err(|error| HostError::path("write", &self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libcontainer::container::{ContainerStatus, State};

    #[test]
    fn libcontainer_understands_what_was_changed() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(directory.path(), "x");
        fs::create_dir_all(bundle.state()).unwrap();
        let path = directory.path().to_owned();
        State::new("x", ContainerStatus::Created, Some(7), path).save(&bundle.state()).unwrap();
        let state = ContainerState::of(&bundle).unwrap();
        state.mark_running().unwrap();
        let state = State::load(&bundle.state()).unwrap();
        assert_eq!((state.status, state.pid), (ContainerStatus::Running, Some(7)));
    }

    #[test]
    fn records_that_are_not_there_are_named() {
        let text =
            ContainerState::of(&Bundle::new("/nowhere".as_ref(), "x")).unwrap_err().to_string();
        assert!(text.starts_with("cannot read /nowhere/wherry/x/state.json: "), "{text}");
    }
}
