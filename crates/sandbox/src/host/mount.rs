//! Mounting the root filesystem that containerd describes in Create.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::protocol::Mount;

/// The kernel takes one page of options.
const OPTIONS_MAX: usize = 4095;

/// Mounts all of `mounts` at and below `rootfs`, in their order.
pub(super) fn rootfs(rootfs: &Path, mounts: &[Mount]) -> Result<(), String> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(rootfs)
        .map_err(|error| format!("cannot make {}: {error}", rootfs.display()))?;
    for what in mounts {
        let target = if what.target.is_empty() {
            rootfs.to_owned()
        } else {
            rootfs.join(what.target.trim_start_matches('/'))
        };
        one(what, &target).map_err(|errno| {
            format!(
                "cannot mount {} {:?} at {}: {}",
                what.fstype,
                what.source,
                target.display(),
                errno.desc()
            )
        })?;
    }
    Ok(())
}

fn one(what: &Mount, target: &Path) -> Result<(), Errno> {
    let parsed = Options::parse(&what.options);
    let flags = if what.fstype == "bind" { parsed.flags | MsFlags::MS_BIND } else { parsed.flags };
    let (directory, data) = parsed.fit();
    if let Some(directory) = &directory {
        // This process has a single thread, and every other path it uses is absolute.
        nix::unistd::chdir(directory)?;
    }
    let result = mount(
        Some(what.source.as_str()),
        target,
        Some(what.fstype.as_str()),
        flags,
        (!data.is_empty()).then_some(data.as_str()),
    );
    if directory.is_some() {
        nix::unistd::chdir("/")?;
    }
    result?;
    // The first mount of a bind takes none of its flags.
    let settled = MsFlags::MS_BIND | MsFlags::MS_REC;
    if flags.contains(MsFlags::MS_BIND) && !(flags - settled).is_empty() {
        mount(None::<&str>, target, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)?;
    }
    Ok(())
}

/// Mount options, taken apart into flags and the filesystem's own.
struct Options {
    flags: MsFlags,
    data: Vec<String>,
}

impl Options {
    fn parse(options: &[String]) -> Options {
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
                own => {
                    data.push(own.to_owned());
                    continue;
                }
            };
            flags.set(flag, set);
        }
        Options { flags, data }
    }

    /// The filesystem's options as the kernel takes them, and the directory to mount from. An
    /// overlay of many layers has more paths than fit: then they are relative to that directory.
    fn fit(&self) -> (Option<PathBuf>, String) {
        let whole = self.data.join(",");
        if whole.len() <= OPTIONS_MAX {
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

fn common_directory<'a>(mut paths: impl Iterator<Item = &'a str>) -> Option<PathBuf> {
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
}
