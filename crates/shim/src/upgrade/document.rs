//! The document of a handover: a head that every form has, then the state.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wherry_sys::daemon::Inherited;
use wherry_sys::handover::{self, Descriptor, Outgoing};
use wherry_sys::logger::SavedLog;
use wherry_sys::socket::SocketName;
use wherry_task::SavedService;

use super::Upgrade;
use crate::Shim;
use crate::info::VERSION;
use crate::operator::{self, Manager};

/// The form of the document and of all that a container keeps over a handover: the files of its
/// bundle, and the messages of its process until Start. A change of one of them increments it.
const FORM: u32 = 2;

/// The beginning of every form.
#[derive(Serialize, Deserialize)]
struct Head {
    form: u32,
    /// The version that wrote it.
    version: String,
    runtime: String,
}

/// The state of a daemon.
#[derive(Serialize, Deserialize)]
pub(super) struct Document {
    /// All descriptors that the other fields name.
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) daemon: SavedDaemon,
    pub(super) service: SavedService,
}

/// The daemon, without its service.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedDaemon {
    pub(super) executable: PathBuf,
    pub(super) title: Vec<String>,
    pub(super) managed: Option<(Manager, operator::Settings)>,
    pub(super) namespace: String,
    pub(super) ttrpc_address: String,
    pub(super) debug: bool,
    pub(super) upgrades: u64,
    /// When the service was suspended.
    pub(super) since: SystemTime,
    pub(super) listener: Descriptor,
    pub(super) name: SocketName,
    /// None if the log goes to standard error: systemd runs the daemon.
    pub(super) log: Option<SavedLog>,
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
    Parse(#[from] io::Error),
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
            managed: daemon.managed.clone(),
            namespace: daemon.namespace.clone(),
            ttrpc_address: daemon.ttrpc_address.clone(),
            debug: daemon.debug,
            upgrades: daemon.upgrades,
            since,
            listener: out.add(&daemon.listener),
            name: daemon.name.clone(),
            log: daemon.log.map(|log| log.save(out)),
            inherited: Inherited::save(),
        };
        Document { descriptors: out.descriptors().to_vec(), daemon: saved, service }
    }

    /// The bytes of the document that a daemon of this executable writes.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub(super) fn write(&self, shim: Shim) -> io::Result<Vec<u8>> {
        let head = Head { form: FORM, version: VERSION.to_owned(), runtime: shim.name() };
        handover::encode(handover::encode(Vec::new(), &head)?, self)
    }

    /// Parses a document for this executable.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub(super) fn parse(shim: Shim, mut bytes: &[u8]) -> Result<Document, DocumentError> {
        // Another form continues in another way.
        let Head { form, version, runtime } = handover::decode(&mut bytes)?;
        if form != FORM {
            return Err(DocumentError::Form { form, version });
        }
        let own = shim.name();
        if runtime != own {
            return Err(DocumentError::Runtime { own, runtime });
        }
        Ok(handover::decode(&mut bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sharing;
    use wherry_supervisor::Engines;

    const SHIM: Shim =
        Shim { engine: "e", find: Engines::find, sharing: Sharing::Manager, operator: None };

    fn head(form: u32, runtime: &str) -> Vec<u8> {
        let head = Head { form, version: "9.9".to_owned(), runtime: runtime.to_owned() };
        handover::encode(Vec::new(), &head).unwrap()
    }

    fn error(document: &[u8]) -> String {
        Document::parse(SHIM, document).err().unwrap().to_string()
    }

    #[test]
    fn a_document_of_another_form_or_runtime_is_refused_with_the_reason() {
        let text = error(&[head(FORM + 1, "ed"), b"more".to_vec()].concat());
        assert_eq!(
            text,
            format!(
                "version {VERSION} reads form {FORM} of a running shim's state, and the shim, of \
                 version 9.9, writes form {}: its containers must be restarted for this upgrade",
                FORM + 1
            )
        );
        assert_eq!(
            error(&head(FORM, "e")),
            "this is the executable of the runtime \"ed\", and the shim is one of \"e\""
        );
    }

    #[test]
    fn a_document_that_is_incomplete_is_refused() {
        for document in [&head(FORM, "ed")[..], b"\x01", b""] {
            let text = error(document);
            assert!(text.starts_with("cannot parse the state of the running shim: "), "{text}");
        }
    }

    #[test]
    fn the_settings_of_a_manager_are_the_same_after_a_handover() {
        use operator::Metrics::{ControlSocket, Loopback, Off};
        let loopback = Loopback("[::1]:9000".parse().unwrap());
        let metrics = [Off, ControlSocket, loopback].into_iter().cycle();
        for (log_level, metrics) in log::LevelFilter::iter().zip(metrics) {
            let idle = std::time::Duration::from_millis(1500);
            let settings = operator::Settings {
                idle,
                spare_hosts: 3,
                spare_idle: 2 * idle,
                log_level,
                metrics,
                systemd: true,
            };
            assert_eq!(handover::copy(&settings), settings);
        }
    }
}
