//! The conformance suite that every engine passes: tests of its executable `wherry-E run`.
//!
//! An engine's `tests/conformance.rs` is one line, which defines one `#[test]` per case:
//!
//! ```ignore
//! wherry_engine::conformance!(env!("CARGO_BIN_EXE_wherry-wasmtime"), backtraces, components);
//! ```
//!
//! After the executable follow the engine's capabilities beyond core modules of WASI preview 1:
//! `backtraces` (a trap names the functions of its call stack) and `components` (WASI preview 2,
//! with sockets).
//!
//! `wherry-E run [--env K=V]... [--dir HOST::GUEST]... [--cwd DIR] [--net] FILE[#function]
//! [ARGS...]` exits with the guest's exit code; with 134 and the trap's text on standard error if
//! the guest traps; with 128+n at once on SIGTERM and SIGINT; with 1 and one line
//! `wherry-E: FILE: ...` if the guest cannot run; with 127 if the file does not exist.

// Test code in a library: a failed expectation is a failed test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

pub mod component;
pub mod context;
pub mod ending;
pub mod host;
pub mod mistakes;
pub mod network;
pub mod signals;
pub mod stdio;
pub mod version;
mod wat;

pub use host::Host;

/// Defines one `#[test]` per case. See [the module](crate::conformance).
#[macro_export]
macro_rules! conformance {
    (@backtraces $exe:expr) => {
        $crate::conformance!(@cases $exe; ending: [a_trap_names_the_functions]);
    };
    (@components $exe:expr) => {
        $crate::conformance!(@cases $exe; component: [
            a_component_has_arguments_environment_and_streams,
            a_component_ends_with_its_exit_code,
            a_component_that_returns_an_error_ends_with_1,
            a_component_that_traps_ends_with_134,
            a_component_opens_files_in_its_working_directory,
            a_component_is_told_its_working_directory,
            a_component_function_is_called_by_name,
            a_component_without_run_is_refused,
            a_component_with_a_missing_import_is_refused,
            a_server_of_another_version_of_wasi_is_refused,
            a_component_of_a_library_is_refused_with_all_exports,
            a_component_of_another_version_of_wasi_is_refused,
            a_component_with_streams_is_refused_with_the_feature,
        ]);
        $crate::conformance!(@cases $exe; network: [
            tcp_reaches_the_loopback,
            udp_reaches_the_loopback,
            localhost_is_looked_up,
            without_the_network_nothing_is_reached,
        ]);
    };
    (@cases $exe:expr; $group:ident: [$($case:ident),* $(,)?]) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$group::$case(&$crate::conformance::Host::new($exe));
            }
        )*
    };
    ($exe:expr $(, $capability:ident)* $(,)?) => {
        $crate::conformance!(@cases $exe; context: [
            arguments_arrive_as_given,
            environment_is_what_is_given_and_nothing_else,
            files_are_read_and_written_below_a_preopen,
            its_own_process_is_closed_to_a_guest,
            nothing_is_visible_without_a_preopen,
            a_path_cannot_leave_its_preopen,
            the_working_directory_is_a_preopen,
            the_working_directory_is_the_first_and_the_last_preopen,
            links_resolve_in_the_root,
            a_missing_directory_is_named,
            clocks_tell_the_time,
            random_bytes_differ,
            memory_that_cannot_grow_says_so,
        ]);
        $crate::conformance!(@cases $exe; stdio: [
            output_is_exact_to_the_byte,
            all_buffers_of_one_write_are_written,
            much_output_to_a_slow_reader_arrives_whole,
            input_is_read_to_its_end,
            no_input_is_the_end_of_input,
            input_is_read_as_it_arrives,
            waiting_for_input_takes_no_time_of_the_processor,
            a_pipe_is_not_a_terminal,
            a_reader_that_has_gone_is_an_error_to_the_guest,
        ]);
        $crate::conformance!(@cases $exe; ending: [
            a_guest_ends_with_its_exit_code,
            unreachable_traps,
            an_access_out_of_bounds_traps,
            endless_recursion_traps,
            a_division_by_zero_traps,
        ]);
        $crate::conformance!(@cases $exe; signals: [
            signals_end_a_computation,
            signals_end_a_read,
            signals_end_a_sleep,
        ]);
        $crate::conformance!(@cases $exe; version: [the_engine_its_version_and_its_date_are_named]);
        $crate::conformance!(@cases $exe; mistakes: [
            a_function_is_called_by_name,
            a_reactor_is_initialised_first,
            text_is_run_too,
            a_missing_import_is_named,
            all_missing_imports_are_named,
            an_import_of_a_wrong_type_is_named_with_the_right_one,
            a_feature_that_no_engine_has_is_named,
            reference_types_are_supported,
            a_module_of_a_library_is_refused_with_all_exports,
            a_missing_function_is_named_with_those_there_are,
            a_module_without_start_is_refused,
            an_invalid_module_is_refused_with_the_offset,
            a_truncated_module_is_refused,
            what_is_not_wasm_is_refused,
            a_missing_file_is_127,
        ]);
        $($crate::conformance!(@$capability $exe);)*
    };
}
