//! Tests of the cache with a compiler that reverses the bytes of a module.

use std::cell::Cell;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

/// A compiler that reverses the bytes and counts its calls.
struct Reverse {
    calls: AtomicU32,
    /// True: the file holds another module than the requested one.
    deceived: Cell<bool>,
    cancelled: AtomicBool,
    /// The number of `is_cancelled` calls that return false first.
    patience: Cell<u32>,
    bounds: Cell<&'static str>,
    /// The slot of the last call.
    slot: Cell<u32>,
    background: bool,
    /// Called by the next compilation.
    meanwhile: Cell<Option<Box<dyn FnOnce()>>>,
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
            background: false,
            meanwhile: Cell::default(),
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
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
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

    fn is_background(&self) -> bool {
        self.background
    }

    fn is_cancelled(&self) -> bool {
        let patience = self.patience.get();
        self.patience.set(patience.saturating_sub(1));
        patience == 0 && self.cancelled.load(Ordering::Relaxed)
    }
}

const AGES_AGO: Duration = Duration::from_secs(40 * 24 * 3600);
const LIMIT: u64 = 1 << 20;

struct Fixture {
    directory: tempfile::TempDir,
    compiler: Reverse,
    events: Vec<CacheEvent>,
    limit: u64,
    settled: Duration,
    of_image: bool,
    modules: Vec<File>,
    key: &'static str,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            directory: tempfile::tempdir().unwrap(),
            compiler: Reverse::default(),
            events: Vec::new(),
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
        let events = &mut self.events;
        let mut code = cache.get(module, key, &self.compiler, &mut |event| events.push(event))?;
        let mut bytes = Vec::new();
        code.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    /// The code of a new file of these bytes.
    fn get(&mut self, wasm: &[u8]) -> Result<Vec<u8>, CacheError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(wasm).unwrap();
        let bytes = self.get_file(&file);
        // Kept open: a new file gets another inode, and with a settling time of zero only the inode
        // differs.
        self.modules.push(file);
        let mut bytes = bytes?;
        bytes.truncate(wasm.len());
        Ok(bytes)
    }

    fn calls(&self) -> u32 {
        self.compiler.calls.load(Ordering::Relaxed)
    }

    fn warnings(&self) -> Vec<&str> {
        let text = |event: &'_ CacheEvent| matches!(event, CacheEvent::Warning(_));
        let warnings = self.events.iter().filter(|event| text(event));
        warnings
            .map(|event| if let CacheEvent::Warning(text) = event { text.as_str() } else { "" })
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

    /// Sets the last use of a code file to `age` ago.
    fn age(&self, name: &Path, age: Duration) {
        let then = std::time::SystemTime::now() - age;
        let file = File::options().write(true).open(name).unwrap();
        file.set_modified(then).unwrap();
        // Not every entry has a record.
        let _ = fs::remove_file(format!("{}.checked", name.display()));
    }
}

#[test]
fn compiles_once_and_says_so() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.get(b"abc").unwrap(), b"cba");
    assert_eq!(fixture.get(b"abc").unwrap(), b"cba");
    assert_eq!(fixture.calls(), 1);
    let events: Vec<String> = fixture.events.iter().map(CacheEvent::to_string).collect();
    assert_eq!(
        events,
        ["compiling 3 bytes module /app.wasm (first use)", "compiled /app.wasm in 0.0 s, 3 bytes"]
    );
}

#[test]
fn however_many_ask_at_once_one_compiles() {
    let fixture = Fixture::new();
    let (path, calls) = (fixture.path(), AtomicU32::new(0));
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
    let mut fixture = Fixture::new();
    assert_eq!(fixture.get(b"bad").unwrap_err().to_string(), "bad at offset 0");
    assert_eq!(fixture.kept(), [format!("{}-e-1.0-k.failed", digest(b"bad"))]);
    assert_eq!(fixture.cache().entries().unwrap(), []);
}

