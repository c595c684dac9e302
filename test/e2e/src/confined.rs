//! The confinement of a process by the kernel, read from outside: a map from the name of a fact to
//! its value, so that two processes are compared fact by fact.
//!
//! Values that differ between any two containers are normalised: the container's id becomes `ID`,
//! its daemon's scope `SCOPE`; the numbers of devices, mounts, inodes and processes are omitted,
//! and lists that the kernel keeps unordered are sorted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use wherry_testing::{DEADLINE, processes, wait_for};

/// Facts by name.
pub type Facts = BTreeMap<String, String>;

/// The lines of `/proc/PID/status` that contain the rights and attributes of a process.
const STATUS: &[&str] = &[
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigBlk",
    "SigIgn",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
    "THP_enabled",
    "TracerPid",
    "Cpus_allowed_list",
    "Mems_allowed_list",
];

/// The lines of `/proc/PID/status` whose number of words is the depth of a process in pid
/// namespaces, and whose last word shows whether it leads its session and group.
const DEPTHS: &[&str] = &["NSpid", "NSpgid", "NSsid"];

/// Files of a process with a single value.
const FILES: &[&str] = &[
    "oom_score_adj",
    "loginuid",
    "personality",
    "coredump_filter",
    "timerslack_ns",
    "uid_map",
    "gid_map",
    "setgroups",
];

/// Files of a cgroup, of both versions; missing ones are skipped.
const LIMITS: &[&str] = &[
    "devices.list",
    "pids.max",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.swappiness",
    "memory.max",
    "memory.high",
    "memory.low",
    "memory.swap.max",
    "memory.oom.group",
    "cpu.shares",
    "cpu.weight",
    "cpu.max",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpuset.cpus",
    "cpuset.mems",
    "blkio.weight",
    "io.weight",
    "notify_on_release",
];

/// Reads all facts about the process `pid` of the container `id` of a daemon in `scope`. A fact
/// that this kernel does not have is omitted.
///
/// # Panics
/// If the process has ended.
pub fn facts(pid: i32, id: &str, scope: &str) -> Facts {
    let process = Proc { folder: PathBuf::from(format!("/proc/{pid}")), id, scope };
    let mut facts = Facts::new();
    process.status(&mut facts);
    process.limits(&mut facts);
    process.files(&mut facts);
    process.namespaces(&mut facts);
    process.cgroups(&mut facts);
    process.mounts(&mut facts);
    process.devices(&mut facts);
    process.descriptors(&mut facts);
    facts.insert("cwd".to_owned(), process.link("cwd"));
    facts.insert("root".to_owned(), process.link("root"));
    facts.insert("keyring".to_owned(), keyring(holders(id) > 0));
    assert!(process.folder.exists(), "process {pid} has ended");
    facts
}

/// The folder of a process in `/proc`, and the names to omit.
struct Proc<'n> {
    folder: PathBuf,
    id: &'n str,
    scope: &'n str,
}

