//! A wasm image runs like any other: arguments, environment, entrypoints, and native programs
//! beside it.

use wherry_e2e::images::{guest, hello, hello_fields, hello_wasm, kit, kits, text, world};
use wherry_e2e::{on_all_daemons, on_containerds};
use wherry_testing::{Capability, Containerd, Daemon, Image, Run, busybox, can};

fn hello_is_said(daemon: &dyn Daemon) {
    let outcome = daemon.run(&Run::new(&hello()));
    assert_eq!((outcome.success().as_str(), outcome.err().as_str()), ("hello\n", ""));
}

fn a_second_run_says_the_same(daemon: &dyn Daemon) {
    // The first run compiles the module; the others take it from the cache.
    for _ in 0..3 {
        assert_eq!(daemon.run(&Run::new(&hello())).success(), "hello\n");
    }
}

/// The guest's arguments, and its environment without the variables that every daemon adds.
fn world_of(daemon: &dyn Daemon, run: &Run) -> (Vec<String>, Vec<String>) {
    let said = daemon.run(run).success();
    // An argument may be empty; the environment has no empty line: the last one separates the two.
    let (args, env) =
        said.rsplit_once("\n\n").map_or((said.trim_end(), ""), |(args, env)| (args, env));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    (lines(args), lines(env))
}

fn arguments_arrive_as_they_are(daemon: &dyn Daemon) {
    let given = ["one", "two words", "-x", "--long=1", "ünïcode", "$HOME", "a\"b'c"];
    let (args, _) = world_of(daemon, &Run::new(&world()).args(&given));
    assert_eq!(args[1..], given);
    assert!(args[0].ends_with("app.wasm"), "{}", args[0]);
}

fn the_images_default_arguments_are_used(daemon: &dyn Daemon) {
    let (args, _) = world_of(daemon, &Run::new(&world().cmd(&["from", "image"])));
    assert_eq!(args[1..], ["from", "image"]);
}

fn environment_comes_from_image_and_user(daemon: &dyn Daemon) {
    let image = world().env("FROM_IMAGE", "one").env("BOTH", "image");
    let (_, env) =
        world_of(daemon, &Run::new(&image).env("FROM_USER", "two = 2").env("BOTH", "user"));
    for pair in ["FROM_IMAGE=one", "FROM_USER=two = 2", "BOTH=user"] {
        assert!(env.iter().any(|found| found == pair), "{pair} is not in {env:?}");
    }
    assert_eq!(env.iter().filter(|pair| pair.starts_with("BOTH=")).count(), 1, "{env:?}");
}

fn no_variable_of_the_shim_or_host_is_seen(daemon: &dyn Daemon) {
    let (_, env) = world_of(daemon, &Run::new(&world()));
    let foreign = |pair: &&String| {
        [
            "TTRPC",
            "GRPC",
            "CONTAINERD",
            "NAMESPACE",
            "WHERRY",
            "OTEL",
            "GOMAXPROCS",
            "SCHED",
            "_LIBCONTAINER",
            "RUST",
        ]
        .iter()
        .any(|name| pair.starts_with(name))
    };
    assert_eq!(env.iter().filter(foreign).collect::<Vec<_>>(), Vec::<&String>::new());
}

fn a_relative_entrypoint_starts_at_the_working_directory(daemon: &dyn Daemon) {
    let image = Image::new("relative")
        .file("/work/deep/app.wasm", 0o755, hello_wasm())
        .entrypoint(&["./deep/app.wasm"]);
    assert_eq!(daemon.run(&Run::new(&image.clone().workdir("/work"))).success(), "hello\n");
    assert_eq!(daemon.run(&Run::new(&image).cwd("/work")).success(), "hello\n");
}

fn an_entrypoint_is_found_through_path(daemon: &dyn Daemon) {
    let image = Image::new("by-path").file("/opt/tools/tool.wasm", 0o755, hello_wasm());
    let image = image.env("PATH", "/bin:/opt/tools").entrypoint(&["tool.wasm"]);
    assert_eq!(daemon.run(&Run::new(&image)).success(), "hello\n");
}

fn a_link_to_the_module_is_followed_inside_the_image(daemon: &dyn Daemon) {
    let image = Image::new("linked")
        .file("/real/app.wasm", 0o755, hello_wasm())
        .link("/app", "/real/app.wasm");
    assert_eq!(daemon.run(&Run::new(&image.entrypoint(&["/app"]))).success(), "hello\n");
}

fn a_function_is_called_by_name(daemon: &dyn Daemon) {
    let wasm = wherry_e2e::images::binary(&text(&hello_fields("greet")));
    let image = Image::new("greet").file("/app.wasm", 0o755, wasm).entrypoint(&["/app.wasm#greet"]);
    assert_eq!(daemon.run(&Run::new(&image)).success(), "hello\n");
}

