//! The cost of containers: processes, threads and memory of the shims of one containerd, and sizes
//! of executables.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::{env, fs, process};

use crate::containerd::Containerd;
use crate::processes::processes;

/// The sum over the shims of one containerd and all their descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of shims.
    pub shims: usize,
    /// The number of their descendants: engine hosts and guests.
    pub others: usize,
    /// The number of threads of all of them.
    pub threads: usize,
    /// Their proportional set size, in bytes: a page that n processes share counts 1/n for each.
    pub pss: u64,
    /// The number of their voluntary context switches until now.
    pub waits: u64,
}

impl Usage {
    /// Measures now.
    pub fn of(containerd: &Containerd) -> Usage {
        let shims = shims(containerd);
        let all = with_descendants(&shims);
        let mut usage =
            Usage { shims: shims.len(), others: all.len() - shims.len(), ..Usage::default() };
        for pid in all {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for thread in threads {
                usage.threads += 1;
                usage.waits += number(&thread.path().join("status"), "voluntary_ctxt_switches:");
            }
            usage.pss += pss(pid);
        }
        usage
    }

    /// The pids of these processes.
    pub fn pids(containerd: &Containerd) -> Vec<i32> {
        with_descendants(&shims(containerd))
    }
}

/// The shims with this containerd's address in their command line.
fn shims(containerd: &Containerd) -> Vec<i32> {
    let address = containerd.address().display().to_string();
    let serves = |command: &str| command.split(' ').any(|word| word == address);
    let all = processes().into_iter();
    all.filter(|process| {
        process.program().starts_with("containerd-shim-") && serves(&process.command)
    })
    .map(|process| process.pid)
    .collect()
}

/// These processes and all their descendants.
fn with_descendants(pids: &[i32]) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = pids.to_vec();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let new = children.remove(pid).unwrap_or_default();
        found.extend(new.into_iter().filter(|child| !pids.contains(child)));
        next += 1;
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain any character.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn pss(pid: i32) -> u64 {
    number(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss:") * 1024
}

/// The number behind a name in a file of `/proc`; 0 if the process is gone.
fn number(path: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The size of an executable without its symbols, in bytes.
pub fn stripped_size(program: &Path) -> u64 {
    let name = program.file_name().unwrap_or_default().display();
    let copy = env::temp_dir().join(format!("wherry-stripped-{}-{name}", process::id()));
    let status = Command::new("strip").arg("-o").arg(&copy).arg(program).status();
    assert!(status.is_ok_and(|status| status.success()), "strip {} failed", program.display());
    let size = fs::metadata(&copy).expect("strip has written it").len();
    fs::remove_file(&copy).expect("it is ours");
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_descends_from_its_parent() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = with_descendants(&[own]);
        assert!(found.contains(&own));
        assert!(found.contains(&i32::try_from(child.id()).unwrap()), "{found:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn this_process_takes_memory() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!((10_000..1_000_000_000).contains(&pss(own)));
    }
}
