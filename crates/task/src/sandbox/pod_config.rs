//! Parses the configuration of a pod sandbox in a CreateSandbox request.
//!
//! containerd's CRI plugin sends no OCI configuration. It sends the `PodSandboxConfig` that it got
//! from the kubelet (`runtime.v1` in Kubernetes' `api.proto`), of which the fields below are read.
//! Any other client gets a pod with new IPC and UTS namespaces.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream};
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use wherry_container::{PodConfig, PodNamespaces};

/// The end of the type URL of the message.
const MESSAGE: &str = "runtime.v1.PodSandboxConfig";
/// The values of `NamespaceMode` that are read: shared in the pod, which is the default, or with
/// the node.
const POD: u64 = 0;
const NODE: u64 = 2;
/// The kernel parameters that containerd sets by default in the pods that it makes: the ports below
/// 1024, and ICMP sockets, are for every user.
const PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");
const PING: (&str, &str) = ("net.ipv4.ping_group_range", "0 2147483647");

/// The configuration of a pod sandbox is invalid.
#[derive(Debug, thiserror::Error)]
#[error("invalid PodSandboxConfig: {0}")]
pub struct PodConfigError(#[from] protobuf::Error);

/// The fields of a `PodSandboxConfig` that are read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    hostname: String,
    /// The content of `/etc/resolv.conf`.
    dns: Option<Dns>,
    cgroup_parent: String,
    sysctls: Vec<(String, String)>,
    namespaces: Modes,
}

/// `DNSConfig`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Dns {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// `NamespaceOption`: how namespaces are shared.
#[derive(Debug, Default, PartialEq, Eq)]
struct Modes {
    network: u64,
    pid: u64,
    ipc: u64,
    /// None without options.
    user: Option<u64>,
}

