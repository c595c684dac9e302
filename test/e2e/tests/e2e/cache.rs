//! The cache of compiled code, from an administrator's point of view.

use containerd_shim_protos::api::{DeleteRequest, DeleteResponse, Empty, KillRequest};
use containerd_shim_protos::ttrpc::Code;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;
use wherry_e2e::cached::World;
use wherry_e2e::images::{
    app, binary, guests_and_tools, hello, hello_fields, hello_wasm, laborious_wasm, text,
};
use wherry_e2e::on_dockers;
use wherry_e2e::shim::Shim;
use wherry_testing::{
    ContainerdVersion, DEADLINE, Daemon, Docker, Image, Process, Run, Trace, Usage, engine,
    wait_for, wait_until,
};

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

/// A module with a meaningless custom section of this length.
fn with_section(wasm: &[u8], length: usize) -> Vec<u8> {
    let seven = |shift: usize| u8::try_from(length >> shift & 0x7f).expect("seven bits");
    let head = [0, seven(0) | 0x80, seven(7) | 0x80, seven(14)];
    // The section's name is empty.
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
    // A change of a file that was written less than 2 s ago might leave its times equal.
    thread::sleep(Duration::from_secs(3));
    read();
    let again = read();
    assert!(again < 64 << 10, "{again} bytes were read");
}

/// The id of the only container, while it is created or runs.
fn container(world: &World) -> String {
    let bundles = world.containerd.task_dir(world.containerd.namespace());
    wait_for("the container's bundle", DEADLINE, || {
        let mut found = fs::read_dir(&bundles).ok()?.flatten();
        found.next()?.file_name().into_string().ok()
    })
}

/// The shim that serves the container of this id.
fn shim(world: &World, id: &str) -> Shim {
    let bundle = world.containerd.task_dir(world.containerd.namespace()).join(id);
    let address = wait_for("the shim's address", DEADLINE, || {
        fs::read_to_string(bundle.join("address")).ok()
    });
    Shim::at(Path::new(address.trim_start_matches("unix://")), 2)
}

/// Waits for a process of this containerd's shims with this word in its command line.
fn process(world: &World, word: &str) -> Process {
    wait_for(&format!("a process '{word}'"), DEADLINE, || {
        let mut all = Usage::pids(&world.containerd).into_iter().filter_map(Process::of);
        all.find(|process| process.command.split(' ').any(|other| other == word))
    })
}

/// The request that ends a Create, and the expected error.
fn kill(shim: &Shim, id: &str) {
    let mut request = KillRequest::new();
    request.id = id.to_owned();
    request.signal = 15;
    shim.call::<Empty>("Kill", &request).expect("Kill answers OK");
}

fn delete(shim: &Shim, id: &str) {
    let mut request = DeleteRequest::new();
    request.id = id.to_owned();
    let (code, text) = shim.call::<DeleteResponse>("Delete", &request).expect_err("it is gone");
    assert_eq!(code, Code::NOT_FOUND, "{text}");
}

/// Starts a container that `process` works for, and ends its Create meanwhile.
fn cancelled(world: &World, run: &Run, word: &str, end: fn(&Shim, &str)) {
    thread::scope(|scope| {
        let client = scope.spawn(|| world.containerd.run(run));
        let id = container(world);
        let working = process(world, word);
        end(&shim(world, &id), &id);
        let said = client.join().expect("no panic").failure();
        assert!(said.contains("was cancelled"), "{said}");
        wait_until("the end of what worked for it", DEADLINE, || {
            Process::of(working.pid).is_none_or(|now| now != working)
        });
    });
    // The shim still serves, and the next start succeeds.
    assert_eq!(world.containerd.run(&Run::new(&hello())).success(), "hello\n");
}

fn a_create_that_compiles_can_be_cancelled(version: ContainerdVersion) {
    let world = World::new(version);
    for (name, end) in [("kill", kill as fn(&Shim, &str)), ("delete", delete)] {
        let image = app(&format!("cancelled-by-{name}"), laborious_wasm());
        cancelled(&world, &Run::new(&image), "compile", end);
    }
}

fn a_large_module_is_read_in_its_containers_cgroup(version: ContainerdVersion) {
    let world = World::new(version);
    let volume = world.folder.path().join("volume");
    fs::create_dir(&volume).expect("ours");
    let file = fs::File::create(volume.join("app.wasm")).expect("ours");
    // The largest module allowed: with this limit of processor time, reading it takes minutes.
    file.set_len(1 << 30).expect("a filesystem with holes");
    std::io::Write::write_all(&mut &file, b"\0asm\x01\0\0\0").expect("ours");
    let image = Image::new("on-a-volume").file("/other", 0o644, "x").entrypoint(&["/v/app.wasm"]);
    let run = Run::new(&image).bind(&volume, "/v").cpus(0.02);
    fn in_its_cgroup(shim: &Shim, id: &str) {
        let reader = wherry_testing::processes()
            .into_iter()
            .find(|process| {
                process.command.starts_with("wherry-digest") && process.command.contains(id)
            })
            .expect("it reads");
        // It enters the cgroup before it reads.
        wait_until("the reader in its container's cgroup", DEADLINE, || {
            let path = format!("/proc/{}/cgroup", reader.pid);
            let groups = fs::read_to_string(path).expect("it reads");
            let needed = if groups.lines().count() == 1 { vec![""] } else { vec!["cpu", "memory"] };
            needed.iter().all(|controller| {
                groups.lines().any(|line| line.contains(id) && line.contains(controller))
            })
        });
        kill(shim, id);
    }
    cancelled(&world, &run, "wherry-digest", in_its_cgroup);
}

