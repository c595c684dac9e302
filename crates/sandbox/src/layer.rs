//! Which file of an image an open file is.
//!
//! A container's root filesystem is mostly an overlay: each container mounts its own, over the same
//! layers. What fstat says of a file in it is no identity: the device is made up per mount and used
//! again after it, and a file that was copied up keeps its inode number. The layers' own files are
//! what stays. So the file is looked for there, on the host, and is the one if inode, size and times
//! are the same: a change in the container makes a copy whose time of change is later.
//!
//! Nobody in a container can write to a layer, so what is remembered of such a file holds for all
//! containers. If a guest did manage to pass another file for one of its own image, it would get
//! the code of the file in the image, and nobody else would notice.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use crate::protocol::Mount;

/// Which a file has whose contents are in another layer.
const METACOPY: &CStr = c"trusted.overlay.metacopy";

/// What `file` is called in its container.
#[must_use]
pub fn name(file: &File) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}

/// The file of an image that `file` is, opened where no container can write to it. `rootfs` is how
/// the container's root filesystem was mounted, if that is known. None: it is no such file, or
/// not on an overlay, or cannot be found.
#[must_use]
pub fn image_file(file: &File, rootfs: &[Mount]) -> Option<File> {
    if fstatfs(file).ok()?.filesystem_type() != OVERLAYFS_SUPER_MAGIC {
        return None;
    }
    let name = name(file);
    let inside = name.strip_prefix("/").ok()?;
    let wanted = file.metadata().ok()?;
    let known: Vec<&str> = rootfs
        .iter()
        .filter(|mount| mount.fstype == "overlay")
        .flat_map(|mount| mount.options.iter().map(String::as_str))
        .collect();
    let layers = if known.is_empty() {
        layers_of_device(&fs::read_to_string("/proc/self/mountinfo").ok()?, wanted.dev())
    } else {
        layers(known.into_iter())
    };
    layers.iter().find_map(|layer| file_in(Path::new(layer), inside, &wanted))
}

/// The layers below the overlay that is this device.
fn layers_of_device(mountinfo: &str, device: u64) -> Vec<String> {
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let mut lines = mountinfo.lines();
    lines
        .find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mut filesystem = filesystem.splitn(3, ' ');
            let ours = mount.split(' ').nth(2) == Some(&device);
            let options = filesystem.nth(2)?;
            ours.then(|| layers(options.split(',')))
        })
        .unwrap_or_default()
}

/// The layers that an overlay's options name, the upper ones first.
fn layers<'a>(options: impl Iterator<Item = &'a str>) -> Vec<String> {
    let named = options.filter_map(|option| {
        // The second is how newer kernels show layers that were given one by one.
        option.strip_prefix("lowerdir=").or_else(|| option.strip_prefix("lowerdir+="))
    });
    let layers = named.flat_map(|layers| layers.split(':'));
    // A path with a character that must be escaped, or one that depends on where the mount was made.
    layers
        .filter(|layer| layer.starts_with('/') && !layer.contains('\\'))
        .map(str::to_owned)
        .collect()
}

fn file_in(layer: &Path, inside: &Path, wanted: &fs::Metadata) -> Option<File> {
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(layer)
        .ok()?;
    // Nothing in an image leads out of its layer. And not opened for reading yet: it may be a device.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let found: OwnedFd = openat2(&directory, inside, how).ok()?;
    let found = File::from(found);
    let meta = found.metadata().ok()?;
    let same = meta.is_file()
        && meta.ino() == wanted.ino()
        && meta.size() == wanted.size()
        && (meta.mtime(), meta.mtime_nsec()) == (wanted.mtime(), wanted.mtime_nsec())
        && (meta.ctime(), meta.ctime_nsec()) == (wanted.ctime(), wanted.ctime_nsec());
    let file = same.then(|| File::open(format!("/proc/self/fd/{}", found.as_raw_fd())))?.ok()?;
    (attribute(&file, METACOPY) == Err(Errno::ENODATA)).then_some(file)
}

