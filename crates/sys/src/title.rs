//! The process title: `ps` and `docker top` show a guest's arguments, not the host's, and not the
//! first container's for a daemon that serves many.
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
pub fn find() {
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
    let (arguments, environment) = areas(stat)?;
    // Contiguous, or the layout is another than expected.
    (arguments.end == environment.start).then_some(arguments.start..environment.end)
}

/// The memory of the arguments and that of the environment, neither of which is empty.
fn areas(stat: &str) -> Option<(Range<usize>, Range<usize>)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (arguments, environment) = (field(48)?..field(49)?, field(50)?..field(51)?);
    (!arguments.is_empty() && !environment.is_empty()).then_some((arguments, environment))
}

/// Sets the title. The process's own arguments and environment must not be used afterwards.
#[allow(unsafe_code)]
pub fn set(args: &[String]) {
    let Some(area) = AREA.get() else { return };
    // SAFETY: the environment is cleared and the arguments are read; this process has a single
    // thread.
    unsafe { write(area, &args.join(" ")) };
}

/// Replaces the arguments that `ps` shows, as far as there is room where they were. The environment
/// stays. The process must have a single thread and must not use its own arguments afterwards.
#[allow(unsafe_code)]
pub fn replace_arguments(args: &[&str]) {
    if let Ok(stat) = fs::read_to_string("/proc/self/stat")
        && let Some((arguments, _)) = areas(&stat)
    {
        // SAFETY: the caller has read the arguments, and this process has a single thread.
        unsafe { write(&arguments, &args.join("\0")) };
    }
}

/// Writes the text to the memory at `area`, as far as there is room, and fills the rest with zeros.
///
/// # Safety
/// `area` must be memory of this process's arguments or environment that nothing reads or writes.
#[allow(unsafe_code)]
unsafe fn write(area: &Range<usize>, text: &str) {
    let shown = text.as_bytes();
    let shown = shown.get(..area.len() - 1).unwrap_or(shown);
    // SAFETY: the kernel mapped this range, writable, for the arguments and the environment of this
    // process, and fork keeps it at the same place.
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

    /// In another process: the harness reads the arguments of this one.
    #[test]
    fn replaced_arguments_are_shown_and_the_environment_stays() {
        if !crate::alone("title::tests::replaced_arguments_are_shown_and_the_environment_stays") {
            return;
        }
        let environment = fs::read("/proc/self/environ").unwrap();
        replace_arguments(&["a", "-b"]);
        let shown = fs::read("/proc/self/cmdline").unwrap();
        assert!(shown.starts_with(b"a\0-b\0") && shown[5..].iter().all(|byte| *byte == 0));
        replace_arguments(&["x".repeat(shown.len()).as_str()]);
        let shown = fs::read("/proc/self/cmdline").unwrap();
        assert!(shown[..shown.len() - 1].iter().all(|byte| *byte == b'x'));
        assert_eq!(fs::read("/proc/self/environ").unwrap(), environment);
    }
}
