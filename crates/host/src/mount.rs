//! Mounting the root filesystem that containerd describes in Create.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchownat};
use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use pathrs::Root;
use wherry_protocol::Mount;

use crate::mount_options::{Options, common_directory};
use crate::mount_tree::Tree;
use crate::propagation::Propagation;
use crate::userns::{self, UserNamespaceError};

/// Why a filesystem could not be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("cannot {action} {}: {source}", .path.display())]
    Path { action: &'static str, path: PathBuf, source: io::Error },
    /// A mount of the root filesystem.
    #[error("cannot mount {fstype} {device:?} at {}: {source}", .target.display())]
    Mount { fstype: String, device: String, target: PathBuf, source: Box<MountError> },
    /// A mount of the configuration.
    #[error("the mount at {}: {source}", .destination.display())]
    At { destination: PathBuf, source: Box<MountError> },
    #[error(transparent)]
    Kernel(io::Error),
    #[error("cannot map the ids of its files, which its filesystem may not support: {0}")]
    MapIds(io::Error),
    #[error("invalid id mapping {0:?}: expected INSIDE:OUTSIDE:COUNT")]
    InvalidMapping(String),
    #[error("cannot describe the id mapping: {0}")]
    Mapping(#[from] OciSpecError),
    #[error(transparent)]
    UserNamespace(#[from] UserNamespaceError),
    #[error("idmap takes uidMappings and gidMappings in a container without a user namespace")]
    NoUserNamespace,
    #[error("its layers have no common directory")]
    NoCommonDirectory,
    #[error("its source is missing")]
    NoSource,
    #[error("cannot enter the container's mount namespace: {0}")]
    Enter(io::Error),
    #[error("cannot set the propagation of the mount at {} to {propagation}: {source}", .place.display())]
    Propagation { propagation: Propagation, place: PathBuf, source: io::Error },
}

impl MountError {
    /// An error of the call `action` on `path`.
    pub(crate) fn path(action: &'static str, path: &Path, source: io::Error) -> MountError {
        MountError::Path { action, path: path.to_owned(), source }
    }
}

impl From<Errno> for MountError {
    fn from(errno: Errno) -> MountError {
        MountError::Kernel(errno.into())
    }
}

/// Mounts all of `mounts` at and below `rootfs`, in their order. `layers` is the mount point for an
/// image's layers meanwhile.
pub(crate) fn rootfs(rootfs: &Path, mounts: &[Mount], layers: &Path) -> Result<(), MountError> {
    if mounts.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(rootfs).map_err(|error| MountError::path("create", rootfs, error))?;
    for each in mounts {
        let target = Target { rootfs, inside: Path::new(&each.target) };
        let mounted = match mapping(&each.options) {
            Ok(None) => mount_plain(each, target),
            Ok(Some(namespace)) => mount_mapped(each, &namespace, target, layers),
            Err(error) => Err(error),
        };
        mounted.map_err(|source| MountError::Mount {
            fstype: each.fstype.clone(),
            device: each.source.clone(),
            target: rootfs.join(each.target.trim_start_matches('/')),
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// The place of a mount below a root filesystem, whose symbolic links are resolved inside it.
#[derive(Clone, Copy)]
struct Target<'a> {
    rootfs: &'a Path,
    /// Empty: the root itself.
    inside: &'a Path,
}

impl Target<'_> {
    /// Opens the topmost mount at the target.
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

/// The path of an open file, for calls that take no descriptor.
fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// The user namespace that the options `uidmap=` and `gidmap=` describe: containerd passes them for
/// the image of a container with a user namespace.
fn mapping(options: &[String]) -> Result<Option<OwnedFd>, MountError> {
    let ids = |name: &str| -> Result<Vec<LinuxIdMapping>, MountError> {
        let lists = options.iter().filter_map(|option| option.strip_prefix(name));
        lists.flat_map(|list| list.split(',')).map(parse_mapping).collect()
    };
    let (uids, gids) = (ids("uidmap=")?, ids("gidmap=")?);
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    Ok(Some(userns::create(Some(&uids), Some(&gids))?))
}

/// Parses `inside:outside:count`.
fn parse_mapping(text: &str) -> Result<LinuxIdMapping, MountError> {
    let mut numbers = text.split(':').map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count)), None) => {
            let mapping = LinuxIdMappingBuilder::default();
            Ok(mapping.container_id(inside).host_id(outside).size(count).build()?)
        }
        _ => Err(MountError::InvalidMapping(text.to_owned())),
    }
}

/// Mounts with mapped ids: a bind as a whole, an overlay by its lower layers.
fn mount_mapped(
    described: &Mount,
    namespace: &OwnedFd,
    target: Target<'_>,
    aside: &Path,
) -> Result<(), MountError> {
    let is_plain =
        |option: &&String| !option.starts_with("uidmap=") && !option.starts_with("gidmap=");
    let mut plain = described.clone();
    plain.options = plain.options.iter().filter(is_plain).cloned().collect();
    let lower = plain.options.iter_mut().find(|option| option.starts_with("lowerdir="));
    let Some(lower) = lower.filter(|_| described.fstype == "overlay") else {
        mount_plain(&plain, target)?;
        let mounted = target.open()?;
        let tree = Tree::copy(&path_of(&mounted), true)?;
        tree.map(namespace, true)?;
        // A mount that stays is covered by the copy.
        let _ = umount2(&path_of(&mounted), MntFlags::MNT_DETACH);
        return tree.attach_to(&target.open()?).map_err(MountError::Kernel);
    };
    let layers = lower.trim_start_matches("lowerdir=").to_owned();
    let common = common_directory(layers.split(':')).ok_or(MountError::NoCommonDirectory)?;
    let tree = Tree::copy(&common, false)?;
    tree.map(namespace, false)?;
    // No container writes to a layer, and the removal of the bundle must not remove an image.
    tree.make_read_only()?;
    tree.attach(aside)?;
    let moved: Vec<String> = layers
        .split(':')
        .map(|layer| Path::new(layer).strip_prefix(&common).unwrap_or(Path::new(layer)))
        .map(|layer| aside.join(layer).display().to_string())
        .collect();
    *lower = format!("lowerdir={}", moved.join(":"));
    let mounted = mount_plain(&plain, target);
    // The overlay keeps its layers. Cleanup unmounts `aside` if this fails.
    let _ = umount2(aside, MntFlags::MNT_DETACH);
    mounted
}

/// Why a directory could not be created in a root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// The path leads nowhere in the root filesystem.
    #[error(transparent)]
    Path(#[from] pathrs::error::Error),
}

/// Opens a directory in a root filesystem. Symbolic links are resolved inside.
pub(crate) fn open_directory(rootfs: &Path, path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(File::open(rootfs)?, path, how)?)
}

