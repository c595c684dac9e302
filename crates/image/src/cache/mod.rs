//! The cache of compiled code.
//!
//! Compiled code is native code, so a guest must execute only code that our own compiler wrote.
//! Root owns the directory, and no other user can write to it. A code file gets its final name
//! after it is complete, and the compiler never has that file open ([`file`]). The name holds the
//! SHA-256 of the wasm, the engine and the compile key; the digest at the file's end covers the
//! name too. A truncated, damaged or exchanged file is compiled again.
//!
//! A start does not pay for that check each time. The full check runs once per file and boot; its
//! result is recorded under the file's identity: inode, size, times ([`verified`]). A later write
//! changes the ctime, which no system call can set, and a power failure starts another boot. A disk
//! that returns other bytes than were written remains undetected, as for every executable on it;
//! fs-verity would detect that, but few filesystems support it. The digest of an image's wasm is
//! recorded in the same way, so that the wasm is not read again either.
//!
//! A guest receives compiled code as a descriptor that cannot be made writable: opened through a
//! read-only mount of the directory, or a sealed memfd without such a mount
//! ([`Cache::reading_through`]).
//!
//! Compilations are bounded per machine: a fixed number run at a time ([`slot`]), and a failed
//! compilation is not repeated for ten minutes ([`failure`]).
//!
//! The cache only saves time: when it cannot be written, the code stays in memory. Its size is
//! bounded, and the least recently used code is removed first ([`gc`]).

mod failure;
mod file;
mod gc;
mod slot;
#[cfg(test)]
mod tests;
mod verified;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use slot::Slot;
use verified::{Identity, VERIFIED};

use crate::size::{MODULE_MAX, Size, SizeError, check_size};

pub use file::{digest, digest_of};
pub use gc::{Entry, Pruned};

/// The minimum age of a file's last change before its identity is recorded. A second change within
/// one tick of the kernel's clock would not change the timestamps.
const SETTLED: Duration = Duration::from_secs(2);

/// The interval at which a wait checks for its lock and for cancellation: file locks cannot be
/// polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Turns wasm into native code.
pub trait Compiler {
    /// Compiles all of `wasm`, from its start, and writes the code to `out`. Refuses a file whose
    /// SHA-256 is not `digest`: a container may write to it at any time, and its code must not be
    /// stored under another module's name. No other running compilation on the machine has the
    /// number `slot`.
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

    /// The conditions of a compilation, in one line. A recorded failure applies to equal conditions
    /// only.
    fn bounds(&self) -> String;

    /// Returns true when the start was cancelled. Waits check it every 20 ms.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Returns true for a compilation under [`Cache::background_lock`], which takes no slot from a
    /// container that waits.
    fn is_background(&self) -> bool {
        false
    }
}

/// An error of [`Cache::get`].
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The compiler refused the module; the text is the compiler's.
    #[error("{0}")]
    Compile(String),
    /// The compilation exceeded a bound, or the module crashed the compiler.
    #[error("cannot compile: {0}")]
    Exceeded(String),
    /// The compiler failed for a reason outside the module.
    #[error("cannot compile: {0}")]
    Compiler(String),
    /// The module exceeds the size limit.
    #[error("{0}")]
    TooLarge(SizeError),
    /// The wasm could not be read.
    #[error("cannot read the module: {0}")]
    Read(#[source] io::Error),
    /// A memfd for the code could not be created.
    #[error("cannot allocate memory for the compiled code: {0}")]
    NoRoom(#[source] io::Error),
    /// The compile key, which becomes part of a file name, holds other characters.
    #[error(
        "invalid compile key {0:?}: allowed are 1 to 100 letters, digits, '.', '-', '_' and '+'"
    )]
    Key(String),
    /// The start was cancelled.
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

/// Mounts a directory read-only and returns the path of that mount.
pub type View = fn(&Path) -> io::Result<PathBuf>;

/// A wasm file to get compiled code for.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    /// The file, open for reading.
    pub file: &'a File,
    /// The name for messages.
    pub name: &'a str,
    /// True for a file of an image, which does not change while the image exists: its digest is
    /// recorded. A file on a volume is read each time, because a process that has mapped it can
    /// write to it without a change of its timestamps.
    pub of_image: bool,
}

