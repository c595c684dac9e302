//! Files of compiled code: how they come into being, and how to tell a whole one.
//!
//! The compiler writes to memory. When it is done the memory is made immutable and copied to a file
//! aside, whose digest goes behind the code, and the file gets its name. Nothing is forced to the
//! disk: after a power failure the full check, due once per boot, sees what is missing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::LOOK;

/// What stands behind the code: the digest of the file's name and all before it, and this.
const MAGIC: &[u8; 8] = b"wherry02";
const DIGEST: usize = 32;
const TRAILER: usize = DIGEST + MAGIC.len();

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

/// The SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The SHA-256 of the first `size` bytes of a file, in hexadecimal.
///
/// # Errors
/// When the file cannot be read, or is shorter.
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

/// Memory for a compiler to write to.
pub(super) fn memory() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    Ok(File::from(memfd_create(c"wherry-code", flags)?))
}

/// Nobody can change `code` from here on, whoever has it open still. Its offset is 0 again.
pub(super) fn freeze(mut code: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(code, FcntlArg::F_ADD_SEALS(seals))?;
    code.rewind()
}

/// A copy of `code` in memory that nothing can change, at offset 0.
pub(super) fn sealed_copy(code: &File) -> io::Result<File> {
    let copy = memory()?;
    each_chunk(code, code.metadata()?.len(), |chunk| (&copy).write_all(chunk))?;
    freeze(&copy)?;
    Ok(copy)
}

/// The right to write one name, which one process has at a time: a lock on the file aside. It ends
/// with the process that holds it, and with this value, which takes the file away.
#[derive(Debug)]
pub(super) struct Turn {
    aside: PathBuf,
    file: Flock<File>,
    done: bool,
}

impl Turn {
    /// Waits for the turn. `None`: the wait was cancelled.
    pub(super) fn wait(aside: &Path, cancelled: &dyn Fn() -> bool) -> io::Result<Option<Turn>> {
        loop {
            match Flock::lock(open(aside)?, FlockArg::LockExclusiveNonblock) {
                // If another has renamed or removed this very file meanwhile, its name is free again
                // and what we write here would go elsewhere: start over with a fresh one.
                Ok(lock) => {
                    if let Some(turn) = Turn::of(aside, lock) {
                        return Ok(Some(turn));
                    }
                }
                Err((_, Errno::EWOULDBLOCK)) => thread::sleep(LOOK),
                Err((_, errno)) => return Err(errno.into()),
            }
            if cancelled() {
                return Ok(None);
            }
        }
    }

    /// The turn that a process which died has left, if this is one.
    pub(super) fn abandoned(aside: &Path) -> Option<Turn> {
        let file = OpenOptions::new().read(true).open(aside).ok()?;
        Turn::of(aside, Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?)
    }

    fn of(aside: &Path, file: Flock<File>) -> Option<Turn> {
        let same = match (file.metadata(), fs::symlink_metadata(aside)) {
            (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
            _ => false,
        };
        same.then(|| Turn { aside: aside.to_owned(), file, done: false })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.done {
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

/// Copies `code` into the file aside and gives it its name, at `path`.
pub(super) fn store(mut turn: Turn, code: &File, name: &str, path: &Path) -> io::Result<File> {
    // A guest of any user maps it, through the descriptor; the directory is root's.
    turn.file.set_permissions(Permissions::from_mode(0o644))?;
    // What somebody who died has left.
    turn.file.set_len(0)?;
    let mut out = &*turn.file;
    out.seek(SeekFrom::Start(0))?;
    let mut hasher = begin(name);
    each_chunk(code, code.metadata()?.len(), |chunk| {
        hasher.update(chunk);
        out.write_all(chunk)
    })?;
    out.write_all(&hasher.finalize())?;
    out.write_all(MAGIC)?;
    fs::rename(&turn.aside, path)?;
    turn.done = true;
    // Read-only from here on: a mapping of a file that is open for writing could be changed.
    File::open(path)
}

/// Whether `file` is what [`store`] wrote under `name`; says what is wrong.
pub(super) fn check(file: &File, name: &str) -> io::Result<()> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let meta = file.metadata()?;
    let ours = meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0;
    if !meta.is_file() || !ours {
        return wrong("not a file that only root can write");
    }
    let Some(length) = meta.len().checked_sub(TRAILER as u64) else { return wrong("truncated") };
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, length)?;
    let (digest, magic) = trailer.split_at(DIGEST);
    if magic != MAGIC {
        return wrong("truncated, or not written by this program");
    }
    let mut hasher = begin(name);
    each_chunk(file, length, |chunk| {
        hasher.update(chunk);
        Ok(())
    })?;
    if hasher.finalize().as_slice() != digest {
        return wrong("damaged, or another module's");
    }
    Ok(())
}

fn begin(name: &str) -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update([0]);
    hasher
}

/// The size of the file that [`store`] makes of `code`.
pub(super) fn stored_size(code: &File) -> io::Result<u64> {
    Ok(code.metadata()?.len().saturating_add(TRAILER as u64))
}

/// Reads the first `length` bytes of `file`, wherever its offset is.
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
