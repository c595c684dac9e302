//! Copies of mounts, whose files may belong to other ids than on the disk (idmapped mounts, see
//! mount_setattr(2)).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use libcontainer::syscall::linux::{
    AT_EMPTY_PATH, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH, MountAttr,
};
use libcontainer::syscall::syscall::create_syscall;

/// Files of the mount belong to the ids to which a user namespace maps those on the disk.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// A copy of a mount that is mounted nowhere.
pub(crate) struct Tree(OwnedFd);

impl Tree {
    /// Copies what is mounted at `source`: with all below it, if `recursive`.
    pub(crate) fn of(source: &Path, recursive: bool) -> Result<Tree, String> {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        let flags = if recursive { flags | AT_RECURSIVE } else { flags };
        create_syscall().open_tree(libc::AT_FDCWD, source.to_str(), flags).map(Tree).map_err(
            |error| format!("cannot take {}: {}", source.display(), super::sentence(&error)),
        )
    }

    /// Has its files belong to the ids that the user namespace maps theirs to.
    pub(crate) fn map(&self, namespace: &OwnedFd, recursive: bool) -> Result<(), String> {
        let namespace = u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX);
        self.set(MOUNT_ATTR_IDMAP, namespace, recursive)
            .map_err(|error| format!("its filesystem cannot map ids: {error}"))
    }

    /// Lets nobody write through it.
    pub(crate) fn make_read_only(&self) -> Result<(), String> {
        self.set(MOUNT_ATTR_RDONLY, 0, true)
    }

    fn set(&self, attr_set: u64, userns_fd: u64, recursive: bool) -> Result<(), String> {
        let attr = MountAttr { attr_set, attr_clr: 0, propagation: 0, userns_fd };
        let flags = if recursive { AT_EMPTY_PATH | AT_RECURSIVE } else { AT_EMPTY_PATH };
        create_syscall()
            .mount_setattr(self.0.as_fd(), Path::new(""), flags, &attr, size_of::<MountAttr>())
            .map_err(|error| super::sentence(&error))
    }

    /// Mounts it at `place`, which is made: a directory or a file, as the copy is.
    pub(crate) fn attach(self, place: &Path) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot mount at {}: {error}", place.display());
        let made = match File::from(self.0.try_clone().map_err(failed)?).metadata() {
            Ok(meta) if meta.is_dir() => fs::create_dir_all(place),
            Ok(_) => File::create(place).map(drop),
            Err(error) => Err(error),
        };
        let target = made.and_then(|()| File::open(place)).map_err(failed)?;
        self.attach_to(&target.into())
            .map_err(|text| format!("cannot mount at {}: {text}", place.display()))
    }

    /// Mounts it over an open directory or file.
    pub(crate) fn attach_to(self, target: &OwnedFd) -> Result<(), String> {
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
        create_syscall()
            .move_mount(self.0.as_fd(), None, target.as_fd(), None, flags)
            .map_err(|error| super::sentence(&error))
    }
}
