//! The folders of `examples/`, built without the base images of their Dockerfiles.
//!
//! A Dockerfile there has two stages. In the first, the `RUN` lines before `WORKDIR` install tools
//! and those after it build the module. The tests use the tools of this machine and run the same
//! build lines in a copy of the folder. The second stage describes the image.

use crate::guests::add;
use crate::image::Image;
use crate::io::call;
use crate::places::{cache_dir, repository};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages of a `RUN` line that installs Python programs.
const PIP: &str = "pip install --no-cache-dir ";

/// The content of a Dockerfile of `examples/`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// The base image of the first stage.
    pub base: String,
    /// `ARG` lines with their defaults.
    pub args: Vec<(String, String)>,
    /// The `RUN` lines that install tools.
    pub tools: Vec<String>,
    /// The working directory of the build lines.
    pub workdir: String,
    /// The `RUN` lines that build the module.
    pub build: Vec<String>,
    /// The files that the last stage copies: the path in the first stage and the path in the image.
    pub copies: Vec<(String, String)>,
    /// The image's entrypoint.
    pub entrypoint: Vec<String>,
}

impl Dockerfile {
    /// Parses the text of a Dockerfile.
    ///
    /// # Panics
    /// At a line for which the tests have no equivalent.
    pub fn parse(text: &str) -> Dockerfile {
        let mut file = Dockerfile::default();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "ARG" => {
                    let (name, value) = rest.split_once('=').expect("ARG with a default");
                    file.args.push((name.to_owned(), value.to_owned()));
                }
                "RUN" if file.workdir.is_empty() => file.tools.push(rest.to_owned()),
                "RUN" => file.build.push(rest.to_owned()),
                "WORKDIR" => rest.clone_into(&mut file.workdir),
                "COPY" => {
                    if let Some(paths) = rest.strip_prefix("--from=build ") {
                        let (from, to) = paths.split_once(' ').expect("COPY of one file");
                        file.copies.push((from.to_owned(), to.to_owned()));
                    }
                }
                "ENTRYPOINT" => {
                    file.entrypoint = serde_json::from_str(rest).expect("ENTRYPOINT in JSON");
                }
                "FROM" => {
                    if let Some(base) = rest.strip_suffix(" AS build") {
                        base.clone_into(&mut file.base);
                    }
                }
                "EXPOSE" => {}
                _ => panic!("the tests have no equivalent for this line of a Dockerfile: {line}"),
            }
        }
        file
    }
}

/// The folder of an example.
pub fn folder(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

/// The image that the Dockerfile of an example describes.
///
/// # Panics
/// If the example cannot be built; the message contains the output of the build command.
pub fn image(name: &str) -> Image {
    let file = dockerfile(name);
    let words: Vec<&str> = file.entrypoint.iter().map(String::as_str).collect();
    let image = Image::new(&format!("example-{name}")).entrypoint(&words);
    file.copies.iter().fold(image, |image, (from, to)| image.file(to, 0o755, output(name, from)))
}

/// The content of the Dockerfile of an example.
pub fn dockerfile(name: &str) -> Dockerfile {
    let path = folder(name).join("Dockerfile");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Dockerfile::parse(&text)
}

/// The bytes of a file that the build lines of an example create, by its path in the first stage.
pub fn output(name: &str, path: &str) -> Vec<u8> {
    let file = dockerfile(name);
    let path = Path::new(path).strip_prefix(&file.workdir).expect("a file of the WORKDIR");
    let path = built(name, &folder(name), &file).join(path);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The folder in which an example is built, one for each state of its sources.
fn built(name: &str, folder: &Path, file: &Dockerfile) -> PathBuf {
    let mut digest = Sha256::new();
    add(&mut digest, folder);
    let cache = cache_dir().join("examples");
    let built = cache.join(format!("{name}-{}", &format!("{:x}", digest.finalize())[..12]));
    if built.exists() {
        return built;
    }
    fs::create_dir_all(&cache).unwrap_or_else(|e| panic!("{}: {e}", cache.display()));
    // Renamed when complete: an interrupted build leaves no folder under the final name.
    let part = tempfile::TempDir::new_in(&cache).expect("a folder in the cache");
    let copy = part.path().join("src");
    let mut cp = Command::new("cp");
    cp.arg("-r").arg(folder).arg(&copy);
    call(cp, None).success();
    for line in &file.build {
        let mut command = Command::new("sh");
        command.args(["-ec", line]).current_dir(&copy).env("PATH", tools(file));
        for (name, value) in &file.args {
            command.env(name, if name == "TARGET" { rust_target(value) } else { value });
        }
        call(command, None).success();
    }
    // A concurrent test process may have finished first; its result is the same.
    if let Err(error) = fs::rename(&copy, &built) {
        assert!(built.exists(), "{} cannot be created: {error}", built.display());
    }
    built
}

/// PATH for the build lines. `/usr/bin` comes first: only Debian's rustc has a WASI target without
/// a download.
fn tools(file: &Dockerfile) -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    let python = file.tools.iter().find_map(|line| line.strip_prefix(PIP)).map(python_with);
    let python = python.map_or_else(String::new, |bin| format!("{}:", bin.display()));
    format!("{python}/usr/bin:{own}")
}

/// The `bin` folder of a virtual environment with this Python package.
fn python_with(package: &str) -> PathBuf {
    let folder = cache_dir().join("python").join(package);
    let bin = folder.join("bin");
    if !bin.join(".complete").exists() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        call(venv, None).success();
        let mut pip = Command::new(bin.join("pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", package]);
        call(pip, None).success();
        fs::write(bin.join(".complete"), "").unwrap_or_else(|e| panic!("{}: {e}", bin.display()));
    }
    bin
}

/// The WASI target of Debian's rustc: the one given, or its name before Rust 1.78.
fn rust_target(wanted: &str) -> &str {
    let mut rustc = Command::new("/usr/bin/rustc");
    rustc.args(["--print", "target-libdir", "--target", wanted]);
    let found = call(rustc, None);
    if found.code == 0 && Path::new(found.out().trim()).is_dir() { wanted } else { "wasm32-wasi" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_is_read_by_its_stages() {
        let text = "FROM a AS build\nARG T=x\nRUN install\nWORKDIR /src\nCOPY f .\nRUN make f\n\n\
                    FROM scratch\nCOPY --from=build /src/f /g\nENTRYPOINT [\"/g\"]\n";
        let file = Dockerfile::parse(text);
        assert_eq!((&*file.base, &*file.tools[0], &*file.build[0]), ("a", "install", "make f"));
        assert_eq!(file.args, [("T".to_owned(), "x".to_owned())]);
        assert_eq!(file.copies, [("/src/f".to_owned(), "/g".to_owned())]);
        assert_eq!(file.entrypoint, ["/g"]);
    }
}
