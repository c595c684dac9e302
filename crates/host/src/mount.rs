//! Mounting the root filesystem that containerd describes in Create.

use std::error::Error;
use std::fs::{File, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchownat};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use pathrs::Root;

use super::idmap::Tree;
use super::userns;
use wherry_cgroup as cgroup;
use wherry_protocol::Mount;
use wherry_sys::process::Process;

/// The kernel takes one page of options.
const OPTIONS_MAX: usize = 4095;

/// Mounts all of `mounts` at and below `rootfs`, in their order. What has to be mounted on the way
/// is mounted at `aside`.
pub(crate) fn rootfs(rootfs: &Path, mounts: &[Mount], aside: &Path) -> Result<(), String> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(rootfs)
        .map_err(|error| format!("cannot make {}: {error}", rootfs.display()))?;
    for what in mounts {
        let target = Target { rootfs, inside: Path::new(&what.target) };
        let failed = |cause: &str| {
            let target = rootfs.join(what.target.trim_start_matches('/'));
            format!(
                "cannot mount {} {:?} at {}: {cause}",
                what.fstype,
                what.source,
                target.display()
            )
        };
        match mapping(&what.options).map_err(|cause| failed(&cause))? {
            None => one(what, target).map_err(|errno| failed(errno.desc()))?,
            Some(namespace) => {
                mapped(what, &namespace, target, aside).map_err(|cause| failed(&cause))?;
            }
        }
    }
    Ok(())
}

/// Where a mount goes: below a root filesystem, whose symbolic links mean what they mean inside.
#[derive(Clone, Copy)]
struct Target<'a> {
    rootfs: &'a Path,
    /// Empty: the root itself.
    inside: &'a Path,
}

impl Target<'_> {
    /// Resolves the target as it is now: what has been mounted there hides what was there before.
    fn open(self) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        if self.inside.as_os_str().is_empty() {
            return open(self.rootfs, flags, Mode::empty());
        }
        let root = open(self.rootfs, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(&root, self.inside, OpenHow::new().flags(flags).resolve(resolve))
    }
}

/// The path of an open file, for calls that take none but paths.
fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// The user namespace that the options `uidmap=` and `gidmap=` describe, with which containerd says
/// that the files of an image are those of a container with a user namespace of its own.
fn mapping(options: &[String]) -> Result<Option<OwnedFd>, String> {
    let ids = |name: &str| -> Result<Vec<LinuxIdMapping>, String> {
        let lists = options.iter().filter_map(|option| option.strip_prefix(name));
        lists.flat_map(|list| list.split(',')).map(id_mapping).collect()
    };
    let (uids, gids) = (ids("uidmap=")?, ids("gidmap=")?);
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    userns::make(Some(&uids), Some(&gids)).map(Some)
}

/// Parses `inside:outside:count`.
fn id_mapping(text: &str) -> Result<LinuxIdMapping, String> {
    let mut numbers = text.split(':').map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count)), None) => {
            let mapping = LinuxIdMappingBuilder::default();
            let mapping = mapping.container_id(inside).host_id(outside).size(count);
            mapping.build().map_err(|error| error.to_string())
        }
        _ => Err(format!("{text:?} is no mapping of ids")),
    }
}

/// Gives the cgroups of version 1 that a container sees the options of its configuration: read-only, as a rule.
///
/// libcontainer binds each hierarchy there without any options, so that a container's root could raise its own limits. To be called
/// before the container runs, as the last thing that this process does: it enters the mount namespace of `pid`.
pub(crate) fn restrict_cgroups(
    pid: i32,
    mounts: &[oci_spec::runtime::Mount],
) -> Result<(), String> {
    let cgroups = mounts.iter().find(|mount| mount.typ().as_deref() == Some("cgroup"));
    let Some(cgroups) = cgroups.filter(|_| !cgroup::is_unified()) else { return Ok(()) };
    let settable = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let flags = Options::parse(cgroups.options().as_deref().unwrap_or_default()).flags & settable;
    let place = cgroups.destination();
    let failed = |cause: String| format!("cannot set the options of {}: {cause}", place.display());
    let open = |process: &Path| {
        let root = File::open(process.join("root"))?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve);
        Ok((File::open(process.join("ns/mnt"))?, openat2(&root, place, how)?))
    };
    let (namespace, directory) =
        Process::new(pid).inspect(open).map_err(|error| failed(error.to_string()))?;
    let enter = || {
        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        // From here on no path but one from there means what it did.
        nix::unistd::fchdir(&directory)
    };
    enter().map_err(|errno| failed(errno.desc().to_owned()))?;
    let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    let result = std::fs::read_dir(".")
        .map_err(|error| failed(error.to_string()))?
        .flatten()
        .try_for_each(|entry| {
            match mount(None::<&str>, &entry.file_name()[..], None::<&str>, flags, None::<&str>) {
                // A symbolic link to a hierarchy, or a directory on which none is mounted.
                Ok(()) | Err(Errno::EINVAL) => Ok(()),
                Err(errno) => Err(failed(errno.desc().to_owned())),
            }
        });
    let _ = nix::unistd::chdir("/");
    result
}

