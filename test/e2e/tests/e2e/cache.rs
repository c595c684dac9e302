//! The cache of compiled code, as who looks after a machine meets it.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use wherry_e2e::images::{app, hello, hello_wasm};
use wherry_testing::{
    Containerd, ContainerdVersion, Daemon, Outcome, Run, Trace, bin_dir, daemon_bin, engine,
};

/// A containerd whose shims have a cache of their own.
struct World {
    containerd: Containerd,
    folder: TempDir,
}

impl World {
    fn new(version: ContainerdVersion) -> World {
        let folder = TempDir::new().expect("a temporary folder");
        let cache = folder.path().join("cache").display().to_string();
        let containerd = Containerd::start_with(version, &[("WHERRY_CACHE_DIR", &cache)]);
        World { containerd, folder }
    }

    /// What the command `wherry-E` says.
    fn tool(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(bin_dir().join(format!("wherry-{}", engine())));
        let clients = daemon_bin(self.containerd.version().name());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", clients.display()));
        command.env("WHERRY_CACHE_DIR", self.folder.path().join("cache")).args(words);
        wherry_testing::call(command, None)
    }

    /// The code that is there now.
    fn codes(&self) -> HashSet<PathBuf> {
        let files = fs::read_dir(self.folder.path().join("cache")).into_iter().flatten().flatten();
        let is_code = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.contains(&format!("-{}-", engine())) && !name.ends_with(".checked")
        };
        files.map(|file| file.path()).filter(is_code).collect()
    }

    /// Starts what says hello, and tells whether something was compiled for it.
    fn compiles_for(&self, run: &Run) -> bool {
        let options = ["--trace=execve", "--successful-only", "--signal=none"];
        let trace = Trace::attach(&self.containerd, &[self.containerd.daemon_pid()], &options);
        assert_eq!(self.containerd.run(run).success(), "hello\n");
        trace.lines().contains("\"compile\"")
    }
}

fn an_image_is_compiled_ahead_of_its_first_start(version: ContainerdVersion) {
    let world = World::new(version);
    let image = hello().pack();
    world.containerd.load(&image);
    let address = world.containerd.address().display().to_string();
    let whose = ["--address", &address, "--namespace", world.containerd.namespace()];
    let said = world.tool(&[&["compile"], &whose[..], &[&image.reference]].concat()).success();
    assert!(said.contains("has 1 file of WebAssembly: /"), "{said}");
    assert!(!world.compiles_for(&Run::new(&hello())));
    let said = world.tool(&["cache", "ls"]).success();
    assert!(said.contains("1 module, ") && said.contains(&format!("{} ", engine())), "{said}");
    let said = world.tool(&["cache", "prune", "--older-than", "1d"]).success();
    assert!(said.starts_with("removed 0 modules"), "{said}");
    let said = world.tool(&["cache", "prune"]).success();
    assert!(said.starts_with("removed 1 module, "), "{said}");
    assert!(world.compiles_for(&Run::new(&hello())));

    let said = world.tool(&[&["compile"], &whose[..], &["example.com/none:1"]].concat()).failure();
    assert!(said.contains("example.com/none:1") && said.contains("no such image"), "{said}");
}

fn code_that_was_damaged_is_made_again(version: ContainerdVersion) {
    type Damage = fn(&mut Vec<u8>);
    let world = World::new(version);
    let faults: [(&str, Damage); 4] = [
        ("changed", |code| {
            let middle = code.len() / 2;
            *code.get_mut(middle).expect("it is not empty") ^= 1;
        }),
        ("cut-short", |code| code.truncate(code.len() / 2)),
        ("emptied", Vec::clear),
        ("replaced", |code| *code = fs::read("/bin/true").expect("every machine has it")),
    ];
    for (index, (name, damage)) in faults.into_iter().enumerate() {
        let wasm = with_section(&hello_wasm(), index + 1);
        let run = Run::new(&app(name, &*wasm));
        let file = world.folder.path().join(name);
        fs::write(&file, &wasm).expect("ours");
        let before = world.codes();
        world.tool(&["compile", &file.display().to_string()]).success();
        assert!(!world.compiles_for(&run), "it was compiled before");
        let code = world.codes().difference(&before).next().expect("it is kept").clone();
        let mut bytes = fs::read(&code).expect("ours");
        damage(&mut bytes);
        fs::write(&code, bytes).expect("ours");
        assert!(world.compiles_for(&run), "{name} code was taken");
    }
}

/// A module with a section in it that means nothing.
fn with_section(wasm: &[u8], length: usize) -> Vec<u8> {
    let seven = |shift: usize| u8::try_from(length >> shift & 0x7f).expect("seven bits");
    let head = [0, seven(0) | 0x80, seven(7) | 0x80, seven(14)];
    // Of it, a name of no letters.
    [wasm, &head, &vec![0; length]].concat()
}

fn a_known_module_is_not_read_again(version: ContainerdVersion) {
    const LARGE: usize = 1 << 20;
    let world = World::new(version);
    let wasm = with_section(&hello_wasm(), LARGE);
    let run = Run::new(&app("large", &*wasm));
    let read = || {
        let options = ["--trace=read,pread64,readv,sendfile,copy_file_range", "--decode-fds=path"];
        let trace = Trace::attach(&world.containerd, &[world.containerd.daemon_pid()], &options);
        assert_eq!(world.containerd.run(&run).success(), "hello\n");
        let lines = trace.lines();
        let of_module = lines.lines().filter(|line| line.contains(".wasm>"));
        of_module
            .filter_map(|line| line.rsplit("= ").next()?.trim().parse::<usize>().ok())
            .sum::<usize>()
    };
    assert!(read() > LARGE, "strace sees that it is read");
    // What was unpacked just now might change without a trace.
    thread::sleep(Duration::from_secs(3));
    read();
    let again = read();
    assert!(again < 64 << 10, "{again} bytes were read");
}

wherry_e2e::tests_in!(
    containerd_1_6,
    ContainerdVersion::V1_6,
    an_image_is_compiled_ahead_of_its_first_start
);
wherry_e2e::tests_in!(
    containerd_2,
    ContainerdVersion::V2,
    an_image_is_compiled_ahead_of_its_first_start,
    code_that_was_damaged_is_made_again,
    a_known_module_is_not_read_again
);
