//! The cache of compiled code.
//!
//! Compiled code is native code, so what is executed must be what our own compiler wrote. The
//! directory is root's and nobody else's; a code file gets its name when it is whole; the compiler
//! itself never has it open ([`file`]). A name says of which wasm (its SHA-256) and for which
//! engine and compile key, and the digest at the file's end covers the name too: a file that was
//! cut off, damaged or put in another's place is compiled anew.
//!
//! A start must not pay for that each time. The whole check is made once per file and boot, and
//! then remembered of the file's identity: inode, size, times ([`memo`]). Whatever is written to
//! a file afterwards changes the time that nobody can set; a power failure begins another boot. What
//! remains is a disk that returns other bytes than it was given, which is as bad for every
//! executable on it, the engine among them. fs-verity would see that, but few filesystems have it.
//! The wasm is not read again either, if it is a file of an image: its digest is remembered in the
//! same way.
//!
//! The cache makes starts faster and is never needed for one: when it cannot be written, the code
//! lives in memory only. It is bounded, and what was not used for longest goes first ([`sweep`]).

mod file;
mod memo;
mod sweep;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memo::Identity;

pub use file::digest;
pub use sweep::{Entry, Pruned};

/// A change of a file shows in its times, unless it comes within a tick of the clock that stamps
/// them. Only a file that nobody has touched for this long is remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// Turns wasm into native code.
pub trait Compiler {
    /// Compiles all of `wasm`, from its start, and writes the code to `out`. Refuses a file whose
    /// SHA-256 is not `digest`: whoever can write to it may do so at any time, and its code must not be
    /// kept under another module's name.
    ///
    /// # Errors
    /// [`CacheError::Compile`] with the compiler's own sentence.
    fn compile(&self, wasm: &File, digest: &str, out: &File) -> Result<(), CacheError>;
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

/// Wasm whose code is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    /// The file, open for reading.
    pub file: &'a File,
    /// What a person calls it.
    pub name: &'a str,
    /// Whether it is a file of an image, which nobody writes to while the image is there: then its
    /// digest may be remembered. A volume's files are read each time: somebody who has one mapped can write
    /// to it without a trace in its times.
    pub of_image: bool,
}

/// What a person may want to know on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The code is not there yet.
    Compiling {
        /// What a person calls the module.
        name: String,
        /// The module's size.
        bytes: u64,
    },
    /// Now it is.
    Compiled {
        /// What a person calls the module.
        name: String,
        /// How long that took.
        took: Duration,
        /// The code's size.
        bytes: u64,
    },
    /// Something is wrong with the cache. It costs time only.
    Trouble(String),
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Note::Compiling { name, bytes } => {
                write!(f, "compiling {} module {name} (first use)", Size(*bytes))
            }
            Note::Compiled { name, took, bytes } => {
                write!(f, "compiled {name} in {:.1} s, {}", took.as_secs_f64(), Size(*bytes))
            }
            Note::Trouble(text) => f.write_str(text),
        }
    }
}

/// A number of bytes as a person reads it.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "one digit is shown")]
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} bytes", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.1} GB", bytes / 1e9),
        }
    }
}

/// Compiled code.
#[derive(Debug)]
pub struct Code {
    /// Open for reading, at offset 0.
    pub file: File,
    /// Whether there is no better code yet, and a place to keep it.
    pub quick: bool,
}

/// A directory of compiled code, as one engine uses it.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    engine: String,
    limit: u64,
    settled: Duration,
}

impl Cache {
    /// The cache in `directory`, which need not exist yet and may be other engines' too. All
    /// code in it takes at most `limit` bytes.
    #[must_use]
    pub fn new(directory: PathBuf, engine: &str, limit: u64) -> Cache {
        Cache { directory, engine: engine.to_owned(), limit, settled: SETTLED }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The compiled code of `module` under `key`, from the cache or from `compiler`. However many
    /// ask at once, one compiles. The file that comes back is open for reading, at offset 0.
    ///
    /// # Errors
    /// Only what the compiler says, and what kept the module from being read. What is wrong with
    /// the cache itself is told as a [`Note`].
    pub fn get(
        &self,
        module: Module<'_>,
        key: &str,
        compiler: &dyn Compiler,
        tell: &mut dyn FnMut(Note),
    ) -> Result<File, CacheError> {
        let code = self.get_or_quick(module, key, None, compiler, tell)?;
        Ok(code.file)
    }

    /// The same, but if there is none under `key`, code under `quick` will do, and this is what `compiler`
    /// makes.
    ///
    /// # Errors
    /// As for [`Cache::get`].
    pub fn get_or_quick(
        &self,
        module: Module<'_>,
        key: &str,
        quick: Option<&str>,
        compiler: &dyn Compiler,
        tell: &mut dyn FnMut(Note),
    ) -> Result<Code, CacheError> {
        let best = |file| Code { file, quick: false };
        let ours = match self.examine_directory() {
            // The attempt to make it tells of other faults.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Nowhere to keep better code either.
                return in_memory(module, compiler, tell, &self.not_kept(&error)).map(best);
            }
            result => result.is_ok(),
        };
        let identity = Identity::of(module.file).map_err(CacheError::Read)?;
        let remembered = ours && module.of_image;
        let found = |digest: &str, tell: &mut dyn FnMut(Note)| {
            let file = self.read(&self.name(digest, key), tell);
            file.map(best).or_else(|| {
                let file = self.read(&self.name(digest, quick?), tell)?;
                Some(Code { file, quick: true })
            })
        };
        if let Some(digest) = self.recall(identity).filter(|_| remembered)
            && let Some(code) = found(&digest, tell)
        {
            return Ok(code);
        }
        let digest = file::digest_of(module.file).map_err(CacheError::Read)?;
        let code = match found(&digest, tell) {
            Some(code) => code,
            None => {
                let name = self.name(&digest, quick.unwrap_or(key));
                let file = self.make(&name, &digest, module, compiler, tell)?;
                Code { file, quick: quick.is_some() }
            }
        };
        // Not if it has changed while it was read.
        if module.of_image && Identity::of(module.file).is_ok_and(|now| now == identity) {
            self.remember(identity, &digest);
        }
        Ok(code)
    }

