//! The options of a runtime, as clients send them with Create and to `-info`.
//!
//! There are three ways: `containerd.runc.v1.Options` (Go clients, `ctr`, containerd's CRI for
//! runtimes that it knows), `runtimeoptions.v1.Options` with TOML (CRI and Docker for all
//! others), and none. What does not concern this runtime is accepted; what nobody knows is
//! logged.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedInputStream, Message};
use containerd_shim_protos::shim::oci;
use wherry_protocol::RuntimeOptions;
use wherry_protocol::options::KEYS;

/// More than any file of options has, bytes.
const OPTIONS_MAX: u64 = 1 << 20;

/// What runc's options have besides, and has no meaning here.
const WITHOUT_MEANING: [&str; 8] = [
    "BinaryName",
    "CriuImagePath",
    "CriuPath",
    "CriuWorkPath",
    "NoNewKeyring",
    "Root",
    "TaskApiAddress",
    "TaskApiVersion",
];

/// Parses the options of a request.
///
/// # Errors
/// If they are malformed, or a known key has a value of the wrong type.
pub fn parse(any: Option<&Any>) -> Result<RuntimeOptions, String> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
        return Ok(RuntimeOptions::default());
    };
    // The name may have a host before it.
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "containerd.runc.v1.Options" => {
            let runc = oci::Options::parse_from_bytes(&any.value)
                .map_err(|error| format!("runtime options of type {}: {error}", any.type_url))?;
            Ok(RuntimeOptions {
                systemd_cgroup: runc.systemd_cgroup,
                no_pivot_root: runc.no_pivot_root,
                shim_cgroup: runc.shim_cgroup,
                io_uid: runc.io_uid,
                io_gid: runc.io_gid,
                plugins: PathBuf::new(),
                no_engine_seccomp: false,
            })
        }
        "runtimeoptions.v1.Options" => {
            let generic = Generic::parse(&any.value)
                .map_err(|error| format!("runtime options of type {}: {error}", any.type_url))?;
            generic.read()
        }
        _ => {
            log::warn!("runtime options of an unknown type are ignored: {}", any.type_url);
            Ok(RuntimeOptions::default())
        }
    }
}

fn from_toml(text: &str, place: &str) -> Result<RuntimeOptions, String> {
    let failed =
        |error: toml::de::Error| format!("runtime options in {place}: {}", error.message());
    let table: toml::Table = toml::from_str(text).map_err(failed)?;
    for key in table.keys() {
        if !KEYS.contains(&key.as_str()) && !WITHOUT_MEANING.contains(&key.as_str()) {
            log::warn!("an unknown runtime option is ignored: {key} in {place}");
        }
    }
    toml::from_str(text).map_err(failed)
}

/// `runtimeoptions.v1.Options`: which type of options, and TOML, in a file or in the message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Generic {
    config_path: String,
    config_body: Vec<u8>,
}

impl Generic {
    /// Fields: 1 `type_url`, 2 `config_path`, 3 `config_body`.
    fn parse(bytes: &[u8]) -> containerd_shim_protos::protobuf::Result<Generic> {
        let mut generic = Generic::default();
        let mut stream = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = stream.read_raw_tag_or_eof()? {
            match tag {
                0x12 => generic.config_path = stream.read_string()?,
                0x1a => generic.config_body = stream.read_bytes()?,
                other => {
                    let wire = other & 7;
                    match wire {
                        0 => drop(stream.read_raw_varint64()?),
                        1 => drop(stream.read_fixed64()?),
                        5 => drop(stream.read_fixed32()?),
                        _ => drop(stream.read_bytes()?),
                    }
                }
            }
        }
        Ok(generic)
    }

    fn read(&self) -> Result<RuntimeOptions, String> {
        if !self.config_body.is_empty() {
            let text = std::str::from_utf8(&self.config_body)
                .map_err(|_| "runtime options: the TOML is not UTF-8".to_owned())?;
            return from_toml(text, "the runtime's configuration");
        }
        if self.config_path.is_empty() {
            return Ok(RuntimeOptions::default());
        }
        let text = read(Path::new(&self.config_path)).map_err(|error| {
            format!("runtime options: cannot read {}: {error}", self.config_path)
        })?;
        from_toml(&text, &self.config_path)
    }
}

/// Reads a file, and nothing that has no end or makes its reader wait.
fn read(path: &Path) -> io::Result<String> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(OPTIONS_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        let mut any = Any::new();
        any.type_url = type_url.to_owned();
        any.value = value;
        any
    }

    fn generic(path: &str, body: &str) -> Any {
        let mut value = vec![0x0a, 1, b'x'];
        for (tag, text) in [(0x12, path), (0x1a, body)] {
            if !text.is_empty() {
                value.extend([tag, u8::try_from(text.len()).unwrap()]);
                value.extend(text.as_bytes());
            }
        }
        any("runtimeoptions.v1.Options", value)
    }

    #[test]
    fn none_and_unknown_types_are_the_default() {
        assert_eq!(parse(None), Ok(RuntimeOptions::default()));
        assert_eq!(parse(Some(&any("", vec![]))), Ok(RuntimeOptions::default()));
        assert_eq!(parse(Some(&any("who.Knows", vec![1, 2]))), Ok(RuntimeOptions::default()));
    }

    #[test]
    fn runcs_own_message() {
        let mut runc = oci::Options::new();
        runc.systemd_cgroup = true;
        runc.io_uid = 7;
        runc.shim_cgroup = "/shims".into();
        let bytes = runc.write_to_bytes().unwrap();
        for url in ["containerd.runc.v1.Options", "type.googleapis.com/containerd.runc.v1.Options"]
        {
            let options = parse(Some(&any(url, bytes.clone()))).unwrap();
            assert!(options.systemd_cgroup);
            assert_eq!((options.io_uid, options.shim_cgroup.as_str()), (7, "/shims"));
        }
        assert!(parse(Some(&any("containerd.runc.v1.Options", vec![0xff]))).is_err());
    }

    #[test]
    fn toml_in_the_message() {
        let options = generic("", "SystemdCgroup = true\nBinaryName = \"x\"\nWhatIsThis = 1\n");
        let options = parse(Some(&options)).unwrap();
        assert!(options.systemd_cgroup && !options.no_engine_seccomp);
        let options = parse(Some(&generic("", "NoEngineSeccomp = true\n"))).unwrap();
        assert!(options.no_engine_seccomp);
    }

    #[test]
    fn toml_in_a_file() {
        let path = std::env::temp_dir().join(format!("wherry-options-{}", std::process::id()));
        std::fs::write(&path, "IoUid = 5").unwrap();
        let options = parse(Some(&generic(path.to_str().unwrap(), ""))).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(options.io_uid, 5);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = parse(Some(&generic("", "SystemdCgroup = 3"))).unwrap_err();
        assert!(wrong.contains("the runtime's configuration"), "{wrong}");
        let missing = parse(Some(&generic("/no/such", ""))).unwrap_err();
        assert!(missing.contains("cannot read /no/such"), "{missing}");
        assert!(parse(Some(&any("runtimeoptions.v1.Options", vec![0x1a, 200]))).is_err());
    }
}
