//! Between plain types and protobuf.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use serde::de::DeserializeOwned;
use ttrpc::Code;
use wherry_bundle::parse;
use wherry_protocol::Mount;

use crate::error::status;

/// A pid as the wire has it. Pids of processes are positive.
pub(crate) fn pid(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or(0)
}

/// A moment, as seconds and nanoseconds since 1970.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut timestamp = Timestamp::new();
    timestamp.seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    timestamp.nanos = i32::try_from(since.subsec_nanos()).unwrap_or(0);
    timestamp
}

/// A message in an envelope. containerd's type URLs are the messages' bare names, without a host. The message
/// itself is not asked: all that protobuf knows about all messages would be part of the executable.
pub(crate) fn any(name: &str, message: &impl Message) -> ttrpc::Result<Any> {
    let mut any = Any::new();
    any.type_url = name.to_owned();
    any.value = message.write_to_bytes().map_err(|error| {
        status(Code::INTERNAL, format!("cannot encode {}: {error}", any.type_url))
    })?;
    Ok(any)
}

/// What the JSON in an envelope says: a part of an OCI configuration, of the type that is called `name`.
/// containerd's type URLs end in that name.
pub(crate) fn json<T: DeserializeOwned>(name: &str, what: &str, any: &Any) -> ttrpc::Result<T> {
    let wrong = |text: String| status(Code::INVALID_ARGUMENT, format!("{what}: {text}"));
    let kind = any.type_url.rsplit('/').next().unwrap_or_default();
    if !kind.is_empty() && kind != name {
        return Err(wrong(format!("{:?} came in place of {name}", any.type_url)));
    }
    parse(&any.value).map_err(|error| wrong(error.to_string()))
}

/// The JSON in an envelope as it is. JSON is UTF-8.
pub(crate) fn text(what: &str, any: &Any) -> ttrpc::Result<String> {
    String::from_utf8(any.value.clone())
        .map_err(|error| status(Code::INVALID_ARGUMENT, format!("{what}: {error}")))
}

/// A mount of a request.
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
    use std::time::Duration;

    #[test]
    fn a_moment_keeps_its_nanoseconds() {
        let stamp = timestamp(UNIX_EPOCH + Duration::new(5, 7));
        assert_eq!((stamp.seconds, stamp.nanos), (5, 7));
    }

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
}
