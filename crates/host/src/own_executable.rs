//! The engine host's own executable, which no container may execute.
//!
//! Inside a container `/proc/self/exe` names it, and so does a script with `#!/proc/self/exe`: the
//! kernel would execute it with the image's own `/lib64/ld-linux-x86-64.so.2`. It runs from a
//! read-only mount, so that no container can write to it ([`wherry_sys::readonly`]); the check here
//! gives the user an error that names the cause.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

static IDENTITY: OnceLock<(u64, u64)> = OnceLock::new();

/// The kernel reads at most this much of a script's first line, bytes.
const LINE_MAX: u64 = 256;

/// Records the device and inode of the executable. To be called while the host's procfs is mounted.
pub(crate) fn record() {
    if let Ok(about) = fs::metadata("/proc/self/exe") {
        // The first call counts.
        let _ = IDENTITY.set((about.dev(), about.ino()));
    }
}

/// Whether the kernel would run this executable for `path`: as a program, or as a script's
/// interpreter.
pub(crate) fn is_executed_by(path: &Path) -> bool {
    let Some(own) = IDENTITY.get() else { return false };
    let is_own =
        |path: &Path| fs::metadata(path).is_ok_and(|about| (about.dev(), about.ino()) == *own);
    is_own(path)
        || interpreter(path)
            .is_some_and(|line| is_own(Path::new(std::ffi::OsStr::from_bytes(&line))))
}

/// The interpreter of a script. None if the file is not a script.
fn interpreter(path: &Path) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    // O_NONBLOCK: without it the open of a named pipe waits for a writer.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    file.take(LINE_MAX).read_to_end(&mut line).ok()?;
    parse(&line).map(<[u8]>::to_vec)
}

/// Parses the first word after `#!`: see execve(2).
fn parse(text: &[u8]) -> Option<&[u8]> {
    let line = text.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripts_interpreter_is_the_first_word() {
        assert_eq!(parse(b"#!/proc/self/exe\nx"), Some(&b"/proc/self/exe"[..]));
        assert_eq!(parse(b"#! \t/bin/sh -e x\n"), Some(&b"/bin/sh"[..]));
        assert_eq!(parse(b"#!/bin/sh"), Some(&b"/bin/sh"[..]));
        assert_eq!((parse(b"#!\n"), parse(b"\x7fELF"), parse(b"")), (None, None, None));
    }

    #[test]
    fn every_name_of_the_executable_is_seen() {
        record();
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/proc/self/exe", &link).unwrap();
        assert!(is_executed_by(Path::new("/proc/self/exe")) && is_executed_by(&link));
        assert!(is_executed_by(&std::env::current_exe().unwrap()));
        assert!(is_executed_by(&write("script", "#!/proc/self/exe\n")));
        assert!(!is_executed_by(&write("other", "#!/bin/sh\n")));
        assert!(!is_executed_by(Path::new("/bin/sh")) && !is_executed_by(Path::new("/missing")));
    }
}
