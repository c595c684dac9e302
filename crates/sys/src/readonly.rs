//! Read-only views of the host's files: bind mounts below `/run/wherry`, from which the executables
//! of this project run and through which compiled code is opened.
//!
//! A process can open its own executable (`/proc/self/exe`), its descriptors (`/proc/self/fd/N`)
//! and its mappings (`/proc/self/map_files/…`) once more, for writing if its user may write to the
//! file; and a container's root is the host's root, unless it has a user namespace. All these names
//! lead through the mount by which the file was opened: on a read-only mount the kernel returns
//! EROFS for each. Without one, a container can overwrite the host's executable (CVE-2019-5736).
//!
//! The mounts are in the host's mount namespace, so that no capability inside a container can make
//! them writable: mount(2) and mount_setattr(2) refuse a mount of another namespace. A process with
//! CAP_SYS_ADMIN could change a detached mount. Pages are shared with the file, unlike those of a
//! copy in memory.
//!
//! A view lies in a directory that is named after the device and inode of its original: an
//! executable that is replaced by rename gets another view. The view of the old one, whose link
//! count is 0, is unmounted when the next view is mounted and no process uses it any more: it must
//! not be detached while processes run from it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

/// The directory of the views: a tmpfs that only root can enter, and that no other mount namespace
/// inherits.
const VIEWS: &str = "/run/wherry";

/// Flags of a view. An executable needs neither set-user-ID bits nor devices.
const VIEW: MsFlags = MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV);

/// A view could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {} read-only below {}: {source}", .path.display(), .views.display())]
pub struct ViewError {
    path: PathBuf,
    views: PathBuf,
    source: io::Error,
}

impl From<ViewError> for io::Error {
    fn from(error: ViewError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}

/// Returns the path of a read-only view of the file or directory at `path`. Mounts the view if it
/// does not exist; otherwise it costs three system calls.
///
/// # Errors
/// If `path` does not exist, or the view cannot be mounted: a [`ViewError`] with its kind.
pub fn view(path: &Path) -> io::Result<PathBuf> {
    if path.starts_with(VIEWS) {
        // An executable that runs from its view passes the path of the view.
        return Ok(path.to_owned());
    }
    Ok(view_below(Path::new(VIEWS), path)?)
}

fn view_below(views: &Path, path: &Path) -> Result<PathBuf, ViewError> {
    let failed = |source| ViewError { path: path.to_owned(), views: views.to_owned(), source };
    let original = fs::metadata(path).map_err(failed)?;
    let view = views
        .join(format!("{:x}-{:x}", original.dev(), original.ino()))
        .join(path.file_name().unwrap_or("root".as_ref()));
    if !is_view_of(&view, &original) {
        create(views, &view, path, &original).map_err(failed)?;
    }
    Ok(view)
}

/// Whether `view` is a read-only mount of `original`.
fn is_view_of(view: &Path, original: &fs::Metadata) -> bool {
    let same = |shown: fs::Metadata| (shown.dev(), shown.ino()) == (original.dev(), original.ino());
    fs::metadata(view).is_ok_and(same)
        && statvfs(view).is_ok_and(|mount| mount.flags().contains(FsFlags::ST_RDONLY))
}

fn create(views: &Path, view: &Path, path: &Path, original: &fs::Metadata) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(views)?;
    make_private(views)?;
    // Other processes create views at the same time.
    let lock = File::open(views)?;
    lock.lock()?;
    if is_view_of(view, original) {
        return Ok(());
    }
    unmount_unlinked(views);
    // A view of another file, or one that is writable now.
    remove(view);
    let directory = if original.is_dir() { view } else { view.parent().unwrap_or(views) };
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    if !original.is_dir() {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(view)?;
    }
    let none = None::<&str>;
    let mounted = mount(Some(path), view, none, MsFlags::MS_BIND, none).and_then(|()| {
        mount(none, view, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | VIEW, none)
    });
    if let Err(errno) = mounted {
        remove(view);
        return Err(errno.into());
    }
    if is_view_of(view, original) {
        return Ok(());
    }
    // The file was replaced between the stat and the mount.
    remove(view);
    Err(io::Error::other("the file was replaced meanwhile; try again"))
}