impl Proc<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.folder.join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\0', '\n']).to_owned())
    }

    fn link(&self, name: &str) -> String {
        let path = fs::read_link(self.folder.join(name)).unwrap_or_default();
        self.anonymous(&path.display().to_string())
    }

    fn anonymous(&self, text: &str) -> String {
        text.replace(self.id, "ID").replace(self.scope, "SCOPE")
    }

    fn status(&self, facts: &mut Facts) {
        let text = self.text("status").expect("the process runs");
        let lines: BTreeMap<&str, Vec<&str>> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, values)| (name, values.split_whitespace().collect()))
            .collect();
        for name in STATUS {
            if let Some(values) = lines.get(name) {
                facts.insert((*name).to_owned(), values.join(" "));
            }
        }
        // glibc's posix_spawn leaves its two internal signals ignored in its children, such as the
        // daemons of the tests.
        let own = 0b11 << 31;
        let ignored = u64::from_str_radix(&facts["SigIgn"], 16).expect("a mask") & !own;
        facts.insert("SigIgn".to_owned(), format!("{ignored:016x}"));
        for name in DEPTHS {
            let values = lines.get(name).cloned().unwrap_or_default();
            let leads = values.last() == lines["NSpid"].last();
            let value = format!("depth {}{}", values.len(), if leads { ", its own" } else { "" });
            facts.insert((*name).to_owned(), value);
        }
    }

    fn limits(&self, facts: &mut Facts) {
        for line in self.text("limits").unwrap_or_default().lines().skip(1) {
            let (name, values) = line.split_at_checked(26).unwrap_or((line, ""));
            let values: Vec<&str> = values.split_whitespace().collect();
            facts.insert(format!("limit {}", name.trim()), values.join(" "));
        }
    }

    fn files(&self, facts: &mut Facts) {
        for name in FILES {
            if let Some(text) = self.text(name) {
                let words: Vec<&str> = text.split_whitespace().collect();
                facts.insert((*name).to_owned(), words.join(" "));
            }
        }
        // Missing without a security module.
        if let Some(label) = self.text("attr/current") {
            facts.insert("label".to_owned(), label);
        }
        // The kernel makes root the owner of the files of a process that is not dumpable.
        let owner = fs::metadata(self.folder.join("status")).expect("the process runs");
        facts.insert("owner in /proc".to_owned(), format!("{} {}", owner.uid(), owner.gid()));
        let stat = self.text("stat").unwrap_or_default();
        let behind: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        // proc_pid_stat(5): fields 19, 40 and 41; the state behind the parenthesis is field 3.
        for (name, at) in [("nice", 16), ("real-time priority", 37), ("policy", 38)] {
            facts.insert(name.to_owned(), behind.get(at).copied().unwrap_or_default().to_owned());
        }
    }

    fn namespaces(&self, facts: &mut Facts) {
        for entry in fs::read_dir(self.folder.join("ns")).expect("the process runs").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = fs::read_link(Path::new("/proc/self/ns").join(&name)).ok();
            let own = fs::read_link(entry.path()).ok() != ours;
            let value = if own { "own" } else { "the machine's" };
            facts.insert(format!("namespace {name}"), value.to_owned());
        }
    }

    /// The cgroups of the process, and the limits of each.
    fn cgroups(&self, facts: &mut Facts) {
        for line in self.text("cgroup").unwrap_or_default().lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) =
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let name = controllers.trim_start_matches("name=");
            facts.insert(format!("cgroup {name:?}"), self.anonymous(path));
            let hierarchy = if name.is_empty() { "unified" } else { name };
            let mounted = Path::new("/sys/fs/cgroup").join(hierarchy);
            let mounted = if mounted.exists() { mounted } else { "/sys/fs/cgroup".into() };
            for limit in LIMITS {
                let file = mounted.join(path.trim_start_matches('/')).join(limit);
                if let Ok(text) = fs::read_to_string(file) {
                    let mut lines: Vec<&str> = text.lines().collect();
                    lines.sort_unstable();
                    facts.insert(format!("cgroup {name:?} {limit}"), lines.join(", "));
                }
            }
        }
    }

    /// The mounts: the latest one of each mount point last.
    fn mounts(&self, facts: &mut Facts) {
        for line in self.text("mountinfo").unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let end = words.iter().position(|word| *word == "-").expect("the kernel writes it");
            let (root, place, options) = (words[3], words[4], words[5]);
            let (kind, source) = (words[end + 1], words[end + 2]);
            let own = own_options(kind, words.get(end + 3).copied().unwrap_or_default());
            let tags = words[6..end].iter().filter_map(|tag| tag.split(':').next());
            let propagation = tags.collect::<Vec<_>>().join(",");
            for (name, value) in [
                ("", format!("{kind} {source} {root}")),
                (" options", options.to_owned()),
                (" filesystem's options", own),
                (" propagation", propagation),
            ] {
                let value = self.anonymous(&value);
                facts
                    .entry(format!("mount {place}{name}"))
                    .and_modify(|below| *below = format!("{below}; {value}"))
                    .or_insert(value);
            }
        }
    }

    /// The entries of `/dev`: kind, owner, mode, and device.
    fn devices(&self, facts: &mut Facts) {
        for entry in fs::read_dir(self.folder.join("root/dev")).into_iter().flatten().flatten() {
            let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
            let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
            let kind = meta.file_type();
            let value = if kind.is_symlink() {
                fs::read_link(entry.path()).unwrap_or_default().display().to_string()
            } else if kind.is_char_device() || kind.is_block_device() {
                format!("{mode:o} {owner:?} {:x}", meta.rdev())
            } else {
                format!("{mode:o} {owner:?}")
            };
            facts.insert(format!("/dev/{}", entry.file_name().to_string_lossy()), value);
        }
    }

    /// The targets of the standard streams and their open modes; and the targets of other
    /// descriptors, each one once.
    fn descriptors(&self, facts: &mut Facts) {
        let mut others = Vec::new();
        for entry in fs::read_dir(self.folder.join("fd")).expect("the process runs").flatten() {
            let number = entry.file_name().to_string_lossy().into_owned();
            let target = kind_of_target(&self.link(&format!("fd/{number}")));
            if matches!(&*number, "0" | "1" | "2") {
                let info = self.text(&format!("fdinfo/{number}")).unwrap_or_default();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                let flags = flags.unwrap_or_default().trim();
                facts.insert(format!("descriptor {number}"), format!("{target} {flags}"));
            } else {
                others.push(target);
            }
        }
        others.sort_unstable();
        others.dedup();
        facts.insert("other descriptors".to_owned(), others.join(", "));
    }
}