fn a_refused_module_is_not_compiled_at_each_restart(version: ContainerdVersion) {
    let world = World::new(version);
    let run = Run::new(&app("refused-twice", &hello_wasm()[..40]));
    let first = world.containerd.run(&run).failure();
    assert!(first.contains("invalid WebAssembly") && !first.contains("that failed"), "{first}");
    let second = world.containerd.run(&run).failure();
    assert!(second.contains("invalid WebAssembly"), "{second}");
    assert!(second.contains("(from a compilation that failed "), "{second}");
    world.tool(&["cache", "prune"]).success();
    let third = world.containerd.run(&run).failure();
    assert!(third.contains("invalid WebAssembly") && !third.contains("that failed"), "{third}");
}

fn a_long_compilation_is_in_containerds_log(version: ContainerdVersion) {
    let world = World::new(version);
    // The module of a container with little memory is compiled all the same.
    let run = Run::new(&app("laborious", laborious_wasm())).memory(32 << 20);
    assert_eq!(world.containerd.run(&run).success(), "hello\n");
    let log = || fs::read_to_string(world.containerd.log_path()).unwrap_or_default();
    wait_until("the compilation in the log", DEADLINE, || {
        let text = log();
        let took =
            text.split("compiled /app.wasm in ").nth(1).and_then(|rest| rest.split(' ').next());
        took.and_then(|took| took.parse::<f64>().ok()).is_some_and(|seconds| seconds > 0.0)
    });
    assert!(log().contains("compiling "), "{}", log());
}

/// A module of a few megabytes whose compilation may take gigabytes.
fn a_compilation_is_bounded_by_its_containers_memory_limit(version: ContainerdVersion) {
    let world = World::new(version);
    let functions = "(func)".repeat(900_000);
    let image = app("many-functions", binary(&text(&(hello_fields("_start") + &functions))));
    let run = Run::new(&image).memory(128 << 20);
    let compiles = |process: &Process| {
        let shim = process.parent().map(|parent| parent.command).unwrap_or_default();
        process.command.contains(" compile ") && shim.contains(world.containerd.namespace())
    };
    let outcome = std::thread::scope(|scope| {
        let outcome = scope.spawn(|| world.containerd.run(&run));
        let limit = wait_for("the compiler's limit", DEADLINE, || {
            let compiler = wherry_testing::processes().into_iter().find(compiles)?;
            let limits = fs::read_to_string(format!("/proc/{}/limits", compiler.pid)).ok()?;
            let limit = limits.lines().find_map(|line| line.strip_prefix("Max data size"))?;
            // The compiler sets it before it reads the module.
            limit.split_whitespace().next()?.parse::<u64>().ok()
        });
        assert_eq!(limit, 512 << 20, "the least that a compilation may have");
        outcome.join().expect("no panic")
    });
    let refused = outcome.err().contains("it took more memory than");
    assert!(outcome.out() == "hello\n" || refused, "{outcome}");
}

fn code_cannot_be_changed_by_who_runs_it(docker: &Docker) {
    let image = guests_and_tools().entrypoint(&["/spin.wasm"]);
    // Appending opens for writing and changes nothing. The guest's streams are skipped.
    let script = "cd /proc/1/fd && for f in [0-9]* ../map_files/*; do \
        case $f in 0|1|2) continue;; esac; [ ! -c $f ] || continue; \
        if ( : >> $f ) 2>/dev/null; then said=writable; else said=refused; fi; \
        echo \"$said $(readlink $f)\"; \
        done; echo end";
    let tried = |capabilities: &[&str]| {
        let options: Vec<&str> = capabilities.iter().flat_map(|name| ["--cap-add", name]).collect();
        let container = docker.start(&Run::new(&image).extra(&options));
        container.wait_for_output("ready");
        let said =
            docker.exec(container.id(), &["/bin/busybox", "sh", "-c", script], b"").success();
        assert!(said.ends_with("end\n"), "{said}");
        said
    };
    let code = format!("-{}-", engine());
    let of_code = |said: &str| said.lines().filter(|line| line.contains(&code)).count();
    let said = tried(&["SYS_PTRACE"]);
    assert!(!said.contains("writable "), "{said}");
    assert!(of_code(&said) > 0, "{said}");
    // With these capabilities the kernel also opens the names in map_files. The libraries of the
    // engine host are files of the host.
    let said = tried(&["SYS_PTRACE", "SYS_ADMIN", "CHECKPOINT_RESTORE"]);
    let ours = |line: &&str| line.contains(" /run/wherry/") || line.contains(&code);
    let writable: Vec<&str> =
        said.lines().filter(|line| line.starts_with("writable ") && ours(line)).collect();
    assert!(writable.is_empty(), "{writable:?}");
    assert!(of_code(&said) > 1, "{said}");
}

on_dockers!(code_cannot_be_changed_by_who_runs_it);

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
    a_create_that_compiles_can_be_cancelled,
    a_large_module_is_read_in_its_containers_cgroup,
    a_refused_module_is_not_compiled_at_each_restart,
    a_long_compilation_is_in_containerds_log,
    a_compilation_is_bounded_by_its_containers_memory_limit,
    a_known_module_is_not_read_again
);
