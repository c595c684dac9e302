//! Which containerd has called: the versions of the Task API that it speaks.
//!
//! containerd 2 speaks version 3 and the ones before it do not, but 1.7 and 2 call a shim in the same words and
//! with the same environment; 2 even says that it takes version 2 at most. What they differ in is
//! the program itself: Go writes into each the modules that it was built from.

use std::fs::File;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ReadCache};

/// The module of containerd 2, which is either the program itself or part of it.
const VERSION_2: &[u8] = b"github.com/containerd/containerd/v2";
/// Where Go writes the modules: see `debug/buildinfo` in its library.
const MODULES: &str = ".go.buildinfo";

/// Whether the process that has called us speaks version 3 of the Task API. Version 2 is what everybody
/// speaks, so whoever cannot be made out does not.
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
