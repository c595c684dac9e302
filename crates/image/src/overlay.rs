//! Finds the file in an image's layer that an open file of a container is.
//!
//! A container's root filesystem is usually an overlay: each container mounts its own over the same
//! layers. The result of fstat(2) on such a file does not identify it: the device is made up for
//! the mount and reused after it, and a file that was copied up keeps its inode number. The layer's
//! own file is permanent. So the file is searched in the layers, on the host, and is the same one
//! if inode, size and times are the same: a change in the container makes a copy with a later
//! ctime.
//!
//! No container can write to a layer, so a record of a layer's file holds for all
//! containers. A guest that passes another file for one of its image gets the code of the file
//! in the image; no other container is affected.
//!
//! A layer may be a separate filesystem: an image of erofs or ext4, or FUSE. There the image's
//! author chooses inode, size and times, and the device number is reused for the next image. So a
//! file counts only if the kernel wrote its metadata: if it lies on the device of the overlay's
//! upper directory, where containerd unpacks images, and on a local filesystem whose ctime cannot
//! be set.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, openat2};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

/// The attribute of a file whose contents are in another layer.
const METACOPY: &CStr = c"trusted.overlay.metacopy";

/// Why the descriptor of a module is not usable.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDescriptor {
    /// It cannot be examined.
    #[error("the module's descriptor cannot be examined: {0}")]
    Unknown(#[from] io::Error),
    /// It is not open for reading.
    #[error("the module's descriptor is not open for reading")]
    Unreadable,
    /// It is a directory, a device, a pipe or a socket.
    #[error("the module's descriptor is not that of a regular file")]
    NotRegular,
}

/// Returns the path of `file` in its container.
///
/// # Errors
/// If procfs is not mounted.
pub fn name(file: &File) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Validates a descriptor that a guest's process sent as its module: a regular file, open for
/// reading.
///
/// # Errors
/// If it is anything else.
pub fn validate(module: &File) -> Result<(), InvalidDescriptor> {
    let flags = fcntl(module, FcntlArg::F_GETFL).map_err(io::Error::from)?;
    let flags = OFlag::from_bits_retain(flags);
    if flags.contains(OFlag::O_PATH) || flags & OFlag::O_ACCMODE == OFlag::O_WRONLY {
        return Err(InvalidDescriptor::Unreadable);
    }
    if module.metadata()?.is_file() { Ok(()) } else { Err(InvalidDescriptor::NotRegular) }
}

/// Opens the layer's file behind `file`, where no container can write to it. `options` are those of
/// the overlay's mount, empty if unknown. None if the file is not of a layer, not on an overlay, or
/// on a filesystem whose metadata proves nothing.
#[must_use]
pub fn image_file(file: &File, options: &[&str]) -> Option<File> {
    if fstatfs(file).ok()?.filesystem_type() != OVERLAYFS_SUPER_MAGIC {
        return None;
    }
    let name = name(file).ok()?;
    find(file, name.strip_prefix("/").ok()?, options)
}

/// As [`image_file`]; `inside` is the file's path in the overlay.
fn find(file: &File, inside: &Path, options: &[&str]) -> Option<File> {
    let wanted = file.metadata().ok()?;
    if !options.is_empty() {
        return find_in(options, inside, &wanted);
    }
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_in(&options_of_device(&mountinfo, wanted.dev()), inside, &wanted)
}

/// Searches the layers of an overlay with these options.
fn find_in(options: &[&str], inside: &Path, wanted: &fs::Metadata) -> Option<File> {
    // A read-only overlay has none, so no device is known to be containerd's.
    let upper = fs::metadata(upper(options)?).ok()?.dev();
    let mut layers = layers(options).into_iter();
    layers.find_map(|layer| file_in(Path::new(layer), inside, wanted, upper))
}

/// The mount options of the overlay with this device number.
fn options_of_device(mountinfo: &str, device: u64) -> Vec<&str> {
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let mut lines = mountinfo.lines();
    lines
        .find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mut filesystem = filesystem.splitn(3, ' ');
            let ours = mount.split(' ').nth(2) == Some(&device);
            let options = filesystem.nth(2)?;
            ours.then(|| options.split(',').collect())
        })
        .unwrap_or_default()
}

/// The lower layers in an overlay's options, topmost first.
fn layers<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let named = options.iter().filter_map(|option| {
        // Kernels since 6.5 show layers that were added one by one as `lowerdir+=`.
        option.strip_prefix("lowerdir=").or_else(|| option.strip_prefix("lowerdir+="))
    });
    named.flat_map(|layers| layers.split(':')).filter(|layer| is_plain(layer)).collect()
}

