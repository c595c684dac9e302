//! Mount options in the form of fstab(5).

use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

/// The kernel takes at most one page of data, with its final NUL byte.
const DATA_MAX: usize = 4095;

/// Mount options, split into flags and the data of the filesystem.
pub(crate) struct Options {
    pub(crate) flags: MsFlags,
    data: Vec<String>,
}

impl Options {
    pub(crate) fn parse(options: &[String]) -> Options {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in options {
            let (set, flag) = match option.as_str() {
                "" | "defaults" | "loop" => continue,
                "ro" => (true, MsFlags::MS_RDONLY),
                "rw" => (false, MsFlags::MS_RDONLY),
                "bind" => (true, MsFlags::MS_BIND),
                "rbind" => (true, MsFlags::MS_BIND | MsFlags::MS_REC),
                "nosuid" => (true, MsFlags::MS_NOSUID),
                "suid" => (false, MsFlags::MS_NOSUID),
                "nodev" => (true, MsFlags::MS_NODEV),
                "dev" => (false, MsFlags::MS_NODEV),
                "noexec" => (true, MsFlags::MS_NOEXEC),
                "exec" => (false, MsFlags::MS_NOEXEC),
                "sync" => (true, MsFlags::MS_SYNCHRONOUS),
                "async" => (false, MsFlags::MS_SYNCHRONOUS),
                "dirsync" => (true, MsFlags::MS_DIRSYNC),
                "noatime" => (true, MsFlags::MS_NOATIME),
                "atime" => (false, MsFlags::MS_NOATIME),
                "nodiratime" => (true, MsFlags::MS_NODIRATIME),
                "relatime" => (true, MsFlags::MS_RELATIME),
                "norelatime" => (false, MsFlags::MS_RELATIME),
                "strictatime" => (true, MsFlags::MS_STRICTATIME),
                "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
                other => {
                    data.push(other.to_owned());
                    continue;
                }
            };
            flags.set(flag, set);
        }
        Options { flags, data }
    }

    /// The data as the kernel takes it, and the working directory of the mount. If the layers of an
    /// overlay do not fit into a page, their paths are relative to that directory.
    pub(crate) fn fit(&self) -> (Option<PathBuf>, String) {
        let whole = self.data.join(",");
        if whole.len() <= DATA_MAX {
            return (None, whole);
        }
        let Some(layers) = self.data.iter().find_map(|option| option.strip_prefix("lowerdir="))
        else {
            return (None, whole);
        };
        let Some(common) = common_directory(layers.split(':')) else { return (None, whole) };
        let relative: Vec<String> = layers
            .split(':')
            .map(|layer| {
                Path::new(layer)
                    .strip_prefix(&common)
                    .map_or_else(|_| layer.to_owned(), |rest| rest.display().to_string())
            })
            .collect();
        let data: Vec<String> = self
            .data
            .iter()
            .map(|option| {
                if option.starts_with("lowerdir=") {
                    format!("lowerdir={}", relative.join(":"))
                } else {
                    option.clone()
                }
            })
            .collect();
        (Some(common), data.join(","))
    }
}

/// The deepest directory above all `paths`. None if that is the root.
pub(crate) fn common_directory<'a>(mut paths: impl Iterator<Item = &'a str>) -> Option<PathBuf> {
    let mut common = Path::new(paths.next()?).parent()?.to_owned();
    for path in paths {
        while !Path::new(path).starts_with(&common) {
            common = common.parent()?.to_owned();
        }
    }
    (common != Path::new("/")).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        Options::parse(&list.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let parsed = options(&["ro", "nosuid", "size=64m", "mode=755", "rw"]);
        assert_eq!(parsed.flags, MsFlags::MS_NOSUID);
        assert_eq!(parsed.fit(), (None, "size=64m,mode=755".to_owned()));
    }

    #[test]
    fn many_layers_are_made_relative() {
        let layers: Vec<String> =
            (0..200).map(|n| format!("/var/lib/snapshots/{n:020}/fs")).collect();
        let lower = format!("lowerdir={}", layers.join(":"));
        let (directory, data) = options(&["index=off", &lower, "upperdir=/u"]).fit();
        assert_eq!(directory, Some("/var/lib/snapshots".into()));
        assert!(
            data.starts_with("index=off,lowerdir=00000000000000000000/fs:00000000000000000001/fs:")
        );
        assert!(data.ends_with(",upperdir=/u"));
    }

    #[test]
    fn each_flag_has_its_opposite_and_the_last_of_two_counts() {
        for (set, unset, flag) in [
            ("ro", "rw", MsFlags::MS_RDONLY),
            ("nosuid", "suid", MsFlags::MS_NOSUID),
            ("nodev", "dev", MsFlags::MS_NODEV),
            ("noexec", "exec", MsFlags::MS_NOEXEC),
            ("sync", "async", MsFlags::MS_SYNCHRONOUS),
            ("relatime", "norelatime", MsFlags::MS_RELATIME),
            ("strictatime", "nostrictatime", MsFlags::MS_STRICTATIME),
        ] {
            assert_eq!(options(&[unset, set]).flags, flag, "{unset},{set}");
            assert_eq!(options(&[set, unset]).flags, MsFlags::empty(), "{set},{unset}");
        }
        assert_eq!(options(&["noatime", "atime"]).flags, MsFlags::empty());
    }

    #[test]
    fn a_bind_is_recursive_only_as_rbind() {
        assert_eq!(options(&["bind"]).flags, MsFlags::MS_BIND);
        assert_eq!(options(&["rbind"]).flags, MsFlags::MS_BIND | MsFlags::MS_REC);
    }

    #[test]
    fn options_that_mean_nothing_are_not_passed_to_the_filesystem() {
        let parsed = options(&["", "defaults", "loop"]);
        assert_eq!((parsed.flags, parsed.fit()), (MsFlags::empty(), (None, String::new())));
    }

    #[test]
    fn layers_that_fit_into_a_page_keep_their_paths() {
        let data = "lowerdir=/a/1:/a/2,upperdir=/u";
        assert_eq!(options(&[data]).fit(), (None, data.to_owned()));
    }

    #[test]
    fn data_that_cannot_be_shortened_is_passed_as_it_is() {
        let long = "x".repeat(DATA_MAX + 1);
        assert_eq!(options(&[&long]).fit(), (None, long.clone()));
        let apart = format!("lowerdir=/a/{long}:/b/{long}");
        assert_eq!(options(&[&apart]).fit(), (None, apart.clone()));
    }

    #[test]
    fn the_common_directory_is_the_deepest_above_all_paths() {
        let common = |paths: &[&str]| common_directory(paths.iter().copied());
        assert_eq!(common(&["/a/b/1", "/a/b/2"]), Some("/a/b".into()));
        assert_eq!(common(&["/a/b/1", "/a/c/2"]), Some("/a".into()));
        assert_eq!(common(&["/a/b"]), Some("/a".into()));
        // By whole components: `/ab` is not below `/a`.
        assert_eq!(common(&["/a/1", "/ab/1"]), None);
        assert_eq!(common(&[]), None);
    }
}
