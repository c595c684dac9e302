//! The files of the kernel's own filesystems that a guest may open.
//!
//! A wasm guest's process is the engine: procfs shows the engine's memory, mappings and
//! descriptors, and allows writes to them. For a native program they are its own; for a wasm guest
//! they are its sandbox. So a guest may open the files of procfs and sysfs that ordinary programs
//! read, by a list. All other files there are refused; so is every file of a procfs that is not
//! mounted at `/proc`, because its names do not determine the objects. Filesystems that expose only
//! kernel internals, and devices that are memory, are refused as a whole.

use std::ffi::CStr;

use super::guard::{self, Fd};

/// Filesystem types: `linux/magic.h`.
const PROCFS: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;
/// Refused as a whole: debugfs, tracefs, securityfs, configfs, bpf, pstore, efivarfs,
/// `binfmt_misc`, selinuxfs, smackfs, nsfs, pidfs.
const REFUSED: [i64; 12] = [
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0xcafe_4a11,
    0x6165_676c,
    0xde5e_81e4,
    0x4249_4e4d,
    0xf97c_ff8c,
    0x4341_5d53,
    0x6e73_6673,
    0x5049_4446,
];

/// Memory of the machine and of the kernel, I/O ports, and the kernel's log, which contains
/// addresses: mem, kmem, port, kmsg.
const DEVICES: [(u32, u32); 4] = [(1, 1), (1, 2), (1, 4), (1, 11)];

/// The inode of a procfs's root: `PROC_ROOT_INO` in the kernel.
const PROCFS_ROOT: u64 = 1;

/// Longer than any name on the lists, bytes.
const NAME_MAX: usize = 256;

/// Whether a guest may have the file, directory or link that was opened as `fd` with `flags`.
pub(super) fn is_allowed(fd: i32, flags: u64) -> bool {
    let writes =
        flags & u64::from((libc::O_ACCMODE | libc::O_TRUNC | libc::O_CREAT).unsigned_abs()) != 0;
    match filesystem(fd) {
        None => false,
        Some(PROCFS) => !writes && is_listed(fd, c"/proc", procfs),
        Some(SYSFS) => !writes && is_listed(fd, c"/sys", sysfs),
        // An O_PATH descriptor cannot read or write, and only a magic link could open it again.
        Some(other) => {
            !REFUSED.contains(&other)
                && (flags & u64::from(libc::O_PATH.unsigned_abs()) != 0
                    || status(fd).is_some_and(|status| !is_memory(&status)))
        }
    }
}

fn is_memory(status: &libc::stat) -> bool {
    let device = (libc::major(status.st_rdev), libc::minor(status.st_rdev));
    status.st_mode & libc::S_IFMT == libc::S_IFCHR && DEVICES.contains(&device)
}

/// Whether `fd` is a file of the filesystem at `place` whose name is on the list.
///
/// The kernel reports the name, and the name must resolve to the same object: a file that is
/// mounted over another has the other's name.
fn is_listed(fd: i32, place: &CStr, listed: fn(&[u8]) -> bool) -> bool {
    let mut buffer = [0; NAME_MAX];
    let Some(name) = path_of(fd, &mut buffer).and_then(|path| path.strip_prefix(place.to_bytes()))
    else {
        return false;
    };
    let name = match name {
        [] => name,
        [b'/', rest @ ..] => rest,
        // Another directory whose name has this prefix.
        _ => return false,
    };
    listed(name) && is_same(fd, place, name)
}

/// Returns the path of the object that is open as `fd`, as the kernel reports it through `/proc`.
pub(super) fn path_of(fd: i32, buffer: &mut [u8]) -> Option<&[u8]> {
    let procfs = guard::open_path(libc::AT_FDCWD, c"/proc", 0)?;
    let is_procfs = filesystem(procfs.number()) == Some(PROCFS)
        && status(procfs.number())?.st_ino == PROCFS_ROOT;
    let mut link = [0; 32];
    let link = own_descriptor(fd, &mut link).filter(|_| is_procfs)?;
    guard::read_target(&procfs, link, buffer)
}

/// Returns the device and inode of the object that is open as `fd`.
pub(super) fn identity(fd: i32) -> Option<(u64, u64)> {
    status(fd).map(|status| (status.st_dev, status.st_ino))
}

/// Whether `name` below `place` is the object that is open as `fd`.
fn is_same(fd: i32, place: &CStr, name: &[u8]) -> bool {
    let Some(root) = guard::open_path(libc::AT_FDCWD, place, 0) else { return false };
    let mut buffer = [0; NAME_MAX];
    // The read-only paths of a container are mounts of parts of procfs over themselves.
    let crosses_mounts = name.starts_with(b"sys/") || name == b"sys";
    let resolve = if crosses_mounts {
        libc::RESOLVE_BENEATH
    } else {
        libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV
    };
    let found: Fd = if name.is_empty() {
        root
    } else {
        let Some(found) = terminated(name, &mut buffer)
            .and_then(|name| guard::open_path(root.number(), name, resolve))
        else {
            return false;
        };
        found
    };
    match (status(fd), status(found.number())) {
        (Some(one), Some(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Formats `self/fd/N` into `buffer`.
fn own_descriptor(fd: i32, buffer: &mut [u8; 32]) -> Option<&CStr> {
    const PREFIX: &[u8] = b"self/fd/";
    let mut digits = [0; 10];
    let mut rest = u32::try_from(fd).ok()?;
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).ok()?;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len() - count..)?;
    let length = PREFIX.len() + digits.len();
    buffer.get_mut(..PREFIX.len())?.copy_from_slice(PREFIX);
    buffer.get_mut(PREFIX.len()..length)?.copy_from_slice(digits);
    CStr::from_bytes_with_nul(buffer.get(..=length)?).ok()
}

fn terminated<'b>(name: &[u8], buffer: &'b mut [u8; NAME_MAX]) -> Option<&'b CStr> {
    buffer.get_mut(..name.len())?.copy_from_slice(name);
    CStr::from_bytes_with_nul(buffer.get(..=name.len())?).ok()
}