    /// The right to compile what nobody waits for, held for as long as the file is open: one process on the machine has
    /// it. `None` if another has, or if there is no cache to keep the code in.
    #[must_use]
    pub fn turn_behind(&self) -> Option<File> {
        self.examine_directory().ok()?;
        let file = file::open(&self.directory.join("behind")).ok()?;
        // It goes on to whoever inherits the descriptor.
        file.try_lock().ok()?;
        Some(file)
    }

    fn name(&self, digest: &str, key: &str) -> String {
        format!("{digest}-{}-{key}", self.engine)
    }

    /// The code of this name, if it is there, ours and whole.
    fn read(&self, name: &str, tell: &mut dyn FnMut(Note)) -> Option<File> {
        let path = self.directory.join(name);
        let result = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .and_then(|file| self.check(name, &file).map(|()| file));
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
                tell(Note::Trouble(format!("compiled anew: {}: {error}", path.display())));
                None
            }
        }
    }

    /// Whether `file` is all that its name says. In full once, then by its identity.
    fn check(&self, name: &str, file: &File) -> io::Result<()> {
        let identity = Identity::of(file)?;
        if self.was_checked(name, identity) {
            return Ok(());
        }
        file::check(file, name)?;
        self.mark_checked(name, identity);
        Ok(())
    }

    /// Compiles, when nobody else does, and keeps the code.
    fn make(
        &self,
        name: &str,
        digest: &str,
        module: Module<'_>,
        compiler: &dyn Compiler,
        tell: &mut dyn FnMut(Note),
    ) -> Result<File, CacheError> {
        let turn = self
            .make_directory()
            .and_then(|()| file::Turn::wait(&self.directory.join(format!("{name}.new"))));
        // Whoever had the turn before may have just finished. What is wrong has been said.
        if turn.is_ok()
            && let Some(code) = self.read(name, &mut |_| {})
        {
            return Ok(code);
        }
        let code = compile(module, digest, compiler, tell)?;
        let path = self.directory.join(name);
        match turn.and_then(|turn| file::store(turn, &code, name, &path)) {
            Ok(kept) => {
                self.sweep(name);
                Ok(kept)
            }
            Err(error) => {
                tell(Note::Trouble(self.not_kept(&error)));
                Ok(code)
            }
        }
    }

    fn not_kept(&self, error: &io::Error) -> String {
        format!("compiled code is not kept: {}: {error}", self.directory.display())
    }

    fn make_directory(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        self.examine_directory()
    }

    /// Whoever can write here can name what is executed.
    fn examine_directory(&self) -> io::Result<()> {
        let meta = fs::metadata(&self.directory)?;
        if !meta.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the cache's directory must belong to root and be writable for nobody else",
            ));
        }
        Ok(())
    }
}

/// Compiles into memory and tells of it.
fn compile(
    module: Module<'_>,
    digest: &str,
    compiler: &dyn Compiler,
    tell: &mut dyn FnMut(Note),
) -> Result<File, CacheError> {
    let name = module.name.to_owned();
    let bytes = module.file.metadata().map_or(0, |meta| meta.len());
    tell(Note::Compiling { name: name.clone(), bytes });
    let start = Instant::now();
    let code = file::memory().map_err(CacheError::NoRoom)?;
    compiler.compile(module.file, digest, &code)?;
    file::freeze(&code).map_err(|error| CacheError::Compiler(error.to_string()))?;
    let bytes = code.metadata().map_or(0, |meta| meta.len());
    tell(Note::Compiled { name, took: start.elapsed(), bytes });
    Ok(code)
}

/// For a cache that must not be used.
fn in_memory(
    module: Module<'_>,
    compiler: &dyn Compiler,
    tell: &mut dyn FnMut(Note),
    why: &str,
) -> Result<File, CacheError> {
    tell(Note::Trouble(why.to_owned()));
    let digest = file::digest_of(module.file).map_err(CacheError::Read)?;
    compile(module, &digest, compiler, tell)
}