/// A step of [`Cache::get`] that is worth a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEvent {
    /// A compilation started.
    Compiling {
        /// The module's name.
        name: String,
        /// The module's size in bytes.
        bytes: u64,
    },
    /// All slots of the machine are taken; the compilation waits for one.
    Waiting {
        /// The module's name.
        name: String,
    },
    /// A compilation ended.
    Compiled {
        /// The module's name.
        name: String,
        /// The duration of the compilation.
        took: Duration,
        /// The code's size in bytes.
        bytes: u64,
    },
    /// A fault of the cache. It costs time only.
    Warning(String),
}

impl std::fmt::Display for CacheEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CacheEvent::Compiling { name, bytes } => {
                write!(f, "compiling {} module {name} (first use)", Size(*bytes))
            }
            CacheEvent::Waiting { name } => {
                write!(f, "{name} waits for a compilation slot: all slots of the machine are taken")
            }
            CacheEvent::Compiled { name, took, bytes } => {
                write!(f, "compiled {name} in {:.1} s, {}", took.as_secs_f64(), Size(*bytes))
            }
            CacheEvent::Warning(text) => f.write_str(text),
        }
    }
}

/// Compiled code.
#[derive(Debug)]
pub struct Code {
    /// Open for reading, at offset 0.
    pub file: File,
    /// True for baseline code: the cache holds no optimised code yet, and can store it.
    pub baseline: bool,
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
    /// The cache in `directory`, which need not exist yet and which other engines may share. All
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

    /// The same cache, opening code files through the read-only mount that `view` returns: for a
    /// process that passes them to guests. When `view` fails, guests get sealed copies in memory.
    #[must_use]
    pub fn reading_through(self, view: View) -> Cache {
        Cache { view: Some(view), ..self }
    }

