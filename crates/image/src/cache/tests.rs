//! What the cache promises, tried with a compiler that only turns bytes around.

use std::cell::Cell;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

/// "Compiles" by turning the bytes around, and counts.
struct Reverse {
    calls: AtomicU32,
    /// Another module than the one that was asked for comes out of the file.
    deceived: Cell<bool>,
    cancelled: AtomicBool,
    /// How often it is not cancelled yet when it is asked.
    patience: Cell<u32>,
    bounds: Cell<&'static str>,
    /// The slot of the last call.
    slot: Cell<u32>,
}

impl Default for Reverse {
    fn default() -> Reverse {
        Reverse {
            calls: AtomicU32::default(),
            deceived: Cell::default(),
            cancelled: AtomicBool::default(),
            patience: Cell::default(),
            bounds: Cell::new("as ever"),
            slot: Cell::default(),
        }
    }
}

impl Compiler for Reverse {
    fn compile(
        &self,
        mut wasm: &File,
        digest: &str,
        slot: u32,
        mut out: &File,
    ) -> Result<(), CacheError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.slot.set(slot);
        let mut bytes = Vec::new();
        wasm.rewind().unwrap();
        wasm.read_to_end(&mut bytes).unwrap();
        if self.deceived.get() || super::digest(&bytes) != digest {
            return Err(CacheError::Read(io::Error::other("it changes")));
        }
        match bytes.as_slice() {
            b"bad" => return Err(CacheError::Compile("bad at offset 0".into())),
            b"bomb" => return Err(CacheError::Exceeded("it took too long".into())),
            b"unlucky" => return Err(CacheError::Compiler("it was killed".into())),
            _ => {}
        }
        bytes.reverse();
        out.write_all(&bytes).unwrap();
        Ok(())
    }

    fn bounds(&self) -> String {
        self.bounds.get().to_owned()
    }

    fn is_cancelled(&self) -> bool {
        let patience = self.patience.get();
        self.patience.set(patience.saturating_sub(1));
        patience == 0 && self.cancelled.load(Ordering::Relaxed)
    }
}

const AGES_AGO: Duration = Duration::from_secs(40 * 24 * 3600);
const LIMIT: u64 = 1 << 20;

struct World {
    directory: tempfile::TempDir,
    compiler: Reverse,
    notes: Vec<Note>,
    limit: u64,
    settled: Duration,
    of_image: bool,
    modules: Vec<File>,
    key: &'static str,
}

