//! Resolves a container's arguments to the file to run.
//!
//! The rules are those of `execvp` with two additions for wasm: `#name` after the file names the
//! exported function to call, and a bare name that PATH does not have is searched in the working
//! directory too, because images of one `.wasm` file rarely set PATH.

use std::path::{Path, PathBuf};

/// The PATH of a guest without that variable, as in execvp.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint {
    /// Its path inside the container, absolute.
    pub path: PathBuf,
    /// The function asked for with `#name`.
    pub function: Option<String>,
}

/// The paths at which clients mount their init process: Docker's and nerdctl's `run --init`.
const INITS: [&str; 2] = ["/sbin/docker-init", "/sbin/tini"];

/// Returns the arguments after a client's init process and its `--`. `None`: the arguments name no
/// init process.
#[must_use]
pub fn strip_init(args: &[String]) -> Option<&[String]> {
    match args {
        [init, dashes, rest @ ..] if INITS.contains(&init.as_str()) && dashes == "--" => Some(rest),
        _ => None,
    }
}

/// An error of [`Entrypoint::resolve`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntrypointError {
    /// The arguments are empty, or the first one is.
    #[error("no entrypoint: neither the image nor the command names a program to run")]
    None,
    /// The path does not exist.
    #[error("exec {0:?}: no such file or directory in the container")]
    NotFound(PathBuf),
    /// Neither PATH nor the working directory has a file of this name.
    #[error("exec {name:?}: executable file not found in PATH ({path}) nor in {}", .cwd.display())]
    NotInPath {
        /// The name.
        name: String,
        /// The PATH that was searched.
        path: String,
        /// The working directory.
        cwd: PathBuf,
    },
}

impl Entrypoint {
    /// Finds the file that `args` names. `path` is the guest's PATH variable, `cwd` its absolute
    /// working directory; `is_file` returns true if a file exists at an absolute path.
    ///
    /// # Errors
    /// [`EntrypointError`], with the path or the name and the searched PATH.
    pub fn resolve(
        args: &[String],
        path: Option<&str>,
        cwd: &Path,
        is_file: impl Fn(&Path) -> bool,
    ) -> Result<Entrypoint, EntrypointError> {
        let program = match args.first() {
            Some(first) if !first.is_empty() => first.as_str(),
            _ => return Err(EntrypointError::None),
        };
        let path = path.unwrap_or(DEFAULT_PATH);
        let find = |program: &str| find(program, path, cwd, &is_file);
        // A file whose own name holds a `#` takes precedence.
        if let Some(found) = find(program) {
            return Ok(Entrypoint { path: found, function: None });
        }
        let file = match program.rsplit_once('#') {
            Some((file, function)) if !file.is_empty() && !function.is_empty() => {
                if let Some(found) = find(file) {
                    return Ok(Entrypoint { path: found, function: Some(function.to_owned()) });
                }
                file
            }
            _ => program,
        };
        if file.contains('/') {
            return Err(EntrypointError::NotFound(cwd.join(file)));
        }
        Err(EntrypointError::NotInPath {
            name: file.to_owned(),
            path: path.to_owned(),
            cwd: cwd.to_owned(),
        })
    }
}

fn find(program: &str, path: &str, cwd: &Path, is_file: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if program.contains('/') {
        let candidate = cwd.join(program);
        return is_file(&candidate).then_some(candidate);
    }
    path.split(':')
        // An empty element means the working directory.
        .map(|directory| cwd.join(directory).join(program))
        .chain([cwd.join(program)])
        .find(|candidate| is_file(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        program: &str,
        path: Option<&str>,
        files: &[&str],
    ) -> Result<Entrypoint, EntrypointError> {
        Entrypoint::resolve(&[program.to_owned()], path, Path::new("/work"), |candidate| {
            files.iter().any(|file| Path::new(file) == candidate)
        })
    }

    fn found(path: &str, function: Option<&str>) -> Result<Entrypoint, EntrypointError> {
        Ok(Entrypoint { path: path.into(), function: function.map(str::to_owned) })
    }

    #[test]
    fn an_absolute_path_is_taken_as_it_is() {
        assert_eq!(resolve("/app.wasm", None, &["/app.wasm"]), found("/app.wasm", None));
    }

    #[test]
    fn a_relative_path_starts_at_the_working_directory() {
        assert_eq!(resolve("./a.wasm", None, &["/work/./a.wasm"]), found("/work/./a.wasm", None));
    }

    #[test]
    fn a_name_is_looked_for_in_path_in_order() {
        let files = ["/two/a.wasm", "/one/a.wasm"];
        assert_eq!(resolve("a.wasm", Some("/one:/two"), &files), found("/one/a.wasm", None));
    }

    #[test]
    fn a_name_outside_path_is_looked_for_in_the_working_directory() {
        assert_eq!(resolve("a.wasm", Some("/bin"), &["/work/a.wasm"]), found("/work/a.wasm", None));
    }

    #[test]
    fn a_name_without_a_path_variable_uses_the_usual_one() {
        assert_eq!(resolve("sh", None, &["/bin/sh"]), found("/bin/sh", None));
    }

    #[test]
    fn a_function_follows_the_hash() {
        assert_eq!(resolve("/a.wasm#main", None, &["/a.wasm"]), found("/a.wasm", Some("main")));
        assert_eq!(
            resolve("a.wasm#f", Some("/bin"), &["/bin/a.wasm"]),
            found("/bin/a.wasm", Some("f"))
        );
    }

    #[test]
    fn a_hash_in_the_name_of_a_file_is_part_of_it() {
        assert_eq!(resolve("/a#b", None, &["/a#b", "/a"]), found("/a#b", None));
    }

    #[test]
    fn an_empty_function_is_no_function() {
        assert_eq!(
            resolve("/a.wasm#", None, &["/a.wasm"]),
            Err(EntrypointError::NotFound("/a.wasm#".into()))
        );
    }

    #[test]
    fn the_init_of_a_client_is_told_from_the_images_program() {
        let behind = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
            strip_init(&args).map(<[String]>::to_vec)
        };
        let rest = Some(vec!["/app.wasm".to_owned(), "--".to_owned()]);
        assert_eq!(behind(&["/sbin/docker-init", "--", "/app.wasm", "--"]), rest);
        assert_eq!(behind(&["/sbin/tini", "--", "/app.wasm", "--"]), rest);
        assert_eq!(behind(&["/sbin/docker-init", "-v", "--", "/app.wasm"]), None);
        assert_eq!(behind(&["/app.wasm", "--", "x"]), None);
        assert_eq!(behind(&[]), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            resolve("/no.wasm#f", None, &[]).unwrap_err().to_string(),
            "exec \"/no.wasm\": no such file or directory in the container"
        );
        assert_eq!(
            resolve("no.wasm", Some("/a:/b"), &[]).unwrap_err().to_string(),
            "exec \"no.wasm\": executable file not found in PATH (/a:/b) nor in /work"
        );
        assert_eq!(resolve("", None, &[]), Err(EntrypointError::None));
        assert_eq!(
            Entrypoint::resolve(&[], None, Path::new("/"), |_| true),
            Err(EntrypointError::None)
        );
    }
}