#[test]
fn a_module_that_could_not_be_compiled_is_not_tried_again_for_a_while() {
    let mut fixture = Fixture::new();
    for (wasm, first) in
        [(&b"bad"[..], "bad at offset 0"), (b"bomb", "cannot compile: it took too long")]
    {
        let calls = fixture.calls();
        assert_eq!(fixture.get(wasm).unwrap_err().to_string(), first);
        let second = fixture.get(wasm).unwrap_err().to_string();
        assert!(
            second.starts_with(&format!("{first} (from a compilation that failed ")),
            "{second}"
        );
        assert!(second.ends_with(" s ago)"), "{second}");
        assert_eq!(fixture.calls(), calls + 1);
    }
    // With other bounds it may succeed, and so it may after a while.
    fixture.compiler.bounds.set("wider");
    fixture.get(b"bomb").unwrap_err();
    assert_eq!(fixture.calls(), 3);
    let record = fixture.path().join(format!("{}-e-1.0-k.failed", digest(b"bomb")));
    let age = |age: Duration| {
        let then = std::time::SystemTime::now() - age;
        let since = then.duration_since(std::time::UNIX_EPOCH).unwrap();
        let time = nix::sys::time::TimeSpec::from_duration(since);
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &record, &time, &time, flags).unwrap();
    };
    age(failure::FAILURE_LIFETIME - Duration::from_secs(60));
    fixture.get(b"bomb").unwrap_err();
    assert_eq!(fixture.calls(), 3);
    age(failure::FAILURE_LIFETIME);
    fixture.get(b"bomb").unwrap_err();
    assert_eq!(fixture.calls(), 4);
    // Prune forgets them.
    fixture.cache().prune(Duration::ZERO).unwrap();
    assert_eq!(fixture.kept(), [""; 0]);
}

#[test]
fn a_failure_that_is_not_the_modules_is_not_remembered() {
    let mut fixture = Fixture::new();
    for _ in 0..2 {
        fixture.get(b"unlucky").unwrap_err();
    }
    assert_eq!((fixture.calls(), fixture.kept()), (2, vec![]));
}

#[test]
fn a_module_that_changes_meanwhile_is_not_kept_under_the_others_name() {
    let mut fixture = Fixture::new();
    fixture.compiler.deceived.set(true);
    assert_eq!(fixture.get(b"abc").unwrap_err().to_string(), "cannot read the module: it changes");
    // Nor is the other module's name in discredit.
    assert_eq!(fixture.kept(), [""; 0]);
    fixture.compiler.deceived.set(false);
    assert_eq!(fixture.get(b"abc").unwrap(), b"cba");
}

#[test]
fn damage_of_any_kind_is_seen_and_mended() {
    let mut fixture = Fixture::new();
    fixture.get(b"abc").unwrap();
    let path = fixture.code();
    let whole = fs::read(&path).unwrap();
    // Times are of no help against a change within a tick of the clock.
    fixture.settled = SETTLED;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(fixture.get(b"abc").unwrap(), b"cba", "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(fixture.get(b"abc").unwrap(), b"cba", "cut at {at}");
    }
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(fixture.warnings().len(), 2 * whole.len());
}

#[test]
fn damage_after_the_check_is_seen() {
    let mut fixture = Fixture::new();
    fixture.get(b"abc").unwrap();
    fixture.get(b"abc").unwrap();
    let path = fixture.code();
    let before = fs::metadata(&path).unwrap();
    assert!(fixture.files().iter().any(|name| name.ends_with(".checked")), "{:?}", fixture.files());
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
    assert_eq!(fixture.get(b"abc").unwrap(), b"cba");
    assert_eq!((fixture.calls(), fixture.warnings().len()), (2, 1));
}

#[test]
fn another_modules_code_in_its_place_is_not_run() {
    let mut fixture = Fixture::new();
    fixture.get(b"abc").unwrap();
    let path = fixture.code();
    let aside = fixture.directory.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    fixture.get(b"xyz").unwrap();
    fs::rename(fixture.code(), &path).unwrap();
    assert_eq!(fixture.get(b"abc").unwrap(), b"cba");
    assert!(fixture.warnings()[0].contains("the code of another module"), "{:?}", fixture.events);
    assert_eq!(fs::read(path).unwrap(), fs::read(aside).unwrap());
}

#[test]
fn a_module_of_an_image_is_read_once() {
    let mut fixture = Fixture::new();
    let path = fixture.directory.path().join("app.wasm");
    fs::write(&path, b"abc").unwrap();
    let first = fixture.get_file(&File::open(&path).unwrap()).unwrap();
    // Reading this file would fail.
    let unreadable = File::options().write(true).open(&path).unwrap();
    assert_eq!(fixture.get_file(&unreadable).unwrap(), first);
    fixture.of_image = false;
    assert!(matches!(fixture.get_file(&unreadable), Err(CacheError::Read(_))));
}

