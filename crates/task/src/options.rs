//! The runtime options that clients send with Create, `start` and `-info`.
//!
//! They arrive as `containerd.runc.v1.Options` (Go clients, `ctr`, containerd's CRI for runtimes
//! that it knows), as `runtimeoptions.v1.Options` with TOML (CRI and Docker for all other
//! runtimes), or not at all. runc's options without a meaning here are accepted; unknown options
//! are logged and ignored.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::Utf8Error;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, CodedInputStream, Message};
use containerd_shim_protos::shim::oci;
use serde_json::Value;
use toml::de::{DeTable, DeValue};
use wherry_protocol::RuntimeOptions;
use wherry_protocol::options::KEYS;

/// The largest file of options that is read, bytes.
const OPTIONS_MAX: u64 = 1 << 20;

/// Options of runc without a meaning here.
const IGNORED: [&str; 8] = [
    "BinaryName",
    "CriuImagePath",
    "CriuPath",
    "CriuWorkPath",
    "NoNewKeyring",
    "Root",
    "TaskApiAddress",
    "TaskApiVersion",
];

/// Why runtime options are invalid.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The protobuf message is malformed.
    #[error("invalid runtime options of type {type_url}: {source}")]
    Message {
        /// The type of the message.
        type_url: String,
        /// The fault.
        source: protobuf::Error,
    },
    /// The TOML in the message is not text.
    #[error("invalid runtime options: the TOML is not UTF-8: {0}")]
    NotUtf8(#[from] Utf8Error),
    /// The TOML is malformed.
    #[error("invalid runtime options in {place}: {}", .source.message())]
    Toml {
        /// The file, or the message.
        place: String,
        /// The fault.
        source: Box<toml::de::Error>,
    },
    /// An option has a value of the wrong type.
    #[error("invalid runtime options in {place}: {source}")]
    Option {
        /// The file, or the message.
        place: String,
        /// The fault.
        source: serde_json::Error,
    },
    /// The file of options cannot be read.
    #[error("cannot read runtime options from {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The type of runc's options.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
/// The type of options in TOML.
const GENERIC_OPTIONS: &str = "runtimeoptions.v1.Options";

/// Whether a message of this type can hold runtime options.
#[must_use]
pub fn is_type(type_url: &str) -> bool {
    [RUNC_OPTIONS, GENERIC_OPTIONS].contains(&message_name(type_url))
}

/// Parses the options that came with a request.
///
/// # Errors
/// When the message is malformed, or a supported option has a value of the wrong type.
pub fn parse(any: Option<&Any>) -> Result<RuntimeOptions, OptionsError> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
        return Ok(RuntimeOptions::default());
    };
    let malformed = |source| OptionsError::Message { type_url: any.type_url.clone(), source };
    match message_name(&any.type_url) {
        RUNC_OPTIONS => {
            let runc = oci::Options::parse_from_bytes(&any.value).map_err(malformed)?;
            Ok(RuntimeOptions {
                systemd_cgroup: runc.systemd_cgroup,
                no_pivot_root: runc.no_pivot_root,
                shim_cgroup: runc.shim_cgroup,
                io_uid: runc.io_uid,
                io_gid: runc.io_gid,
                ..RuntimeOptions::default()
            })
        }
        GENERIC_OPTIONS => Generic::parse(&any.value).map_err(malformed)?.read(),
        _ => {
            log::warn!("ignored runtime options of the unknown type {}", any.type_url);
            Ok(RuntimeOptions::default())
        }
    }
}

fn from_toml(text: &str, place: &str) -> Result<RuntimeOptions, OptionsError> {
    let place = || place.to_owned();
    let malformed = |source| OptionsError::Toml { place: place(), source: Box::new(source) };
    let table = DeTable::parse(text).map_err(malformed)?;
    let mut options = serde_json::Map::new();
    for (key, value) in table.get_ref() {
        let key = key.get_ref().as_ref();
        if KEYS.contains(&key) {
            options.insert(key.to_owned(), json(value.get_ref()));
        } else if !IGNORED.contains(&key) {
            log::warn!("ignored the unknown runtime option {key} in {}", place());
        }
    }
    serde_json::from_value(options.into())
        .map_err(|source| OptionsError::Option { place: place(), source })
}

