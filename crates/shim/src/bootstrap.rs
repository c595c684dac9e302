//! The input of `start` and its answer, in the formats of all versions of containerd.
//!
//! containerd up to 2.2 writes the runtime options to standard input and passes the rest in flags
//! and variables. It takes the address as plain text or, from 2.0 on, as JSON. From 2.3 on it
//! writes a `BootstrapParams` with all of this, and takes a `BootstrapResult`. The answer has the
//! format of the request: older daemons reject a `BootstrapResult`.
//!
//! Specification: `api/runtime/bootstrap/v1/bootstrap.proto` of containerd.

use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use wherry_protocol::RuntimeOptions;
use wherry_task::options;

use crate::args::Args;
use crate::caller;
use crate::error::{Error, Result};

const TTRPC: &str = "ttrpc";
/// The version of the Task API that containerd 2 speaks. The daemon serves version 2 too, for a
/// containerd that was replaced by an older one.
const TASK_API: u32 = 3;

/// The format in which the caller of `start` reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Only the address: containerd 1.6 and 1.7.
    Text,
    /// JSON with the version of the Task API: containerd 2.0 to 2.2.
    Json,
    /// A `BootstrapResult`: containerd 2.3 and later.
    Protobuf,
}

/// The input of `start`, from all sources.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    pub(crate) format: Format,
    /// containerd's gRPC socket.
    pub(crate) address: String,
    /// containerd's ttrpc socket, which takes events.
    pub(crate) ttrpc_address: String,
    /// The directory for the daemon's socket; the default if containerd names none.
    pub(crate) socket_dir: Option<PathBuf>,
    pub(crate) debug: bool,
    pub(crate) options: RuntimeOptions,
}

impl Bootstrap {
    /// Combines the command line, the variable `TTRPC_ADDRESS` and the contents of standard input.
    ///
    /// Malformed options are ignored: Create carries the same options and reports the fault.
    pub(crate) fn new(args: &Args, ttrpc_address: &str, stdin: &[u8]) -> Bootstrap {
        let Some(params) = bootstrap_params(args, stdin) else {
            let options = Any::parse_from_bytes(stdin).ok();
            return Bootstrap {
                format: if caller::speaks_version_3() { Format::Json } else { Format::Text },
                address: args.address.clone(),
                ttrpc_address: ttrpc_address.to_owned(),
                socket_dir: None,
                debug: args.debug,
                options: parse(options.as_ref()),
            };
        };
        let or = |field: String, flag: &str| if field.is_empty() { flag.to_owned() } else { field };
        let options = params
            .extensions
            .iter()
            .filter_map(|extension| extension.value.as_ref())
            .find(|value| options::is_type(&value.type_url));
        Bootstrap {
            format: Format::Protobuf,
            // The flag first: `delete` gets no BootstrapParams, and must find the same socket.
            address: or(args.address.clone(), &params.containerd_grpc_address),
            ttrpc_address: or(params.containerd_ttrpc_address.clone(), ttrpc_address),
            socket_dir: params
                .socket_dir
                .as_deref()
                .filter(|directory| !directory.is_empty())
                .map(PathBuf::from),
            debug: args.debug || params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
            options: parse(options),
        }
    }
}

/// Parses a `BootstrapParams`. Runtime options can be parsed as one too, so it must name the
/// container and namespace of the command line.
fn bootstrap_params(args: &Args, stdin: &[u8]) -> Option<BootstrapParams> {
    let params = BootstrapParams::parse_from_bytes(stdin).ok()?;
    (params.instance_id == args.id && params.namespace == args.namespace).then_some(params)
}

fn parse(options: Option<&Any>) -> RuntimeOptions {
    options::parse(options).unwrap_or_default()
}

/// The answer of containerd 2.0 to 2.2: `BootstrapParams` of its `pkg/shim`.
#[derive(serde::Serialize)]
struct JsonAnswer<'a> {
    version: u32,
    address: &'a str,
    protocol: &'static str,
}

