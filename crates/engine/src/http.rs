//! The options of a container that serves HTTP: its annotations `wherry.http.NAME`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The prefix of the annotations. A pod's annotation `wherry.http.NAME/CONTAINER` is that of one of
/// its containers: Kubernetes has no annotations of containers.
const PREFIX: &str = "wherry.http.";
/// The variable of the container's environment with the port, as on other platforms for servers.
const PORT: &str = "PORT";
/// The port without annotation and variable.
const DEFAULT_PORT: u16 = 8080;

/// How a container serves HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The address to listen on. `None`: the port of the variable PORT, or 8080, on all IPv4
    /// addresses.
    pub address: Option<SocketAddr>,
    /// The number of requests that run at the same time. Others wait.
    pub requests: u32,
    /// The time of a request, to the end of its response. `None`: no limit.
    pub timeout: Option<Duration>,
    /// The linear memory of a request, bytes.
    pub memory: u64,
    /// The body of a request, bytes. `None`: no limit.
    pub body: Option<u64>,
    /// The header section of a request, bytes.
    pub headers: u32,
    /// The time for the requests in flight after SIGTERM.
    pub grace: Duration,
}

impl Default for Http {
    fn default() -> Http {
        Http {
            address: None,
            requests: 100,
            timeout: Some(Duration::from_secs(60)),
            memory: 128 << 20,
            body: Some(64 << 20),
            headers: 32 << 10,
            grace: Duration::from_secs(30),
        }
    }
}

/// Why an option is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// No option has this name.
    #[error(
        "annotation {PREFIX}{name}: unknown option; the nearest is {PREFIX}{nearest}, and all are {}",
        all()
    )]
    Unknown {
        /// The name without the prefix.
        name: String,
        /// The most similar name.
        nearest: &'static str,
    },
    /// The value is not one of those that are allowed.
    #[error("{source_name}: {value:?} is not {expected}")]
    Value {
        /// The annotation or variable.
        source_name: String,
        /// The value.
        value: String,
        /// The values that are allowed.
        expected: &'static str,
    },
}

/// Sets the option from the text of its value. `None`: the value is invalid.
type Set = fn(&mut Http, &str) -> Option<()>;

/// The options: name, allowed values, setter.
const OPTIONS: [(&str, &str, Set); 7] = [
    ("address", "an address and a port, such as 0.0.0.0:8080 or [::]:8080", |http, text| {
        http.address = Some(text.parse().ok().filter(|address: &SocketAddr| address.port() > 0)?);
        Some(())
    }),
    ("requests", "a number from 1 to 10000", |http, text| {
        http.requests = text.parse().ok().filter(|number| (1..=10_000).contains(number))?;
        Some(())
    }),
    ("timeout", "a time from 1ms to 24h, such as 500ms, 30s or 5m, or none", |http, text| {
        http.timeout = if text == "none" { None } else { Some(time(text)?) };
        Some(())
    }),
    ("memory", "a size from 1Mi to 4Gi, such as 64Mi", |http, text| {
        http.memory = size(text).filter(|size| (1 << 20..=4 << 30).contains(size))?;
        Some(())
    }),
    ("body", "a size, such as 512Ki, 64Mi or 1Gi, or none", |http, text| {
        http.body = if text == "none" { None } else { Some(size(text)?) };
        Some(())
    }),
    ("headers", "a size from 8Ki to 1Mi, such as 16Ki", |http, text| {
        let size = size(text).filter(|size| (8 << 10..=1 << 20).contains(size))?;
        http.headers = u32::try_from(size).ok()?;
        Some(())
    }),
    ("grace", "a time from 1ms to 24h, such as 500ms, 30s or 5m", |http, text| {
        http.grace = time(text)?;
        Some(())
    }),
];

impl Http {
    /// Parses the options among a container's annotations. `container`: its name in its pod.
    ///
    /// # Errors
    /// If an option is unknown, or its value not allowed.
    pub fn parse<'a>(
        annotations: impl Iterator<Item = (&'a str, &'a str)>,
        container: Option<&str>,
    ) -> Result<Http, OptionError> {
        let (mut of_pod, mut of_container) = (Vec::new(), Vec::new());
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            match name.split_once('/') {
                None => of_pod.push((name, key, value)),
                Some((name, of)) if Some(of) == container => of_container.push((name, key, value)),
                Some(_) => {}
            }
        }
        let mut http = Http::default();
        // The more specific one decides.
        for (name, key, value) in of_pod.into_iter().chain(of_container) {
            let Some((_, expected, set)) = OPTIONS.iter().find(|(option, ..)| *option == name)
            else {
                return Err(OptionError::Unknown { name: name.to_owned(), nearest: nearest(name) });
            };
            set(&mut http, value).ok_or_else(|| OptionError::Value {
                source_name: format!("annotation {key}"),
                value: value.to_owned(),
                expected,
            })?;
        }
        Ok(http)
    }

    /// The address to listen on, in a container with this environment.
    ///
    /// # Errors
    /// If the variable PORT decides and is not a port.
    pub fn listen_address(&self, env: &[(String, String)]) -> Result<SocketAddr, OptionError> {
        if let Some(address) = self.address {
            return Ok(address);
        }
        let variable = env.iter().rev().find(|(name, _)| name == PORT);
        let port = match variable.map(|(_, value)| value).filter(|value| !value.is_empty()) {
            None => DEFAULT_PORT,
            Some(value) => {
                value.parse().ok().filter(|port| *port > 0).ok_or_else(|| OptionError::Value {
                    source_name: format!("variable {PORT}"),
                    value: value.clone(),
                    expected: "a port from 1 to 65535",
                })?
            }
        };
        Ok((Ipv4Addr::UNSPECIFIED, port).into())
    }
}

