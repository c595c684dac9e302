//! A copy of a mount, or of a tree of mounts, that is attached nowhere yet (open_tree(2)), and the
//! attributes of a mount: id mapping, read-only, propagation (mount_setattr(2)).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libcontainer::syscall::SyscallError;
use libcontainer::syscall::linux::{
    AT_EMPTY_PATH, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH, MountAttr,
};
use libcontainer::syscall::syscall::create_syscall;

use crate::mount::MountError;
use crate::propagation::Propagation;

/// Shifts the owners of the mount's files through a user namespace. Since Linux 5.12.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// A detached copy of a mount.
pub(crate) struct Tree(OwnedFd);

impl Tree {
    /// Copies the mount at `source`; with all mounts below it if `recursive`. The copy is in the
    /// same peer group: a shared mount stays shared with the host.
    pub(crate) fn copy(source: &Path, recursive: bool) -> Result<Tree, MountError> {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        let flags = if recursive { flags | AT_RECURSIVE } else { flags };
        create_syscall()
            .open_tree(libc::AT_FDCWD, source.to_str(), flags)
            .map(Tree)
            .map_err(|error| MountError::path("copy the mount", source, io_error(error)))
    }

    /// Maps the owners of its files through a user namespace.
    pub(crate) fn map(&self, namespace: &OwnedFd, recursive: bool) -> Result<(), MountError> {
        let fd = i64::from(namespace.as_raw_fd()).cast_unsigned();
        let attributes = MountAttr { attr_set: MOUNT_ATTR_IDMAP, userns_fd: fd, ..NONE };
        set_attributes(self.0.as_fd(), &attributes, recursive).map_err(MountError::MapIds)
    }

    /// Makes it read-only, with all mounts below.
    pub(crate) fn make_read_only(&self) -> Result<(), MountError> {
        let attributes = MountAttr { attr_set: MOUNT_ATTR_RDONLY, ..NONE };
        set_attributes(self.0.as_fd(), &attributes, true).map_err(MountError::Kernel)
    }

    /// Attaches it at `place`, which is created as a directory or a file, like the root of the
    /// copy.
    pub(crate) fn attach(self, place: &Path) -> Result<(), MountError> {
        let failed = |error| MountError::path("mount at", place, error);
        let created = match File::from(self.0.try_clone().map_err(failed)?).metadata() {
            Ok(meta) if meta.is_dir() => fs::create_dir_all(place),
            Ok(_) => File::create(place).map(drop),
            Err(error) => Err(error),
        };
        let target = created.and_then(|()| File::open(place)).map_err(failed)?;
        self.attach_to(&target.into()).map_err(failed)
    }

    /// Attaches it over an open directory or file.
    pub(crate) fn attach_to(self, target: &OwnedFd) -> io::Result<()> {
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
        create_syscall()
            .move_mount(self.0.as_fd(), None, target.as_fd(), None, flags)
            .map_err(io_error)
    }
}

/// Sets the propagation of the mount whose root is open as `mount`. It must be a mount of this
/// process's mount namespace.
pub(crate) fn set_propagation(
    mount: BorrowedFd<'_>,
    propagation: Propagation,
) -> Result<(), io::Error> {
    let attributes = MountAttr { propagation: propagation.flag().bits(), ..NONE };
    set_attributes(mount, &attributes, propagation.is_recursive())
}

const NONE: MountAttr = MountAttr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };

fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &MountAttr,
    recursive: bool,
) -> io::Result<()> {
    let flags = if recursive { AT_EMPTY_PATH | AT_RECURSIVE } else { AT_EMPTY_PATH };
    create_syscall()
        .mount_setattr(mount, Path::new(""), flags, attributes, size_of::<MountAttr>())
        .map_err(io_error)
}

/// The cause of libcontainer's error.
fn io_error(error: SyscallError) -> io::Error {
    match error {
        SyscallError::Nix(errno) => errno.into(),
        SyscallError::IO(error) => error,
        other => io::Error::other(other),
    }
}
