//! Finds the files of an image in containerd or Docker.
//!
//! The image is requested with `ctr` or `docker`, which a machine that runs containers has. A
//! client of containerd's gRPC API would be larger than the rest of this crate, for a command that
//! is rarely called.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::args::Daemon;
use crate::error::{Error, Result};

/// containerd's default socket.
pub(crate) const ADDRESS: &str = "/run/containerd/containerd.sock";
/// The namespaces of `ctr`, Kubernetes and Docker.
const NAMESPACES: [&str; 3] = ["default", "k8s.io", "moby"];

/// The files of an image.
#[derive(Debug)]
pub(crate) enum Found {
    /// A mount of the image, and the arguments of `ctr` that unmount it.
    Mounted { directory: tempfile::TempDir, unmount: Vec<String> },
    /// The directories of its layers.
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
            // A destructor has no caller to return the error to.
            if let Err(error) = ctr(unmount) {
                crate::print_error("ctr", &format!("the image stays mounted: {error}"));
            }
        }
    }
}

/// Finds an image.
///
/// # Errors
/// [`Error::NoImage`], with the answer of each daemon.
pub(crate) fn find(daemon: &Daemon, reference: &str) -> Result<Found> {
    let address = daemon.address.as_deref().unwrap_or(ADDRESS);
    let namespaces = match &daemon.namespace {
        Some(namespace) => vec![namespace.as_str()],
        None => NAMESPACES.to_vec(),
    };
    let mut attempts = Vec::new();
    // `ctr` would wait ten seconds for a containerd that does not run.
    if let Err(source) = UnixStream::connect(address) {
        attempts.push(Error::Connect { address: address.to_owned(), source });
    } else {
        for namespace in namespaces {
            match mount(daemon, address, namespace, &full(reference)) {
                Ok(found) => return Ok(found),
                Err(error) => attempts.push(error),
            }
        }
    }
    if daemon.address.is_none() && daemon.namespace.is_none() {
        match docker(reference) {
            Ok(found) => return Ok(found),
            Err(error) => attempts.push(error),
        }
    }
    Err(Error::NoImage { reference: reference.to_owned(), attempts })
}

fn mount(daemon: &Daemon, address: &str, namespace: &str, reference: &str) -> Result<Found> {
    let directory = tempfile::tempdir().map_err(Error::Temporary)?;
    let target = directory.path().display().to_string();
    let words = ["--address", address, "--namespace", namespace, "images"];
    let mut words = words.map(str::to_owned).to_vec();
    let mut mount = words.clone();
    mount.push("mount".to_owned());
    if let Some(platform) = &daemon.platform {
        mount.extend(["--platform".to_owned(), platform.clone()]);
    }
    mount.extend([reference.to_owned(), target.clone()]);
    words.extend(["unmount".to_owned(), "--rm".to_owned(), target]);
    ctr(&mount)
        .map(|_| Found::Mounted { directory, unmount: words })
        .map_err(|error| Error::Mount { namespace: namespace.to_owned(), source: Box::new(error) })
}

/// Finds the layers of an image in Docker's own store.
fn docker(reference: &str) -> Result<Found> {
    let layers = "{{.GraphDriver.Data.UpperDir}}:{{.GraphDriver.Data.LowerDir}}";
    let words = ["image", "inspect", "--format", layers, reference];
    let output = run("docker", &words)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let layers: Vec<PathBuf> = text
        .trim()
        .split(':')
        .map(PathBuf::from)
        // An image of one layer has no LowerDir: Docker prints "<no value>".
        .filter(|layer| Path::new(layer).is_absolute())
        .collect();
    if layers.is_empty() {
        return Err(Error::DockerStore);
    }
    Ok(Found::Layers(layers))
}

fn ctr(words: &[String]) -> Result<Output> {
    run("ctr", &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn run(program: &str, words: &[&str]) -> Result<Output> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|source| Error::Run { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    let message = last.trim_start_matches("ctr: ").to_owned();
    Err(Error::Program { program: program.to_owned(), message })
}

/// Completes a short reference of Docker's to the form that containerd takes.
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