#[allow(unsafe_code)]
fn filesystem(fd: i32) -> Option<i64> {
    // SAFETY: all zeroes is a valid structure of integers.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    let result = unsafe { libc::fstatfs(fd, &raw mut status) };
    (result == 0).then_some(status.f_type)
}

#[allow(unsafe_code)]
pub(super) fn status(fd: i32) -> Option<libc::stat> {
    // SAFETY: all zeroes is a valid structure of integers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    let result = unsafe { libc::fstat(fd, &raw mut status) };
    (result == 0).then_some(status)
}

/// The list of procfs. `name` is the path below its root, which is the empty name.
///
/// Of a process: the fields that `ps` shows, and its limits. Not its memory, mappings and
/// descriptors, nor `stat`, which contains the addresses of its code and stack.
fn procfs(name: &[u8]) -> bool {
    const MACHINE: &[&[u8]] = &[
        b"",
        b"self",
        b"thread-self",
        b"net",
        b"mounts",
        b"cgroups",
        b"cpuinfo",
        b"devices",
        b"diskstats",
        b"filesystems",
        b"loadavg",
        b"meminfo",
        b"stat",
        b"swaps",
        b"uptime",
        b"version",
        b"vmstat",
    ];
    const PROCESS: &[&[u8]] = &[
        b"",
        b"cgroup",
        b"cmdline",
        b"comm",
        b"cpuset",
        b"gid_map",
        b"io",
        b"limits",
        b"loginuid",
        b"mountinfo",
        b"mounts",
        b"net",
        b"oom_adj",
        b"oom_score",
        b"oom_score_adj",
        b"projid_map",
        b"schedstat",
        b"sessionid",
        b"setgroups",
        b"statm",
        b"status",
        b"uid_map",
    ];
    const NETWORK: &[&[u8]] = &[
        b"arp",
        b"dev",
        b"if_inet6",
        b"ipv6_route",
        b"netstat",
        b"route",
        b"snmp",
        b"snmp6",
        b"sockstat",
        b"sockstat6",
    ];
    let mut parts = name.splitn(2, |byte| *byte == b'/');
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if first == b"sys" {
        return true;
    }
    if first.is_empty() || !first.iter().all(u8::is_ascii_digit) {
        return MACHINE.contains(&name);
    }
    match rest.strip_prefix(b"net/") {
        Some(file) => NETWORK.contains(&file),
        None => PROCESS.contains(&rest),
    }
}

/// The list of sysfs: processors, memory nodes, network interfaces, transparent huge pages. Not the
/// addresses of modules, the kernel's notes, or the memory of devices.
fn sysfs(name: &[u8]) -> bool {
    const DIRECTORIES: &[&[u8]] = &[
        b"",
        b"class",
        b"class/net",
        b"devices",
        b"devices/system",
        b"devices/virtual",
        b"fs",
        b"fs/cgroup",
        b"kernel",
        b"kernel/mm",
    ];
    const BELOW: &[&[u8]] = &[
        b"class/net/",
        b"devices/system/cpu",
        b"devices/system/node",
        b"devices/virtual/net",
        b"fs/cgroup/",
        b"kernel/mm/transparent_hugepage",
    ];
    DIRECTORIES.contains(&name) || BELOW.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shows_no_memory_and_no_descriptors() {
        for allowed in [
            "",
            "1",
            "1/status",
            "77/mountinfo",
            "1/net",
            "1/net/dev",
            "sys/kernel/hostname",
            "cpuinfo",
            "self",
        ] {
            assert!(procfs(allowed.as_bytes()), "{allowed}");
        }
        let refused = [
            "1/mem",
            "1/maps",
            "1/smaps",
            "1/fd",
            "1/fd/0",
            "1/map_files",
            "1/environ",
            "1/exe",
            "1/root",
            "1/cwd",
            "1/auxv",
            "1/syscall",
            "1/stack",
            "1/stat",
            "1/task",
            "1/task/1/mem",
            "1/ns",
            "1/attr/current",
            "1/net/tcp",
            "1/net/../mem",
            "kcore",
            "kallsyms",
            "kmsg",
            "kpagecount",
            "keys",
            "sysrq-trigger",
            "1a/status",
            "cpuinfo/x",
            "sysx",
        ];
        for refused in refused {
            assert!(!procfs(refused.as_bytes()), "{refused}");
        }
    }

    #[test]
    fn the_kernel_shows_no_addresses() {
        for allowed in
            ["", "devices/system/cpu/online", "class/net/lo", "devices/virtual/net/lo/mtu"]
        {
            assert!(sysfs(allowed.as_bytes()), "{allowed}");
        }
        for refused in [
            "kernel/notes",
            "kernel/vmcoreinfo",
            "module/x/sections/.text",
            "devices/pci0000:00/resource0",
            "firmware",
        ] {
            assert!(!sysfs(refused.as_bytes()), "{refused}");
        }
    }

    #[test]
    fn a_descriptor_is_named_by_its_digits() {
        for fd in [0, 7, 10, 1_234_567_890] {
            let mut buffer = [0; 32];
            let expected = format!("self/fd/{fd}");
            assert_eq!(own_descriptor(fd, &mut buffer).unwrap().to_str().unwrap(), expected);
        }
    }
}