/// Converts the request.
///
/// # Errors
/// If the message is truncated, or not a protobuf message.
pub fn of(request: CreateSandboxRequest) -> Result<PodConfig, PodConfigError> {
    let message = message(request.options.as_ref())?;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let Modes { network, pid, ipc, user } = message.namespaces;
    let own_network = network != NODE;
    let user = user == Some(POD);
    let mut sysctls = message.sysctls;
    for ((name, value), applies) in [(PORTS, true), (PING, !user)] {
        if own_network && applies && sysctls.iter().all(|(known, _)| known != name) {
            sysctls.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(PodConfig {
        id: request.sandbox_id,
        bundle: request.bundle_path.into(),
        resolv_conf: message.dns.as_ref().map(Dns::to_resolv_conf),
        namespaces: PodNamespaces {
            network: given(request.netns_path).map(PathBuf::from),
            ipc: ipc != NODE,
            // As with a pause container: the host's name belongs to the host's network.
            uts: own_network,
            pid: pid == POD,
            user,
            hostname: given(message.hostname),
            sysctls,
        },
        cgroup_parent: given(message.cgroup_parent).map(PathBuf::from),
    })
}

fn message(options: Option<&Any>) -> Result<Message, PodConfigError> {
    match options {
        Some(any) if any.type_url.ends_with(MESSAGE) => Ok(Message::parse(&any.value)?),
        Some(any) => {
            log::info!("options of type {:?} for a pod sandbox are ignored", any.type_url);
            Ok(Message::of_other_clients())
        }
        None => Ok(Message::of_other_clients()),
    }
}

/// A field of a message: its number, and its value if it has one of the two types that are read.
enum Field {
    Number(u32, u64),
    Bytes(u32, Vec<u8>),
}

/// Calls `take` with each field of an encoded message.
fn each(bytes: &[u8], mut take: impl FnMut(Field) -> protobuf::Result<()>) -> protobuf::Result<()> {
    let mut stream = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        let (number, wire) = (tag >> 3, tag & 7);
        match wire {
            0 => take(Field::Number(number, stream.read_raw_varint64()?))?,
            1 => drop(stream.read_fixed64()?),
            5 => drop(stream.read_fixed32()?),
            // Groups do not exist in this version of protobuf: they fail as a length.
            _ => take(Field::Bytes(number, stream.read_bytes()?))?,
        }
    }
    Ok(())
}

/// Text is UTF-8, as the kubelet sends it; anything else is replaced and then refused by the
/// kernel.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Message {
    fn of_other_clients() -> Message {
        Message { namespaces: Modes { pid: NODE, ..Modes::default() }, ..Message::default() }
    }

    /// `PodSandboxConfig`: 2 `hostname`, 4 `dns_config`, 8 `linux`.
    fn parse(bytes: &[u8]) -> protobuf::Result<Message> {
        let mut message = Message::default();
        each(bytes, |field| {
            match field {
                Field::Bytes(2, value) => message.hostname = text(&value),
                Field::Bytes(4, value) => message.dns = Some(Dns::parse(&value)?),
                Field::Bytes(8, value) => message.parse_linux(&value)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(message)
    }

    /// `LinuxPodSandboxConfig`: 1 `cgroup_parent`, 2 `security_context`, 3 `sysctls`.
    fn parse_linux(&mut self, bytes: &[u8]) -> protobuf::Result<()> {
        each(bytes, |field| {
            match field {
                Field::Bytes(1, value) => self.cgroup_parent = text(&value),
                // `LinuxSandboxSecurityContext`: 1 `namespace_options`.
                Field::Bytes(2, value) => each(&value, |field| {
                    if let Field::Bytes(1, value) = field {
                        self.namespaces = Modes::parse(&value)?;
                    }
                    Ok(())
                })?,
                Field::Bytes(3, value) => self.sysctls.push(entry(&value)?),
                _ => {}
            }
            Ok(())
        })
    }
}

/// An entry of a map: 1 the key, 2 the value.
fn entry(bytes: &[u8]) -> protobuf::Result<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    each(bytes, |field| {
        match field {
            Field::Bytes(1, bytes) => key = text(&bytes),
            Field::Bytes(2, bytes) => value = text(&bytes),
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, value))
}

impl Dns {
    fn parse(bytes: &[u8]) -> protobuf::Result<Dns> {
        let mut dns = Dns::default();
        each(bytes, |field| {
            match field {
                Field::Bytes(1, value) => dns.servers.push(text(&value)),
                Field::Bytes(2, value) => dns.searches.push(text(&value)),
                Field::Bytes(3, value) => dns.options.push(text(&value)),
                _ => {}
            }
            Ok(())
        })?;
        Ok(dns)
    }

    /// The lines of resolv.conf(5).
    fn to_resolv_conf(&self) -> String {
        let line = |keyword: &str, words: &[String]| format!("{keyword} {}\n", words.join(" "));
        let mut lines = String::new();
        if !self.searches.is_empty() {
            lines += &line("search", &self.searches);
        }
        for server in &self.servers {
            lines += &line("nameserver", std::slice::from_ref(server));
        }
        if !self.options.is_empty() {
            lines += &line("options", &self.options);
        }
        lines
    }
}

impl Modes {
    /// `NamespaceOption`: 1 `network`, 2 `pid`, 3 `ipc`, 5 `userns_options`.
    fn parse(bytes: &[u8]) -> protobuf::Result<Modes> {
        let mut modes = Modes::default();
        each(bytes, |field| {
            match field {
                Field::Number(1, mode) => modes.network = mode,
                Field::Number(2, mode) => modes.pid = mode,
                Field::Number(3, mode) => modes.ipc = mode,
                // `UserNamespace`: 1 `mode`.
                Field::Bytes(5, value) => {
                    modes.user = Some(POD);
                    each(&value, |field| {
                        if let Field::Number(1, mode) = field {
                            modes.user = Some(mode);
                        }
                        Ok(())
                    })?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(modes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a field with a length.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        assert!(length < 128);
        [&[number << 3 | 2, length], value].concat()
    }

    fn number(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }

    fn request(config: &[Vec<u8>]) -> CreateSandboxRequest {
        let mut any = Any::new();
        any.type_url = MESSAGE.to_owned();
        any.value = config.concat();
        let mut request = CreateSandboxRequest::new();
        request.sandbox_id = "pod".to_owned();
        request.bundle_path = "/bundle".to_owned();
        request.netns_path = "/run/netns/x".to_owned();
        request.options = Some(any).into();
        request
    }

    /// `linux` with these namespace options and fields.
    fn linux(options: &[Vec<u8>], fields: &[Vec<u8>]) -> Vec<u8> {
        let security = bytes(2, &bytes(1, &options.concat()));
        bytes(8, &[security, fields.concat()].concat())
    }

    #[test]
    fn every_field_of_the_kubelet_is_read() {
        let dns = [bytes(1, b"10.0.0.10"), bytes(2, b"svc.local"), bytes(3, b"ndots:5")].concat();
        let sysctl = [bytes(1, b"kernel.shm_rmid_forced"), bytes(2, b"1")].concat();
        let pid_of_container = number(2, 1);
        let config = of(request(&[
            bytes(1, b"metadata"),
            bytes(2, b"web-0"),
            bytes(4, &dns),
            linux(&[pid_of_container], &[bytes(1, b"/kubepods/pod1"), bytes(3, &sysctl)]),
        ]))
        .unwrap();
        let expected = "search svc.local\nnameserver 10.0.0.10\noptions ndots:5\n";
        assert_eq!(config.resolv_conf.as_deref(), Some(expected));
        assert_eq!(config.cgroup_parent, Some("/kubepods/pod1".into()));
        let namespaces = config.namespaces;
        assert_eq!(namespaces.network, Some("/run/netns/x".into()));
        assert_eq!(namespaces.hostname.as_deref(), Some("web-0"));
        assert!(namespaces.ipc && namespaces.uts && !namespaces.pid && !namespaces.user);
        let names: Vec<&str> = namespaces.sysctls.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["kernel.shm_rmid_forced", PORTS.0, PING.0]);
    }

    #[test]
    fn a_pod_shares_what_its_options_say() {
        let host = of(request(&[linux(&[number(1, 2), number(2, 2), number(3, 2)], &[])])).unwrap();
        let namespaces = host.namespaces;
        assert!(!namespaces.ipc && !namespaces.uts && !namespaces.pid);
        assert!(namespaces.sysctls.is_empty(), "they would be the host's");
        let shared = of(request(&[linux(&[bytes(5, &number(1, 0))], &[])])).unwrap().namespaces;
        assert!(shared.pid && shared.user);
        let own = of(request(&[linux(&[number(2, 1), bytes(5, &number(1, 2))], &[])])).unwrap();
        assert!(!own.namespaces.pid && !own.namespaces.user);
    }

    #[test]
    fn a_client_without_a_kubelet_gets_namespaces_without_an_init_process() {
        let mut plain = request(&[]);
        plain.options = None.into();
        let mut other = request(&[bytes(2, b"x")]);
        other.options.mut_or_insert_default().type_url = "other".to_owned();
        for request in [plain, other] {
            let namespaces = of(request).unwrap().namespaces;
            assert!(namespaces.ipc && namespaces.uts && !namespaces.pid && !namespaces.user);
            assert_eq!(namespaces.hostname, None);
        }
    }

    #[test]
    fn a_truncated_message_is_invalid() {
        let error = of(request(&[vec![2 << 3 | 2, 100]])).unwrap_err().to_string();
        assert!(error.starts_with("invalid PodSandboxConfig: "), "{error}");
    }
}