impl World {
    fn new() -> World {
        World {
            directory: tempfile::tempdir().unwrap(),
            compiler: Reverse::default(),
            notes: Vec::new(),
            limit: LIMIT,
            settled: Duration::ZERO,
            of_image: true,
            modules: Vec::new(),
            key: "1.0-k",
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn cache(&self) -> Cache {
        Cache { settled: self.settled, ..Cache::new(self.path(), "e", self.limit) }
    }

    fn get_file(&mut self, file: &File) -> Result<Vec<u8>, CacheError> {
        let (cache, key) = (self.cache(), self.key);
        let module = Module { file, name: "/app.wasm", of_image: self.of_image };
        let notes = &mut self.notes;
        let mut code = cache.get(module, key, &self.compiler, &mut |note| notes.push(note))?;
        let mut bytes = Vec::new();
        code.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    /// The code of a new file of these bytes.
    fn get(&mut self, wasm: &[u8]) -> Result<Vec<u8>, CacheError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(wasm).unwrap();
        let bytes = self.get_file(&file);
        // Another file gets another inode: without settling they have nothing else to be told apart by.
        self.modules.push(file);
        let mut bytes = bytes?;
        bytes.truncate(wasm.len());
        Ok(bytes)
    }

    fn calls(&self) -> u32 {
        self.compiler.calls.load(Ordering::Relaxed)
    }

    fn troubles(&self) -> Vec<&str> {
        let text = |note: &'_ Note| matches!(note, Note::Trouble(_));
        let troubles = self.notes.iter().filter(|note| text(note));
        troubles
            .map(|note| if let Note::Trouble(text) = note { text.as_str() } else { "" })
            .collect()
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> =
            names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The files, but for those that only serve as locks.
    fn kept(&self) -> Vec<String> {
        let mut files = self.files();
        files.retain(|name| !name.starts_with("slot-"));
        files
    }

    /// The only code file.
    fn code(&self) -> PathBuf {
        let entries = self.cache().entries().unwrap();
        let [entry] = entries.as_slice() else { panic!("{entries:?}") };
        self.path().join(format!("{}-{}-{}", entry.digest, entry.engine, entry.key))
    }

    /// Makes a file's code look as if it was last used before `age`.
    fn age(&self, name: &Path, age: Duration) {
        let then = std::time::SystemTime::now() - age;
        let file = File::options().write(true).open(name).unwrap();
        file.set_modified(then).unwrap();
        let _ = fs::remove_file(format!("{}.checked", name.display()));
    }
}

#[test]
fn compiles_once_and_says_so() {
    let mut world = World::new();
    assert_eq!(world.get(b"abc").unwrap(), b"cba");
    assert_eq!(world.get(b"abc").unwrap(), b"cba");
    assert_eq!(world.calls(), 1);
    let notes: Vec<String> = world.notes.iter().map(Note::to_string).collect();
    assert_eq!(
        notes,
        ["compiling 3 bytes module /app.wasm (first use)", "compiled /app.wasm in 0.0 s, 3 bytes"]
    );
}

#[test]
fn however_many_ask_at_once_one_compiles() {
    let world = World::new();
    let (path, calls) = (world.path(), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let compiler = Reverse::default();
                let cache = Cache::new(path.clone(), "e", LIMIT);
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(b"abc").unwrap();
                let module = Module { file: &file, name: "m", of_image: true };
                cache.get(module, "k", &compiler, &mut |_| {}).unwrap();
                calls.fetch_add(compiler.calls.load(Ordering::Relaxed), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_refused_module_leaves_only_the_memory_of_it_behind() {
    let mut world = World::new();
    assert_eq!(world.get(b"bad").unwrap_err().to_string(), "bad at offset 0");
    assert_eq!(world.kept(), [format!("{}-e-1.0-k.failed", digest(b"bad"))]);
    assert_eq!(world.cache().entries().unwrap(), []);
}

#[test]
fn a_module_that_could_not_be_compiled_is_not_tried_again_for_a_while() {
    let mut world = World::new();
    for (wasm, first) in
        [(&b"bad"[..], "bad at offset 0"), (b"bomb", "cannot compile: it took too long")]
    {
        let calls = world.calls();
        assert_eq!(world.get(wasm).unwrap_err().to_string(), first);
        let second = world.get(wasm).unwrap_err().to_string();
        assert!(second.starts_with(&format!("{first} (remembered; tried ")), "{second}");
        assert!(second.ends_with(" s ago)"), "{second}");
        assert_eq!(world.calls(), calls + 1);
    }
    // With other bounds it may succeed, and so it may after a while.
    world.compiler.bounds.set("wider");
    world.get(b"bomb").unwrap_err();
    assert_eq!(world.calls(), 3);
    let record = world.path().join(format!("{}-e-1.0-k.failed", digest(b"bomb")));
    let age = |age: Duration| {
        let then = std::time::SystemTime::now() - age;
        let since = then.duration_since(std::time::UNIX_EPOCH).unwrap();
        let time = nix::sys::time::TimeSpec::from_duration(since);
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &record, &time, &time, flags).unwrap();
    };
    age(failure::REMEMBERED - Duration::from_secs(60));
    world.get(b"bomb").unwrap_err();
    assert_eq!(world.calls(), 3);
    age(failure::REMEMBERED);
    world.get(b"bomb").unwrap_err();
    assert_eq!(world.calls(), 4);
    // Prune forgets them.
    world.cache().prune(Duration::ZERO).unwrap();
    assert_eq!(world.kept(), [""; 0]);
}

#[test]
fn a_failure_that_is_not_the_modules_is_not_remembered() {
    let mut world = World::new();
    for _ in 0..2 {
        world.get(b"unlucky").unwrap_err();
    }
    assert_eq!((world.calls(), world.kept()), (2, vec![]));
}

#[test]
fn a_module_that_changes_meanwhile_is_not_kept_under_the_others_name() {
    let mut world = World::new();
    world.compiler.deceived.set(true);
    assert_eq!(world.get(b"abc").unwrap_err().to_string(), "cannot read the module: it changes");
    // Nor is the other module's name in discredit.
    assert_eq!(world.kept(), [""; 0]);
    world.compiler.deceived.set(false);
    assert_eq!(world.get(b"abc").unwrap(), b"cba");
}

#[test]
fn damage_of_any_kind_is_seen_and_mended() {
    let mut world = World::new();
    world.get(b"abc").unwrap();
    let path = world.code();
    let whole = fs::read(&path).unwrap();
    // Times are of no help against a change within a tick of the clock.
    world.settled = SETTLED;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(world.get(b"abc").unwrap(), b"cba", "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(world.get(b"abc").unwrap(), b"cba", "cut at {at}");
    }
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(world.troubles().len(), 2 * whole.len());
}

#[test]
fn damage_after_the_check_is_seen() {
    let mut world = World::new();
    world.get(b"abc").unwrap();
    world.get(b"abc").unwrap();
    let path = world.code();
    let before = fs::metadata(&path).unwrap();
    assert!(world.files().iter().any(|name| name.ends_with(".checked")), "{:?}", world.files());
    // As long as it takes for the clock to tick; and with the time that can be set, set back.
    while fs::metadata(&path).unwrap().ctime_nsec() == before.ctime_nsec() {
        fs::write(&path, vec![0; usize::try_from(before.len()).unwrap()]).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(before.modified().unwrap())
            .unwrap();
    }
    assert_eq!(world.get(b"abc").unwrap(), b"cba");
    assert_eq!((world.calls(), world.troubles().len()), (2, 1));
}

#[test]
fn another_modules_code_in_its_place_is_not_run() {
    let mut world = World::new();
    world.get(b"abc").unwrap();
    let path = world.code();
    let aside = world.directory.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    world.get(b"xyz").unwrap();
    fs::rename(world.code(), &path).unwrap();
    assert_eq!(world.get(b"abc").unwrap(), b"cba");
    assert!(world.troubles()[0].contains("another module's"), "{:?}", world.notes);
    assert_eq!(fs::read(path).unwrap(), fs::read(aside).unwrap());
}

#[test]
fn a_module_of_an_image_is_read_once() {
    let mut world = World::new();
    let path = world.directory.path().join("app.wasm");
    fs::write(&path, b"abc").unwrap();
    let first = world.get_file(&File::open(&path).unwrap()).unwrap();
    // Whoever would read this one fails.
    let unreadable = File::options().write(true).open(&path).unwrap();
    assert_eq!(world.get_file(&unreadable).unwrap(), first);
    world.of_image = false;
    assert!(matches!(world.get_file(&unreadable), Err(CacheError::Read(_))));
}

#[test]
fn a_module_that_was_changed_a_moment_ago_is_read_again() {
    let mut world = World::new();
    world.settled = SETTLED;
    let path = world.directory.path().join("app.wasm");
    fs::write(&path, b"abc").unwrap();
    world.get_file(&File::open(&path).unwrap()).unwrap();
    fs::write(&path, b"xyz").unwrap();
    let code = world.get_file(&File::open(&path).unwrap()).unwrap();
    assert_eq!(&code[..3], b"zyx");
}

#[test]
fn a_module_that_was_changed_is_another() {
    let mut world = World::new();
    let path = world.directory.path().join("app.wasm");
    fs::write(&path, b"abc").unwrap();
    world.get_file(&File::open(&path).unwrap()).unwrap();
    let before = fs::metadata(&path).unwrap();
    while fs::metadata(&path).unwrap().ctime_nsec() == before.ctime_nsec() {
        fs::write(&path, b"xyz").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(before.modified().unwrap())
            .unwrap();
    }
    let code = world.get_file(&File::open(&path).unwrap()).unwrap();
    assert_eq!(&code[..3], b"zyx");
}

#[test]
fn a_cache_that_cannot_be_written_costs_speed_only() {
    let mut world = World::new();
    fs::write(world.path(), "a file where the directory should be").unwrap();
    assert_eq!(world.get(b"abc").unwrap(), b"cba");
    assert_eq!(world.troubles().len(), 1, "{:?}", world.notes);
    assert_eq!(world.calls(), 1);
}

#[test]
fn code_in_memory_cannot_be_changed() {
    let code = file::memory().unwrap();
    (&code).write_all(b"abc").unwrap();
    file::freeze(&code).unwrap();
    assert!((&code).write_all(b"x").is_err());
}

#[test]
fn a_directory_that_others_can_write_is_not_used() {
    let mut world = World::new();
    fs::create_dir(world.path()).unwrap();
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(world.get(b"abc").unwrap(), b"cba");
    assert_eq!(world.files(), [""; 0]);
    assert!(world.troubles()[0].contains("must belong to root"), "{:?}", world.notes);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let mut world = World::new();
    for wasm in [b"aaaa", b"bbbb", b"cccc"] {
        world.get(wasm).unwrap();
    }
    let size = world.cache().entries().unwrap()[0].bytes;
    for (wasm, hours) in [(b"aaaa", 9), (b"bbbb", 7), (b"cccc", 8)] {
        let name = format!("{}-e-{}", digest(wasm), world.key);
        world.age(&world.path().join(name), Duration::from_secs(3600 * hours));
    }
    // A use counts.
    world.get(b"aaaa").unwrap();
    world.limit = 3 * size;
    world.get(b"dddd").unwrap();
    let kept: Vec<String> =
        world.cache().entries().unwrap().into_iter().map(|entry| entry.digest).collect();
    assert_eq!(kept.len(), 3);
    assert!(!kept.contains(&digest(b"cccc")), "{:?}", world.files());
    // With the code goes all that belongs to it.
    assert!(!world.files().iter().any(|name| name.contains(&digest(b"cccc"))));
}

#[test]
fn code_that_is_too_large_is_used_and_not_kept() {
    let mut world = World::new();
    world.get(b"abc").unwrap();
    world.limit = world.cache().entries().unwrap()[0].bytes;
    let large = vec![b'x'; 1000];
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&large).unwrap();
    let module = Module { file: &file, name: "/large.wasm", of_image: true };
    let mut notes = Vec::new();
    let code = world
        .cache()
        .get(module, world.key, &world.compiler, &mut |note| notes.push(note))
        .unwrap();
    // In memory, and not on a disk where no name shows it.
    let place = fs::read_link(format!("/proc/self/fd/{}", code.as_raw_fd())).unwrap();
    assert!(place.starts_with("/memfd:wherry-code (deleted)"), "{}", place.display());
    assert!((&code).write_all(b"x").is_err());
    assert!(
        notes.contains(&Note::Trouble(
            "compiled code is not kept: that of /large.wasm has 1.0 kB, more than the 43 bytes that \
             WHERRY_CACHE_SIZE allows; it stays in memory"
                .to_owned()
        )),
        "{notes:?}"
    );
    assert_eq!(world.cache().entries().unwrap().len(), 1);
    world.get(b"abc").unwrap();
    assert_eq!(world.calls(), 2);
}

#[test]
fn code_of_another_version_goes_when_nobody_uses_it_any_more() {
    let mut world = World::new();
    world.get(b"old").unwrap();
    let old = world.code();
    world.key = "2.0-k";
    world.get(b"new").unwrap();
    assert!(old.exists(), "another version's shims may use it still");
    world.age(&old, AGES_AGO);
    // Another engine's is none of our business.
    let other = world.path().join(format!("{}-other-1.0-k", digest(b"old")));
    fs::copy(&old, &other).unwrap();
    world.age(&other, AGES_AGO);
    world.get(b"newer").unwrap();
    assert!(!old.exists() && other.exists(), "{:?}", world.files());
}

#[test]
fn what_a_dead_process_left_goes() {
    let mut world = World::new();
    world.get(b"abc").unwrap();
    let left = world.path().join(format!("{}-e-1.0-k.new", digest(b"dead")));
    fs::write(&left, "half").unwrap();
    let gone = world.path().join("module-of-an-image-that-is-gone");
    std::os::unix::fs::symlink(digest(b"gone"), &gone).unwrap();
    world.get(b"xyz").unwrap();
    assert!(!left.exists() && fs::symlink_metadata(&gone).is_err(), "{:?}", world.files());
}

#[test]
fn prune_empties() {
    let mut world = World::new();
    world.get(b"abc").unwrap();
    world.age(&world.code(), AGES_AGO);
    world.get(b"xyz").unwrap();
    assert_eq!(world.cache().prune(AGES_AGO / 2).unwrap().entries, 1);
    assert_eq!(world.cache().entries().unwrap().len(), 1);
    assert_eq!(world.cache().prune(Duration::ZERO).unwrap().entries, 1);
    assert_eq!(world.kept(), [""; 0]);
    assert_eq!(world.cache().prune(Duration::ZERO).unwrap(), Pruned::default());
}

#[test]
fn quick_code_does_until_there_is_better() {
    let world = World::new();
    let (cache, mut file) = (world.cache(), tempfile::tempfile().unwrap());
    file.write_all(b"module").unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: true };
    let quick = || {
        let code =
            cache.get_or_quick(module, "1-k", Some("1-k-quick"), &world.compiler, &mut |_| {});
        code.unwrap().quick
    };
    assert!(quick() && quick());
    assert_eq!(world.calls(), 1);
    cache.get(module, "1-k", &world.compiler, &mut |_| {}).unwrap();
    assert!(!quick());
    assert_eq!(world.calls(), 2);
}

#[test]
fn one_process_at_a_time_compiles_behind() {
    let mut world = World::new();
    assert!(world.cache().turn_behind().is_none(), "there is no directory");
    world.get(b"module").unwrap();
    let turn = world.cache().turn_behind().unwrap();
    let inherited = turn.try_clone().unwrap();
    drop(turn);
    assert!(world.cache().turn_behind().is_none());
    drop(inherited);
    assert!(world.cache().turn_behind().is_some());
}

#[test]
fn a_module_larger_than_modules_may_be_is_not_read() {
    let world = World::new();
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 42).unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: false };
    let get = |cache: Cache| cache.get(module, "k", &world.compiler, &mut |_| {}).unwrap_err();
    assert_eq!(
        get(world.cache()).to_string(),
        "the module has 4.4 TB, more than the 1.1 GB that WHERRY_MODULE_SIZE allows"
    );
    assert!(get(world.cache().with_modules_up_to(1 << 10)).to_string().contains("the 1.0 kB that"));
    assert_eq!(world.calls(), 0);
    // Nor for a directory that must not be used.
    fs::create_dir(world.path()).unwrap();
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(get(world.cache()), CacheError::TooLarge(_)));
}