#[test]
fn a_module_that_was_changed_a_moment_ago_is_read_again() {
    let mut fixture = Fixture::new();
    fixture.settled = SETTLED;
    let path = fixture.directory.path().join("app.wasm");
    fs::write(&path, b"abc").unwrap();
    fixture.get_file(&File::open(&path).unwrap()).unwrap();
    fs::write(&path, b"xyz").unwrap();
    let code = fixture.get_file(&File::open(&path).unwrap()).unwrap();
    assert_eq!(&code[..3], b"zyx");
}

#[test]
fn a_module_that_was_changed_is_another() {
    let mut fixture = Fixture::new();
    let path = fixture.directory.path().join("app.wasm");
    fs::write(&path, b"abc").unwrap();
    fixture.get_file(&File::open(&path).unwrap()).unwrap();
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
    let code = fixture.get_file(&File::open(&path).unwrap()).unwrap();
    assert_eq!(&code[..3], b"zyx");
}

#[test]
fn a_cache_that_cannot_be_written_costs_speed_only() {
    let mut fixture = Fixture::new();
    fs::write(fixture.path(), "a file where the directory should be").unwrap();
    assert_eq!(fixture.get(b"abc").unwrap(), b"cba");
    assert_eq!(fixture.warnings().len(), 1, "{:?}", fixture.events);
    assert_eq!(fixture.calls(), 1);
}

#[test]
fn code_in_memory_cannot_be_changed() {
    let code = file::memory().unwrap();
    (&code).write_all(b"abc").unwrap();
    file::seal(&code).unwrap();
    assert!((&code).write_all(b"x").is_err());
}

#[test]
fn a_directory_that_others_can_write_is_not_used() {
    let mut fixture = Fixture::new();
    fs::create_dir(fixture.path()).unwrap();
    fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(fixture.get(b"abc").unwrap(), b"cba");
    assert_eq!(fixture.files(), [""; 0]);
    assert!(fixture.warnings()[0].contains("must belong to root"), "{:?}", fixture.events);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let mut fixture = Fixture::new();
    for wasm in [b"aaaa", b"bbbb", b"cccc"] {
        fixture.get(wasm).unwrap();
    }
    let size = fixture.cache().entries().unwrap()[0].bytes;
    for (wasm, hours) in [(b"aaaa", 9), (b"bbbb", 7), (b"cccc", 8)] {
        let name = format!("{}-e-{}", digest(wasm), fixture.key);
        fixture.age(&fixture.path().join(name), Duration::from_secs(3600 * hours));
    }
    // A use counts.
    fixture.get(b"aaaa").unwrap();
    fixture.limit = 3 * size;
    fixture.get(b"dddd").unwrap();
    let kept: Vec<String> =
        fixture.cache().entries().unwrap().into_iter().map(|entry| entry.digest).collect();
    assert_eq!(kept.len(), 3);
    assert!(!kept.contains(&digest(b"cccc")), "{:?}", fixture.files());
    // With the code goes all that belongs to it.
    assert!(!fixture.files().iter().any(|name| name.contains(&digest(b"cccc"))));
}

#[test]
fn code_that_is_too_large_is_used_and_not_kept() {
    let mut fixture = Fixture::new();
    fixture.get(b"abc").unwrap();
    fixture.limit = fixture.cache().entries().unwrap()[0].bytes;
    let large = vec![b'x'; 1000];
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&large).unwrap();
    let module = Module { file: &file, name: "/large.wasm", of_image: true };
    let mut events = Vec::new();
    let code = fixture
        .cache()
        .get(module, fixture.key, &fixture.compiler, &mut |event| events.push(event))
        .unwrap();
    // In memory, and not on a disk where no name shows it.
    let place = fs::read_link(format!("/proc/self/fd/{}", code.as_raw_fd())).unwrap();
    assert!(place.starts_with("/memfd:wherry-code (deleted)"), "{}", place.display());
    assert!((&code).write_all(b"x").is_err());
    assert!(
        events.contains(&CacheEvent::Warning(
            "compiled code of /large.wasm is not stored: it has 1.0 kB, more than the 43 bytes that \
             WHERRY_CACHE_SIZE allows; it stays in memory"
                .to_owned()
        )),
        "{events:?}"
    );
    assert_eq!(fixture.cache().entries().unwrap().len(), 1);
    fixture.get(b"abc").unwrap();
    assert_eq!(fixture.calls(), 2);
}

