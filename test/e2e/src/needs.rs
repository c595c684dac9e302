//! The tests that need a capability of the engine or the machine. Without it they print so and do
//! nothing.

use std::path::Path;
use wherry_testing::Capability::{self, Compiler, Components, Plugins, QuickCode, Sockets};
use wherry_testing::{engine, engine_can, runtime, shared};

/// By the file, without `.rs`, and the name of the test.
const NEEDS: &[(&str, Capability)] = &[
    ("attach::a_screen_goes_on_while_nobody_watches", Components),
    ("bad_input::a_component_with_nothing_to_run_is_said", Components),
    ("cache::a_known_module_is_not_read_again", Compiler),
    ("cache::a_create_that_compiles_can_be_cancelled", Compiler),
    ("cache::a_large_module_is_read_in_its_containers_cgroup", Compiler),
    ("cache::a_refused_module_is_not_compiled_at_each_restart", Compiler),
    ("cache::a_long_compilation_is_in_containerds_log", Compiler),
    ("cache::a_compilation_is_bounded_by_its_containers_memory_limit", Compiler),
    ("cache::code_cannot_be_changed_by_who_runs_it", Compiler),
    ("cache::an_image_is_compiled_ahead_of_its_first_start", Compiler),
    ("cache::code_that_was_damaged_is_made_again", Compiler),
    ("bad_input::a_compiled_file_from_an_image_is_never_loaded", Compiler),
    ("commands::cp_reaches_one_before_its_start_and_after_its_end", Components),
    ("compose::services_talk_by_name_once_they_are_healthy", Components),
    ("concurrency::nobody_waits_for_a_create_that_compiles", Compiler),
    ("concurrency::nobody_waits_for_an_exec_that_compiles", Compiler),
    ("errno::a_component_gets_the_error_numbers_of_sockets", Components),
    ("examples::hello_in_python_runs", Components),
    ("examples::a_tcp_server_answers_on_its_published_port", Components),
    ("examples::a_web_server_greets_and_keeps_an_access_log", Components),
    ("examples::a_guest_counts_in_a_native_database", Components),
    ("exec::a_component_runs_too", Components),
    ("lifecycle::a_shutdown_during_a_create_ends_the_shim_when_that_fails", Compiler),
    ("lifecycle::a_containerd_killed_during_a_create_leaves_no_shim", Compiler),
    ("network::guests_talk_in_a_shared_namespace", Components),
    ("network::guests_meet_by_name_in_a_network", Components),
    ("network::a_guests_published_port_is_reached", Components),
    ("network::without_a_network_there_is_none", Components),
    ("network::a_guest_sees_dockers_hosts_and_names", Components),
    ("plugins::plugins_are_there_where_the_options_name_them", Plugins),
    ("quick::better_code_is_made_behind_the_first_start", QuickCode),
    ("run::a_component_has_its_arguments_and_environment", Components),
    ("run::a_component_hands_its_exit_code_on", Components),
    ("sharing::another_containers_network_is_joined", Components),
    ("sharing::the_hosts_network_is_the_hosts", Components),
    ("sharing::a_linked_container_is_known_by_its_alias", Components),
    ("network::a_modules_server_answers_on_a_published_port", Sockets),
    ("watch::a_bad_module_is_one_warning_and_native_images_are_none", Compiler),
    ("watch::a_new_image_is_compiled_before_its_first_start", Compiler),
    ("watch::a_pull_compiles_when_it_is_asked_to", Compiler),
    ("watch::a_removed_image_is_not_compiled_further", Compiler),
    ("watch::a_restarted_containerd_is_followed", Compiler),
    ("watch::images_that_exist_are_compiled_on_request", Compiler),
];

/// The reason why a test, given as `file::test`, is not tried with an engine in this mode.
pub(crate) fn untried(engine: &str, test: &str) -> Option<&'static str> {
    let file = test.split("::").next().unwrap_or_default();
    let missing = missing(engine, test).map(Capability::reason);
    missing.or_else(|| {
        other_mode(&["", file], test).map(|_| "this is a matter of one shim for each container")
    })
}

/// The capability that an engine lacks for a test, given as `file::test`.
fn missing(engine: &str, test: &str) -> Option<Capability> {
    let needed = NEEDS.iter().find(|(name, _)| *name == test).map(|(_, capability)| *capability);
    needed.filter(|capability| !engine_can(engine, *capability))
}

