//! The document of a handover: JSON, with a number for its form.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wherry_sys::daemon::Inherited;
use wherry_sys::handover::{Descriptor, Outgoing};
use wherry_sys::logger::SavedLog;
use wherry_sys::socket::SocketName;
use wherry_task::SavedService;

use super::Upgrade;
use crate::Shim;
use crate::info::VERSION;

/// The form of the document and of all that a container keeps over a handover: the files of its
/// bundle, and the messages of its process until Start. A change of one of them increments it.
const FORM: u32 = 1;

/// The fields that every form has.
#[derive(Debug, Deserialize)]
struct Head {
    form: u32,
    version: String,
    runtime: String,
}

/// A document.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    form: u32,
    /// The version that wrote it.
    version: String,
    runtime: String,
    /// All descriptors that the other fields name.
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) daemon: SavedDaemon,
    pub(super) service: SavedService,
}

/// The daemon, without its service.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedDaemon {
    pub(super) executable: PathBuf,
    pub(super) title: Vec<String>,
    pub(super) namespace: String,
    pub(super) ttrpc_address: String,
    pub(super) debug: bool,
    pub(super) upgrades: u64,
    /// When the service was suspended.
    pub(super) since: SystemTime,
    pub(super) listener: Descriptor,
    pub(super) name: SocketName,
    pub(super) log: SavedLog,
    pub(super) inherited: Inherited,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It has another form.
    #[error(
        "version {VERSION} reads form {FORM} of a running shim's state, and the shim, of version \
         {version}, writes form {form}: its containers must be restarted for this upgrade"
    )]
    Form {
        /// The form of the document.
        form: u32,
        /// The version that wrote it.
        version: String,
    },
    /// It is the state of another runtime.
    #[error("this is the executable of the runtime {own:?}, and the shim is one of {runtime:?}")]
    Runtime {
        /// The runtime of this executable.
        own: String,
        /// The runtime of the document.
        runtime: String,
    },
    /// It cannot be parsed.
    #[error("cannot parse the state of the running shim: {0}")]
    Parse(#[from] serde_json::Error),
}

impl Document {
    /// The document of a daemon whose service is saved. `out` has the service's descriptors.
    pub(super) fn new(
        daemon: &Upgrade<'_>,
        service: SavedService,
        since: SystemTime,
        out: &mut Outgoing,
    ) -> Document {
        let saved = SavedDaemon {
            executable: daemon.executable.clone(),
            title: daemon.title.clone(),
            namespace: daemon.namespace.clone(),
            ttrpc_address: daemon.ttrpc_address.clone(),
            debug: daemon.debug,
            upgrades: daemon.upgrades,
            since,
            listener: out.add(&daemon.listener),
            name: daemon.name.clone(),
            log: daemon.log.save(out),
            inherited: Inherited::save(),
        };
        Document {
            form: FORM,
            version: VERSION.to_owned(),
            runtime: daemon.shim.name(),
            descriptors: out.descriptors().to_vec(),
            daemon: saved,
            service,
        }
    }

    /// Parses a document for this executable.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub(super) fn parse(shim: Shim, bytes: &[u8]) -> Result<Document, DocumentError> {
        // Another form may have other fields.
        let Head { form, version, runtime } = serde_json::from_slice(bytes)?;
        if form != FORM {
            return Err(DocumentError::Form { form, version });
        }
        let own = shim.name();
        if runtime != own {
            return Err(DocumentError::Runtime { own, runtime });
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sharing;

    const SHIM: Shim = Shim { engine: "e", sharing: Sharing::Manager };

    fn error(document: &str) -> String {
        Document::parse(SHIM, document.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_document_of_another_form_or_runtime_is_refused_with_the_reason() {
        let text = error(r#"{"form": 2, "version": "9.9", "runtime": "ed", "new": true}"#);
        assert_eq!(
            text,
            format!(
                "version {VERSION} reads form 1 of a running shim's state, and the shim, of version \
                 9.9, writes form 2: its containers must be restarted for this upgrade"
            )
        );
        let text = error(r#"{"form": 1, "version": "9.9", "runtime": "e"}"#);
        assert_eq!(
            text,
            "this is the executable of the runtime \"ed\", and the shim is one of \"e\""
        );
    }

    #[test]
    fn a_document_that_is_incomplete_names_the_field() {
        let text = error(r#"{"form": 1, "version": "0.1", "runtime": "ed"}"#);
        assert!(text.contains("missing field `descriptors`"), "{text}");
        assert!(error("{").starts_with("cannot parse the state of the running shim: "));
    }
}
