//! Symbolic links and `..` in the container's root, as the kernel resolves them after chroot.
//!
//! WASI confines a path to its preopened directory: an absolute link, or one that climbs above that
//! directory, is an error. In a container the root itself is preopened, so nothing is gained by that,
//! and images have such links: `/etc/ssl/cert.pem -> /etc/ssl/certs/ca.pem`. For such a guest the guard
//! gives an engine's two ways of resolving a path the kernel's meaning:
//!
//! - Wasmtime has the kernel resolve with `RESOLVE_BENEATH`. The guard leaves that flag out.
//! - WAMR and WasmEdge read each link and walk on from it. The guard returns a link that leads to the
//!   root with as many `..` as the link's directory is deep, and drops a `..` that climbs above the
//!   root. The guest's own call of readlink gets the unchanged text: its buffer has another size than
//!   the engine's ([`LinkBuffer`]).
//!
//! One more rule serves guests of wasi-libc whose working directory is not the root. To them `/file`
//! and `file` are the same path below the working directory (see `wherry_engine::Guest::directories`), so
//! a file that is not there is opened in the root.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wherry_engine::LinkBuffer;

use super::guard::{self, Fd};
use super::pseudo;

/// Whether the guest may open the whole root.
static ROOTED: AtomicBool = AtomicBool::new(false);
/// The size of the buffer in which the engine reads a link: 0 for an engine that reads none.
static BUFFER: AtomicU64 = AtomicU64::new(0);
/// Stands for [`LinkBuffer::Exact`].
const EXACT: u64 = u64::MAX;

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
}

/// Returns the resolve flags of a call of openat2(2) for this guest.
pub(super) fn resolve(flags: u64) -> u64 {
    if ROOTED.load(Ordering::Relaxed) { flags & !libc::RESOLVE_BENEATH } else { flags }
}

/// Returns true for a directory descriptor that is the working directory, where that is not the root.
pub(super) fn is_working_directory(directory: u64) -> bool {
    if !ROOTED.load(Ordering::Relaxed) {
        return false;
    }
    let Some(here) = guard::look(libc::AT_FDCWD, c".", 0) else { return false };
    let Some(root) = guard::look(libc::AT_FDCWD, c"/", 0) else { return false };
    let Ok(directory) = i32::try_from(directory) else { return false };
    let same = |one: i32, other: &Fd| pseudo::same_object(one, other.number());
    same(directory, &here) && !same(directory, &root)
}

/// Rewrites the link that was read into `buffer`, and returns its new length.
///
/// `link` is a descriptor of the link, `directory` that of its directory, and `length` the number of
/// bytes that readlinkat(2) returned.
pub(super) fn rewrite(link: &Fd, directory: u64, buffer: u64, size: u64, length: i64) -> i64 {
    let unchanged = length;
    if !ROOTED.load(Ordering::Relaxed) || !is_engines(link, size) {
        return unchanged;
    }
    let mut target = [0; LINK_MAX];
    let Some(target) = guard::target(link, c"", &mut target) else { return unchanged };
    let Some(depth) = depth(directory) else { return unchanged };
    let Some((climbs, rest)) = in_root(target, depth) else { return unchanged };
    let address = usize::try_from(buffer).unwrap_or_default() as *mut u8;
    let (Ok(size), false) = (usize::try_from(size), address.is_null()) else { return unchanged };
    let up = b"../".iter().copied().cycle().take(3 * climbs);
    let rest = if rest.is_empty() { b"." } else { rest };
    let mut written = 0;
    for byte in up.chain(rest.iter().copied()).take(size) {
        // SAFETY: below `size`, the length of the engine's buffer, which readlinkat has written to.
        unsafe { address.add(written).write(byte) };
        written += 1;
    }
    i64::try_from(written).unwrap_or(unchanged)
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

/// Returns the number of components in a directory's path from the root.
fn depth(directory: u64) -> Option<usize> {
    let mut path = [0; LINK_MAX];
    let path = pseudo::path_of(i32::try_from(directory).ok()?, &mut path)?;
    Some(if path == b"/" { 0 } else { path.iter().filter(|byte| **byte == b'/').count() })
}

/// Returns how a link's target is reached from a directory `depth` below the root: the number of `..`,
/// and the rest of the path. `None`: the target needs no change.
fn in_root(target: &[u8], depth: usize) -> Option<(usize, &[u8])> {
    if let [b'/', ..] = target {
        return Some((depth, without_slashes(target)));
    }
    let (mut rest, mut climbs) = (target, 0);
    loop {
        rest = match rest {
            [b'.', b'.'] => &[],
            [b'.', b'.', b'/', after @ ..] => without_slashes(after),
            _ => break,
        };
        climbs += 1;
    }
    (climbs > depth).then_some((depth, rest))
}

fn without_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    path.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_the_root_and_one_above_it_stay_in_the_root() {
        let text = |target: &str, depth| {
            in_root(target.as_bytes(), depth)
                .map(|(climbs, rest)| "../".repeat(climbs) + std::str::from_utf8(rest).unwrap())
        };
        assert_eq!(text("/etc/ssl/ca.pem", 2).unwrap(), "../../etc/ssl/ca.pem");
        assert_eq!(text("//data", 0).unwrap(), "data");
        assert_eq!(text("/", 1).unwrap(), "../");
        assert_eq!(text("../../../x", 1).unwrap(), "../x");
        assert_eq!(text("../..", 1).unwrap(), "../");
        for (target, depth) in [("x", 0), ("../x", 1), ("a/../../x", 2), ("..x", 0)] {
            assert_eq!(text(target, depth), None, "{target}");
        }
    }
}
