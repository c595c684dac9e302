//! The file of settings, `/etc/wherry/manager.toml`. `packaging/manager.toml` has every key with
//! its default.
//!
//! It is validated as a whole: an unknown key, a wrong type and a value out of range are errors.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use wherry_shim::operator::{Metrics, Settings};

use crate::error::{Error, Result};

/// The file, unless a variable names another.
const FILE: &str = "/etc/wherry/manager.toml";
/// The variable that names another file, for tests.
pub(crate) const FILE_VARIABLE: &str = "WHERRY_MANAGER_CONFIG";
/// The most that is read of the file, bytes.
const FILE_MAX: u64 = 1 << 20;
/// The bounds of `idle`, seconds: containerd takes some time between `start` and Create.
const IDLE: RangeInclusive<u64> = 10..=31_536_000;
/// The bounds of `spare-hosts`. Each takes some megabytes.
const SPARE_HOSTS: RangeInclusive<u64> = 0..=64;
/// The bounds of `spare-idle`, seconds.
const SPARE_IDLE: RangeInclusive<u64> = 1..=31_536_000;

/// The keys of the file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Keys {
    #[serde(deserialize_with = "idle")]
    idle: u64,
    #[serde(deserialize_with = "spare_hosts")]
    spare_hosts: u64,
    #[serde(deserialize_with = "spare_idle")]
    spare_idle: u64,
    log_level: LogLevel,
    #[serde(deserialize_with = "metrics")]
    metrics: Metrics,
    systemd: bool,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys {
            idle: 300,
            // As many as containers are usually started at once.
            spare_hosts: 2,
            spare_idle: 60,
            log_level: LogLevel::Info,
            metrics: Metrics::Off,
            systemd: false,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The path of the file, and whether it must exist.
fn file() -> (PathBuf, bool) {
    match std::env::var_os(FILE_VARIABLE) {
        Some(path) if !path.is_empty() => (path.into(), true),
        _ => (FILE.into(), false),
    }
}

/// Reads the file for a manager. Without a file the defaults apply.
///
/// # Errors
/// [`Error::ReadSettings`], [`Error::Settings`].
pub(crate) fn read() -> Result<Settings> {
    let (path, required) = file();
    match read_file(&path) {
        Err(Error::ReadSettings { source, .. })
            if !required && source.kind() == ErrorKind::NotFound =>
        {
            Ok(Keys::default().into())
        }
        result => result,
    }
}

/// `check [FILE]`: validates a file, or the one that managers read. Returns the result.
///
/// # Errors
/// As for [`read`], and if a file that was named does not exist.
pub(crate) fn check(named: Option<&str>) -> Result<String> {
    let Some(path) = named else {
        let ((path, _), _) = (file(), read()?);
        let state = if path.exists() { "is valid" } else { "does not exist: the defaults apply" };
        return Ok(format!("{} {state}", path.display()));
    };
    read_file(Path::new(path))?;
    Ok(format!("{path} is valid"))
}

fn read_file(path: &Path) -> Result<Settings> {
    let text =
        read_text(path).map_err(|source| Error::ReadSettings { path: path.to_owned(), source })?;
    parse(&text).map_err(|error| {
        let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
        // A syntax error may have several lines.
        let message = error.message().replace('\n', ", ");
        Error::Settings { path: path.to_owned(), line, column, message }
    })
}

/// Reads a regular file. A device or a named pipe could block, or have no end.
fn read_text(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> std::result::Result<Settings, toml::de::Error> {
    toml::from_str::<Keys>(text).map(Settings::from)
}

/// The line and the column of an offset, from 1 on.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

impl From<Keys> for Settings {
    fn from(keys: Keys) -> Settings {
        let Keys { idle, spare_hosts, spare_idle, log_level, metrics, systemd } = keys;
        Settings {
            idle: Duration::from_secs(idle),
            // Within bounds that fit.
            spare_hosts: usize::try_from(spare_hosts).unwrap_or_default(),
            spare_idle: Duration::from_secs(spare_idle),
            log_level: match log_level {
                LogLevel::Error => LevelFilter::Error,
                LogLevel::Warn => LevelFilter::Warn,
                LogLevel::Info => LevelFilter::Info,
                LogLevel::Debug => LevelFilter::Debug,
                LogLevel::Trace => LevelFilter::Trace,
            },
            metrics,
            systemd,
        }
    }
}

/// A whole number within bounds.
struct Number {
    meaning: &'static str,
    bounds: RangeInclusive<u64>,
}

impl Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Number { meaning, bounds } = self;
        write!(f, "{meaning} from {} to {}", bounds.start(), bounds.end())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<u64, E> {
        u64::try_from(value)
            .ok()
            .filter(|value| self.bounds.contains(value))
            .ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
    }
}

fn idle<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u64, D::Error> {
    seconds(deserializer, IDLE)
}

fn spare_idle<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u64, D::Error> {
    seconds(deserializer, SPARE_IDLE)
}

fn seconds<'de, D: Deserializer<'de>>(
    deserializer: D,
    bounds: RangeInclusive<u64>,
) -> std::result::Result<u64, D::Error> {
    deserializer.deserialize_i64(Number { meaning: "a whole number of seconds", bounds })
}

fn spare_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u64, D::Error> {
    let bounds = SPARE_HOSTS;
    deserializer.deserialize_i64(Number { meaning: "a number of engine hosts", bounds })
}

fn metrics<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Metrics, D::Error> {
    const EXPECTED: &str =
        "\"off\", \"socket\", or a loopback address with a port, such as \"127.0.0.1:9469\"";
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "off" => return Ok(Metrics::Off),
        "socket" => return Ok(Metrics::ControlSocket),
        _ => {}
    }
    text.parse::<SocketAddr>()
        .ok()
        .filter(|address| address.ip().is_loopback() && address.port() != 0)
        .map(Metrics::Loopback)
        .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/manager.toml"));

    /// The error of a file with this text, without its path.
    fn error(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = read_file(file.path()).unwrap_err().to_string();
        error.replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn the_shipped_example_has_every_key_with_its_default() {
        let keys = EXAMPLE.lines().filter_map(|line| line.split_once(" = "));
        let keys: Vec<&str> = keys.map(|(key, _)| key).filter(|key| !key.contains('#')).collect();
        assert_eq!(keys, ["idle", "spare-hosts", "spare-idle", "log-level", "metrics", "systemd"]);
        assert_eq!(parse(EXAMPLE).unwrap(), Keys::default().into());
        assert_eq!(parse("").unwrap(), Keys::default().into());
        // Without its line, a key would not be in the message about unknown ones.
        let unknown = error("nonsense = 1");
        assert!(keys.iter().all(|key| unknown.contains(&format!("`{key}`"))), "{unknown}");
    }

    #[test]
    fn every_key_is_read() {
        let text = "idle = 60\nspare-hosts = 0\nspare-idle = 5\nlog-level = \"warn\"\nmetrics = \"[::1]:9469\"\n\
                    systemd = true\n";
        let expected = Settings {
            idle: Duration::from_secs(60),
            spare_hosts: 0,
            spare_idle: Duration::from_secs(5),
            log_level: LevelFilter::Warn,
            metrics: Metrics::Loopback("[::1]:9469".parse().unwrap()),
            systemd: true,
        };
        assert_eq!(parse(text).unwrap(), expected);
        let socket = parse("metrics = \"socket\"").unwrap();
        assert_eq!(socket.metrics, Metrics::ControlSocket);
    }

    #[test]
    fn a_fault_is_one_sentence_with_its_place() {
        let place = |line, column| {
            format!("invalid manager's settings in FILE, line {line}, column {column}: ")
        };
        let loopback = "expected \"off\", \"socket\", or a loopback address with a port, such as \
                        \"127.0.0.1:9469\"";
        for (text, expected) in [
            (
                "# comment\n  idel = 5\n",
                place(2, 3)
                    + "unknown field `idel`, expected one of `idle`, `spare-hosts`, `spare-idle`, \
                       `log-level`, `metrics`, `systemd`",
            ),
            (
                "idle = 9",
                place(1, 8)
                    + "invalid value: integer `9`, expected a whole number of seconds from 10 to \
                       31536000",
            ),
            (
                "\nidle = \"5m\"",
                place(2, 8)
                    + "invalid type: string \"5m\", expected a whole number of seconds from 10 to \
                       31536000",
            ),
            (
                "spare-hosts = -1",
                place(1, 15)
                    + "invalid value: integer `-1`, expected a number of engine hosts from 0 to 64",
            ),
            (
                "log-level = \"loud\"",
                place(1, 13)
                    + "unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, \
                       `trace`",
            ),
            ("systemd = 1", place(1, 11) + "invalid type: integer `1`, expected a boolean"),
            (
                "metrics = \"0.0.0.0:9469\"",
                place(1, 11) + "invalid value: string \"0.0.0.0:9469\", " + loopback,
            ),
            (
                "metrics = \"127.0.0.1:0\"",
                place(1, 11) + "invalid value: string \"127.0.0.1:0\", " + loopback,
            ),
        ] {
            assert_eq!(error(text), expected);
        }
        for text in ["idle = 300\nidle = 300\n", "idle =\n", "[idle]\n", "idle = 300 x\n"] {
            let error = error(text);
            assert!(error.starts_with("invalid manager's settings in FILE, line "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = |path: &str| check(Some(path)).unwrap_err().to_string();
        let missing = error("/no/such/file");
        assert!(missing.starts_with("cannot read the manager's settings from /no/such/file: "));
        assert!(error("/dev/zero").ends_with("it is not a regular file"));
        assert!(error("/proc/self/exe").contains("UTF-8"));
    }

    #[test]
    fn a_column_counts_characters() {
        assert_eq!(position("é = 1\nöö x", 11), (2, 3));
        assert_eq!(position("", 5), (1, 1));
    }
}