    /// The same cache with another size limit for modules; the default is [`MODULE_MAX`].
    #[must_use]
    pub fn with_modules_up_to(self, bytes: u64) -> Cache {
        Cache { module_max: bytes, ..self }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the compiled code of `module` under `key`, from the cache or from `compiler`.
    ///
    /// Of several concurrent callers one compiles. The returned file is open for reading, at
    /// offset 0.
    ///
    /// # Errors
    /// Errors of the compiler and of reading the module. A fault of the cache itself is a
    /// [`CacheEvent::Warning`].
    pub fn get(
        &self,
        module: Module<'_>,
        key: &str,
        compiler: &dyn Compiler,
        on_event: &mut dyn FnMut(CacheEvent),
    ) -> Result<File, CacheError> {
        let code = self.get_or_baseline(module, key, None, compiler, on_event)?;
        Ok(code.file)
    }

    /// Returns the compiled code of `module` under `key` or else under `baseline`, the key that
    /// `compiler` then compiles for.
    ///
    /// # Errors
    /// As for [`Cache::get`].
    pub fn get_or_baseline(
        &self,
        module: Module<'_>,
        key: &str,
        baseline: Option<&str>,
        compiler: &dyn Compiler,
        on_event: &mut dyn FnMut(CacheEvent),
    ) -> Result<Code, CacheError> {
        for key in [Some(key), baseline].into_iter().flatten() {
            if !is_key(key) {
                return Err(CacheError::Key(key.to_owned()));
            }
        }
        let best = |file| Code { file, baseline: false };
        let ours = match self.examine_directory() {
            // Creating the directory reports other faults.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Not marked as baseline: optimised code could not be stored either.
                return self.in_memory(module, compiler, on_event, &error).map(best);
            }
            result => result.is_ok(),
        };
        let identity = Identity::of(module.file).map_err(CacheError::Read)?;
        let recorded = ours && module.of_image;
        let found = |digest: &str, on_event: &mut dyn FnMut(CacheEvent)| {
            let file = self.read(&self.name(digest, key), on_event);
            file.map(best).or_else(|| {
                let file = self.read(&self.name(digest, baseline?), on_event)?;
                Some(Code { file, baseline: true })
            })
        };
        if let Some(digest) = self.recorded_digest(identity).filter(|_| recorded)
            && let Some(code) = found(&digest, on_event)
        {
            return Ok(code);
        }
        let digest = self.digest_of(module, compiler)?;
        let code = match found(&digest, on_event) {
            Some(code) => code,
            None => {
                let name = self.name(&digest, baseline.unwrap_or(key));
                let file = self.make(&name, &digest, module, compiler, on_event)?;
                Code { file, baseline: baseline.is_some() }
            }
        };
        // A file that changed while it was read gets no record.
        if module.of_image && Identity::of(module.file).is_ok_and(|now| now == identity) {
            self.record_digest(identity, &digest);
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

    /// Creates the directory, unless it exists.
    ///
    /// # Errors
    /// If it cannot be created, or another user can write to it.
    pub fn prepare(&self) -> io::Result<()> {
        self.make_directory()
    }

    /// Takes the machine-wide lock for a background compilation, which is held while the returned
    /// file is open.
    ///
    /// Returns `None` if another process holds it, or if the cache has no usable directory.
    #[must_use]
    pub fn background_lock(&self) -> Option<File> {
        self.examine_directory().ok()?;
        let file = file::open(&self.directory.join("background")).ok()?;
        // A process that inherits the descriptor inherits the lock.
        file.try_lock().ok()?;
        Some(file)
    }

    fn name(&self, digest: &str, key: &str) -> String {
        format!("{digest}-{}-{key}", self.engine)
    }

    /// Opens the code file of this name if it exists and passes the check.
    fn read(&self, name: &str, on_event: &mut dyn FnMut(CacheEvent)) -> Option<File> {
        let view = self.view();
        let directory = view.as_deref().unwrap_or(&self.directory);
        let result = open_code(&directory.join(name))
            .and_then(|file| self.check(name, &file).map(|()| file))
            .and_then(|file| match &view {
                Ok(_) => Ok(file),
                Err(error) => {
                    on_event(copied(error));
                    file::sealed_copy(&file)
                }
            });
        match result {
            Ok(file) => Some(file),
            // Creating the directory reports NotADirectory.
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
                on_event(CacheEvent::Warning(format!(
                    "{} is compiled again: {error}",
                    path.display()
                )));
                None
            }
        }
    }

    /// The directory to open code files in.
    fn view(&self) -> io::Result<PathBuf> {
        self.view.map_or_else(|| Ok(self.directory.clone()), |view| view(&self.directory))
    }

    /// Opens the file just stored under this name as [`Cache::read`] does. Falls back to `code`,
    /// the same code in sealed memory.
    fn reopen(
        &self,
        name: &str,
        kept: &File,
        code: File,
        on_event: &mut dyn FnMut(CacheEvent),
    ) -> File {
        let opened = self.view().and_then(|directory| {
            let file = open_code(&directory.join(name))?;
            let same = Identity::of(&file)? == Identity::of(kept)?;
            if same { Ok(file) } else { Err(io::Error::other("another process replaced the file")) }
        });
        opened.unwrap_or_else(|error| {
            on_event(copied(&error));
            code
        })
    }

    /// Checks a code file: in full the first time, then by its identity.
    fn check(&self, name: &str, file: &File) -> io::Result<()> {
        let identity = Identity::of(file)?;
        if self.is_verified(name, identity) {
            return Ok(());
        }
        file::check(file, name)?;
        self.record_verified(name, identity);
        Ok(())
    }

    /// Compiles under the write lock of `name` and stores the code. A compilation in the background
    /// takes the lock only to store the code: it yields to all other work, and a start must not
    /// wait for it.
    fn make(
        &self,
        name: &str,
        digest: &str,
        module: Module<'_>,
        compiler: &dyn Compiler,
        on_event: &mut dyn FnMut(CacheEvent),
    ) -> Result<File, CacheError> {
        let lock = match compiler.is_background() {
            true => None,
            false => Some(self.write_lock(name, compiler)?),
        };
        if !matches!(lock, Some(Err(_))) {
            // The previous holder of the lock may have stored the code. The first read has already
            // reported a damaged file.
            if let Some(code) = self.read(name, &mut |_| {}) {
                return Ok(code);
            }
            if let Some(error) = self.recent_failure(name, &compiler.bounds()) {
                return Err(error);
            }
        }
        let slot = self.slot(module.name, compiler, on_event)?;
        let code =
            Cache::compile(module, digest, &slot, compiler, on_event).inspect_err(|error| {
                if !matches!(lock, Some(Err(_))) {
                    self.record_failure(name, &compiler.bounds(), error);
                }
            })?;
        let lock = match lock {
            Some(lock) => lock,
            None => self.write_lock(name, compiler)?,
        };
        if compiler.is_background()
            && let Some(code) = self.read(name, &mut |_| {})
        {
            // A start compiled it meanwhile.
            return Ok(code);
        }
        let bytes = file::stored_size(&code).map_err(CacheError::NoRoom)?;
        if bytes > self.limit {
            let text = format!(
                "compiled code of {} is not stored: it has {}, more than the {} that WHERRY_CACHE_SIZE allows; \
                 it stays in memory",
                module.name,
                Size(bytes),
                Size(self.limit)
            );
            on_event(CacheEvent::Warning(text));
            return Ok(code);
        }
        let path = self.directory.join(name);
        match lock.and_then(|lock| file::store(lock, &code, name, &path)) {
            Ok(kept) => {
                let code = self.reopen(name, &kept, code, on_event);
                self.gc(name);
                Ok(code)
            }
            Err(error) => {
                on_event(CacheEvent::Warning(self.not_kept(&error)));
                Ok(code)
            }
        }
    }

    /// Waits for the write lock of `name`. The inner error is a fault of the cache: the code can
    /// be compiled, and not stored.
    fn write_lock(
        &self,
        name: &str,
        compiler: &dyn Compiler,
    ) -> Result<io::Result<file::WriteLock>, CacheError> {
        let aside = self.directory.join(format!("{name}{ASIDE}"));
        let cancelled = || compiler.is_cancelled();
        match self.make_directory().and_then(|()| file::WriteLock::wait(&aside, &cancelled)) {
            Ok(None) => Err(CacheError::Cancelled),
            Ok(Some(lock)) => Ok(Ok(lock)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Compiles into a memfd and seals it.
    fn compile(
        module: Module<'_>,
        digest: &str,
        slot: &Slot,
        compiler: &dyn Compiler,
        on_event: &mut dyn FnMut(CacheEvent),
    ) -> Result<File, CacheError> {
        let name = module.name.to_owned();
        let bytes = module.file.metadata().map_err(CacheError::Read)?.len();
        on_event(CacheEvent::Compiling { name: name.clone(), bytes });
        let start = Instant::now();
        let code = file::memory().map_err(CacheError::NoRoom)?;
        compiler.compile(module.file, digest, slot.number, &code)?;
        file::seal(&code).map_err(|error| CacheError::Compiler(error.to_string()))?;
        let bytes = code.metadata().map_err(CacheError::NoRoom)?.len();
        on_event(CacheEvent::Compiled { name, took: start.elapsed(), bytes });
        Ok(code)
    }

    /// Compiles without the cache, for a directory that fails [`Cache::examine_directory`].
    fn in_memory(
        &self,
        module: Module<'_>,
        compiler: &dyn Compiler,
        on_event: &mut dyn FnMut(CacheEvent),
        why: &io::Error,
    ) -> Result<File, CacheError> {
        on_event(CacheEvent::Warning(self.not_kept(why)));
        let digest = self.digest_of(module, compiler)?;
        Cache::compile(module, &digest, &Slot::unlocked(), compiler, on_event)
    }

    fn not_kept(&self, error: &io::Error) -> String {
        format!("compiled code is not stored in {}: {error}", self.directory.display())
    }

    fn make_directory(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        self.examine_directory()
    }

    /// Checks the directory's owner and mode: a user who can write to it can choose the code that
    /// guests execute.
    fn examine_directory(&self) -> io::Result<()> {
        let meta = fs::metadata(&self.directory)?;
        if !meta.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the cache's directory must belong to root, and no other user may have write permission",
            ));
        }
        Ok(())
    }
}

/// The suffix of a file that a process is writing.
const ASIDE: &str = ".new";

/// The longest compile key, in bytes: with a digest, an engine and a suffix it is a file name.
const KEY_MAX: usize = 100;

/// Returns true for a valid compile key: characters of file names, and no suffix of the cache's
/// own.
fn is_key(text: &str) -> bool {
    (1..=KEY_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
        && ![ASIDE, VERIFIED, failure::FAILED].iter().any(|ending| text.ends_with(ending))
}

fn open_code(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)
}

fn copied(error: &io::Error) -> CacheEvent {
    CacheEvent::Warning(format!(
        "compiled code is copied to memory for this container alone: {error}"
    ))
}
