//! Resolves a container's arguments to the file to run.
//!
//! The rules are those of `execvp` with two additions for wasm: `#name` after the file names the
//! exported function to call, and a bare name that is not found in PATH is searched in the working
//! directory too, because images of one `.wasm` file rarely set PATH.

use std::path::{Path, PathBuf};

/// The PATH of a guest without that variable, as in execvp.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint {
    /// Its path inside the container, absolute.
    pub path: PathBuf,
    /// The function requested with `#name`.
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

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A module, or a program that the user may execute.
    Runs,
    /// Another file.
    NotExecutable,
    /// No file.
    Nothing(NoFile),
}

/// Why a path names no file. The texts are the kernel's, by which clients choose an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoFile {
    /// ENOENT.
    #[error("no such file or directory in the container")]
    Missing,
    /// ENOTDIR.
    // Docker reports an error of a mount if it finds ENOTDIR's own text.
    #[error("no such file or directory in the container: a part of the path is a file")]
    BelowFile,
    /// A directory.
    #[error("is a directory: permission denied")]
    Directory,
    /// EACCES.
    #[error("permission denied: the user may not search a folder of the path")]
    Closed,
    /// ELOOP.
    #[error("too many levels of symbolic links")]
    Loop,
    /// ENAMETOOLONG.
    #[error("file name too long")]
    TooLong,
}

impl NoFile {
    /// Converts an error of stat(2). Other causes become [`NoFile::Missing`].
    #[must_use]
    pub fn from_error(error: &std::io::Error) -> NoFile {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotADirectory => NoFile::BelowFile,
            ErrorKind::PermissionDenied => NoFile::Closed,
            ErrorKind::InvalidFilename => NoFile::TooLong,
            _ if error.raw_os_error() == Some(ELOOP) => NoFile::Loop,
            _ => NoFile::Missing,
        }
    }
}

/// The number of ELOOP, for which the standard library has no stable name.
const ELOOP: i32 = 40;

/// An error of [`Entrypoint::resolve`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntrypointError {
    /// The arguments are empty, or the first one is.
    #[error("no entrypoint: neither the image nor the command names a program to run")]
    None,
    /// The path names no file.
    #[error("exec {path:?}: {cause}")]
    NoFile {
        /// The path.
        path: PathBuf,
        /// The reason.
        cause: NoFile,
    },
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
    /// working directory; `look` inspects an absolute path.
    ///
    /// # Errors
    /// [`EntrypointError`], with the path or the name and the searched PATH.
    pub fn resolve(
        args: &[String],
        path: Option<&str>,
        cwd: &Path,
        look: impl Fn(&Path) -> Look,
    ) -> Result<Entrypoint, EntrypointError> {
        let program = match args.first() {
            Some(first) if !first.is_empty() => first.as_str(),
            _ => return Err(EntrypointError::None),
        };
        let path = path.unwrap_or(DEFAULT_PATH);
        let find = |program: &str| find(program, path, cwd, &look);
        // A file whose own name holds a `#` takes precedence.
        let whole = match find(program) {
            Ok(found) => return Ok(Entrypoint { path: found, function: None }),
            Err(error) => error,
        };
        match program.rsplit_once('#') {
            Some((file, function)) if !file.is_empty() && !function.is_empty() => {
                let found = find(file)?;
                Ok(Entrypoint { path: found, function: Some(function.to_owned()) })
            }
            _ => Err(whole),
        }
    }
}

/// Finds a program by its path, or by its name in PATH. There a file that cannot be executed is
/// chosen if no other directory has one that can.
fn find(
    program: &str,
    path: &str,
    cwd: &Path,
    look: impl Fn(&Path) -> Look,
) -> Result<PathBuf, EntrypointError> {
    if program.contains('/') {
        let candidate = cwd.join(program);
        return match look(&candidate) {
            Look::Runs | Look::NotExecutable => Ok(candidate),
            Look::Nothing(cause) => Err(EntrypointError::NoFile { path: candidate, cause }),
        };
    }
    let mut other = None;
    // An empty element means the working directory.
    let folders = path.split(':').map(|directory| cwd.join(directory));
    for candidate in folders.chain([cwd.to_owned()]).map(|folder| folder.join(program)) {
        match look(&candidate) {
            Look::Runs => return Ok(candidate),
            Look::NotExecutable => other = other.or(Some(candidate)),
            Look::Nothing(_) => {}
        }
    }
    other.ok_or_else(|| EntrypointError::NotInPath {
        name: program.to_owned(),
        path: path.to_owned(),
        cwd: cwd.to_owned(),
    })
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
            let is = |file: &&str| Path::new(file) == candidate;
            match candidate.starts_with("/plain") {
                _ if !files.iter().any(is) => Look::Nothing(NoFile::Missing),
                true => Look::NotExecutable,
                false => Look::Runs,
            }
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
    fn a_file_that_cannot_be_executed_is_the_last_choice() {
        let files = ["/plain/tool", "/bin/tool"];
        assert_eq!(resolve("tool", Some("/plain:/bin"), &files), found("/bin/tool", None));
        assert_eq!(resolve("tool", Some("/plain:/bin"), &files[..1]), found("/plain/tool", None));
    }

    #[test]
    fn a_path_that_names_no_file_has_the_kernels_cause() {
        let cause = |number| NoFile::from_error(&std::io::Error::from_raw_os_error(number));
        let args = ["/x".to_owned()];
        for (number, text) in [
            (2, "exec \"/x\": no such file or directory in the container"),
            (13, "exec \"/x\": permission denied: the user may not search a folder of the path"),
            (
                20,
                "exec \"/x\": no such file or directory in the container: a part of the path is a file",
            ),
            (36, "exec \"/x\": file name too long"),
            (40, "exec \"/x\": too many levels of symbolic links"),
        ] {
            let look = |_: &Path| Look::Nothing(cause(number));
            let error = Entrypoint::resolve(&args, None, Path::new("/"), look).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
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
            Err(EntrypointError::NoFile { path: "/a.wasm#".into(), cause: NoFile::Missing })
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
            Entrypoint::resolve(&[], None, Path::new("/"), |_| Look::Runs),
            Err(EntrypointError::None)
        );
    }
}