/// The target of a descriptor: the kind of an object without a path, the folder of compiled code,
/// and for a named pipe of a client the stream.
fn kind_of_target(target: &str) -> String {
    if let Some((_, stream)) = target.rsplit_once("-std") {
        return format!("a named pipe for std{stream}");
    }
    if target.contains("/cache/") && target.starts_with("/run/wherry/") {
        return "compiled code".to_owned();
    }
    // pipe:[123]
    target.split(":[").next().unwrap_or_default().to_owned()
}

/// The options of a filesystem, without the paths of an overlay's layers and the mode of a tmpfs,
/// which older versions of runc change after the mount.
fn own_options(kind: &str, options: &str) -> String {
    const PATHS: [&str; 3] = ["lowerdir", "upperdir", "workdir"];
    let mut kept: Vec<&str> = options
        .split(',')
        .filter(|option| {
            let name = option.split('=').next().unwrap_or_default();
            match kind {
                "overlay" => !PATHS.contains(&name.trim_end_matches('+')),
                "tmpfs" => name != "mode",
                _ => true,
            }
        })
        .collect();
    kept.sort_unstable();
    kept.join(",")
}

/// Whether a process has this name, that of its program, and sleeps: then it runs its program under
/// its full confinement.
pub fn sleeps(pid: i32, name: &str) -> bool {
    status(pid, "Name").is_some_and(|shown| shown == name)
        && status(pid, "State").is_some_and(|state| state.starts_with('S'))
}

/// The process of this name that sleeps in the pid namespace of a container's first process and is
/// another one.
pub fn executed(first: i32, name: &str) -> Option<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let inside = namespace(first);
    let mut others = processes().into_iter().map(|process| process.pid);
    others.find(|pid| *pid != first && namespace(*pid) == inside && sleeps(*pid, name))
}

fn status(pid: i32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

/// The number of references to the session keyring of a container, which runc names by its id; 0
/// without a keyring. An ended process is counted for a moment: waits until the number is stable.
pub fn keyring_holders(id: &str) -> usize {
    let mut seen = Vec::new();
    wait_for("the number of a keyring's holders stays", DEADLINE, || {
        seen.push(holders(id));
        let last = seen.last_chunk::<10>()?;
        last.iter().all(|number| *number == last[0]).then_some(last[0])
    })
}

fn holders(id: &str) -> usize {
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    let line = keys.lines().find(|line| line.contains(&format!(" _ses.{id}:")));
    let number = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    number.unwrap_or(0)
}

/// The value of the fact `keyring`.
pub fn keyring(own: bool) -> String {
    if own { "the container's own" } else { "the daemon's" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_process_are_all_there() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let facts = facts(pid, "no-such-id", "no-such-scope");
        for name in ["Uid", "NSpid", "limit Max open files", "mount /", "descriptor 0", "nice"] {
            assert!(facts.contains_key(name), "{name}: {facts:#?}");
        }
        assert_eq!(facts["namespace mnt"], "the machine's");
        assert_eq!(facts["keyring"], "the daemon's");
    }

    #[test]
    fn an_overlays_layers_are_left_out() {
        let options = "rw,lowerdir=/a:/b,upperdir=/c,workdir=/d,index=off";
        assert_eq!(own_options("overlay", options), "index=off,rw");
        assert_eq!(own_options("tmpfs", "rw,size=64k"), "rw,size=64k");
    }
}
