//! What `ps` and `docker top` show for a guest: its own arguments, not the host's.
//!
//! The kernel shows the memory in which it once put a process's arguments. A guest's process never
//! passes through exec, so the text is written there, and on into the environment behind it,
//! which is empty by then (see setproctitle(3), whose convention the kernel follows).

use std::fs;
use std::ops::Range;
use std::sync::OnceLock;

static AREA: OnceLock<Range<usize>> = OnceLock::new();

/// Room for the text: the host is started with a variable of this many bytes.
pub(crate) const ROOM: usize = 1024;

/// Looks up where the kernel put the arguments. To be called while there is a /proc.
pub(super) fn find() {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(area) = parse(&stat) {
        let _ = AREA.set(area);
    }
}

/// Fields 48 (`arg_start`) and 51 (`env_end`) of proc_pid_stat(5). The second field, in
/// parentheses, may hold anything.
fn parse(stat: &str) -> Option<Range<usize>> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (start, arguments, environment, end) = (field(48)?, field(49)?, field(50)?, field(51)?);
    // One after the other, or they are not what we think they are.
    (start < arguments && arguments == environment && environment < end).then_some(start..end)
}

/// Shows `args` from here on. Nothing may use the process's own arguments or environment again.
#[allow(unsafe_code)]
pub(super) fn set(args: &[String]) {
    let Some(area) = AREA.get() else { return };
    let text = args.join(" ");
    let shown = text.as_bytes();
    let shown = shown.get(..area.len() - 1).unwrap_or(shown);
    // SAFETY: the kernel mapped this range, writable, for arguments and environment of this very
    // process, and a forked process has it at the same place. The environment has been cleared
    // and the arguments have been read; this process has a single thread.
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