/// Mounts a tmpfs at `views` unless one is mounted, and makes it unbindable: neither a mount
/// namespace that shares the host's mounts nor a container with a bind of the host's root gets the
/// views.
fn make_private(views: &Path) -> io::Result<()> {
    let lock = File::open(views)?;
    lock.lock()?;
    let none = None::<&str>;
    if fs::metadata(views)?.dev() == fs::metadata(views.join(".."))?.dev() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("wherry"), views, Some("tmpfs"), flags, Some("mode=700,size=1m"))?;
    }
    Ok(mount(none, views, none, MsFlags::MS_UNBINDABLE, none)?)
}

/// Unmounts the views of files that were replaced or removed, unless a process uses one.
fn unmount_unlinked(views: &Path) {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    for view in entries(views).flat_map(|directory| entries(&directory.path())) {
        let view = view.path();
        let is_unlinked = fs::metadata(&view).is_ok_and(|shown| shown.nlink() == 0);
        if is_unlinked && umount2(&view, MntFlags::UMOUNT_NOFOLLOW).is_ok() {
            remove(&view);
        }
    }
}

/// Unmounts a view and removes its mount point.
fn remove(view: &Path) {
    // Each may be missing. The next mount of a view removes leftovers.
    let _ = umount2(view, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    let _ = fs::remove_file(view).or_else(|_| fs::remove_dir(view));
    let _ = view.parent().map(fs::remove_dir);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// A directory of views, unmounted when dropped.
    struct Views(tempfile::TempDir);

    impl Views {
        /// None if this process is not root.
        fn new() -> Option<Views> {
            nix::unistd::geteuid().is_root().then(|| Views(tempfile::tempdir().unwrap()))
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("views")
        }
    }

    impl Drop for Views {
        fn drop(&mut self) {
            for entry in fs::read_dir(self.path()).into_iter().flatten().flatten() {
                for view in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                    remove(&view.path());
                }
            }
            // A failing test may have mounted nothing.
            let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn a_descriptor_of_a_view_cannot_be_opened_again_for_writing() {
        let Some(views) = Views::new() else { return };
        let original = views.0.path().join("code");
        fs::write(&original, "native").unwrap();
        let view = view_below(&views.path(), &original).unwrap();
        let file = File::open(&view).unwrap();
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        for path in [Path::new(&again), &view] {
            let error = OpenOptions::new().write(true).open(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{}", path.display());
        }
        // The file itself stays writable, and the view is mounted once.
        fs::write(&original, "NATIVE").unwrap();
        assert_eq!(fs::read_to_string(&view).unwrap(), "NATIVE");
        assert_eq!(view_below(&views.path(), &original).unwrap(), view);
    }

    #[test]
    fn a_replaced_file_gets_another_view_and_the_old_one_goes() {
        let Some(views) = Views::new() else { return };
        let original = views.0.path().join("exe");
        fs::write(&original, "old").unwrap();
        let old = view_below(&views.path(), &original).unwrap();
        let open = File::open(&old).unwrap();
        fs::write(views.0.path().join("new"), "new").unwrap();
        fs::rename(views.0.path().join("new"), &original).unwrap();
        let new = view_below(&views.path(), &original).unwrap();
        assert_ne!(old, new);
        assert_eq!(fs::read_to_string(new).unwrap(), "new");
        // A process that has the old one open keeps it, read-only and mounted.
        assert_eq!(io::read_to_string(&open).unwrap(), "old");
        let again = format!("/proc/self/fd/{}", open.as_raw_fd());
        let error = OpenOptions::new().write(true).open(again).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(is_view_of(&old, &open.metadata().unwrap()));
        drop(open);
        view_below(&views.path(), views.0.path()).unwrap();
        assert!(!old.exists());
    }

    #[test]
    fn a_directory_has_a_view_that_shows_what_is_written_later() {
        let Some(views) = Views::new() else { return };
        let original = views.0.path().join("cache");
        fs::create_dir(&original).unwrap();
        let view = view_below(&views.path(), &original).unwrap();
        fs::write(original.join("later"), "x").unwrap();
        assert_eq!(fs::read_to_string(view.join("later")).unwrap(), "x");
        assert!(fs::write(view.join("other"), "x").is_err());
        let missing = view_below(&views.path(), &views.0.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing read-only below"), "{missing}");
    }

    #[test]
    fn a_view_that_became_writable_is_mounted_again() {
        let Some(views) = Views::new() else { return };
        let original = views.0.path().join("exe");
        fs::write(&original, "x").unwrap();
        let view = view_below(&views.path(), &original).unwrap();
        let none = None::<&str>;
        mount(none, &view, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT, none).unwrap();
        let view = view_below(&views.path(), &original).unwrap();
        assert!(OpenOptions::new().write(true).open(&view).is_err());
    }
}
