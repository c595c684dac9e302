//! Symbolic links and `..` in the container's root, as the kernel resolves them after chroot.
//!
//! WASI confines a path to its preopened directory: an absolute link, or one that climbs above that
//! directory, is an error. In a container the root itself is preopened, so that protects nothing,
//! and images have such links: `/etc/ssl/cert.pem -> /etc/ssl/certs/ca.pem`. For such a guest the
//! guard makes each engine resolve them as the kernel does:
//!
//! - Wasmtime has the kernel resolve with `RESOLVE_BENEATH`. The guard leaves that flag out.
//! - WAMR reads each link and continues from its target. The guard returns a link that is absolute
//!   or begins with `..` as a path below the directory [`ROOT`], and opens the root under that
//!   name.
//! - WasmEdge does the same, but inspects a directory before it opens it. To WasmEdge the guard
//!   returns the shortest path from the link's directory.
//!
//! The guest's own call of readlink gets the unchanged text: its buffer has another size than the
//! engine's ([`LinkBuffer`]).
//!
//! One more rule serves guests of wasi-libc whose working directory is not the root. To them
//! `/file` and `file` are the same path below the working directory (see
//! `wherry_engine::Guest::directories`), so a file that is not there is opened in the root.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wherry_engine::LinkBuffer;

use super::guard::{self, Fd};
use super::pseudo;

/// Whether the guest may open the whole root.
static ROOTED: AtomicBool = AtomicBool::new(false);
/// The size of the buffer in which the engine reads a link: 0 for an engine that reads none.
static BUFFER: AtomicU64 = AtomicU64::new(0);
/// The working directory's device and inode, or 0 and 0 where it is the root.
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);
/// Stands for [`LinkBuffer::Exact`].
const EXACT: u64 = u64::MAX;

/// The name of the root in the links that WAMR reads: the guard opens the root for it in any
/// directory. A guest that uses the name itself gains nothing: it may open the root anyway.
const ROOT: &[u8] = b"\x7fwherry-root";

/// The longest link that is rewritten. The handler may run on a signal stack of 8 KiB.
const LINK_MAX: usize = 512;

/// Sets how paths are resolved, before the filter is installed.
pub(super) fn configure(rooted: bool, buffer: Option<LinkBuffer>) {
    let buffer = match buffer {
        None => 0,
        Some(LinkBuffer::Exact) => EXACT,
        Some(LinkBuffer::Fixed(size)) => size,
    };
    ROOTED.store(rooted, Ordering::Relaxed);
    BUFFER.store(buffer, Ordering::Relaxed);
    let identity = |path| {
        let directory = guard::open_path(libc::AT_FDCWD, path, 0)?;
        pseudo::identity(directory.number())
    };
    let here = identity(c".").filter(|here| rooted && Some(*here) != identity(c"/"));
    // No file has the inode 0.
    let (device, inode) = here.unwrap_or((0, 0));
    DEVICE.store(device, Ordering::Relaxed);
    INODE.store(inode, Ordering::Relaxed);
}

/// Returns the resolve flags of a call of openat2(2) for this guest.
pub(super) fn resolve(flags: u64) -> u64 {
    if ROOTED.load(Ordering::Relaxed) { flags & !libc::RESOLVE_BENEATH } else { flags }
}

/// Returns true for a directory descriptor that is the working directory, where that is not the
/// root.
pub(super) fn is_working_directory(directory: u64) -> bool {
    let here = (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed));
    let Ok(directory) = i32::try_from(directory) else { return false };
    here.1 != 0 && pseudo::identity(directory) == Some(here)
}

/// Rewrites the link that was read into `buffer`, and returns its new length.
///
/// `link` is a descriptor of the link, `directory` that of its directory, and `length` the number
/// of bytes that readlinkat(2) returned.
pub(super) fn rewrite(link: &Fd, directory: u64, buffer: u64, size: u64, length: i64) -> i64 {
    if !ROOTED.load(Ordering::Relaxed) || !is_engines(link, size) {
        return length;
    }
    let (mut target, mut path) = ([0; LINK_MAX], [0; LINK_MAX]);
    let Some(target) = guard::read_target(link, c"", &mut target) else { return length };
    let Ok(directory) = i32::try_from(directory) else { return length };
    let Some(directory) = pseudo::path_of(directory, &mut path) else { return length };
    let (Some(address), Ok(size)) = (guard::pointer::<u8>(buffer), usize::try_from(size)) else {
        return length;
    };
    let mut written = 0;
    let mut write = |bytes: &[u8]| {
        for byte in bytes.iter().take(size.saturating_sub(written)) {
            // SAFETY: below `size`, the length of the engine's buffer, which readlinkat has written
            // to.
            unsafe { address.add(written).write(*byte) };
            written += 1;
        }
    };
    let by_name = BUFFER.load(Ordering::Relaxed) == EXACT;
    if !in_root(target, directory, by_name, &mut write) {
        return length;
    }
    (written as u64).cast_signed()
}

