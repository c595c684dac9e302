//! The stores of containerd and Docker, through `ctr` and `docker`.
//!
//! A machine that runs containers has these programs. They hold a lease while they import, so that
//! containerd collects what an interrupted import leaves.

use std::io::{self, Read as _};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread;

use crate::error::{OciError, Result};
use crate::image::{Image, Platform};
use crate::layout;

/// The most bytes of a program's error that are kept.
const ERROR_MAX: u64 = 64 << 10;

/// An image in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The name.
    pub name: String,
    /// The digest of the index or manifest.
    pub digest: String,
    /// The platforms, as the store writes them.
    pub platforms: Vec<String>,
    /// The size, as the store writes it.
    pub size: String,
}

impl Stored {
    /// Whether it is an image of WebAssembly: one of its platforms is.
    #[must_use]
    pub fn is_wasm(&self) -> bool {
        self.platforms.iter().any(|platform| platform.ends_with("/wasm"))
    }
}

/// The images of a containerd's namespace.
#[derive(Debug, Clone)]
pub struct Containerd {
    /// The socket.
    pub address: String,
    /// The namespace.
    pub namespace: String,
}

impl Containerd {
    fn ctr(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.address, "--namespace", &self.namespace, "images"]);
        command.args(words);
        // Its warnings would take the place of an error.
        command.env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "true");
        command
    }

    /// Stores an image under its name. `force` replaces a native image of the name.
    ///
    /// # Errors
    /// [`OciError::NameTaken`], or containerd refuses it.
    pub fn import(&self, image: &Image, force: bool) -> Result<()> {
        if let (Some(name), false) = (&image.name, force)
            && let Some(found) = self.list()?.into_iter().find(|found| &found.name == name)
            && !found.is_wasm()
        {
            return Err(OciError::NameTaken { store: "containerd", name: name.clone() });
        }
        feed("ctr", &mut self.ctr(&["import", "--all-platforms", "-"]), image)
    }

    /// Reads an image.
    ///
    /// # Errors
    /// If containerd has no image of the name.
    pub fn export(&self, name: &str) -> Result<Image> {
        let file = tempfile::NamedTempFile::new().map_err(OciError::Temporary)?;
        let path = file.path().display().to_string();
        let words = ["export", "--local", "--all-platforms", &path, name];
        // Through containerd's transfer service, `ctr` may end before the file has every byte.
        if let Err(error) = run("ctr", &mut self.ctr(&words)) {
            // containerd 1.6 has no such service and no such option, which its error names.
            if !error.to_string().contains("-local") {
                return Err(error);
            }
            run("ctr", &mut self.ctr(&["export", "--all-platforms", &path, name]))?;
        }
        layout::read(file.path(), Some(name))
    }

    /// Lists the images.
    ///
    /// # Errors
    /// If containerd does not answer.
    pub fn list(&self) -> Result<Vec<Stored>> {
        let output = run("ctr", &mut self.ctr(&["ls"]))?;
        Ok(parse_list(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Removes an image, and waits until containerd has collected its content.
    ///
    /// # Errors
    /// If containerd has no image of the name.
    pub fn remove(&self, name: &str) -> Result<()> {
        // `ctr` only warns of a name that does not exist.
        if !self.list()?.iter().any(|found| found.name == name) {
            return Err(OciError::Program {
                program: "ctr",
                message: format!("namespace {} has no image {name}", self.namespace),
            });
        }
        run("ctr", &mut self.ctr(&["rm", "--sync", name])).map(drop)
    }
}

/// Parses the table of `ctr images ls`: name, media type, digest, size with a unit, platforms.
fn parse_list(text: &str) -> Vec<Stored> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, _, digest) = (words.next()?, words.next()?, words.next()?);
        let (number, unit, platforms) = (words.next()?, words.next()?, words.next()?);
        Some(Stored {
            name: name.to_owned(),
            digest: digest.to_owned(),
            platforms: platforms.split(',').map(str::to_owned).collect(),
            size: format!("{number} {unit}"),
        })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// Docker's images.
#[derive(Debug, Clone, Copy)]
pub struct Docker;

impl Docker {
    /// Stores an image under its name. `force` replaces a native image of the name.
    ///
    /// # Errors
    /// [`OciError::NameTaken`], or Docker refuses it.
    pub fn import(self, image: &Image, force: bool) -> Result<()> {
        if let (Some(name), false) = (&image.name, force)
            && self.is_native(name)
        {
            return Err(OciError::NameTaken { store: "Docker", name: name.clone() });
        }
        feed("docker", Command::new("docker").args(["load", "--quiet"]), image)
    }

    /// Whether an image of this name runs something other than WebAssembly.
    fn is_native(self, name: &str) -> bool {
        let format = "{{.Architecture}} {{json .Config.Entrypoint}} {{json .Config.Cmd}}";
        let mut inspect = Command::new("docker");
        inspect.args(["image", "inspect", "--format", format, name]);
        match run("docker", &mut inspect) {
            Ok(output) => !String::from_utf8_lossy(&output.stdout).contains("wasm"),
            // Without an image of the name nothing is replaced.
            Err(_) => false,
        }
    }

    /// Reads an image.
    ///
    /// # Errors
    /// If Docker has no image of the name.
    pub fn export(self, name: &str) -> Result<Image> {
        let file = tempfile::NamedTempFile::new().map_err(OciError::Temporary)?;
        run(
            "docker",
            Command::new("docker").args(["save", "--output"]).arg(file.path()).arg(name),
        )?;
        layout::read(file.path(), Some(name))
    }

    /// Lists the images.
    ///
    /// # Errors
    /// If Docker does not answer.
    pub fn list(self) -> Result<Vec<Stored>> {
        let format = "{{.Repository}}:{{.Tag}}\t{{.Digest}}\t{{.Size}}\t{{.ID}}";
        let mut list = Command::new("docker");
        list.args(["image", "ls", "--no-trunc", "--format", format]);
        let output = run("docker", &mut list)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let parse = |line: &str| {
            let mut words = line.split('\t');
            let (name, digest) = (words.next()?.to_owned(), words.next()?);
            let (size, id) = (words.next()?.to_owned(), words.next()?);
            let digest = if digest.starts_with("sha256:") { digest } else { id }.to_owned();
            let platforms = match self.is_native(&name) {
                true => vec![Platform::own().to_string()],
                false => vec![Platform::wasm().to_string()],
            };
            Some(Stored { name, digest, platforms, size })
        };
        Ok(text.lines().filter_map(parse).collect())
    }

    /// Removes an image.
    ///
    /// # Errors
    /// If Docker has no image of the name, or a container uses it.
    pub fn remove(self, name: &str) -> Result<()> {
        run("docker", Command::new("docker").args(["image", "rm", name])).map(drop)
    }
}

/// Runs a program that reads the archive of an image from its standard input.
fn feed(program: &'static str, command: &mut Command, image: &Image) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| OciError::Run { program, source })?;
    let written = match child.stdin.take() {
        Some(stdin) => write(image, stdin, &mut child),
        None => Ok(Vec::new()),
    };
    let status = child.wait().map_err(|source| OciError::Run { program, source })?;
    match written {
        // A program that fails closes its input: its own text is the cause.
        Ok(text) | Err((text, _)) if !status.success() => Err(failed(program, &text)),
        Ok(_) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Writes the archive while another thread reads the program's errors.
fn write(
    image: &Image,
    stdin: ChildStdin,
    child: &mut Child,
) -> std::result::Result<Vec<u8>, (Vec<u8>, OciError)> {
    let errors = child.stderr.take();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut text = Vec::new();
            if let Some(errors) = errors {
                // The rest is dropped, so that the program does not wait.
                let mut errors = io::BufReader::new(errors);
                let _ = io::Read::by_ref(&mut errors).take(ERROR_MAX).read_to_end(&mut text);
                let _ = io::copy(&mut errors, &mut io::sink());
            }
            text
        });
        let written = layout::write_archive(image, stdin);
        let text = reader.join().unwrap_or_default();
        match written {
            Ok(()) => Ok(text),
            Err(error) => Err((text, error)),
        }
    })
}

