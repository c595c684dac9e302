//! `wherry-E watch`, and `wherry image pull --compile`: modules are compiled when images arrive, so
//! that the first start compiles nothing.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use wherry_e2e::cached::World;
use wherry_e2e::images::{app, hello, hello_wasm, laborious_wasm};
use wherry_testing::{
    ContainerdVersion, DEADLINE, Daemon, Process, Registry, Run, busybox, engine, processes,
    runtime, wait_for, wait_until,
};

/// The deadline of work in `SCHED_IDLE`, which waits while the machine is busy.
const PATIENT: Duration = DEADLINE.saturating_mul(5);

/// A running watch of a containerd. It ends with this value.
struct Watch {
    process: Child,
    log: PathBuf,
}

impl Watch {
    fn start(world: &World, options: &[&str]) -> Watch {
        let address = world.containerd.address().display().to_string();
        let words = [&["watch", "--address", &address], options].concat();
        let log = world.folder.path().join("watch.log");
        let file = File::create(&log).expect("ours");
        let mut command = world.command(&format!("wherry-{}", engine()), &words);
        command.stdin(Stdio::null()).stderr(file.try_clone().expect("ours")).stdout(file);
        let watch = Watch { process: command.spawn().expect("it runs"), log };
        watch.wait_for("watching the images of containerd at");
        watch
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    fn wait_for_times(&self, text: &str, times: usize) {
        wait_until(&format!("{text:?} in the log of the watch"), PATIENT, || {
            self.text().matches(text).count() >= times
        });
    }

    /// Waits for its compiler.
    fn compiler(&self) -> Process {
        let own = i32::try_from(self.process.id()).expect("a pid");
        wait_for("a compiler of the watch", PATIENT, || {
            processes().into_iter().find(|process| {
                process.command.contains(" compile ")
                    && process.parent().is_some_and(|parent| parent.pid == own)
            })
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn a_new_image_is_compiled_before_its_first_start(version: ContainerdVersion) {
    let world = World::new(version);
    let watch = Watch::start(&world, &[]);
    let image = hello().pack();
    world.containerd.load(&image);
    watch.wait_for(&format!("{}: compiled /app.wasm in ", image.reference));
    assert!(!world.compiles_for(&Run::new(&hello())));
    // From a registry, with compressed layers, as a search in PATH.
    let name =
        format!("{}/watched-{}:1", Registry::shared().address(), world.containerd.namespace());
    let wasm = [hello_wasm(), vec![0, 2, 1, b'x']].concat();
    let file = world.folder.path().join("searched.wasm");
    fs::write(&file, &wasm).expect("ours");
    let file = file.display().to_string();
    let words = ["image", "build", &file, "--tag", &name, "--to", "registry", "--plain-http"];
    let build = [&words[..], &["--entrypoint", "searched.wasm#_start"]].concat();
    wherry_testing::call(world.command("wherry", &build), None).success();
    world.containerd.ctr(&["images", "pull", "--plain-http", &name]).success();
    watch.wait_for(&format!("{name}: compiled /searched.wasm in "));
    assert_eq!(world.codes().len(), 2);
    let id = world.containerd.new_id();
    let run =
        || world.containerd.ctr(&["run", "--rm", "--runtime", &runtime(), &name, &id]).success();
    assert!(!world.compiles_for_call(run));
}

fn a_removed_image_is_not_compiled_further(version: ContainerdVersion) {
    let world = World::new(version);
    let watch = Watch::start(&world, &["--namespace", world.containerd.namespace()]);
    let image = app("laborious-removed", laborious_wasm()).pack();
    world.containerd.load(&image);
    let compiler = watch.compiler();
    world.containerd.ctr(&["images", "rm", &image.reference]).success();
    watch.wait_for(&format!("{}: cancelled: the image was removed", image.reference));
    wait_until("the end of the compiler", PATIENT, || {
        Process::of(compiler.pid).is_none_or(|now| now != compiler)
    });
    assert!(world.codes().is_empty());
}

fn a_bad_module_is_one_warning_and_native_images_are_none(version: ContainerdVersion) {
    let world = World::new(version);
    let watch = Watch::start(&world, &[]);
    let bad = app("watched-bad", &hello_wasm()[..40]).pack();
    world.containerd.load(&bad);
    watch.wait_for("invalid WebAssembly");
    world.containerd.load(&busybox().pack());
    world.containerd.load(&hello().pack());
    watch.wait_for("compiled /app.wasm in ");
    let text = watch.text();
    let expected = format!("wherry-{}: {}: cannot compile /app.wasm: ", engine(), bad.reference);
    assert_eq!(text.matches(&expected).count(), 1, "{text}");
    // Of the begin, the bad image and the good one.
    assert_eq!(text.lines().count(), 3, "{text}");
}

fn a_restarted_containerd_is_followed(version: ContainerdVersion) {
    let world = World::new(version);
    let watch = Watch::start(&world, &[]);
    world.containerd.kill9();
    watch.wait_for("trying again");
    world.containerd.start_again();
    // Before or after the watch is connected again.
    world.containerd.load(&hello().pack());
    watch.wait_for("compiled /app.wasm in ");
    watch.wait_for_times("watching the images of containerd at", 2);
}

fn images_that_exist_are_compiled_on_request(version: ContainerdVersion) {
    let world = World::new(version);
    world.containerd.load(&hello().pack());
    let watch = Watch::start(&world, &["--existing"]);
    watch.wait_for("compiled /app.wasm in ");
    assert_eq!(world.codes().len(), 1);
}

fn a_pull_compiles_when_it_is_asked_to(version: ContainerdVersion) {
    let world = World::new(version);
    let name =
        format!("{}/compiled-{}:1", Registry::shared().address(), world.containerd.namespace());
    let file = world.folder.path().join("hello.wasm");
    fs::write(&file, hello_wasm()).expect("ours");
    let file = file.display().to_string();
    let words =
        ["image", "build", &file, "--tag", &name, "--artifact", "--to", "registry", "--plain-http"];
    wherry_testing::call(world.command("wherry", &words), None).success();
    let address = world.containerd.address().display().to_string();
    let engines = format!("--compile={}", engine());
    let store = ["--address", &address, "--namespace", world.containerd.namespace()];
    let pull = [&["image", "pull", &name, "--plain-http", &engines][..], &store].concat();
    let said = wherry_testing::call(world.command("wherry", &pull), None).success();
    assert!(said.ends_with(&format!("compiled for {}\n", engine())), "{said}");
    let id = world.containerd.new_id();
    let run =
        || world.containerd.ctr(&["run", "--rm", "--runtime", &runtime(), &name, &id]).success();
    assert!(!world.compiles_for_call(run));
    let pull = [&["image", "pull", &name, "--plain-http", "--compile=none"][..], &store].concat();
    let said = wherry_testing::call(world.command("wherry", &pull), None).failure();
    assert!(
        said.contains("is stored, but its module is not compiled: none is not installed"),
        "{said}"
    );
}

wherry_e2e::tests_in!(
    containerd_1_6,
    ContainerdVersion::V1_6,
    a_new_image_is_compiled_before_its_first_start
);
wherry_e2e::tests_in!(
    containerd_2,
    ContainerdVersion::V2,
    a_new_image_is_compiled_before_its_first_start,
    a_removed_image_is_not_compiled_further,
    a_bad_module_is_one_warning_and_native_images_are_none,
    a_restarted_containerd_is_followed,
    images_that_exist_are_compiled_on_request,
    a_pull_compiles_when_it_is_asked_to
);
wherry_e2e::tests_in!(
    containerd_2_4,
    ContainerdVersion::V2_4,
    a_new_image_is_compiled_before_its_first_start
);