fn the_text_format_runs(daemon: &dyn Daemon) {
    let image = Image::new("wat")
        .file("/app.wat", 0o644, text(&hello_fields("_start")))
        .entrypoint(&["/app.wat"]);
    assert_eq!(daemon.run(&Run::new(&image)).success(), "hello\n");
}

fn a_file_without_the_executable_bit_runs(daemon: &dyn Daemon) {
    let image =
        Image::new("plain").file("/app.wasm", 0o644, hello_wasm()).entrypoint(&["/app.wasm"]);
    assert_eq!(daemon.run(&Run::new(&image)).success(), "hello\n");
}

fn a_native_program_runs_natively(daemon: &dyn Daemon) {
    let outcome =
        daemon.run(&Run::new(&busybox()).args(&["sh", "-c", "echo from $0 pid $$; exit 3"]));
    assert_eq!((outcome.code, outcome.out().as_str()), (3, "from sh pid 1\n"), "{outcome}");
}

fn a_script_runs_natively(daemon: &dyn Daemon) {
    let image = busybox()
        .file("/hello.sh", 0o755, "#!/bin/sh\necho script $1\n")
        .entrypoint(&["/hello.sh"]);
    assert_eq!(daemon.run(&Run::new(&image).args(&["one"])).success(), "script one\n");
}

/// Preview 1 has no working directory: a guest gets it in PWD, as the children of a shell do.
fn the_working_directory_is_the_images_or_the_users(daemon: &dyn Daemon) {
    for kit in kits() {
        let image = kit.folder("/work/deep", 0o755).workdir("/work");
        let cwd = |run: &Run| {
            let said = daemon.run(&run.clone().args(&["show"])).success();
            said.lines().find_map(|line| line.strip_prefix("env PWD=").map(str::to_owned))
        };
        assert_eq!(cwd(&Run::new(&image)).as_deref(), Some("/work"));
        assert_eq!(cwd(&Run::new(&image).cwd("/work/deep")).as_deref(), Some("/work/deep"));
    }
}

fn a_component_has_its_arguments_and_environment(daemon: &dyn Daemon) {
    let run = Run::new(&kit(true)).env("GIVEN", "two words").args(&["show", "one", "two words"]);
    let said = daemon.run(&run).success();
    for line in ["arg show", "arg one", "arg two words", "env GIVEN=two words"] {
        assert!(said.lines().any(|found| found == line), "'{line}' is not in {said}");
    }
}

fn a_component_hands_its_exit_code_on(daemon: &dyn Daemon) {
    // A component's exit is success or failure: wasi:cli/exit has no numbers in preview 2.
    assert_eq!(daemon.run(&Run::new(&kit(true)).args(&["exit", "0"])).code, 0);
    assert_eq!(daemon.run(&Run::new(&kit(true)).args(&["exit", "1"])).code, 1);
}

fn guests_from_c_and_rust_run(daemon: &dyn Daemon) {
    let component = can(Capability::Components).then_some("hello.component.wasm");
    for name in ["hello.wasm", "rust-hello.wasm"].into_iter().chain(component) {
        let outcome = daemon.run(&Run::new(&guest(name)));
        assert!(outcome.success().to_lowercase().contains("hello"), "{name}: {outcome}");
    }
}

on_all_daemons!(
    the_working_directory_is_the_images_or_the_users,
    a_component_has_its_arguments_and_environment,
    a_component_hands_its_exit_code_on,
    guests_from_c_and_rust_run,
    hello_is_said,
    a_second_run_says_the_same,
    arguments_arrive_as_they_are,
    the_images_default_arguments_are_used,
    environment_comes_from_image_and_user,
    no_variable_of_the_shim_or_host_is_seen,
    a_relative_entrypoint_starts_at_the_working_directory,
    an_entrypoint_is_found_through_path,
    a_link_to_the_module_is_followed_inside_the_image,
    a_function_is_called_by_name,
    the_text_format_runs,
    a_file_without_the_executable_bit_runs,
    a_native_program_runs_natively,
    a_script_runs_natively,
);

mod containerd {
    use super::*;

    fn events_come_in_order(containerd: &Containerd) {
        let events = containerd.events();
        let container = containerd.start(&Run::new(&hello()));
        let id = container.id().to_owned();
        assert_eq!(container.wait(), 0);
        let expected = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
        let seen = || {
            events
                .topics(&id)
                .into_iter()
                .filter(|topic| topic.starts_with("/tasks/"))
                .collect::<Vec<_>>()
        };
        wherry_testing::wait_until("four events", wherry_testing::DEADLINE, || {
            seen().len() >= expected.len()
        });
        assert_eq!(seen(), expected);
    }

    on_containerds!(events_come_in_order);
}
