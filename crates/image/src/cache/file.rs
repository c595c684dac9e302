//! Files of compiled code: writing and checking them.
//!
//! The compiler writes to a memfd. That is sealed and copied to a temporary file with a digest
//! after the code, and the file is renamed to its final name. Nothing calls fsync: after a power
//! failure the full check, which runs once per boot, detects a truncated file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::POLL_INTERVAL;

/// The last bytes of a code file. Before them lies the digest of the file's name and the code.
const MAGIC: &[u8; 8] = b"wherry02";
const DIGEST: usize = 32;
const TRAILER: usize = DIGEST + MAGIC.len();

/// The size of one read, in bytes.
const CHUNK: usize = 256 * 1024;

/// Returns the SHA-256 of `bytes` in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Returns the SHA-256 of the first `size` bytes of a file in hexadecimal.
///
/// # Errors
/// When the file cannot be read or is shorter.
pub fn digest_of(file: &File, size: u64) -> io::Result<String> {
    let mut hasher = Sha256::new();
    each_chunk(file, size, |chunk| {
        hasher.update(chunk);
        Ok(())
    })?;
    Ok(hexadecimal(&hasher.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Creates a memfd for a compiler to write to.
pub(super) fn memory() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    Ok(File::from(memfd_create(c"wherry-code", flags)?))
}

/// Seals `code`: no process can change it, through any open descriptor. Sets its offset to 0.
pub(super) fn seal(mut code: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(code, FcntlArg::F_ADD_SEALS(seals))?;
    code.rewind()
}

/// Copies `code` into a sealed memfd at offset 0.
pub(super) fn sealed_copy(code: &File) -> io::Result<File> {
    let copy = memory()?;
    each_chunk(code, code.metadata()?.len(), |chunk| (&copy).write_all(chunk))?;
    seal(&copy)?;
    Ok(copy)
}

/// The exclusive right to write one name: a lock on its temporary file.
///
/// The kernel releases it when the holder dies; dropping this value removes the file.
#[derive(Debug)]
pub(super) struct WriteLock {
    aside: PathBuf,
    file: Flock<File>,
    done: bool,
}

impl WriteLock {
    /// Waits for the lock. Returns `None` when the wait was cancelled.
    pub(super) fn wait(
        aside: &Path,
        cancelled: &dyn Fn() -> bool,
    ) -> io::Result<Option<WriteLock>> {
        loop {
            match Flock::lock(open(aside)?, FlockArg::LockExclusiveNonblock) {
                // If the previous holder renamed or removed this file, the name is free again and
                // our writes would go to another file: open it again.
                Ok(lock) => {
                    if let Some(lock) = WriteLock::of(aside, lock) {
                        return Ok(Some(lock));
                    }
                }
                Err((_, Errno::EWOULDBLOCK)) => thread::sleep(POLL_INTERVAL),
                Err((_, errno)) => return Err(errno.into()),
            }
            if cancelled() {
                return Ok(None);
            }
        }
    }

    /// Locks a temporary file that a dead process left. Returns `None` when its writer lives.
    pub(super) fn try_lock_abandoned(aside: &Path) -> Option<WriteLock> {
        let file = OpenOptions::new().read(true).open(aside).ok()?;
        WriteLock::of(aside, Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?)
    }

    fn of(aside: &Path, file: Flock<File>) -> Option<WriteLock> {
        let same = match (file.metadata(), fs::symlink_metadata(aside)) {
            (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
            _ => false,
        };
        same.then(|| WriteLock { aside: aside.to_owned(), file, done: false })
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        if !self.done {
            // A leftover file goes with the next garbage collection.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

pub(super) fn open(aside: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(aside)
}

/// Copies `code` into the locked temporary file and renames that to `path`.
pub(super) fn store(mut lock: WriteLock, code: &File, name: &str, path: &Path) -> io::Result<File> {
    // Guests of every user map it through a descriptor. Only root can reach it by its path.
    lock.file.set_permissions(Permissions::from_mode(0o644))?;
    // A writer that died may have left data.
    lock.file.set_len(0)?;
    let mut out = &*lock.file;
    out.seek(SeekFrom::Start(0))?;
    let mut hasher = hasher(name);
    each_chunk(code, code.metadata()?.len(), |chunk| {
        hasher.update(chunk);
        out.write_all(chunk)
    })?;
    out.write_all(&hasher.finalize())?;
    out.write_all(MAGIC)?;
    fs::rename(&lock.aside, path)?;
    lock.done = true;
    // Read-only: through a writable descriptor the mapped code could be changed.
    File::open(path)
}

/// Checks that `file` is what [`store`] wrote under `name`. The error names the difference.
pub(super) fn check(file: &File, name: &str) -> io::Result<()> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let meta = file.metadata()?;
    let ours = meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0;
    if !meta.is_file() || !ours {
        return wrong("it is not a regular file that only root can write");
    }
    let Some(length) = meta.len().checked_sub(TRAILER as u64) else {
        return wrong("it is truncated");
    };
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, length)?;
    let (digest, magic) = trailer.split_at(DIGEST);
    if magic != MAGIC {
        return wrong("it is truncated, or another program wrote it");
    }
    let mut hasher = hasher(name);
    each_chunk(file, length, |chunk| {
        hasher.update(chunk);
        Ok(())
    })?;
    if hasher.finalize().as_slice() != digest {
        return wrong("it is damaged, or the code of another module");
    }
    Ok(())
}

fn hasher(name: &str) -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update([0]);
    hasher
}

/// Returns the size of the file that [`store`] writes for `code`.
pub(super) fn stored_size(code: &File) -> io::Result<u64> {
    Ok(code.metadata()?.len().saturating_add(TRAILER as u64))
}

/// Reads the first `length` bytes of `file` independently of its offset.
fn each_chunk(
    file: &File,
    length: u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
        let read = file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        take(buffer.get(..read).unwrap_or_default())?;
        at = at.saturating_add(read as u64);
    }
    Ok(())
}