#[test]
fn a_compile_key_is_checked_before_it_becomes_a_files_name() {
    let world = World::new();
    let file = tempfile::tempfile().unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: false };
    let long = "k".repeat(101);
    for key in ["", "a/b", "../k", "a b", "k\n", "ü", &long, "k.checked", "k.new", "k.failed"] {
        for (key, quick) in [(key, None), ("k", Some(key))] {
            let error = world
                .cache()
                .get_or_quick(module, key, quick, &world.compiler, &mut |_| {})
                .unwrap_err();
            assert!(matches!(error, CacheError::Key(_)), "{key:?}: {error}");
        }
    }
    world.cache().get(module, &long[..100], &world.compiler, &mut |_| {}).unwrap();
    world.cache().get(module, "45.0.0-_+x", &world.compiler, &mut |_| {}).unwrap();
}

#[test]
fn code_is_copied_to_sealed_memory_where_there_is_no_view() {
    let world = World::new();
    let cache = world.cache().reading_through(|_| Err(io::Error::other("no mounts here")));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"abc").unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: true };
    let mut notes = Vec::new();
    for _ in 0..2 {
        let mut code =
            cache.get(module, "k", &world.compiler, &mut |note| notes.push(note)).unwrap();
        let again = format!("/proc/self/fd/{}", code.as_raw_fd());
        // Of memory that is sealed it can be opened, but not written to.
        let writable = File::options().write(true).open(again).unwrap();
        assert!((&writable).write_all(b"x").is_err() && writable.set_len(0).is_err());
        let mut bytes = Vec::new();
        code.read_to_end(&mut bytes).unwrap();
        assert_eq!(&bytes[..3], b"cba");
    }
    // It is kept and not compiled again; each copy is worth a warning.
    assert_eq!(world.calls(), 1);
    let copied = |note: &&Note| note.to_string().contains("alone: no mounts here");
    assert_eq!(notes.iter().filter(copied).count(), 2, "{notes:?}");
}