/// Creates a directory in a root filesystem, with its parents, unless it exists. Symbolic links are
/// resolved inside.
pub(crate) fn create_directory(
    rootfs: &Path,
    path: &Path,
    (uid, gid): (u32, u32),
) -> Result<(), DirectoryError> {
    if open_directory(rootfs, path).is_ok() {
        return Ok(());
    }
    let root = Root::open(rootfs)?;
    if root.resolve(path).is_err() {
        // `..` after a component that does not exist yet: the component before it in the path.
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => plain.push(name),
                Component::ParentDir => drop(plain.pop()),
                _ => {}
            }
        }
        let created = root.mkdir_all(plain, &Permissions::from_mode(0o755))?;
        let flags = AtFlags::AT_EMPTY_PATH;
        fchownat(created, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
            .map_err(io::Error::from)?;
    }
    Ok(())
}

fn mount_plain(described: &Mount, target: Target<'_>) -> Result<(), MountError> {
    let at = target.open()?;
    let parsed = Options::parse(&described.options);
    let is_bind = described.fstype == "bind";
    let flags = if is_bind { parsed.flags | MsFlags::MS_BIND } else { parsed.flags };
    let (directory, data) = parsed.fit();
    if let Some(directory) = &directory {
        // This process has a single thread, and every other path that it uses is absolute.
        nix::unistd::chdir(directory)?;
    }
    let result = mount(
        Some(described.source.as_str()),
        &path_of(&at),
        Some(described.fstype.as_str()),
        flags,
        (!data.is_empty()).then_some(data.as_str()),
    );
    if directory.is_some() {
        nix::unistd::chdir("/")?;
    }
    result?;
    // The kernel ignores all other flags of a new bind mount.
    let applied = MsFlags::MS_BIND | MsFlags::MS_REC;
    if flags.contains(MsFlags::MS_BIND) && !(flags - applied).is_empty() {
        let mounted = path_of(&target.open()?);
        mount(None::<&str>, &mounted, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_inside_whatever_links_there_are() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        create_directory(root.path(), Path::new("/a/../b/c"), (0, 0)).unwrap();
        assert!(root.path().join("b/c").is_dir());
        // One may fail, because its parent does not exist inside.
        let _ = create_directory(root.path(), Path::new("/link/d"), (0, 0));
        let _ = create_directory(root.path(), Path::new("/../../../d"), (0, 0));
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
            let text = rootfs(root, &[tmpfs(target)], &aside).unwrap_err().to_string();
            assert!(text.contains("No such file"), "{text}");
        }
        // The same links lead to directories below the root.
        std::fs::create_dir_all(root.join("etc")).unwrap();
        rootfs(root, &[tmpfs("up")], &aside).unwrap();
        let mounted = std::fs::write(root.join("etc/x"), "x").unwrap_err();
        umount2(&root.join("etc"), MntFlags::MNT_DETACH).unwrap();
        assert_eq!(mounted.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        std::fs::write(root.join("etc/x"), "x").unwrap();
    }
}
