//! The interface between the daemon and the compiler process: arguments and exit codes.
//!
//! ```text
//! wherry-E compile --descriptors DIGEST BOUNDS SLOT [baseline]   < module   > code
//! wherry-E compile --background                                  < module   > lock
//! ```

use std::fmt;
use std::str::FromStr;

/// The argument after `compile` that requests the compiled code of the module on standard input.
pub const DESCRIPTORS: &str = "--descriptors";

/// The argument after `compile` that requests optimised code in the background: no start waits for
/// it.
pub const BACKGROUND: &str = "--background";

/// The argument that requests baseline code.
pub const BASELINE: &str = "baseline";

/// Exit code: the module is invalid. Standard error has the sentence.
pub const EXIT_INVALID: u8 = 2;
/// Exit code: the code could not be written.
pub const EXIT_IO: u8 = 3;
/// Exit code: the module has another digest than the requested one.
pub const EXIT_CHANGED: u8 = 4;

/// The resource limits of one compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Memory, bytes.
    pub memory: u64,
    /// CPU time of all threads together, seconds. The wall time may be a few times as long.
    pub seconds: u64,
    /// The size of the module, bytes.
    pub module: u64,
    /// The size of the code, bytes.
    pub code: u64,
}

/// The memory that every compilation may use, bytes: a small module takes a compiler some hundred
/// megabytes.
pub const MEMORY_MIN: u64 = 512 << 20;

impl Bounds {
    /// The bounds for the module of a container with this memory limit: as much memory as the
    /// container, at least [`MEMORY_MIN`] and at most these bounds.
    ///
    /// The compiler is not in the container's cgroup, where a container of 16 MB could never
    /// compile a module. The number of slots in the cache bounds the machine's compilations.
    #[must_use]
    pub fn within(self, limit: Option<u64>) -> Bounds {
        let memory = limit.map_or(self.memory, |limit| limit.max(MEMORY_MIN).min(self.memory));
        Bounds { memory, ..self }
    }
}

/// As an argument, and in the records of failed compilations: memory, seconds, module, code.
impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { memory, seconds, module, code } = self;
        write!(f, "{memory},{seconds},{module},{code}")
    }
}

/// The argument is not four numbers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid bounds: expected MEMORY,SECONDS,MODULE,CODE")]
pub struct InvalidBounds;

impl FromStr for Bounds {
    type Err = InvalidBounds;

    fn from_str(text: &str) -> Result<Bounds, InvalidBounds> {
        let mut numbers = text.split(',').map(|number| number.parse().map_err(|_| InvalidBounds));
        let mut next = || numbers.next().unwrap_or(Err(InvalidBounds));
        Ok(Bounds { memory: next()?, seconds: next()?, module: next()?, code: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { memory: 4 << 30, seconds: 600, module: 1 << 30, code: 2 << 30 };

    #[test]
    fn a_compilation_has_the_containers_memory_within_a_floor_and_a_ceiling() {
        let memory = |limit| BOUNDS.within(limit).memory;
        assert_eq!(memory(None), 4 << 30);
        assert_eq!(memory(Some(16 << 20)), 512 << 20);
        assert_eq!(memory(Some(1 << 30)), 1 << 30);
        assert_eq!(memory(Some(1 << 40)), 4 << 30);
        let small = Bounds { memory: 1 << 20, ..BOUNDS };
        assert_eq!(small.within(Some(1 << 30)).memory, 1 << 20);
    }

    #[test]
    fn bounds_are_read_as_they_are_written() {
        assert_eq!(BOUNDS.to_string().parse(), Ok(BOUNDS));
        for wrong in ["", "1,2,3", "1,2,3,x", "-1,2,3,4"] {
            assert_eq!(wrong.parse::<Bounds>(), Err(InvalidBounds), "{wrong}");
        }
    }
}
