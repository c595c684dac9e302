//! Which version of the Task API the calling containerd speaks.
//!
//! containerd 2 speaks version 3; older ones do not. 1.7 and 2.0 to 2.2 call a shim with the same
//! flags and environment, and both name version 2 as the highest. Only their executables differ: Go
//! embeds in each the list of its modules.

use std::fs::File;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ReadCache};

/// The module of containerd 2: that of the executable, or one that it was built from.
const VERSION_2: &[u8] = b"github.com/containerd/containerd/v2";
/// The section with the list of modules: see Go's `debug/buildinfo`.
const MODULES: &str = ".go.buildinfo";

/// Whether the parent process speaks version 3 of the Task API. False if its executable cannot be
/// read: every containerd speaks version 2.
pub(crate) fn speaks_version_3() -> bool {
    let parent = std::os::unix::process::parent_id();
    is_version_2(Path::new(&format!("/proc/{parent}/exe"))).unwrap_or(false)
}

fn is_version_2(program: &Path) -> Option<bool> {
    let file = ReadCache::new(File::open(program).ok()?);
    let elf: ElfFile64<'_, object::Endianness, _> = ElfFile64::parse(&file).ok()?;
    let modules = elf.section_by_name(MODULES)?.data().ok()?;
    Some(modules.windows(VERSION_2.len()).any(|window| window == VERSION_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_is_not_containerd_2() {
        for program in ["/proc/self/exe", "/etc/passwd", "/nonexistent"] {
            assert!(!is_version_2(Path::new(program)).unwrap_or(false), "{program}");
        }
    }
}
