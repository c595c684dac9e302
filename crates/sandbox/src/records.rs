//! libcontainer's records of a container, `state.json`, as far as we read and change them. libcontainer writes them in the
//! engine host.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::Value;

use crate::bundle::Bundle;

/// The records of a container.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    value: Value,
}

impl Records {
    /// Those of the container in a bundle.
    pub(crate) fn of(bundle: &Bundle) -> io::Result<Records> {
        let path = bundle.state().join("state.json");
        let value = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match value {
            Ok(value) => Ok(Records { path, value }),
            Err(error) => Err(told(&path, "read", &error)),
        }
    }

    /// libcontainer joins a process only to a container that its own records call running.
    pub(crate) fn mark_running(mut self) -> io::Result<()> {
        match self.value.get_mut("status") {
            Some(status) if status != "running" => *status = "running".into(),
            _ => return Ok(()),
        }
        // Aside first: another exec may read it, or do the same.
        let aside = self.path.with_extension(std::process::id().to_string());
        fs::write(&aside, self.value.to_string())
            .and_then(|()| fs::rename(&aside, &self.path))
            .map_err(|error| told(&self.path, "write", &error))
    }
}

fn told(path: &std::path::Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
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
        let records = Records::of(&bundle).unwrap();
        records.mark_running().unwrap();
        let state = State::load(&bundle.state()).unwrap();
        assert_eq!((state.status, state.pid), (ContainerStatus::Running, Some(7)));
    }

    #[test]
    fn records_that_are_not_there_are_named() {
        let text = Records::of(&Bundle::new("/nowhere".as_ref(), "x")).unwrap_err().to_string();
        assert!(text.starts_with("cannot read /nowhere/wherry/x/state.json: "), "{text}");
    }
}