/// A value of an option in JSON, whose parser is linked for configurations. No option is a date or
/// a number with a fraction.
fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().into()
        }
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Array(_) => Value::Array(Vec::new()),
        DeValue::Table(_) => Value::Object(serde_json::Map::new()),
        DeValue::Float(_) | DeValue::Datetime(_) => Value::Null,
    }
}

/// The name of a message, without the host that a type URL may have.
pub(crate) fn message_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// `runtimeoptions.v1.Options`: TOML, in a file or in the message.
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

    fn read(&self) -> Result<RuntimeOptions, OptionsError> {
        if !self.config_body.is_empty() {
            let text = std::str::from_utf8(&self.config_body)?;
            return from_toml(text, "the runtime's configuration");
        }
        if self.config_path.is_empty() {
            return Ok(RuntimeOptions::default());
        }
        let path = Path::new(&self.config_path);
        let text =
            read(path).map_err(|source| OptionsError::Read { path: path.to_owned(), source })?;
        from_toml(&text, &self.config_path)
    }
}

/// Reads a regular file. A device or a named pipe could block, or have no end.
fn read(path: &Path) -> io::Result<String> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
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
        for none in [None, Some(any("", vec![])), Some(any("who.Knows", vec![1, 2]))] {
            assert_eq!(parse(none.as_ref()).unwrap(), RuntimeOptions::default());
        }
        assert!(is_type("x/containerd.runc.v1.Options") && !is_type("who.Knows"));
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
        let wrong = parse(Some(&generic("", "SystemdCgroup = 3"))).unwrap_err().to_string();
        assert_eq!(
            wrong,
            "invalid runtime options in the runtime's configuration: invalid type: integer `3`, \
             expected a boolean"
        );
        for value in ["true", "[1]", "{x = 1}", "1.5", "-1", "2026-01-01", "99999999999999999999"] {
            let wrong = parse(Some(&generic("", &format!("IoUid = {value}"))));
            assert!(wrong.is_err(), "{value}");
        }
        assert!(parse(Some(&generic("", "IoUid ="))).is_err());
        let missing = parse(Some(&generic("/no/such", ""))).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read runtime options from /no/such: "), "{missing}");
        assert!(parse(Some(&any("runtimeoptions.v1.Options", vec![0x1a, 200]))).is_err());
    }

    #[test]
    fn a_body_counts_more_than_a_file() {
        let options = parse(Some(&generic("/no/such", "IoGid = 6"))).unwrap();
        assert_eq!(options.io_gid, 6);
        let options = parse(Some(&generic("", "IoGid = 0x1f\nPlugins = '/p'"))).unwrap();
        assert_eq!((options.io_gid, options.plugins.to_str()), (31, Some("/p")));
    }

    #[test]
    fn options_that_only_runc_has_are_accepted() {
        let toml = IGNORED.map(|key| format!("{key} = \"x\"\n")).concat();
        assert_eq!(from_toml(&toml, "a test").unwrap(), RuntimeOptions::default());
    }

    #[test]
    fn a_file_of_options_that_is_a_device_or_a_directory_is_not_read() {
        for path in ["/dev/zero", "/"] {
            let refused = parse(Some(&generic(path, ""))).unwrap_err().to_string();
            let expected = format!("cannot read runtime options from {path}: not a regular file");
            assert_eq!(refused, expected);
        }
    }

    #[test]
    fn toml_that_is_not_text_is_refused() {
        let body = vec![0x1a, 2, 0xff, 0xfe];
        let refused = parse(Some(&any("runtimeoptions.v1.Options", body))).unwrap_err().to_string();
        assert!(
            refused.starts_with("invalid runtime options: the TOML is not UTF-8: "),
            "{refused}"
        );
    }

    #[test]
    fn fields_of_a_newer_message_are_skipped() {
        // 4: a number; 5: eight bytes; 6: text; 7: four bytes. Then the body.
        let mut value =
            vec![0x20, 1, 0x29, 0, 0, 0, 0, 0, 0, 0, 0, 0x32, 1, b'x', 0x3d, 0, 0, 0, 0];
        value.extend([0x1a, 9]);
        value.extend(b"IoUid = 5");
        assert_eq!(parse(Some(&any("runtimeoptions.v1.Options", value))).unwrap().io_uid, 5);
    }
}