#[test]
fn code_of_another_version_goes_when_nobody_uses_it_any_more() {
    let mut fixture = Fixture::new();
    fixture.get(b"old").unwrap();
    let old = fixture.code();
    fixture.key = "2.0-k";
    fixture.get(b"new").unwrap();
    assert!(old.exists(), "another version's shims may use it still");
    fixture.age(&old, AGES_AGO);
    // Another engine's is none of our business.
    let other = fixture.path().join(format!("{}-other-1.0-k", digest(b"old")));
    fs::copy(&old, &other).unwrap();
    fixture.age(&other, AGES_AGO);
    fixture.get(b"newer").unwrap();
    assert!(!old.exists() && other.exists(), "{:?}", fixture.files());
}

#[test]
fn what_a_dead_process_left_goes() {
    let mut fixture = Fixture::new();
    fixture.get(b"abc").unwrap();
    let left = fixture.path().join(format!("{}-e-1.0-k.new", digest(b"dead")));
    fs::write(&left, "half").unwrap();
    let gone = fixture.path().join("module-of-an-image-that-is-gone");
    std::os::unix::fs::symlink(digest(b"gone"), &gone).unwrap();
    fixture.get(b"xyz").unwrap();
    assert!(!left.exists() && fs::symlink_metadata(&gone).is_err(), "{:?}", fixture.files());
}

#[test]
fn prune_empties() {
    let mut fixture = Fixture::new();
    fixture.get(b"abc").unwrap();
    fixture.age(&fixture.code(), AGES_AGO);
    fixture.get(b"xyz").unwrap();
    assert_eq!(fixture.cache().prune(AGES_AGO / 2).unwrap().entries, 1);
    assert_eq!(fixture.cache().entries().unwrap().len(), 1);
    assert_eq!(fixture.cache().prune(Duration::ZERO).unwrap().entries, 1);
    assert_eq!(fixture.kept(), [""; 0]);
    assert_eq!(fixture.cache().prune(Duration::ZERO).unwrap(), Pruned::default());
}

#[test]
fn quick_code_does_until_there_is_better() {
    let fixture = Fixture::new();
    let (cache, mut file) = (fixture.cache(), tempfile::tempfile().unwrap());
    file.write_all(b"module").unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: true };
    let baseline = || {
        let code = cache.get_or_baseline(
            module,
            "1-k",
            Some("1-k-baseline"),
            &fixture.compiler,
            &mut |_| {},
        );
        code.unwrap().baseline
    };
    assert!(baseline() && baseline());
    assert_eq!(fixture.calls(), 1);
    cache.get(module, "1-k", &fixture.compiler, &mut |_| {}).unwrap();
    assert!(!baseline());
    assert_eq!(fixture.calls(), 2);
}

#[test]
fn one_process_at_a_time_compiles_behind() {
    let mut fixture = Fixture::new();
    assert!(fixture.cache().background_lock().is_none(), "a lock without a directory");
    fixture.get(b"module").unwrap();
    let lock = fixture.cache().background_lock().unwrap();
    let inherited = lock.try_clone().unwrap();
    drop(lock);
    assert!(fixture.cache().background_lock().is_none());
    drop(inherited);
    assert!(fixture.cache().background_lock().is_some());
}

#[test]
fn a_start_does_not_wait_for_a_compilation_in_the_background() {
    let fixture = Fixture::new();
    let (cache, mut file) = (fixture.cache(), tempfile::tempfile().unwrap());
    file.write_all(b"module").unwrap();
    let background = Reverse { background: true, ..Reverse::default() };
    let (other, copy) = (cache.clone(), file.try_clone().unwrap());
    background.meanwhile.set(Some(Box::new(move || {
        let module = Module { file: &copy, name: "/app.wasm", of_image: false };
        other.get(module, "k", &Reverse::default(), &mut |_| {}).unwrap();
    })));
    let module = Module { file: &file, name: "/app.wasm", of_image: false };
    let mut code = Vec::new();
    let get = || cache.get(module, "k", &background, &mut |_| {}).unwrap();
    get().read_to_end(&mut code).unwrap();
    assert!(code.starts_with(b"eludom"));
    // It finds the stored code.
    get();
    assert_eq!(background.calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_module_larger_than_modules_may_be_is_not_read() {
    let fixture = Fixture::new();
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 42).unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: false };
    let get = |cache: Cache| cache.get(module, "k", &fixture.compiler, &mut |_| {}).unwrap_err();
    assert_eq!(
        get(fixture.cache()).to_string(),
        "the module has 4.4 TB, more than the 1.1 GB that WHERRY_MODULE_SIZE allows"
    );
    assert!(
        get(fixture.cache().with_modules_up_to(1 << 10)).to_string().contains("the 1.0 kB that")
    );
    assert_eq!(fixture.calls(), 0);
    // Nor for a directory that must not be used.
    fs::create_dir(fixture.path()).unwrap();
    fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(get(fixture.cache()), CacheError::TooLarge(_)));
}

