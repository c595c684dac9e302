//! The files of an image that a daemon of this machine has.
//!
//! An image is asked for with the daemon's own client, `ctr` or `docker`, which whoever runs
//! containers has: containerd's gRPC would be more code than all of this shim's, for a command
//! that is seldom called.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Which containerd, and where in it. What is not given is looked for in the usual places.
#[derive(Debug, Default)]
pub(crate) struct Daemon {
    pub(crate) address: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) platform: Option<String>,
}

/// Where containerd listens.
const ADDRESS: &str = "/run/containerd/containerd.sock";
/// Where people's images are: `ctr`'s own, Kubernetes', Docker's.
const NAMESPACES: [&str; 3] = ["default", "k8s.io", "moby"];

/// An image's files.
#[derive(Debug)]
pub(crate) enum Found {
    /// A mount of it, and the command that takes it away.
    Mounted { directory: tempfile::TempDir, unmount: Vec<String> },
    /// Its layers.
    Layers(Vec<PathBuf>),
}

impl Found {
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        match self {
            Found::Mounted { directory, .. } => vec![directory.path().to_owned()],
            Found::Layers(layers) => layers.clone(),
        }
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        if let Found::Mounted { unmount, .. } = self {
            let _ = ctr(unmount);
        }
    }
}

impl Daemon {
    /// Finds an image. The text of an error says where it is not.
    pub(crate) fn find(&self, reference: &str) -> Result<Found, String> {
        let address = self.address.as_deref().unwrap_or(ADDRESS);
        let namespaces = match &self.namespace {
            Some(namespace) => vec![namespace.as_str()],
            None => NAMESPACES.to_vec(),
        };
        let mut misses = Vec::new();
        // Its client would wait ten seconds for it.
        if let Err(error) = UnixStream::connect(address) {
            misses.push(format!("no containerd answers at {address}: {error}"));
        } else {
            for namespace in namespaces {
                match self.mount(address, namespace, &full(reference)) {
                    Ok(found) => return Ok(found),
                    Err(miss) => misses.push(miss),
                }
            }
        }
        if self.address.is_none() && self.namespace.is_none() {
            match docker(reference) {
                Ok(found) => return Ok(found),
                Err(miss) => misses.push(miss),
            }
        }
        Err(format!("there is no file {reference}, and no such image: {}", misses.join("; ")))
    }

    fn mount(&self, address: &str, namespace: &str, reference: &str) -> Result<Found, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let target = directory.path().display().to_string();
        let words = ["--address", address, "--namespace", namespace, "images"];
        let mut words = words.map(str::to_owned).to_vec();
        let mut mount = words.clone();
        mount.push("mount".to_owned());
        if let Some(platform) = &self.platform {
            mount.extend(["--platform".to_owned(), platform.clone()]);
        }
        mount.extend([reference.to_owned(), target.clone()]);
        words.extend(["unmount".to_owned(), "--rm".to_owned(), target]);
        ctr(&mount)
            .map(|_| Found::Mounted { directory, unmount: words })
            .map_err(|error| format!("containerd, namespace {namespace}: {error}"))
    }
}

/// The layers of an image in Docker's own store, if that is what Docker uses.
fn docker(reference: &str) -> Result<Found, String> {
    let layers = "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}";
    let words = ["image", "inspect", "--format", layers, reference];
    let output = run("docker", &words).map_err(|error| format!("docker: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let layers: Vec<PathBuf> = text
        .trim()
        .split(':')
        .map(PathBuf::from)
        // An image of one layer has nothing below it, and then "<no value>" is what it says.
        .filter(|layer| Path::new(layer).is_absolute())
        .collect();
    if layers.is_empty() {
        return Err("docker: the image is in a store of another kind than overlay2".to_owned());
    }
    Ok(Found::Layers(layers))
}

fn ctr(words: &[String]) -> Result<Output, String> {
    run("ctr", &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn run(program: &str, words: &[&str]) -> Result<Output, String> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(last.trim_start_matches("ctr: ").to_owned())
}

/// A reference in the form that containerd knows: Docker's short ones name less.
fn full(reference: &str) -> String {
    let has_tag = reference.rsplit('/').next().is_some_and(|name| name.contains([':', '@']));
    let tagged = if has_tag { reference.to_owned() } else { format!("{reference}:latest") };
    match reference.split_once('/') {
        None => format!("docker.io/library/{tagged}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => tagged,
        Some(_) => format!("docker.io/{tagged}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_references_are_dockers() {
        for (short, long) in [
            ("app", "docker.io/library/app:latest"),
            ("my/app", "docker.io/my/app:latest"),
            ("my/app:1.0", "docker.io/my/app:1.0"),
            ("app@sha256:00", "docker.io/library/app@sha256:00"),
            ("registry.local/app", "registry.local/app:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("localhost/a", "localhost/a:latest"),
        ] {
            assert_eq!(full(short), long);
        }
    }
}
