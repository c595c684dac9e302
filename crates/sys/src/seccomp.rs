//! Seccomp filters in the classic BPF that seccomp(2) takes.
//!
//! A filter is one comparison per system call, in the order of the builder's calls. Since Linux
//! 5.11 the kernel evaluates the calls whose result does not depend on arguments once, at
//! installation, and looks them up in a bitmap.

use std::io;

use libc::sock_filter;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Instructions: `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ABOVE_OR_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The action that lets a call pass.
pub const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
/// The action that fails a call with EPERM.
pub const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
/// The action that fails a call with ENOSYS.
pub const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
/// The action that raises SIGSYS.
pub const TRAP: u32 = libc::SECCOMP_RET_TRAP;

/// `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xc000_00b7;

/// The first number of the x32 ABI, which has the same architecture.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// A filter. Ends with [`Filter::otherwise`].
#[derive(Debug)]
pub struct Filter(Vec<sock_filter>);

impl Filter {
    /// A filter that kills the process for a call of another architecture.
    #[must_use]
    pub fn new() -> Filter {
        let mut filter = Filter(Vec::with_capacity(400));
        filter.load(ARCHITECTURE);
        filter.push(JUMP_EQUAL, OWN_ARCHITECTURE, 1, 0);
        filter.otherwise(libc::SECCOMP_RET_KILL_PROCESS);
        filter.load(NUMBER);
        #[cfg(target_arch = "x86_64")]
        {
            filter.push(JUMP_ABOVE_OR_EQUAL, X32, 0, 1);
            filter.otherwise(ENOSYS);
        }
        filter
    }

    /// The action for every call that no earlier rule has matched.
    pub fn otherwise(&mut self, action: u32) {
        self.push(RETURN, action, 0, 0);
    }

    /// The action for a call with any arguments.
    pub fn call(&mut self, number: i64, action: u32) {
        self.for_call(number, 1);
        self.otherwise(action);
    }

    /// Allows a call whose sixth argument is `cookie`, and traps any other.
    pub fn allow_with_cookie(&mut self, number: i64, cookie: u64) {
        let (low, high) = halves(cookie);
        self.for_call(number, 6);
        self.load_argument(5);
        self.push(JUMP_EQUAL, low, 0, 3);
        self.load(ARGUMENTS + 8 * 5 + 4);
        self.push(JUMP_EQUAL, high, 0, 1);
        self.otherwise(ALLOW);
        self.otherwise(TRAP);
    }

    /// The first action if an argument has one of `bits` set, the second if it has none.
    pub fn any_bit(&mut self, number: i64, argument: u32, bits: u32, actions: (u32, u32)) {
        self.for_call(number, 4);
        self.load_argument(argument);
        self.push(JUMP_ANY_BIT, bits, 0, 1);
        self.otherwise(actions.0);
        self.otherwise(actions.1);
    }

    /// Allows a call if the argument is one of `values`; otherwise EPERM.
    pub fn one_of<const N: usize>(&mut self, number: i64, argument: u32, values: &[u32; N]) {
        self.for_call(number, const { length(2 + 2 * N) });
        self.load_argument(argument);
        for value in values {
            self.push(JUMP_EQUAL, *value, 0, 1);
            self.otherwise(ALLOW);
        }
        self.otherwise(EPERM);
    }

    /// Allows a call if the arguments with these indices are 0; otherwise EPERM.
    pub fn all_zero<const N: usize>(&mut self, number: i64, arguments: &[u32; N]) {
        self.for_call(number, const { length(3 * 2 * N + 1) });
        for offset in arguments.iter().flat_map(|index| [8 * index, 8 * index + 4]) {
            self.load(ARGUMENTS + offset);
            self.push(JUMP_EQUAL, 0, 1, 0);
            self.otherwise(EPERM);
        }
        self.otherwise(ALLOW);
    }

    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.0.push(sock_filter { code, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, offset, 0, 0);
    }

    /// Begins `length` instructions that only system call `number` reaches, and that end in an
    /// action. The kernel has 32 bits for a number.
    fn for_call(&mut self, number: i64, length: u8) {
        let (number, _) = halves(number.cast_unsigned());
        self.push(JUMP_EQUAL, number, 0, length);
    }

    /// Loads the lower half of an argument, counted from 0. Both architectures are little-endian.
    fn load_argument(&mut self, index: u32) {
        self.load(ARGUMENTS + 8 * index);
    }

    /// Installs the filter in all threads of this process, permanently. Needs no_new_privs or
    /// CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// If the kernel refuses, for example because the container's own profile forbids `seccomp`.
    #[allow(unsafe_code)]
    pub fn install(mut self) -> io::Result<()> {
        let len = u16::try_from(self.0.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len, filter: self.0.as_mut_ptr() };
        // SAFETY: the kernel reads the program, whose length is right, and keeps a copy.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program,
            )
        };
        match result {
            0 => Ok(()),
            // The number of a thread that could not be synchronised.
            1.. => Err(io::Error::other(format!("thread {result} has another filter"))),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Interprets the filter for a call of this architecture. For tests.
    #[doc(hidden)]
    #[must_use]
    #[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    pub fn action(&self, number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = u32::try_from(number).unwrap().to_le_bytes().to_vec();
        data.extend(OWN_ARCHITECTURE.to_le_bytes());
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = self.0[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                LOAD => {
                    accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap());
                }
                JUMP_EQUAL => at += jump(accumulator == k),
                JUMP_ABOVE_OR_EQUAL => at += jump(accumulator >= k),
                JUMP_ANY_BIT => at += jump(accumulator & k != 0),
                RETURN => return k,
                other => panic!("invalid instruction {other:#x}"),
            }
        }
    }
}

impl Default for Filter {
    fn default() -> Filter {
        Filter::new()
    }
}
/// The number of instructions that a jump skips. A longer jump is an error of the build.
#[allow(clippy::cast_possible_truncation, reason = "asserted")]
const fn length(instructions: usize) -> u8 {
    assert!(instructions <= u8::MAX as usize, "a jump skips 255 instructions at most");
    instructions as u8
}

/// The lower and the upper half of a number.
fn halves(number: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
