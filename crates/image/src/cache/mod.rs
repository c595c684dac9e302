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
//! Compiled code goes to guests as a descriptor that nothing makes writable: opened through a read-only mount of
//! the directory, or sealed memory where there is no such mount ([`Cache::reading_through`]).
//!
//! Compilations are bounded for the machine: a fixed number run at a time ([`slot`]), and a module that could not
//! be compiled is not tried again for a while ([`failure`]).
//!
//! The cache makes starts faster and is never needed for one: when it cannot be written, the code
//! lives in memory only. It is bounded, and what was not used for longest goes first ([`sweep`]).

mod failure;
mod file;
mod memo;
mod slot;
mod sweep;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memo::{CHECKED, Identity};
use slot::Slot;

use crate::size::{MODULE_MAX, Size, SizeError, check_size};

pub use file::{digest, digest_of};
pub use sweep::{Entry, Pruned};

/// A change of a file shows in its times, unless it comes within a tick of the clock that stamps
/// them. Only a file that nobody has touched for this long is remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// How often a wait looks whether it is over or cancelled. The file locks that are waited for cannot be polled.
const LOOK: Duration = Duration::from_millis(20);

/// Turns wasm into native code.
pub trait Compiler {
    /// Compiles all of `wasm`, from its start, and writes the code to `out`. Refuses a file whose
    /// SHA-256 is not `digest`: a container may write to it at any time, and its code must not be
    /// kept under another module's name. `slot`: no other compilation on the machine has this number at the time.
    ///
    /// # Errors
    /// [`CacheError::Compile`] with the compiler's own sentence, or another of its variants.
    fn compile(&self, wasm: &File, digest: &str, slot: u32, out: &File) -> Result<(), CacheError>;

    /// The SHA-256 of the first `size` bytes of `wasm`, in hexadecimal.
    ///
    /// # Errors
    /// [`CacheError::Read`], [`CacheError::Cancelled`].
    fn digest(&self, wasm: &File, size: u64) -> Result<String, CacheError> {
        digest_of(wasm, size).map_err(CacheError::Read)
    }

    /// The bounds of a compilation, in one line: a failure is remembered for equal bounds only.
    fn bounds(&self) -> String;

    /// Whether the code is not wanted any more. Waits look at it every few milliseconds.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Whether this compiler has the right of [`Cache::turn_behind`]: it then takes no slot from a container that waits.
    fn is_behind(&self) -> bool {
        false
    }
}

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The compiler refused the module; the text is the compiler's.
    #[error("{0}")]
    Compile(String),
    /// The module takes more than a compilation may, or makes the compiler crash.
    #[error("cannot compile: {0}")]
    Exceeded(String),
    /// The compiler did not work, for a reason that is not the module's.
    #[error("cannot compile: {0}")]
    Compiler(String),
    /// The module is larger than modules may be.
    #[error("{0}")]
    TooLarge(SizeError),
    /// The wasm could not be read.
    #[error("cannot read the module: {0}")]
    Read(#[source] io::Error),
    /// Not even memory for the code could be had.
    #[error("nowhere to put the compiled code: {0}")]
    NoRoom(#[source] io::Error),
    /// The text is not a compile key. It becomes part of a file's name.
    #[error("{0:?} is not a compile key: it takes 1 to 100 letters, digits, '.', '-', '_' and '+'")]
    Key(String),
    /// The code is not wanted any more.
    #[error("the start was cancelled")]
    Cancelled,
}

impl From<SizeError> for CacheError {
    fn from(error: SizeError) -> CacheError {
        match error {
            SizeError::Read(error) => CacheError::Read(error),
            error @ SizeError::TooLarge { .. } => CacheError::TooLarge(error),
        }
    }
}

/// Shows a directory where its files can be read and not be written. Returns the path there.
pub type View = fn(&Path) -> io::Result<PathBuf>;

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
    /// As many modules are compiled as the machine takes at a time.
    Waiting {
        /// What a person calls the module.
        name: String,
    },
    /// The code is there now.
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
            Note::Waiting { name } => {
                write!(
                    f,
                    "{name} waits to be compiled: the machine compiles as many modules as it takes at a time"
                )
            }
            Note::Compiled { name, took, bytes } => {
                write!(f, "compiled {name} in {:.1} s, {}", took.as_secs_f64(), Size(*bytes))
            }
            Note::Trouble(text) => f.write_str(text),
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
    module_max: u64,
    view: Option<View>,
    slots: u32,
    settled: Duration,
}

impl Cache {
    /// The cache in `directory`, which need not exist yet and may be other engines' too. All
    /// code in it takes at most `limit` bytes.
    #[must_use]
    pub fn new(directory: PathBuf, engine: &str, limit: u64) -> Cache {
        Cache {
            directory,
            engine: engine.to_owned(),
            limit,
            module_max: MODULE_MAX,
            view: None,
            slots: slot::count(),
            settled: SETTLED,
        }
    }

    /// The same cache, whose code files are opened through a read-only view of the directory: for a process that gives them to
    /// others. Where `view` fails, sealed copies in memory are given.
    #[must_use]
    pub fn reading_through(self, view: View) -> Cache {
        Cache { view: Some(view), ..self }
    }

