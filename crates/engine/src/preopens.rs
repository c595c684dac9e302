//! The directories that a guest gets, in the order in which its C library chooses among them.
//!
//! WASI preview 1 has no working directory: a guest's library maps each path to a preopened
//! directory by its name. The libraries differ. Zig and AssemblyScript take the first directory, Go
//! joins PWD and the path and takes the longest name, and wasi-libc (C, Rust, TinyGo) strips the
//! leading `/` of path and names, takes the longest name, and of equally long names the last. For
//! wasi-libc `/` and `.` are both the empty name, and `/x` and `x` the same path.
//!
//! So the working directory comes first, as `.`, and last, as `./`: wasi-libc strips both, and Zig
//! expects distinct names. Between them each directory of the root gets a preopen: it makes
//! `/etc/x` longer than `.`, which leaves `.` for paths whose first component names no directory of
//! the root. `/` itself, and a file in the root that is not opened but renamed or
//! removed, resolve to the working directory in programs of wasi-libc. With the working directory
//! `/` nothing is added.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Guest, Preopen};

impl Guest {
    /// Returns the preopens in order, with the working directory as `.` and `./`.
    #[must_use]
    pub fn directories(&self) -> Vec<Preopen> {
        let Some(host) = self.working_directory() else { return self.preopens.clone() };
        let mut directories = vec![Preopen { host: host.clone(), guest: ".".to_owned() }];
        directories.extend(self.preopens.iter().cloned());
        if let Some(root) = self.preopens.iter().find(|preopen| preopen.guest == "/") {
            directories.extend(self.below(root));
        }
        directories.push(Preopen { host, guest: "./".to_owned() });
        directories
    }

    /// The path of the working directory in this process, through the closest preopen above it.
    /// `None`: no preopen holds it, or it is the root, where relative paths start anyway.
    fn working_directory(&self) -> Option<PathBuf> {
        if !self.cwd.is_absolute() || self.cwd == Path::new("/") {
            return None;
        }
        let closest = self
            .preopens
            .iter()
            .filter_map(|preopen| Some((preopen, self.cwd.strip_prefix(&preopen.guest).ok()?)))
            .min_by_key(|(_, rest)| rest.components().count());
        closest.map(|(preopen, rest)| preopen.host.join(rest))
    }

    /// The directories of the root that this user may open and that are not preopens already.
    fn below(&self, root: &Preopen) -> Vec<Preopen> {
        let names = fs::read_dir(&root.host).into_iter().flatten().flatten();
        let mut directories: Vec<Preopen> = names
            .filter_map(|entry| {
                let host = entry.path();
                let guest = format!("/{}", entry.file_name().to_str()?);
                let known = self.preopens.iter().any(|preopen| preopen.guest == guest);
                let opens = File::open(&host).and_then(|file| file.metadata());
                let fits = !known && !guest.contains(':') && opens.is_ok_and(|meta| meta.is_dir());
                fits.then_some(Preopen { host, guest })
            })
            .collect();
        directories.sort_by(|one, other| one.guest.cmp(&other.guest));
        directories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(cwd: &str, preopens: &[(&str, &str)]) -> Guest {
        let preopens = preopens
            .iter()
            .map(|&(host, guest)| Preopen { host: host.into(), guest: guest.to_owned() })
            .collect();
        Guest { cwd: cwd.into(), preopens, ..Guest::default() }
    }

    #[test]
    fn the_working_directory_lies_in_the_closest_preopen() {
        let root_and_data = [("/rootfs", "/"), ("/volumes/1", "/data")];
        for (cwd, expected) in [
            ("/app", Some("/rootfs/app")),
            ("/data", Some("/volumes/1/")),
            ("/data/a/b", Some("/volumes/1/a/b")),
            ("/database", Some("/rootfs/database")),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(
                guest(cwd, &root_and_data).working_directory(),
                expected.map(PathBuf::from),
                "{cwd}"
            );
        }
        assert_eq!(guest("/app", &[("/volumes/1", "/data")]).working_directory(), None);
    }

    #[test]
    fn the_working_directory_comes_first_and_last_and_the_roots_directories_between() {
        let names = |guest: &Guest| -> Vec<String> {
            guest.directories().into_iter().map(|preopen| preopen.guest).collect()
        };
        assert_eq!(names(&guest("/", &[("/", "/")])), ["/"]);
        let all = names(&guest("/tmp", &[("/", "/"), ("/var", "/data")]));
        assert_eq!(all[..3], [".", "/", "/data"]);
        assert_eq!(all.last().map(String::as_str), Some("./"));
        assert!(all.iter().any(|name| name == "/etc") && !all.iter().any(|name| name == "/etc/x"));
        assert_eq!(names(&guest("/data/x", &[("/tmp", "/data")])), [".", "/data", "./"]);
    }
}