fn run(program: &'static str, command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| OciError::Run { program, source })?;
    if output.status.success() { Ok(output) } else { Err(failed(program, &output.stderr)) }
}

/// Returns the last line of a program's errors.
fn failed(program: &'static str, errors: &[u8]) -> OciError {
    let text = String::from_utf8_lossy(errors);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    let last =
        last.trim().trim_start_matches("ctr: ").trim_start_matches("Error response from daemon: ");
    OciError::Program { program, message: last.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_ctr_is_read_by_its_columns() {
        let text = "\
REF TYPE DIGEST SIZE PLATFORMS LABELS
docker.io/a/b:1 application/vnd.oci.image.index.v1+json sha256:00 1.2 KiB linux/amd64,wasi/wasm -
docker.io/a/c:1 application/vnd.oci.image.manifest.v1+json sha256:01 3.0 MiB linux/amd64 -
";
        let found = parse_list(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].platforms, ["linux/amd64", "wasi/wasm"]);
        assert_eq!((found[0].is_wasm(), found[1].is_wasm()), (true, false));
        assert_eq!(found[1].size, "3.0 MiB");
    }

    #[test]
    fn the_last_line_of_a_programs_errors_is_its_reason() {
        let error = failed("ctr", b"warning\nctr: image \"x\": not found\n\n");
        assert_eq!(error.to_string(), "ctr: image \"x\": not found");
    }
}
