//! What of the kernel's own filesystems is for guests.
//!
//! A wasm guest's process is the engine: procfs shows its memory, mappings and descriptors, and lets them be written. To a native
//! program that is its own; to a wasm guest it is what confines it. So of procfs and sysfs a guest gets what ordinary programs
//! read there, by a list. What is on no list is refused, on every procfs that is not the one at `/proc`, too: its names say
//! nothing about what they show. Filesystems that are all the kernel's insides are refused as a whole, and so are devices that
//! are memory.

use std::ffi::CStr;

use super::guard::{self, Fd};

/// `linux/magic.h`.
const PROCFS: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;
/// debugfs, tracefs, securityfs, configfs, bpf, pstore, efivarfs, `binfmt_misc`, selinuxfs, smackfs, nsfs, pidfs.
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

/// Memory of the machine and of the kernel, its ports, and its log, which holds addresses: mem, kmem, port, kmsg.
const DEVICES: [(u32, u32); 4] = [(1, 1), (1, 2), (1, 4), (1, 11)];

/// The inode of a procfs's root: `PROC_ROOT_INO` in the kernel.
const PROCFS_ROOT: u64 = 1;

/// Longer than any name on the lists.
const NAME_MAX: usize = 256;

/// Whether a guest may have the file, directory or link that is open as `fd`, opened with `flags`.
pub(super) fn is_for_guests(fd: i32, flags: u64) -> bool {
    let writes =
        flags & u64::from((libc::O_ACCMODE | libc::O_TRUNC | libc::O_CREAT).unsigned_abs()) != 0;
    match filesystem(fd) {
        None => false,
        Some(PROCFS) => !writes && shows(fd, c"/proc", procfs),
        Some(SYSFS) => !writes && shows(fd, c"/sys", sysfs),
        // A descriptor of O_PATH reads and writes nothing, and cannot be opened again: that would be a magic link.
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

/// Whether `fd` is, of the filesystem at `place`, something that is on the list.
///
/// The kernel says what it is called, and looking that name up must lead to the same object: a file that is mounted over another
/// has the other's name.
fn shows(fd: i32, place: &CStr, listed: fn(&[u8]) -> bool) -> bool {
    let mut buffer = [0; NAME_MAX];
    let Some(name) = path_of(fd, &mut buffer).and_then(|path| path.strip_prefix(place.to_bytes()))
    else {
        return false;
    };
    let name = match name {
        [] => name,
        [b'/', rest @ ..] => rest,
        // Another directory whose name begins like this one's.
        _ => return false,
    };
    listed(name) && same(fd, place, name)
}

/// Returns the path of the object that is open as `fd`, as the kernel reports it through `/proc`.
pub(super) fn path_of(fd: i32, buffer: &mut [u8]) -> Option<&[u8]> {
    let procfs = guard::look(libc::AT_FDCWD, c"/proc", 0)?;
    let is_procfs = filesystem(procfs.number()) == Some(PROCFS)
        && status(procfs.number())?.st_ino == PROCFS_ROOT;
    let mut link = [0; 32];
    let link = own_descriptor(fd, &mut link).filter(|_| is_procfs)?;
    guard::target(&procfs, link, buffer)
}

/// Returns the device and inode of the object that is open as `fd`.
pub(super) fn identity(fd: i32) -> Option<(u64, u64)> {
    status(fd).map(|status| (status.st_dev, status.st_ino))
}

/// Whether `name` below `place` is the object that is open as `fd`.
fn same(fd: i32, place: &CStr, name: &[u8]) -> bool {
    let Some(root) = guard::look(libc::AT_FDCWD, place, 0) else { return false };
    let mut buffer = [0; NAME_MAX];
    // Containers have read-only mounts of parts of procfs at these parts' own places.
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
            .and_then(|name| guard::look(root.number(), name, resolve))
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

/// `self/fd/N`, in `buffer`.
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
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    let result = unsafe { libc::fstatfs(fd, &raw mut about) };
    (result == 0).then_some(about.f_type)
}

#[allow(unsafe_code)]
pub(super) fn status(fd: i32) -> Option<libc::stat> {
    // SAFETY: all zeroes is a valid structure of integers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure.
    let result = unsafe { libc::fstat(fd, &raw mut status) };
    (result == 0).then_some(status)
}

/// What of procfs is for guests: `name` is below its root, which is the empty name.
///
/// Of a process what `ps` shows and what limits it: no memory, mappings, descriptors, arguments in its memory but the command line,
/// and not `stat`, which has the addresses of its code and stack.
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

/// What of sysfs is for guests: processors, memory nodes, network interfaces, how the kernel uses memory. Not the addresses of
/// modules, the kernel's notes, or the memory of devices.
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