/// Returns true for the path [`ROOT`], which stands for the root in the links that WAMR reads.
pub(super) fn names_root(path: u64) -> bool {
    if !ROOTED.load(Ordering::Relaxed) || BUFFER.load(Ordering::Relaxed) != EXACT {
        return false;
    }
    let Some(path) = guard::pointer::<u8>(path) else { return false };
    // SAFETY: not null, and the engine made a system call with it as a C string. Bytes are compared
    // up to the first difference, so none after the string's end is read.
    let byte = |index| unsafe { path.add(index).read() };
    ROOT.iter().chain(b"\0").enumerate().all(|(at, wanted)| byte(at) == *wanted)
}

/// Returns true if the buffer of a call of readlinkat(2) has the size of the engine's own.
fn is_engines(link: &Fd, size: u64) -> bool {
    match BUFFER.load(Ordering::Relaxed) {
        0 => false,
        EXACT => {
            // The link's size and one byte, doubled while the text fills it.
            let exact = guard::size(link).map(|length| if length == 0 { 32 } else { length + 1 });
            exact.is_some_and(|exact| [exact, 2 * exact, 4 * exact].contains(&size))
        }
        fixed => size == fixed,
    }
}

/// Writes a link's target, seen from the link's `directory`, in a form that an engine can walk.
/// Returns false for a target that needs no change.
///
/// `by_name`: through the directory [`ROOT`]. Otherwise by the shortest way, which leaves the
/// directory at which the engine began only if it has to.
fn in_root(target: &[u8], directory: &[u8], by_name: bool, write: &mut dyn FnMut(&[u8])) -> bool {
    let depth = components(directory).count();
    let climbs = components(target).take_while(|component| *component == b"..").count();
    let absolute = target.first() == Some(&b'/');
    if !absolute && climbs == 0 {
        return false;
    }
    // The components from the root: the directory's that are left, and the target's others.
    let left = if absolute { 0 } else { depth.saturating_sub(climbs) };
    let rest = components(target).skip(if absolute { 0 } else { climbs });
    let location = components(directory).take(left).chain(rest);
    let common = if by_name {
        write(ROOT);
        0
    } else {
        let common =
            location.clone().zip(components(directory)).take_while(|(one, other)| one == other);
        let common = common.count();
        for number in common..depth {
            write(if number == common { b".." } else { b"/.." });
        }
        common
    };
    let (mut slash, mut empty) = (by_name || common < depth, true);
    for component in location.skip(common) {
        if slash {
            write(b"/");
        }
        write(component);
        (slash, empty) = (true, false);
    }
    if empty {
        // The bare name of the root would be a last component, which the engine does not open.
        write(if by_name {
            b"/."
        } else if common < depth {
            b""
        } else {
            b"."
        });
    }
    true
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    path.split(|byte| *byte == b'/').filter(|component| !matches!(component, [] | [b'.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(target: &str, directory: &str, by_name: bool) -> Option<String> {
        let mut text = Vec::new();
        let mut write = |bytes: &[u8]| text.extend_from_slice(bytes);
        in_root(target.as_bytes(), directory.as_bytes(), by_name, &mut write).then(|| {
            String::from_utf8(text).unwrap().replace(std::str::from_utf8(ROOT).unwrap(), "R")
        })
    }

    #[test]
    fn a_link_to_the_root_and_one_above_it_stay_in_the_root() {
        for (target, directory, named, shortest) in [
            ("/etc/ssl/ca.pem", "/etc/ssl", "R/etc/ssl/ca.pem", "ca.pem"),
            ("/data/x", "/etc/ssl", "R/data/x", "../../data/x"),
            ("//data", "/", "R/data", "data"),
            ("/", "/a", "R/.", ".."),
            ("/a", "/a", "R/a", "."),
            ("../../../x", "/a", "R/x", "../x"),
            ("../b/x", "/a/c", "R/a/b/x", "../b/x"),
            ("../..", "/a", "R/.", ".."),
        ] {
            assert_eq!(text(target, directory, true).unwrap(), named, "{target}");
            assert_eq!(text(target, directory, false).unwrap(), shortest, "{target}");
        }
        for target in ["x", "a/../../x", "..x", "./x"] {
            assert_eq!(text(target, "/a", true), None, "{target}");
        }
    }
}
