//! The process title: `ps` and `docker top` show a guest's arguments, not the host's.
//!
//! The kernel shows the memory in which it put a process's arguments. A guest's process never calls
//! exec, so it writes the title there, and continues into the memory of the environment, which it
//! has cleared (see setproctitle(3), whose convention the kernel follows). The daemon starts the
//! host with an environment variable that makes room.

use std::fs;
use std::ops::Range;
use std::sync::OnceLock;

static AREA: OnceLock<Range<usize>> = OnceLock::new();

/// Finds the memory of the arguments. Must be called while /proc is mounted.
pub(crate) fn find() {
    if let Ok(stat) = fs::read_to_string("/proc/self/stat")
        && let Some(area) = parse(&stat)
    {
        // The first call counts.
        let _ = AREA.set(area);
    }
}

/// Fields 48 (`arg_start`) and 51 (`env_end`) of proc_pid_stat(5). The second field, in
/// parentheses, may contain anything.
fn parse(stat: &str) -> Option<Range<usize>> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (start, arguments, environment, end) = (field(48)?, field(49)?, field(50)?, field(51)?);
    // Contiguous, or the layout is another than expected.
    (start < arguments && arguments == environment && environment < end).then_some(start..end)
}

/// Sets the title. The process's own arguments and environment must not be used afterwards.
#[allow(unsafe_code)]
pub(crate) fn set(args: &[String]) {
    let Some(area) = AREA.get() else { return };
    let text = args.join(" ");
    let shown = text.as_bytes();
    let shown = shown.get(..area.len() - 1).unwrap_or(shown);
    // SAFETY: the kernel mapped this range, writable, for the arguments and the environment of this
    // process, and fork keeps it at the same place. The environment is cleared and the arguments
    // are read; this process has a single thread.
    unsafe {
        let memory = std::slice::from_raw_parts_mut(area.start as *mut u8, area.len());
        memory.fill(0);
        let (head, _) = memory.split_at_mut(shown.len());
        head.copy_from_slice(shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_found_in_this_process_too() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let area = parse(&stat).unwrap();
        assert!(area.len() > 1);
        assert_eq!(parse("1 (a) b) R 1"), None);
    }
}