/// Parses a number of bytes: digits, and optionally K, M or G for a power of 1024, as Docker's
/// options have it, or Ki, Mi or Gi, as Kubernetes has it.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "ki" | "kib" => 10,
        "m" | "mi" | "mib" => 20,
        "g" | "gi" | "gib" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Parses a time: digits, and ms, s, m or h. Seconds without a unit.
fn time(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..)? {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let time = Duration::from_millis(digits.parse::<u64>().ok()?.checked_mul(unit)?);
    (Duration::from_millis(1)..=Duration::from_hours(24)).contains(&time).then_some(time)
}

fn all() -> String {
    OPTIONS.map(|(name, ..)| name).join(", ")
}

/// The option whose name is the most similar.
fn nearest(name: &str) -> &'static str {
    let names = OPTIONS.iter().map(|(name, ..)| *name);
    names.min_by_key(|option| strsim::levenshtein(option, name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(annotations: &[(&str, &str)]) -> Result<Http, String> {
        Http::parse(annotations.iter().copied(), Some("web")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_has_an_annotation() {
        let http = parse(&[
            ("wherry.engine", "wasmtime"),
            ("wherry.http.address", "[::1]:81"),
            ("wherry.http.requests", "7"),
            ("wherry.http.timeout", "1500ms"),
            ("wherry.http.memory", "16m"),
            ("wherry.http.body", "1Gi"),
            ("wherry.http.headers", "8k"),
            ("wherry.http.grace", "2"),
        ]);
        let expected = Http {
            address: Some("[::1]:81".parse().unwrap()),
            requests: 7,
            timeout: Some(Duration::from_millis(1500)),
            memory: 16 << 20,
            body: Some(1 << 30),
            headers: 8192,
            grace: Duration::from_secs(2),
        };
        assert_eq!(http, Ok(expected));
        assert_eq!(parse(&[]), Ok(Http::default()));
        let none = parse(&[("wherry.http.timeout", "none"), ("wherry.http.body", "none")]).unwrap();
        assert_eq!((none.timeout, none.body), (None, None));
    }

    #[test]
    fn an_annotation_for_one_container_of_a_pod_decides() {
        let requests = |key: &str| {
            parse(&[(key, "5"), ("wherry.http.requests", "6")]).map(|http| http.requests)
        };
        assert_eq!(requests("wherry.http.requests/web"), Ok(5));
        assert_eq!(requests("wherry.http.requests/other"), Ok(6));
    }

    #[test]
    fn an_unknown_option_is_named_with_the_nearest() {
        let text = parse(&[("wherry.http.adress", "x")]).unwrap_err();
        assert_eq!(
            text,
            "annotation wherry.http.adress: unknown option; the nearest is \
             wherry.http.address, and all are address, requests, timeout, memory, body, headers, grace"
        );
        assert!(parse(&[("wherry.http.mem", "x")]).unwrap_err().contains("wherry.http.memory,"));
    }

    #[test]
    fn a_wrong_value_is_named_with_those_that_are_allowed() {
        let text = parse(&[("wherry.http.timeout", "soon")]).unwrap_err();
        assert_eq!(
            text,
            "annotation wherry.http.timeout: \"soon\" is not a time from 1ms to 24h, such as 500ms, \
             30s or 5m, or none"
        );
        for (name, value) in [
            ("address", "8080"),
            ("address", "localhost:80"),
            ("address", "0.0.0.0:0"),
            ("requests", "0"),
            ("requests", "-1"),
            ("timeout", "0"),
            ("timeout", "25h"),
            ("memory", "1k"),
            ("memory", "5Gi"),
            ("memory", ""),
            ("body", "99999999999G"),
            ("headers", "1"),
            ("grace", "none"),
            ("grace", "1d"),
        ] {
            let text = parse(&[(&format!("wherry.http.{name}"), value)]).unwrap_err();
            assert!(
                text.starts_with(&format!("annotation wherry.http.{name}: {value:?}")),
                "{text}"
            );
        }
    }

    #[test]
    fn the_port_of_the_environment_is_used_without_an_address() {
        let address = |http: &Http, port: Option<&str>| {
            let env: Vec<_> =
                port.map(|port| ("PORT".to_owned(), port.to_owned())).into_iter().collect();
            http.listen_address(&env).map(|address| address.to_string()).map_err(|e| e.to_string())
        };
        let mut http = Http::default();
        assert_eq!(address(&http, None).unwrap(), "0.0.0.0:8080");
        assert_eq!(address(&http, Some("")).unwrap(), "0.0.0.0:8080");
        assert_eq!(address(&http, Some("81")).unwrap(), "0.0.0.0:81");
        let text = address(&http, Some("http")).unwrap_err();
        assert_eq!(text, "variable PORT: \"http\" is not a port from 1 to 65535");
        http.address = Some("127.0.0.1:82".parse().unwrap());
        assert_eq!(address(&http, Some("http")).unwrap(), "127.0.0.1:82");
    }
}
