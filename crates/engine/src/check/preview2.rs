//! The interfaces of WASI 0.2 that a component may import.

/// The packages with their interfaces.
const INTERFACES: [(&str, &[&str]); 7] = [
    (
        "cli",
        &[
            "environment",
            "exit",
            "stderr",
            "stdin",
            "stdout",
            "terminal-input",
            "terminal-output",
            "terminal-stderr",
            "terminal-stdin",
            "terminal-stdout",
        ],
    ),
    ("clocks", &["monotonic-clock", "wall-clock"]),
    ("filesystem", &["preopens", "types"]),
    ("http", &["outgoing-handler", "types"]),
    ("io", &["error", "poll", "streams"]),
    ("random", &["insecure", "insecure-seed", "random"]),
    (
        "sockets",
        &[
            "instance-network",
            "ip-name-lookup",
            "network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
];

/// The list of provided packages for error texts.
#[must_use]
pub(super) fn provided() -> String {
    let names: Vec<String> = INTERFACES.iter().map(|(name, _)| format!("wasi:{name}")).collect();
    format!("{} of WASI 0.2", names.join(", "))
}

/// Returns true for an interface of WASI 0.2, such as `wasi:io/streams@0.2.3`. Every patch release
/// of 0.2 is compatible.
#[must_use]
pub(super) fn provides(import: &str) -> bool {
    let Some((name, version)) = import.strip_prefix("wasi:").and_then(|rest| rest.split_once('@'))
    else {
        return false;
    };
    let Some((package, interface)) = name.split_once('/') else { return false };
    version.starts_with("0.2.")
        && INTERFACES
            .iter()
            .any(|(name, interfaces)| *name == package && interfaces.contains(&interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_release_of_wasi_0_2_is_provided_and_no_other_package() {
        assert!(provides("wasi:io/streams@0.2.0") && provides("wasi:cli/stdin@0.2.12"));
        assert!(provides("wasi:http/types@0.2.0"));
        for import in
            ["wasi:http/incoming-handler@0.2.0", "wasi:io/streams@0.3.0", "acme:a/b@0.2.0", "f"]
        {
            assert!(!provides(import), "{import}");
        }
    }
}