/// The files whose tests need the shared mode.
const SHARED: &[&str] = &["manager", "shared"];

/// The tests whose promise is about the shim process of one container or pod: which options it was
/// started with, when it ends, that it is another for another pod; or about pods that it makes. A
/// manager promises none of this. By the file, without `.rs`, and the name of the test, or by the
/// file or the module in it alone.
const OWN_SHIM: &[&str] = &[
    "budget::a_life_takes_few_programs_and_processes",
    "budget::running_containers_take_little_and_rest",
    "cri::a_pod_has_one_shim",
    "engines",
    "executable::a_bundle_without_a_configuration_is_that_of_a_pod",
    "executable::a_configuration_that_cannot_be_read_is_one_sentence",
    "executable::a_configuration_that_is_cut_off_is_one_sentence",
    "executable::a_start_by_the_bootstrap_protocol_is_answered_in_its_format_and_has_its_options",
    "lifecycle::a_containerd_killed_during_a_create_leaves_no_shim",
    "lifecycle::a_created_container_whose_bundle_was_deleted_is_removed_with_its_shim",
    "lifecycle::a_kill_that_meets_the_end_of_the_shim_is_answered",
    "lifecycle::a_shim_that_is_given_up_with_a_created_container_ends_while_a_client_is_connected",
    "lifecycle::a_shim_whose_container_was_cleaned_up_by_the_delete_command_ends",
    "lifecycle::a_shim_whose_containerd_was_lost_during_a_failing_create_ends",
    "lifecycle::a_shutdown_during_a_create_ends_the_shim_when_that_fails",
    "lifecycle::in_any_order_of_requests_the_shim_ends_when_containerd_is_lost",
    "sandboxer::a_pod_survives_containerd",
    "sandboxer::a_pod_that_is_removed_after_a_restart_ends",
    "sandboxer::a_pod_whose_shim_is_killed_leaves_nothing_behind",
    "sandboxer::a_thread_of_the_shim_holds_the_namespaces",
    "sandboxer::an_invalid_setting_is_one_sentence_and_leaves_nothing",
    "soak::the_shim_of_a_pod_does_not_grow",
];

/// Why a test is not for the mode under test. `path`: the names of its modules; `name`: the file
/// and the test.
fn other_mode(path: &[&str], name: &str) -> Option<&'static str> {
    if shared() {
        let own = |own: &&str| *own == name || path.contains(own);
        return OWN_SHIM.iter().any(own).then_some("a manager");
    }
    path.get(1).is_some_and(|file| SHARED.contains(file)).then_some("a shim for each container")
}

/// The files whose tests need a machine with AppArmor.
const APPARMOR: &[&str] = &["apparmor"];

/// Whether the kernel enforces AppArmor profiles, and the program that loads them is installed.
fn has_apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let parser = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];
    enabled.is_ok_and(|text| text.trim() == "Y")
        && parser.iter().any(|path| Path::new(path).exists())
}

/// The files whose tests need a machine that systemd runs.
const SYSTEMD: &[&str] = &["unit"];

/// The tests that need a program of the machine, which `test/setup/packages.sh` does not install.
const PROGRAMS: &[(&str, &str)] = &[
    ("examples::hello_in_go_runs", "go"),
    ("toolchains::a_guest_of_assemblyscript_has_its_world", "npm"),
];

/// Whether a program is in PATH.
pub fn has(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// Whether the engine and the machine have the capabilities that a test of this module needs.
pub fn are_met(module: &str, test: &str) -> bool {
    let file = module.split("::").nth(1).unwrap_or_default();
    if APPARMOR.contains(&file) && !has_apparmor() {
        println!("not tried: this machine has no AppArmor");
        return false;
    }
    if SYSTEMD.contains(&file) && !Path::new("/run/systemd/system").exists() {
        println!("not tried: this machine has no systemd");
        return false;
    }
    let name = format!("{file}::{test}");
    if let Some(mode) = other_mode(&module.split("::").collect::<Vec<_>>(), &name) {
        println!("not tried: {} has {mode}", runtime());
        return false;
    }
    let program = PROGRAMS.iter().find(|(needing, _)| *needing == name).map(|(_, program)| program);
    if let Some(program) = program.filter(|program| !has(program)) {
        println!("not tried: this machine has no {program}");
        return false;
    }
    let missing = missing(&engine(), &name);
    if let Some(capability) = missing {
        println!("not tried: {} has no {capability:?}", runtime());
    }
    missing.is_none()
}
