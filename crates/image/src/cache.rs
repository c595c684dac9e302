//! The cache of compiled code.
//!
//! Compiled code is native code, so the directory belongs to root and nobody else may enter it, a
//! file gets its name only when it is whole, and each carries a digest that is checked before the
//! code is used: a truncated, damaged or foreign file is compiled anew. A name is made from the
//! SHA-256 of the wasm and the engine's compile key. The cache makes starts faster and is never
//! needed for one: when it cannot be written, the code lives in memory only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest, Sha256};

/// What stands behind the code in a cache file: the digest of all before it, and this.
const MAGIC: &[u8; 8] = b"wherry01";
const DIGEST: u64 = 32;
const TRAILER: u64 = DIGEST + MAGIC.len() as u64;

/// Turns wasm into native code.
pub trait Compiler {
    /// Compiles all of `wasm`, from its start, and writes the code to `out`.
    ///
    /// # Errors
    /// [`CacheError::Compile`] with the compiler's own sentence.
    fn compile(&self, wasm: &File, out: &File) -> Result<(), CacheError>;
}

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The compiler refused the module; the text is the compiler's.
    #[error("{0}")]
    Compile(String),
    /// The compiler did not work.
    #[error("cannot compile: {0}")]
    Compiler(String),
    /// The wasm could not be read.
    #[error("cannot read the module: {0}")]
    Read(#[source] io::Error),
    /// Not even memory for the code could be had.
    #[error("nowhere to put the compiled code: {0}")]
    NoRoom(#[source] io::Error),
}

/// A directory of compiled code.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// A cache in `directory`, which need not exist yet.
    #[must_use]
    pub fn new(directory: PathBuf) -> Cache {
        Cache { directory }
    }

    /// The compiled code of `wasm` under `key`, from the cache or from `compiler`. However many
    /// ask at once, one compiles. The file that comes back is open for reading only, at offset 0.
    ///
    /// # Errors
    /// Only what the compiler says, and what kept the module from being read. What is wrong with
    /// the cache itself is given to `warn` as a sentence.
    pub fn get(
        &self,
        wasm: &File,
        key: &str,
        compiler: &dyn Compiler,
        warn: &mut dyn FnMut(String),
    ) -> Result<File, CacheError> {
        let digest = digest_of(wasm).map_err(CacheError::Read)?;
        let path = self.directory.join(format!("{digest}-{key}"));
        if let Some(code) = self.read(&path, warn) {
            return Ok(code);
        }
        match self.fill(&path, wasm, compiler) {
            Ok(code) => Ok(code),
            Err(Fault::Compile(error)) => Err(error),
            Err(Fault::Cache(error)) => {
                warn(format!("compiled code is not kept: {}: {error}", path.display()));
                in_memory(wasm, compiler)
            }
        }
    }

    /// The code at `path`, if it is there, ours and whole.
    fn read(&self, path: &Path, warn: &mut dyn FnMut(String)) -> Option<File> {
        let result = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)
            .and_then(|file| check(&file).map(|()| file));
        match result {
            Ok(file) => Some(file),
            // The second is for the attempt to write to tell.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                None
            }
            Err(error) => {
                warn(format!("compiled anew: {}: {error}", path.display()));
                None
            }
        }
    }

    /// Compiles into a file of its own and gives it its name when it is whole.
    fn fill(&self, path: &Path, wasm: &File, compiler: &dyn Compiler) -> Result<File, Fault> {
        self.make_directory()?;
        let aside = path.with_extension("new");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&aside)?;
        // The lock is on the open file, so it ends with the process that holds it.
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        // Whoever held it before may have just finished. What is wrong with it has been said.
        if let Some(code) = self.read(path, &mut |_| {}) {
            return Ok(code);
        }
        // If another waiter has renamed this very file away, its name is free again and what we
        // write here would go into the finished file: start over with a fresh one.
        if !same_file(&file, &aside) {
            drop(file);
            return self.fill(path, wasm, compiler);
        }
        let written = (|| {
            // A guest of any user maps it, through the descriptor; the directory is root's.
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            file.set_len(0)?;
            (&*file).seek(SeekFrom::Start(0))?;
            compiler.compile(wasm, &file).map_err(Fault::Compile)?;
            seal(&file)?;
            fs::rename(&aside, path)?;
            Ok(())
        })();
        if let Err(fault) = written {
            let _ = fs::remove_file(&aside);
            return Err(match fault {
                // A compiler that could not write is a full disk, not a bad module.
                Fault::Compile(CacheError::NoRoom(error)) => Fault::Cache(error),
                fault => fault,
            });
        }
        // Read-only from here on: a mapping of a file that is open for writing could be changed.
        Ok(File::open(path)?)
    }

    fn make_directory(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let meta = fs::symlink_metadata(&self.directory)?;
        if !meta.is_dir() || meta.uid() != effective_uid() || meta.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the cache's directory must belong to root and be writable for nobody else",
            ));
        }
        Ok(())
    }
}

enum Fault {
    Compile(CacheError),
    Cache(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Cache(error)
    }
}

impl From<nix::errno::Errno> for Fault {
    fn from(errno: nix::errno::Errno) -> Fault {
        Fault::Cache(errno.into())
    }
}

fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Compiles into anonymous memory: for a cache that cannot be written.
fn in_memory(wasm: &File, compiler: &dyn Compiler) -> Result<File, CacheError> {
    let code = memfd_create(c"wherry-code", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| CacheError::NoRoom(errno.into()))?;
    let code = File::from(code);
    compiler.compile(wasm, &code)?;
    (&code).seek(SeekFrom::Start(0)).map_err(CacheError::NoRoom)?;
    Ok(code)
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

/// Writes the trailer behind the code and brings all of it to the disk: a name must not survive
/// a power failure that the contents did not.
fn seal(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let digest = digest_of_first(file, length)?;
    let mut end = file;
    end.seek(SeekFrom::Start(length))?;
    end.write_all(&digest)?;
    end.write_all(MAGIC)?;
    file.sync_data()
}

/// Whether `file` is a whole file of ours; says what is wrong.
fn check(file: &File) -> io::Result<()> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != effective_uid() || meta.mode() & 0o022 != 0 {
        return wrong("not a file that only root can write");
    }
    let Some(length) = meta.len().checked_sub(TRAILER) else { return wrong("truncated") };
    let mut trailer = [0; TRAILER as usize];
    file.read_exact_at(&mut trailer, length)?;
    let (digest, magic) = trailer.split_at(DIGEST as usize);
    if magic != MAGIC {
        return wrong("truncated, or not written by this program");
    }
    if digest_of_first(file, length)? != digest {
        return wrong("damaged");
    }
    Ok(())
}

fn digest_of_first(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut start = file;
    start.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let copied = io::copy(&mut start.take(length), &mut hasher)?;
    if copied != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    start.seek(SeekFrom::Start(0))?;
    Ok(hasher.finalize().to_vec())
}

fn digest_of(file: &File) -> io::Result<String> {
    let length = file.metadata()?.len();
    let digest = digest_of_first(file, length)?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// "Compiles" by turning the bytes around, and counts.
    #[derive(Default)]
    struct Reverse {
        calls: Cell<u32>,
    }

    impl Compiler for Reverse {
        fn compile(&self, wasm: &File, out: &File) -> Result<(), CacheError> {
            self.calls.set(self.calls.get() + 1);
            let mut bytes = Vec::new();
            let mut from = wasm;
            from.seek(SeekFrom::Start(0)).unwrap();
            from.read_to_end(&mut bytes).unwrap();
            if bytes == b"bad" {
                return Err(CacheError::Compile("bad at offset 0".into()));
            }
            bytes.reverse();
            let mut to = out;
            to.write_all(&bytes).unwrap();
            Ok(())
        }
    }

    struct World {
        directory: tempfile::TempDir,
        compiler: Reverse,
        warnings: Vec<String>,
    }

    impl World {
        fn new() -> World {
            World {
                directory: tempfile::tempdir().unwrap(),
                compiler: Reverse::default(),
                warnings: Vec::new(),
            }
        }

        fn cache(&self) -> PathBuf {
            self.directory.path().join("cache")
        }

        fn get(&mut self, wasm: &[u8]) -> Result<Vec<u8>, CacheError> {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(wasm).unwrap();
            let warnings = &mut self.warnings;
            let cache = Cache::new(self.directory.path().join("cache"));
            let mut code = cache.get(&file, "key", &self.compiler, &mut |w| warnings.push(w))?;
            let mut bytes = Vec::new();
            code.read_to_end(&mut bytes).unwrap();
            bytes.truncate(wasm.len());
            Ok(bytes)
        }

        fn only_file(&self) -> PathBuf {
            let mut files = fs::read_dir(self.cache()).unwrap();
            let file = files.next().unwrap().unwrap().path();
            assert!(files.next().is_none());
            file
        }
    }

    #[test]
    fn compiles_once() {
        let mut world = World::new();
        assert_eq!(world.get(b"abc").unwrap(), b"cba");
        assert_eq!(world.get(b"abc").unwrap(), b"cba");
        assert_eq!(world.compiler.calls.get(), 1);
        assert!(world.warnings.is_empty());
    }

    #[test]
    fn a_refused_module_leaves_nothing_behind() {
        let mut world = World::new();
        assert_eq!(world.get(b"bad").unwrap_err().to_string(), "bad at offset 0");
        assert_eq!(fs::read_dir(world.cache()).unwrap().count(), 0);
    }

    #[test]
    fn damage_of_any_kind_is_seen_and_mended() {
        let mut world = World::new();
        world.get(b"abc").unwrap();
        let path = world.only_file();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(world.get(b"abc").unwrap(), b"cba", "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(world.get(b"abc").unwrap(), b"cba", "cut at {at}");
        }
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(world.warnings.len(), 2 * whole.len());
    }

    #[test]
    fn a_cache_that_cannot_be_written_costs_speed_only() {
        let mut world = World::new();
        fs::write(world.cache(), "a file where the directory should be").unwrap();
        assert_eq!(world.get(b"abc").unwrap(), b"cba");
        assert_eq!(world.warnings.len(), 1, "{:?}", world.warnings);
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_used() {
        let mut world = World::new();
        fs::create_dir(world.cache()).unwrap();
        fs::set_permissions(world.cache(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(world.get(b"abc").unwrap(), b"cba");
        assert_eq!(fs::read_dir(world.cache()).unwrap().count(), 0);
        assert!(world.warnings[0].contains("must belong to root"), "{:?}", world.warnings);
    }
}