    /// The same cache, which refuses modules of more than `bytes`; without this, of more than [`MODULE_MAX`].
    #[must_use]
    pub fn with_modules_up_to(self, bytes: u64) -> Cache {
        Cache { module_max: bytes, ..self }
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
        for key in [Some(key), quick].into_iter().flatten() {
            if !is_key(key) {
                return Err(CacheError::Key(key.to_owned()));
            }
        }
        let best = |file| Code { file, quick: false };
        let ours = match self.examine_directory() {
            // The attempt to make it tells of other faults.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Nowhere to keep better code either.
                return self.in_memory(module, compiler, tell, &error).map(best);
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
        let digest = self.digest_of(module, compiler)?;
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

    fn digest_of(&self, module: Module<'_>, compiler: &dyn Compiler) -> Result<String, CacheError> {
        let size = check_size(module.file, self.module_max)?;
        if compiler.is_cancelled() {
            return Err(CacheError::Cancelled);
        }
        compiler.digest(module.file, size)
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
        let view = self.view();
        let directory = view.as_deref().unwrap_or(&self.directory);
        let result = open_code(&directory.join(name))
            .and_then(|file| self.check(name, &file).map(|()| file))
            .and_then(|file| match &view {
                Ok(_) => Ok(file),
                Err(error) => {
                    tell(copied(error));
                    file::sealed_copy(&file)
                }
            });
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
                let path = self.directory.join(name);
                tell(Note::Trouble(format!("compiled anew: {}: {error}", path.display())));
                None
            }
        }
    }

    /// Where code files are opened.
    fn view(&self) -> io::Result<PathBuf> {
        self.view.map_or_else(|| Ok(self.directory.clone()), |view| view(&self.directory))
    }

    /// The file that was stored under this name just now, opened as [`Cache::read`] opens it; `code` is the same in sealed
    /// memory, for where that cannot be done.
    fn reopen(&self, name: &str, kept: &File, code: File, tell: &mut dyn FnMut(Note)) -> File {
        let opened = self.view().and_then(|directory| {
            let file = open_code(&directory.join(name))?;
            let same = Identity::of(&file)? == Identity::of(kept)?;
            if same { Ok(file) } else { Err(io::Error::other("it was replaced meanwhile")) }
        });
        opened.unwrap_or_else(|error| {
            tell(copied(&error));
            code
        })
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

    /// Compiles, when no other process does, and keeps the code.
    fn make(
        &self,
        name: &str,
        digest: &str,
        module: Module<'_>,
        compiler: &dyn Compiler,
        tell: &mut dyn FnMut(Note),
    ) -> Result<File, CacheError> {
        let aside = self.directory.join(format!("{name}{ASIDE}"));
        let cancelled = || compiler.is_cancelled();
        let turn = match self.make_directory().and_then(|()| file::Turn::wait(&aside, &cancelled)) {
            Ok(None) => return Err(CacheError::Cancelled),
            Ok(Some(turn)) => Ok(turn),
            Err(error) => Err(error),
        };
        if turn.is_ok() {
            // The process that had the turn before may have just finished. What is wrong has been said.
            if let Some(code) = self.read(name, &mut |_| {}) {
                return Ok(code);
            }
            if let Some(error) = self.failed_lately(name, &compiler.bounds()) {
                return Err(error);
            }
        }
        let slot = self.slot(module.name, compiler, tell)?;
        let code = Cache::compile(module, digest, &slot, compiler, tell).inspect_err(|error| {
            if turn.is_ok() {
                self.remember_failure(name, &compiler.bounds(), error);
            }
        })?;
        let bytes = file::stored_size(&code).map_err(CacheError::NoRoom)?;
        if bytes > self.limit {
            let text = format!(
                "compiled code is not kept: that of {} has {}, more than the {} that WHERRY_CACHE_SIZE allows; \
                 it stays in memory",
                module.name,
                Size(bytes),
                Size(self.limit)
            );
            tell(Note::Trouble(text));
            return Ok(code);
        }
        let path = self.directory.join(name);
        match turn.and_then(|turn| file::store(turn, &code, name, &path)) {
            Ok(kept) => {
                let code = self.reopen(name, &kept, code, tell);
                self.sweep(name);
                Ok(code)
            }
            Err(error) => {
                tell(Note::Trouble(self.not_kept(&error)));
                Ok(code)
            }
        }
    }

    /// Compiles into memory, which is sealed then.
    fn compile(
        module: Module<'_>,
        digest: &str,
        slot: &Slot,
        compiler: &dyn Compiler,
        tell: &mut dyn FnMut(Note),
    ) -> Result<File, CacheError> {
        let name = module.name.to_owned();
        let bytes = module.file.metadata().map_or(0, |meta| meta.len());
        tell(Note::Compiling { name: name.clone(), bytes });
        let start = Instant::now();
        let code = file::memory().map_err(CacheError::NoRoom)?;
        compiler.compile(module.file, digest, slot.number, &code)?;
        file::freeze(&code).map_err(|error| CacheError::Compiler(error.to_string()))?;
        let bytes = code.metadata().map_or(0, |meta| meta.len());
        tell(Note::Compiled { name, took: start.elapsed(), bytes });
        Ok(code)
    }

    /// For a directory that must not be used.
    fn in_memory(
        &self,
        module: Module<'_>,
        compiler: &dyn Compiler,
        tell: &mut dyn FnMut(Note),
        why: &io::Error,
    ) -> Result<File, CacheError> {
        tell(Note::Trouble(self.not_kept(why)));
        let digest = self.digest_of(module, compiler)?;
        Cache::compile(module, &digest, &Slot::without_lock(), compiler, tell)
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

/// Ends the name of a file that a process still writes.
const ASIDE: &str = ".new";

/// The most bytes of a compile key: with a digest, an engine and an ending it is a file's name.
const KEY_MAX: usize = 100;

/// Whether a text can be a compile key: of a file's letters, and not of a name that the cache itself uses.
fn is_key(text: &str) -> bool {
    (1..=KEY_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
        && ![ASIDE, CHECKED, failure::FAILED].iter().any(|ending| text.ends_with(ending))
}

fn open_code(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)
}

fn copied(error: &io::Error) -> Note {
    Note::Trouble(format!("compiled code is copied to memory for this container alone: {error}"))
}