/// Mounts with ids mapped: a bind as such, an overlay with lower layers that are.
fn mapped(
    what: &Mount,
    namespace: &OwnedFd,
    target: Target<'_>,
    aside: &Path,
) -> Result<(), String> {
    let plain = |option: &&String| !option.starts_with("uidmap=") && !option.starts_with("gidmap=");
    let mut what = what.clone();
    what.options = what.options.iter().filter(plain).cloned().collect();
    let plainly = |what: &Mount| one(what, target).map_err(|errno| errno.desc().to_owned());
    let layers = |what: &Mount| {
        let lower = what.options.iter().position(|option| option.starts_with("lowerdir="));
        lower.and_then(|at| Some((at, what.options.get(at)?.strip_prefix("lowerdir=")?.to_owned())))
    };
    let Some((at, layers)) = layers(&what).filter(|_| what.fstype == "overlay") else {
        plainly(&what)?;
        let open = || target.open().map_err(|errno| errno.desc().to_owned());
        let mounted = open()?;
        let tree = Tree::of(&path_of(&mounted), true)?;
        tree.map(namespace, true)?;
        let _ = umount2(&path_of(&mounted), MntFlags::MNT_DETACH);
        return tree.attach_to(&open()?);
    };
    let common =
        common_directory(layers.split(':')).ok_or("its layers have no directory in common")?;
    let tree = Tree::of(&common, false)?;
    tree.map(namespace, false)?;
    // Nobody writes to a layer; and whoever removes the bundle must not remove an image with it.
    tree.make_read_only()?;
    tree.attach(aside)?;
    let moved: Vec<String> = layers
        .split(':')
        .map(|layer| Path::new(layer).strip_prefix(&common).unwrap_or(Path::new(layer)))
        .map(|layer| aside.join(layer).display().to_string())
        .collect();
    if let Some(option) = what.options.get_mut(at) {
        *option = format!("lowerdir={}", moved.join(":"));
    }
    let mounted = plainly(&what);
    let _ = umount2(aside, MntFlags::MNT_DETACH);
    mounted
}

/// Makes a directory in a root filesystem, with those above it, if it is not there. Symbolic links mean what
/// they mean inside.
pub(crate) fn directory(
    rootfs: &Path,
    path: &Path,
    (uid, gid): (u32, u32),
) -> Result<(), Box<dyn Error>> {
    let there = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    if openat2(File::open(rootfs)?, path, there).is_ok() {
        return Ok(());
    }
    let root = Root::open(rootfs)?;
    if root.resolve(path).is_err() {
        // What is not there yet has no parent but the one before it in the path.
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => plain.push(name),
                Component::ParentDir => drop(plain.pop()),
                _ => {}
            }
        }
        let made = root.mkdir_all(plain, &Permissions::from_mode(0o755))?;
        let flags = AtFlags::AT_EMPTY_PATH;
        fchownat(made, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
    }
    Ok(())
}

fn one(what: &Mount, target: Target<'_>) -> Result<(), Errno> {
    let at = target.open()?;
    let parsed = Options::parse(&what.options);
    let flags = if what.fstype == "bind" { parsed.flags | MsFlags::MS_BIND } else { parsed.flags };
    let (directory, data) = parsed.fit();
    if let Some(directory) = &directory {
        // This process has a single thread, and every other path it uses is absolute.
        nix::unistd::chdir(directory)?;
    }
    let result = mount(
        Some(what.source.as_str()),
        &path_of(&at),
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
        let mounted = path_of(&target.open()?);
        mount(None::<&str>, &mounted, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)?;
    }
    Ok(())
}

/// Mount options, taken apart into flags and the filesystem's own.
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
    pub(crate) fn fit(&self) -> (Option<PathBuf>, String) {
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
    fn a_directory_is_made_inside_whatever_links_there_are() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        directory(root.path(), Path::new("/a/../b/c"), (0, 0)).unwrap();
        assert!(root.path().join("b/c").is_dir());
        let _ = directory(root.path(), Path::new("/link/d"), (0, 0));
        let _ = directory(root.path(), Path::new("/../../../d"), (0, 0));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(root.path().join("d").is_dir());
    }

    #[test]
    fn a_mounts_target_stays_in_the_root_filesystem() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (link, to) in [("absolute", outside.path()), ("up", Path::new("../../../../etc"))] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        let tmpfs = |target: &str| Mount {
            fstype: "tmpfs".to_owned(),
            source: "tmpfs".to_owned(),
            target: target.to_owned(),
            options: vec!["ro".to_owned(), "size=64k".to_owned()],
        };
        let aside = root.join("aside");
        for target in ["absolute", "/up", "../../tmp/nowhere"] {
            let text = rootfs(root, &[tmpfs(target)], &aside).unwrap_err();
            assert!(text.contains("No such file"), "{text}");
        }
        // Below the root the same links have targets.
        std::fs::create_dir_all(root.join("etc")).unwrap();
        rootfs(root, &[tmpfs("up")], &aside).unwrap();
        let mounted = std::fs::write(root.join("etc/x"), "x").unwrap_err();
        umount2(&root.join("etc"), MntFlags::MNT_DETACH).unwrap();
        assert_eq!(mounted.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        std::fs::write(root.join("etc/x"), "x").unwrap();
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