#[test]
fn a_compile_key_is_checked_before_it_becomes_a_files_name() {
    let fixture = Fixture::new();
    let file = tempfile::tempfile().unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: false };
    let long = "k".repeat(101);
    for key in ["", "a/b", "../k", "a b", "k\n", "ü", &long, "k.checked", "k.new", "k.failed"] {
        for (key, baseline) in [(key, None), ("k", Some(key))] {
            let error = fixture
                .cache()
                .get_or_baseline(module, key, baseline, &fixture.compiler, &mut |_| {})
                .unwrap_err();
            assert!(matches!(error, CacheError::Key(_)), "{key:?}: {error}");
        }
    }
    fixture.cache().get(module, &long[..100], &fixture.compiler, &mut |_| {}).unwrap();
    fixture.cache().get(module, "45.0.0-_+x", &fixture.compiler, &mut |_| {}).unwrap();
}

#[test]
fn code_is_copied_to_sealed_memory_where_there_is_no_view() {
    let fixture = Fixture::new();
    let cache = fixture.cache().reading_through(|_| Err(io::Error::other("no mounts here")));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"abc").unwrap();
    let module = Module { file: &file, name: "/app.wasm", of_image: true };
    let mut events = Vec::new();
    for _ in 0..2 {
        let mut code =
            cache.get(module, "k", &fixture.compiler, &mut |event| events.push(event)).unwrap();
        let again = format!("/proc/self/fd/{}", code.as_raw_fd());
        // Of memory that is sealed it can be opened, but not written to.
        let writable = File::options().write(true).open(again).unwrap();
        assert!((&writable).write_all(b"x").is_err() && writable.set_len(0).is_err());
        let mut bytes = Vec::new();
        code.read_to_end(&mut bytes).unwrap();
        assert_eq!(&bytes[..3], b"cba");
    }
    // It is kept and not compiled again; each copy is worth a warning.
    assert_eq!(fixture.calls(), 1);
    let copied = |event: &&CacheEvent| event.to_string().contains("alone: no mounts here");
    assert_eq!(events.iter().filter(copied).count(), 2, "{events:?}");
}

#[test]
fn as_many_modules_are_compiled_at_a_time_as_there_are_slots() {
    let fixture = Fixture::new();
    let cache = Cache { slots: 2, ..fixture.cache() };
    fs::create_dir(fixture.path()).unwrap();
    fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let held: Vec<slot::Slot> =
        (0..2).map(|_| cache.slot("m", &fixture.compiler, &mut |_| {}).unwrap()).collect();
    assert_eq!(held.iter().map(|slot| slot.number).collect::<Vec<_>>(), [0, 1]);
    // The next one waits, says so once, and can be cancelled.
    let mut events = Vec::new();
    let cancelled = cache.slot("/m.wasm", &fixture.compiler, &mut |event| {
        events.push(event.to_string());
        fixture.compiler.cancelled.store(true, Ordering::Relaxed);
    });
    assert!(matches!(cancelled.err(), Some(CacheError::Cancelled)));
    assert_eq!(events.len(), 1);
    assert!(events[0].starts_with("/m.wasm waits for a compilation slot"), "{events:?}");
    // A slot that is free again is taken.
    fixture.compiler.cancelled.store(false, Ordering::Relaxed);
    drop(held.into_iter().next_back());
    let mut freed = None;
    let slot = cache.slot("m", &fixture.compiler, &mut |event| freed = Some(event)).unwrap();
    assert!(slot.number < 2 && freed.is_none());
}

#[test]
fn a_wait_for_another_who_compiles_the_same_can_be_cancelled() {
    let mut fixture = Fixture::new();
    fixture.get(b"other").unwrap();
    let name = format!("{}-e-{}.new", digest(b"abc"), fixture.key);
    let other = file::WriteLock::wait(&fixture.path().join(&name), &|| false).unwrap().unwrap();
    fixture.compiler.cancelled.store(true, Ordering::Relaxed);
    // Not before it is read, but the first time that it has to wait.
    fixture.compiler.patience.set(1);
    assert_eq!(fixture.get(b"abc").unwrap_err().to_string(), "the start was cancelled");
    drop(other);
    assert_eq!(fixture.calls(), 1);
}