/// The upper directory in an overlay's options.
fn upper<'a>(options: &[&'a str]) -> Option<&'a str> {
    let mut named = options.iter().filter_map(|option| option.strip_prefix("upperdir="));
    named.next().filter(|directory| is_plain(directory))
}

/// Whether a path is absolute and has no escaped character.
fn is_plain(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\\')
}

fn file_in(layer: &Path, inside: &Path, wanted: &fs::Metadata, upper: u64) -> Option<File> {
    let directory = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(layer)
        .ok()?;
    // No path leads out of the layer. O_PATH, because it may be a device.
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
    if !same || meta.dev() != upper || !stamps_changes(&found) {
        return None;
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    (!wherry_sys::xattr::has(&file, METACOPY).ok()?).then_some(file)
}

/// Whether a file lies on a local filesystem whose ctime the kernel writes: ext4, XFS, Btrfs, F2FS,
/// ZFS, bcachefs or tmpfs. FUSE and network filesystems may report anything.
fn stamps_changes(file: &File) -> bool {
    const LOCAL: [u32; 7] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e, 0x0102_1994];
    fstatfs(file).is_ok_and(|statfs| {
        // The field's type depends on the architecture; the numbers have 32 bits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let kind = statfs.filesystem_type().0 as u32;
        LOCAL.contains(&kind)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    const MOUNTINFO: &str = "\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
518 27 0:108 / /m1 rw,relatime shared:2 master:1 - overlay overlay rw,lowerdir=/b:/a,upperdir=/u1,workdir=/w1
412 27 0:68 / /m2 rw,relatime - overlay overlay rw,lowerdir+=/d,lowerdir+=/c\\040e,lowerdir=l/short
";

    #[test]
    fn layers_are_found_by_their_overlays_device() {
        let of = |major, minor| {
            let options = options_of_device(MOUNTINFO, libc::makedev(major, minor));
            (layers(&options), upper(&options))
        };
        assert_eq!(of(0, 108), (vec!["/b", "/a"], Some("/u1")));
        assert_eq!(of(0, 68), (vec!["/d"], None));
        assert_eq!(of(254, 0), (vec![], None));
        assert_eq!(of(0, 1), (vec![], None));
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
            // The container's root is not ours: here the file's own name is longer.
            find(&file, Path::new(name), &[])
        }
    }

    impl Drop for Overlay {
        fn drop(&mut self) {
            // A failing test may have mounted nothing.
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
        let mid = overlay.path("mid");
        let through = |name: &str| file_in(&mid, Path::new(name), &wanted, wanted.dev());
        assert!(is(
            file_in(&overlay.path("low"), Path::new("other.wasm"), &wanted, wanted.dev()).as_ref(),
            &overlay.path("low/other.wasm")
        ));
        assert!(through("link/other.wasm").is_none() && through("../low/other.wasm").is_none());
    }

    #[test]
    fn a_file_of_an_overlay_without_an_upper_directory_is_not() {
        let Some(overlay) = overlay() else { return };
        umount2(&overlay.path("at"), MntFlags::MNT_DETACH).unwrap();
        let [lower, ..] = overlay.options();
        let kind = Some("overlay");
        mount(kind, &overlay.path("at"), kind, MsFlags::empty(), Some(lower.as_str())).unwrap();
        assert!(overlay.find("app.wasm").is_none());
    }

    #[test]
    fn a_module_is_a_regular_file_that_is_open_for_reading() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.wasm");
        fs::write(&path, "x").unwrap();
        let open = |write: bool, flags: i32| {
            let mut options = File::options();
            validate(&options.read(!write).write(write).custom_flags(flags).open(&path).unwrap())
        };
        open(false, 0).unwrap();
        let unreadable = "the module's descriptor is not open for reading";
        assert_eq!(open(true, 0).unwrap_err().to_string(), unreadable);
        assert_eq!(open(false, libc::O_PATH).unwrap_err().to_string(), unreadable);
        let (pipe, _) = std::io::pipe().unwrap();
        for other in [
            File::open(directory.path()).unwrap(),
            File::open("/dev/zero").unwrap(),
            File::from(OwnedFd::from(pipe)),
        ] {
            assert!(
                validate(&other).unwrap_err().to_string().ends_with("not that of a regular file")
            );
        }
    }

    /// An ext4 image whose `app.wasm` has these contents, and inode and times that are the same in
    /// each.
    fn ext4(directory: &Path, contents: &str) -> PathBuf {
        let tree = directory.join(format!("tree-{contents}"));
        let image = directory.join(format!("{contents}.img"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("app.wasm"), contents).unwrap();
        let same = "11111111-1111-1111-1111-111111111111";
        let mut make = Command::new("mkfs.ext4");
        make.args([
            "-q",
            "-O",
            "^has_journal",
            "-U",
            same,
            "-E",
            &format!("hash_seed={same}"),
            "-d",
        ]);
        assert!(make.arg(&tree).arg(&image).arg("2M").output().unwrap().status.success());
        for field in ["ctime", "mtime", "atime"] {
            for set in [format!("{field} 20250101000000"), format!("{field}_extra 0")] {
                let mut debugfs = Command::new("debugfs");
                debugfs.args(["-w", "-R", &format!("set_inode_field /app.wasm {set}")]).arg(&image);
                assert!(debugfs.stderr(Stdio::null()).status().unwrap().success());
            }
        }
        image
    }

    /// Returns the wasm as code.
    struct Same;

    impl crate::Compiler for Same {
        fn compile(
            &self,
            wasm: &File,
            _: &str,
            _: u32,
            out: &File,
        ) -> Result<(), crate::CacheError> {
            let (mut wasm, mut out) = (wasm, out);
            std::io::Seek::rewind(&mut wasm).unwrap();
            std::io::copy(&mut wasm, &mut out).unwrap();
            Ok(())
        }

        fn bounds(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn a_code_file_of_the_cache_cannot_be_opened_again_for_writing() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let cache = crate::Cache::new(directory.path().join("cache"), "e", 1 << 20)
            .reading_through(wherry_sys::readonly::view);
        let mut wasm = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut wasm, b"abc").unwrap();
        let module = crate::Module { file: &wasm, name: "app.wasm", of_image: false };
        let mut notes = Vec::new();
        // As it was just made, and as it was found.
        for _ in 0..2 {
            let code = cache.get(module, "k", &Same, &mut |note| notes.push(note)).unwrap();
            let again = format!("/proc/self/fd/{}", code.as_raw_fd());
            for writable in [File::options().write(true), File::options().read(true).append(true)] {
                let error = writable.open(&again).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            }
            // Its pages are those of the file: all containers share them.
            let kept = fs::metadata(directory.path().join("cache").join(file_name(&code))).unwrap();
            let meta = code.metadata().unwrap();
            assert_eq!((meta.dev(), meta.ino()), (kept.dev(), kept.ino()));
        }
        let trouble = |note: &crate::CacheEvent| matches!(note, crate::CacheEvent::Warning(_));
        assert!(!notes.iter().any(trouble), "{notes:?}");
        let view = wherry_sys::readonly::view(&directory.path().join("cache")).unwrap();
        umount2(&view, MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(view).unwrap();
    }

    fn file_name(file: &File) -> std::ffi::OsString {
        name(file).unwrap().file_name().unwrap().to_owned()
    }

    #[test]
    fn two_modules_to_which_an_image_gave_the_same_metadata_are_told_apart() {
        let tool = |name: &str| Command::new(name).arg("-V").output().is_ok();
        if !nix::unistd::geteuid().is_root() || !tool("mkfs.ext4") || !tool("debugfs") {
            eprintln!("skipped: needs root and e2fsprogs (mkfs.ext4, debugfs)");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["low", "up", "work", "at"] {
            fs::create_dir(path(name)).unwrap();
        }
        let run = |program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
        };
        // Of no other's choice.
        let device = format!("/dev/loop{}", 200 + std::process::id() % 1000);
        let cache = crate::Cache::new(path("cache"), "e", 1 << 20);
        let mut seen = Vec::new();
        for contents in ["AAAAAAAAAAAA", "VVVVVVVVVVVV"] {
            let image = ext4(directory.path(), contents);
            run("losetup", &[&"--read-only", &device, &image]);
            run("mount", &[&"-o", &"ro", &device, &path("low")]);
            let options = [("lowerdir", "low"), ("upperdir", "up"), ("workdir", "work")]
                .map(|(option, name)| format!("{option}={}", path(name).display()));
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let joined = options.join(",");
            run("mount", &[&"-t", &"overlay", &"overlay", &"-o", &joined, &path("at")]);
            let meta = fs::metadata(path("low/app.wasm")).unwrap();
            seen.push((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.ctime()));
            let file = File::open(path("at/app.wasm")).unwrap();
            let image = find(&file, Path::new("app.wasm"), &options);
            let module = crate::Module {
                file: image.as_ref().unwrap_or(&file),
                name: "app.wasm",
                of_image: image.is_some(),
            };
            let code = cache.get(module, "k", &Same, &mut |_| {});
            drop((file, image));
            run("umount", &[&path("at")]);
            run("umount", &[&path("low")]);
            run("losetup", &[&"--detach", &device]);
            let (mut file, mut code) = (code.unwrap(), Vec::new());
            file.read_to_end(&mut code).unwrap();
            assert!(code.starts_with(contents.as_bytes()), "{}", code[..12].escape_ascii());
        }
        assert_eq!(seen[0], seen[1], "the images are not alike: the test shows nothing");
    }
}
