//! Conversions between plain types and protobuf.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde::de::DeserializeOwned;
use wherry_bundle::parse;
use wherry_protocol::Mount;

use crate::error::{Error, Result};
use crate::options::message_name;

/// A pid in the wire's type. Pids of processes are positive.
pub(crate) fn pid(pid: i32) -> u32 {
    pid.cast_unsigned()
}

/// Encodes a message as an `Any`. containerd's type URLs are the bare names of messages, without a
/// host.
///
/// `name` is a parameter because reading it from the message would link protobuf's descriptors of
/// all messages into the executable.
pub(crate) fn any(name: &str, message: &impl Message) -> Result<Any> {
    let mut any = Any::new();
    any.type_url = name.to_owned();
    any.value = message
        .write_to_bytes()
        .map_err(|source| Error::Encode { type_url: name.to_owned(), source })?;
    Ok(any)
}

/// Parses the JSON in an `Any`: a part of an OCI configuration whose type has the name `expected`.
/// containerd's type URLs end in that name.
pub(crate) fn json<T: DeserializeOwned>(
    expected: &'static str,
    field: &'static str,
    any: &Any,
) -> Result<T> {
    let found = message_name(&any.type_url);
    if !found.is_empty() && found != expected {
        return Err(Error::PayloadType { field, expected, found: any.type_url.clone() });
    }
    parse(&any.value).map_err(|error| Error::Payload { field, cause: error.to_string() })
}

/// The JSON in an `Any` as text. JSON is UTF-8.
pub(crate) fn text(field: &'static str, any: &Any) -> Result<String> {
    String::from_utf8(any.value.clone())
        .map_err(|error| Error::Payload { field, cause: error.to_string() })
}

/// Converts a mount of a request.
pub(crate) fn mount(mount: &containerd_shim_protos::api::Mount) -> Mount {
    Mount {
        fstype: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_url_is_the_bare_name() {
        use containerd_shim_protos::protobuf::MessageFull;
        use containerd_shim_protos::{cgroups, cgroups_v2, events::task, shim::oci};
        fn name<M: MessageFull>() -> String {
            M::descriptor().full_name().to_owned()
        }
        let names = [
            (name::<task::TaskCreate>(), "containerd.events.TaskCreate"),
            (name::<task::TaskExecAdded>(), "containerd.events.TaskExecAdded"),
            (name::<task::TaskStart>(), "containerd.events.TaskStart"),
            (name::<task::TaskExecStarted>(), "containerd.events.TaskExecStarted"),
            (name::<task::TaskPaused>(), "containerd.events.TaskPaused"),
            (name::<task::TaskResumed>(), "containerd.events.TaskResumed"),
            (name::<task::TaskOOM>(), "containerd.events.TaskOOM"),
            (name::<task::TaskExit>(), "containerd.events.TaskExit"),
            (name::<task::TaskDelete>(), "containerd.events.TaskDelete"),
            (name::<cgroups::metrics::Metrics>(), "io.containerd.cgroups.v1.Metrics"),
            (name::<cgroups_v2::metrics::Metrics>(), "io.containerd.cgroups.v2.Metrics"),
            (name::<oci::ProcessDetails>(), "containerd.runc.v1.ProcessDetails"),
        ];
        for (name, used) in names {
            assert_eq!(name, used);
        }
    }

    #[test]
    fn json_of_another_type_is_refused_and_without_a_type_accepted() {
        let any = |url: &str, value: &str| {
            let mut any = Any::new();
            any.type_url = url.to_owned();
            any.value = value.as_bytes().to_vec();
            any
        };
        let read = |any: &Any| json::<Vec<u32>>("Process", "process to execute", any);
        for url in ["", "Process", "types.containerd.io/opencontainers/runtime-spec/1/Process"] {
            assert_eq!(read(&any(url, "[1]")).unwrap(), [1], "{url:?}");
        }
        assert_eq!(
            read(&any("a/LinuxResources", "[1]")).unwrap_err().to_string(),
            "invalid process to execute: expected type Process, found \"a/LinuxResources\""
        );
        let text = read(&any("Process", "[-1]")).unwrap_err().to_string();
        assert!(text.starts_with("invalid process to execute: [0]: "), "{text}");
    }
}
