//! The functions of WASI preview 1 and their types.

/// The name of the import module.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// Each function with its parameters: `i` for i32, `I` for i64. The result is i32, except where
/// [`has_result`] says otherwise.
const FUNCTIONS: [(&str, &str); 46] = [
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "iIi"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("fd_advise", "iIIi"),
    ("fd_allocate", "iII"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "iII"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "iI"),
    ("fd_filestat_set_times", "iIIi"),
    ("fd_pread", "iiiIi"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_prestat_get", "ii"),
    ("fd_pwrite", "iiiIi"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiiIi"),
    ("fd_renumber", "ii"),
    ("fd_seek", "iIii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiiIIi"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiiIIii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("proc_exit", "i"),
    ("proc_raise", "i"),
    ("random_get", "ii"),
    ("sched_yield", ""),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

fn has_result(name: &str) -> bool {
    name != "proc_exit"
}

/// Returns the type of a function of preview 1, in the form `(i32, i64) -> i32`.
#[must_use]
pub fn function(name: &str) -> Option<String> {
    let (_, parameters) = FUNCTIONS.iter().find(|(function, _)| *function == name)?;
    let parameters = parameters.chars().map(|kind| if kind == 'i' { "i32" } else { "i64" });
    let results = if has_result(name) { " -> i32" } else { "" };
    Some(format!("({}){results}", parameters.collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_with_parameters_and_result() {
        assert_eq!(function("proc_exit").unwrap(), "(i32)");
        assert_eq!(function("clock_time_get").unwrap(), "(i32, i64, i32) -> i32");
        assert_eq!(function("sched_yield").unwrap(), "() -> i32");
        assert_eq!(function("sock_open"), None);
    }
}