/// Whether a file has this extended attribute.
#[allow(unsafe_code)]
fn attribute(file: &File, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends in NUL; with a length of 0 nothing is written.
    let result =
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) };
    Errno::result(result).map(drop).map_err(|errno| match errno {
        // A filesystem without attributes.
        Errno::EOPNOTSUPP => Errno::ENODATA,
        errno => errno,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    const MOUNTINFO: &str = "\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
518 27 0:108 / /m1 rw,relatime shared:2 master:1 - overlay overlay rw,lowerdir=/b:/a,upperdir=/u1,workdir=/w1
412 27 0:68 / /m2 rw,relatime - overlay overlay rw,lowerdir+=/d,lowerdir+=/c\\040e,lowerdir=l/short
";

    #[test]
    fn layers_are_found_by_their_overlays_device() {
        let of = |major, minor| layers_of_device(MOUNTINFO, libc::makedev(major, minor));
        assert_eq!(of(0, 108), ["/b", "/a"]);
        assert_eq!(of(0, 68), ["/d"]);
        assert_eq!(of(254, 0), [""; 0]);
        assert_eq!(of(0, 1), [""; 0]);
    }

    /// An overlay of two layers, and an upper one that can be written.
    struct Overlay(tempfile::TempDir);

    impl Overlay {
        fn new() -> Overlay {
            let directory = tempfile::tempdir().unwrap();
            for name in ["low", "mid", "up", "work", "at"] {
                fs::create_dir(directory.path().join(name)).unwrap();
            }
            let overlay = Overlay(directory);
            fs::write(overlay.path("low/app.wasm"), "low").unwrap();
            fs::write(overlay.path("mid/app.wasm"), "mid").unwrap();
            fs::write(overlay.path("low/other.wasm"), "other").unwrap();
            let options = overlay.options().join(",");
            let kind = Some("overlay");
            mount(kind, &overlay.path("at"), kind, MsFlags::empty(), Some(options.as_str()))
                .unwrap();
            overlay
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn options(&self) -> [String; 3] {
            let shown = |name| self.path(name).display().to_string();
            [
                format!("lowerdir={}:{}", shown("mid"), shown("low")),
                format!("upperdir={}", shown("up")),
                format!("workdir={}", shown("work")),
            ]
        }

        /// The file of a layer that is this file in the overlay.
        fn find(&self, name: &str) -> Option<File> {
            let file = File::open(self.path("at").join(name)).unwrap();
            // The container's root is not ours: here the name is longer.
            let wanted = file.metadata().unwrap();
            let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let layers = layers_of_device(&info, wanted.dev());
            assert_eq!(layers.len(), 2);
            layers.iter().find_map(|layer| file_in(Path::new(layer), Path::new(name), &wanted))
        }
    }

    impl Drop for Overlay {
        fn drop(&mut self) {
            let _ = umount2(&self.path("at"), MntFlags::MNT_DETACH);
        }
    }

    fn is(found: Option<&File>, path: &Path) -> bool {
        let meta = fs::metadata(path).unwrap();
        found.is_some_and(|file| {
            let found = file.metadata().unwrap();
            (found.dev(), found.ino()) == (meta.dev(), meta.ino())
        })
    }

    /// Only root can mount.
    fn overlay() -> Option<Overlay> {
        nix::unistd::geteuid().is_root().then(Overlay::new)
    }

    #[test]
    fn a_file_of_an_image_is_that_of_its_layer() {
        let Some(overlay) = overlay() else { return };
        assert!(is(overlay.find("app.wasm").as_ref(), &overlay.path("mid/app.wasm")));
        assert!(is(overlay.find("other.wasm").as_ref(), &overlay.path("low/other.wasm")));
    }

    #[test]
    fn a_file_that_the_container_has_changed_is_not() {
        let Some(overlay) = overlay() else { return };
        let low = fs::metadata(overlay.path("mid/app.wasm")).unwrap();
        let changed = File::options().write(true).open(overlay.path("at/app.wasm")).unwrap();
        // Size and the time that can be set are as they were.
        std::os::unix::fs::FileExt::write_all_at(&changed, b"MID", 0).unwrap();
        changed.set_modified(low.modified().unwrap()).unwrap();
        assert_eq!(changed.metadata().unwrap().ino(), low.ino());
        assert!(overlay.find("app.wasm").is_none());
        fs::write(overlay.path("at/new.wasm"), "new").unwrap();
        assert!(overlay.find("new.wasm").is_none());
    }

    #[test]
    fn a_file_on_no_overlay_is_not() {
        assert!(image_file(&tempfile::tempfile().unwrap(), &[]).is_none());
    }

    #[test]
    fn a_symbolic_link_leads_nowhere() {
        let Some(overlay) = overlay() else { return };
        let wanted = fs::metadata(overlay.path("low/other.wasm")).unwrap();
        std::os::unix::fs::symlink(overlay.path("low"), overlay.path("mid/link")).unwrap();
        let through = |name: &str| file_in(&overlay.path("mid"), Path::new(name), &wanted);
        assert!(through("link/other.wasm").is_none() && through("../low/other.wasm").is_none());
    }
}
