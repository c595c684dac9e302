//! `mirror`: a registry on loopback that answers artifacts of WebAssembly as images, and
//! containerd's way to it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use wherry_mirror::Upstream;

use crate::args::Mirror;
use crate::error::NodeError;
use crate::{files, print_line};

/// The first line of a `hosts.toml` that this program wrote.
const MARK: &str = "# Written by wherry-node.";

/// Runs the command.
pub(crate) fn run(options: &Mirror) -> Result<ExitCode, NodeError> {
    let mut registries: Vec<Upstream> = Vec::new();
    for (names, plain_http) in [(&options.plain_http, true), (&options.registry, false)] {
        for name in names {
            if !is_name(name) {
                return Err(NodeError::Registry(name.clone()));
            }
            if !registries.iter().any(|known| known.name == *name) {
                registries.push(Upstream { name: name.clone(), plain_http });
            }
        }
    }
    if let Some(folder) = &options.hosts_dir {
        for registry in &registries {
            write_hosts(folder, registry, &options.listen.to_string())?;
        }
    }
    let options = wherry_mirror::Options {
        listen: options.listen,
        registries,
        certificates: options.certificate.clone(),
        timeout: Duration::from_secs(options.timeout),
        log: |line| print_line(line),
    };
    match wherry_mirror::serve(options)? {}
}

/// Whether a text is a registry's name, which becomes a folder.
fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'[')
        && text.bytes().all(is_allowed)
}

/// Writes the `hosts.toml` of a registry, unless it has one that another program wrote.
fn write_hosts(folder: &Path, registry: &Upstream, address: &str) -> Result<(), NodeError> {
    let folder = folder.join(&registry.name);
    let path = folder.join("hosts.toml");
    let text = hosts(registry, address);
    match files::read(&path)? {
        Some(old) if old == text.as_bytes() => return Ok(()),
        Some(old) if !old.starts_with(MARK.as_bytes()) => return Err(NodeError::Hosts(path)),
        _ => {}
    }
    files::make_dir(&folder)?;
    files::replace(&path, text.as_bytes(), 0o644)?;
    print_line(format!("wrote {}", path.display()));
    Ok(())
}

/// The `hosts.toml` of a registry. Without the mirror containerd goes to the registry itself.
fn hosts(registry: &Upstream, address: &str) -> String {
    let server = match registry.name.as_str() {
        "docker.io" => "registry-1.docker.io",
        name => name,
    };
    let scheme = if registry.plain_http { "http" } else { "https" };
    format!(
        "{MARK} Its mirror answers artifacts of WebAssembly as images.\n\
         server = \"{scheme}://{server}\"\n\n\
         [host.\"http://{address}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_registrys_name_is_no_path() {
        assert!(is_name("ghcr.io") && is_name("localhost:5000") && is_name("[::1]:5000"));
        for wrong in ["", "..", "a/b", ".a", "a b"] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_file_of_another_program_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Upstream { name: "localhost:5000".to_owned(), plain_http: true };
        let write = |address: &str| write_hosts(folder.path(), &registry, address);
        write("127.0.0.1:1").unwrap();
        write("127.0.0.1:2").unwrap();
        let path = folder.path().join("localhost:5000/hosts.toml");
        let text = fs::read_to_string(&path).unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(parsed["server"].as_str(), Some("http://localhost:5000"));
        assert!(parsed["host"].get("http://127.0.0.1:2").is_some(), "{text}");
        fs::write(&path, "server = \"https://elsewhere\"\n").unwrap();
        let error = write("127.0.0.1:2").unwrap_err().to_string();
        assert!(error.contains("hosts.toml"), "{error}");
        assert!(fs::read_to_string(&path).unwrap().contains("elsewhere"));
    }
}