/// Encodes the answer to `start`.
pub(crate) fn answer(format: Format, address: &str) -> Result<Vec<u8>> {
    match format {
        Format::Text => Ok(address.as_bytes().to_vec()),
        Format::Json => {
            serde_json::to_vec(&JsonAnswer { version: TASK_API, address, protocol: TTRPC })
                .map_err(|source| Error::EncodeJson { what: "answer to start", source })
        }
        Format::Protobuf => {
            let mut result = BootstrapResult::new();
            result.version = TASK_API.cast_signed();
            result.address = address.to_owned();
            result.protocol = TTRPC.to_owned();
            result
                .write_to_bytes()
                .map_err(|source| Error::Encode { what: "answer to start", source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::shim::oci;

    fn args() -> Args {
        let line = "-namespace ns -address /flag.sock -publish-binary /bin/c -id x start";
        Args::parse(line.split_whitespace().map(str::to_owned)).unwrap()
    }

    fn options() -> Any {
        let mut options = oci::Options::new();
        options.shim_cgroup = "/shims".into();
        let mut any = Any::new();
        any.type_url = "containerd.runc.v1.Options".into();
        any.value = options.write_to_bytes().unwrap();
        any
    }

    fn params() -> BootstrapParams {
        let mut params = BootstrapParams::new();
        params.instance_id = "x".into();
        params.namespace = "ns".into();
        params.containerd_version = "2.4.0".into();
        params.containerd_ttrpc_address = "/params.sock.ttrpc".into();
        params.containerd_grpc_address = "/params.sock".into();
        params.containerd_binary = "/bin/containerd".into();
        params
    }

    fn read(params: &BootstrapParams) -> Bootstrap {
        Bootstrap::new(&args(), "/env.sock.ttrpc", &params.write_to_bytes().unwrap())
    }

    #[test]
    fn the_address_is_said_as_containerd_takes_it() {
        let address = "unix:///run/containerd/s/0";
        assert_eq!(answer(Format::Text, address).unwrap(), address.as_bytes());
        assert_eq!(
            String::from_utf8(answer(Format::Json, address).unwrap()).unwrap(),
            r#"{"version":3,"address":"unix:///run/containerd/s/0","protocol":"ttrpc"}"#
        );
        let bytes = answer(Format::Protobuf, address).unwrap();
        let result = BootstrapResult::parse_from_bytes(&bytes).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, address));
        assert_eq!(result.protocol, "ttrpc");
    }

    #[test]
    fn options_alone_are_those_of_an_older_containerd() {
        let bootstrap =
            Bootstrap::new(&args(), "/env.sock.ttrpc", &options().write_to_bytes().unwrap());
        assert_ne!(bootstrap.format, Format::Protobuf);
        assert_eq!(bootstrap.options.shim_cgroup, "/shims");
        assert_eq!(bootstrap.ttrpc_address, "/env.sock.ttrpc");
        let none = Bootstrap::new(&args(), "", b"");
        assert_ne!(none.format, Format::Protobuf);
        assert_eq!(none.options, RuntimeOptions::default());
    }

    #[test]
    fn every_field_of_bootstrap_params_is_used() {
        let mut params = params();
        let plain = read(&params);
        assert_eq!(plain.format, Format::Protobuf);
        assert_eq!((plain.address.as_str(), plain.debug), ("/flag.sock", false));
        assert_eq!(plain.ttrpc_address, "/params.sock.ttrpc");
        assert_eq!((plain.socket_dir, plain.options), (None, RuntimeOptions::default()));

        let mut unknown = Any::new();
        unknown.type_url = "containerd.io/nri.v1.PluginConfig".into();
        for value in [unknown, options()] {
            let mut extension = Extension::new();
            extension.value = Some(value).into();
            params.extensions.push(extension);
        }
        params.log_level = LogLevel::LOG_LEVEL_TRACE.into();
        params.socket_dir = Some("/run/s".into());
        params.containerd_ttrpc_address.clear();
        let full = read(&params);
        assert!(full.debug);
        assert_eq!(full.options.shim_cgroup, "/shims");
        assert_eq!(full.socket_dir, Some("/run/s".into()));
        assert_eq!(full.ttrpc_address, "/env.sock.ttrpc");
    }

    #[test]
    fn params_of_another_container_are_not_taken_for_ours() {
        let mut params = params();
        params.instance_id = "y".into();
        assert_ne!(read(&params).format, Format::Protobuf);
    }

    #[test]
    fn params_of_another_namespace_are_not_taken_for_ours() {
        let mut params = params();
        params.namespace = "other".into();
        assert_ne!(read(&params).format, Format::Protobuf);
    }

    #[test]
    fn input_that_is_malformed_is_ignored() {
        for stdin in [&b"\xff\xff\xff"[..], b"{}", b"\x0a\xff"] {
            let bootstrap = Bootstrap::new(&args(), "/env.sock.ttrpc", stdin);
            assert_ne!(bootstrap.format, Format::Protobuf, "{stdin:?}");
            assert_eq!(bootstrap.address, "/flag.sock");
            assert_eq!(bootstrap.options, RuntimeOptions::default());
        }
    }

    #[test]
    fn an_empty_socket_directory_is_none() {
        let mut params = params();
        params.socket_dir = Some(String::new());
        assert_eq!(read(&params).socket_dir, None);
    }

    #[test]
    fn the_address_of_the_params_counts_where_the_flag_is_missing() {
        let mut args = args();
        args.address.clear();
        let bootstrap = Bootstrap::new(&args, "", &params().write_to_bytes().unwrap());
        assert_eq!(bootstrap.address, "/params.sock");
    }
}