#[test]
fn as_many_modules_are_compiled_at_a_time_as_there_are_slots() {
    let world = World::new();
    let cache = Cache { slots: 2, ..world.cache() };
    fs::create_dir(world.path()).unwrap();
    fs::set_permissions(world.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let held: Vec<slot::Slot> =
        (0..2).map(|_| cache.slot("m", &world.compiler, &mut |_| {}).unwrap()).collect();
    assert_eq!(held.iter().map(|slot| slot.number).collect::<Vec<_>>(), [0, 1]);
    // The next one waits, says so once, and can be cancelled.
    let mut notes = Vec::new();
    let cancelled = cache.slot("/m.wasm", &world.compiler, &mut |note| {
        notes.push(note.to_string());
        world.compiler.cancelled.store(true, Ordering::Relaxed);
    });
    assert!(matches!(cancelled.err(), Some(CacheError::Cancelled)));
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("/m.wasm waits to be compiled"), "{notes:?}");
    // A slot that is free again is taken.
    world.compiler.cancelled.store(false, Ordering::Relaxed);
    drop(held.into_iter().next_back());
    let mut freed = None;
    let slot = cache.slot("m", &world.compiler, &mut |note| freed = Some(note)).unwrap();
    assert!(slot.number < 2 && freed.is_none());
}

#[test]
fn a_wait_for_another_who_compiles_the_same_can_be_cancelled() {
    let mut world = World::new();
    world.get(b"other").unwrap();
    let name = format!("{}-e-{}.new", digest(b"abc"), world.key);
    let other = file::Turn::wait(&world.path().join(&name), &|| false).unwrap().unwrap();
    world.compiler.cancelled.store(true, Ordering::Relaxed);
    // Not before it is read, but the first time that it has to wait.
    world.compiler.patience.set(1);
    assert_eq!(world.get(b"abc").unwrap_err().to_string(), "the start was cancelled");
    drop(other);
    assert_eq!(world.calls(), 1);
}
