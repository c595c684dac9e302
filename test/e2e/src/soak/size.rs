//! The size of a process, which must be the same again when all containers are gone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The resources of a process.
#[derive(Clone, Debug)]
pub(super) struct Size {
    /// The number of open files of each kind.
    pub(super) files: BTreeMap<String, usize>,
    pub(super) threads: usize,
    /// The dirty private memory, KB.
    pub(super) memory: u64,
}

impl Size {
    /// The size of a process at this moment.
    pub(super) fn of(pid: i32) -> Size {
        let mut files = BTreeMap::new();
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default().display().to_string();
            // `socket:[123]` counts as a socket; the number is irrelevant.
            let kind = target.split(":[").next().unwrap_or_default().to_owned();
            *files.entry(kind).or_default() += 1;
        }
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").count();
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it lives");
        // Private clean pages belong to the executable, and become shared when another process runs
        // it.
        let memory = number(&text, "Private_Dirty:");
        Size { files, threads, memory }
    }

    /// The growth since `before`: files, and memory beyond a margin, KB.
    pub(super) fn since(&self, before: &Size, margin: u64) -> Vec<String> {
        let files = self.files.iter().filter_map(|(kind, count)| {
            let had = before.files.get(kind).copied().unwrap_or_default();
            (*count > had).then(|| format!("{kind}: {had} open, now {count}"))
        });
        let mut grown: Vec<String> = files.collect();
        if self.memory > before.memory + margin {
            grown.push(format!("memory: {} KB, now {}", before.memory, self.memory));
        }
        grown
    }
}

/// The size of containerd's heap after a collection, KB, and the number of goroutines.
pub(super) fn heap_and_goroutines(debug: &Path) -> (u64, usize) {
    let heap = number(&get(debug, "/debug/pprof/heap?gc=1&debug=1"), "# HeapAlloc =");
    let goroutines =
        number(&get(debug, "/debug/pprof/goroutine?debug=1"), "goroutine profile: total");
    (heap / 1024, usize::try_from(goroutines).expect("few"))
}

/// The number behind a name.
fn number(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.trim().strip_prefix(name));
    let word = rest.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text:.2000}"))
}

fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("containerd's debug socket");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: containerd\r\n\r\n").expect("it listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}
