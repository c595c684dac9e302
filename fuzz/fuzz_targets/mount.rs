//! Mount options of any text; and directories that are made in a root filesystem of any symbolic
//! links: nothing outside of it is made or changed.
//!
//! Input: lines. `link NAME TARGET` and `folder NAME` and `file NAME` make up the root filesystem,
//! `make PATH` makes a directory in it, and any other line is a mount option.
#![no_main]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use wherry_host::fuzzing::{directory, mount_options};

fuzz_target!(|bytes: &[u8]| {
    let folder = TempDir::new_in("/dev/shm").expect("there is room");
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir_all(&root).expect("there is room");
    fs::create_dir_all(outside.join("inner")).expect("there is room");
    let before = outside_of(&root, folder.path());
    let mut options = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        match line.split(|byte| *byte == b' ').collect::<Vec<_>>().as_slice() {
            [b"link", name, target] => {
                // `@` leads out.
                let out = folder.path().as_os_str().as_bytes();
                let target = target.split(|byte| *byte == b'@').collect::<Vec<_>>().join(out);
                if let Some(place) = inside(&root, name) {
                    let _ = symlink(OsStr::from_bytes(&target), place);
                }
            }
            [b"folder", name] => {
                if let Some(place) = inside(&root, name) {
                    // An earlier instruction may have made the name, here and below.
                    let _ = fs::create_dir(place);
                }
            }
            [b"file", name] => {
                if let Some(place) = inside(&root, name) {
                    let _ = fs::OpenOptions::new().write(true).create_new(true).open(place);
                }
            }
            [b"make", path] => {
                let _ = directory(&root, Path::new(OsStr::from_bytes(path)));
            }
            _ => options.push(String::from_utf8_lossy(line).into_owned()),
        }
    }
    assert_eq!(outside_of(&root, folder.path()), before, "something outside has changed");

    let (_, from, data) = mount_options(&options);
    if let Some(from) = from {
        assert!(from.is_absolute() || !data.is_empty());
    }
    let own: Vec<&String> =
        options.iter().filter(|option| !data.contains(option.as_str())).collect();
    assert!(own.iter().all(|option| !option.starts_with("upperdir=")), "{own:?}: {data}");
});

/// A place for a part of the root filesystem: below its folders, not below links.
fn inside(root: &Path, name: &[u8]) -> Option<PathBuf> {
    let mut place = root.to_owned();
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    for (index, part) in parts.iter().enumerate() {
        if part.is_empty() || *part == b"." || *part == b".." || part.contains(&0) {
            return None;
        }
        place.push(OsStr::from_bytes(part));
        if index + 1 < parts.len() && !fs::symlink_metadata(&place).ok()?.is_dir() {
            return None;
        }
    }
    Some(place)
}

/// All that is beside the root filesystem, with owners and times of change.
fn outside_of(root: &Path, folder: &Path) -> Vec<(PathBuf, u32, i64, i64)> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("it is ours").flatten() {
            let path = entry.path();
            if path == root {
                continue;
            }
            let meta = fs::symlink_metadata(&path).expect("it is there");
            found.push((path.clone(), meta.uid(), meta.ctime(), meta.ctime_nsec()));
            if meta.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort_unstable();
    found
}
