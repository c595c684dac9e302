//! The filter's program, in the classic BPF that seccomp(2) takes.
//!
//! One load and one comparison for each system call, in the order of the list. A kernel since 5.11 runs it once for each number
//! whose answer does not depend on arguments, when the filter is installed, and remembers the answer.

use std::io;

use libc::sock_filter;

use super::{Allow, calls};

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

const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xc000_00b7;

/// Numbers from here on are those of the x32 ABI, which shares the architecture's mark.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// A program.
pub(super) struct Program(Vec<sock_filter>);

/// The program that lets pass what `allow` says, and calls that open files only with `cookie` as their sixth argument; without
/// it they raise SIGSYS.
pub(super) fn program(allow: Allow, cookie: u64) -> Program {
    let mut program = Program(Vec::with_capacity(400));
    program.load(ARCHITECTURE);
    program.push(JUMP_EQUAL, OWN_ARCHITECTURE, 1, 0);
    program.answer(libc::SECCOMP_RET_KILL_PROCESS);
    program.load(NUMBER);
    #[cfg(target_arch = "x86_64")]
    {
        program.push(JUMP_ABOVE_OR_EQUAL, X32, 0, 1);
        program.answer(ENOSYS);
    }
    for number in calls::GUARDED {
        program.guarded(*number, cookie);
    }
    match allow {
        Allow::All => program.answer(libc::SECCOMP_RET_ALLOW),
        Allow::Listed(more) => {
            program.listed(more);
            program.answer(EPERM);
        }
    }
    program
}

impl Program {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.0.push(sock_filter { code, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, offset, 0, 0);
    }

    fn answer(&mut self, answer: u32) {
        self.push(RETURN, answer, 0, 0);
    }

    /// Begins a block of `length` instructions that is for system call `number` alone and ends in an answer.
    fn for_call(&mut self, number: i64, length: u8) {
        self.push(JUMP_EQUAL, u32::try_from(number).unwrap_or(u32::MAX), 0, length);
    }

    /// The lower half of an argument, counted from 0. Both architectures are little-endian.
    fn load_argument(&mut self, index: u32) {
        self.load(ARGUMENTS + 8 * index);
    }

    fn guarded(&mut self, number: i64, cookie: u64) {
        let (low, high) = (cookie & u64::from(u32::MAX), cookie >> 32);
        let half = |half: u64| u32::try_from(half).unwrap_or_default();
        self.for_call(number, 6);
        self.load_argument(5);
        self.push(JUMP_EQUAL, half(low), 0, 3);
        self.load(ARGUMENTS + 8 * 5 + 4);
        self.push(JUMP_EQUAL, half(high), 0, 1);
        self.answer(libc::SECCOMP_RET_ALLOW);
        self.answer(libc::SECCOMP_RET_TRAP);
    }

    fn listed(&mut self, more: &[i64]) {
        for number in calls::COMMON.iter().chain(more) {
            self.for_call(*number, 1);
            self.answer(libc::SECCOMP_RET_ALLOW);
        }
        // Its flags lie in memory, where no filter can look: the C library goes on with clone.
        self.for_call(libc::SYS_clone3, 1);
        self.answer(ENOSYS);
        // New threads, no new processes.
        self.any_bit(libc::SYS_clone, 0, calls::NEW_THREAD, (libc::SECCOMP_RET_ALLOW, EPERM));
        // No memory becomes executable any more.
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            self.any_bit(
                number,
                2,
                libc::PROT_EXEC.unsigned_abs(),
                (EPERM, libc::SECCOMP_RET_ALLOW),
            );
        }
        self.one_of(libc::SYS_socket, 0, calls::SOCKETS);
        self.one_of(libc::SYS_ioctl, 1, calls::IOCTLS);
        self.one_of(libc::SYS_prctl, 0, calls::PRCTLS);
        // abort(3) signals its own process.
        self.one_of(libc::SYS_tgkill, 0, &[std::process::id()]);
    }

    /// Answers with the first if the argument has one of `bits`, and else with the second.
    fn any_bit(&mut self, number: i64, argument: u32, bits: u32, answers: (u32, u32)) {
        self.for_call(number, 4);
        self.load_argument(argument);
        self.push(JUMP_ANY_BIT, bits, 0, 1);
        self.answer(answers.0);
        self.answer(answers.1);
    }

    /// Lets the call pass if the argument is one of `values`, of which there are few.
    fn one_of(&mut self, number: i64, argument: u32, values: &[u32]) {
        self.for_call(number, u8::try_from(2 + 2 * values.len()).unwrap_or(u8::MAX));
        self.load_argument(argument);
        for value in values {
            self.push(JUMP_EQUAL, *value, 0, 1);
            self.answer(libc::SECCOMP_RET_ALLOW);
        }
        self.answer(EPERM);
    }

    /// Gives the program to the kernel, for all threads of this process.
    #[allow(unsafe_code)]
    pub(super) fn install(mut self) -> io::Result<()> {
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
            // The thread that could not take it.
            1.. => Err(io::Error::other(format!("thread {result} has a filter of its own"))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers to a call of this process's architecture.
    fn answer(program: &Program, number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = u32::try_from(number).unwrap().to_le_bytes().to_vec();
        data.extend(OWN_ARCHITECTURE.to_le_bytes());
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program.0[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                LOAD => {
                    accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap())
                }
                JUMP_EQUAL => at += jump(accumulator == k),
                JUMP_ABOVE_OR_EQUAL => at += jump(accumulator >= k),
                JUMP_ANY_BIT => at += jump(accumulator & k != 0),
                RETURN => return k,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    #[test]
    fn files_are_opened_with_the_cookie_alone() {
        let cookie = 0x1234_5678_9abc_def0;
        for allow in [Allow::All, Allow::Listed(&[])] {
            let program = program(allow, cookie);
            for number in calls::GUARDED {
                let with = |sixth| answer(&program, *number, [0, 0, 0, 0, 0, sixth]);
                assert_eq!(with(cookie), libc::SECCOMP_RET_ALLOW);
                for wrong in [0, cookie + 1, cookie ^ 1 << 63, cookie & 0xffff_ffff] {
                    assert_eq!(with(wrong), libc::SECCOMP_RET_TRAP, "{number} {wrong:#x}");
                }
            }
        }
    }

    #[test]
    fn arguments_decide_about_threads_memory_sockets_and_terminals() {
        let program = program(Allow::Listed(&[]), 1);
        let (allow, none) = (libc::SECCOMP_RET_ALLOW, [0; 6]);
        let first = |number, value| answer(&program, number, [value, 0, 0, 0, 0, 0]);
        assert_eq!(first(libc::SYS_clone, u64::from(calls::NEW_THREAD)), allow);
        assert_eq!(first(libc::SYS_clone, 0x11), EPERM);
        assert_eq!(answer(&program, libc::SYS_clone3, none), ENOSYS);
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(answer(&program, number, [0, 0, 3, 0, 0, 0]), allow);
            assert_eq!(answer(&program, number, [0, 0, 5, 0, 0, 0]), EPERM);
        }
        assert_eq!(first(libc::SYS_socket, 2), allow);
        assert_eq!(first(libc::SYS_socket, 17), EPERM);
        assert_eq!(answer(&program, libc::SYS_ioctl, [0, libc::FIONREAD, 0, 0, 0, 0]), allow);
        assert_eq!(answer(&program, libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]), EPERM);
        assert_eq!(first(libc::SYS_tgkill, u64::from(std::process::id())), allow);
        assert_eq!(first(libc::SYS_tgkill, 1), EPERM);
        assert_eq!(answer(&program, libc::SYS_read, none), allow);
        assert_eq!(answer(&program, libc::SYS_execve, none), EPERM);
    }

    #[test]
    fn an_engine_has_what_it_asks_for_besides() {
        let with = program(Allow::Listed(&[libc::SYS_getcpu]), 1);
        assert_eq!(answer(&with, libc::SYS_getcpu, [0; 6]), libc::SECCOMP_RET_ALLOW);
        let without = program(Allow::Listed(&[]), 1);
        assert_eq!(answer(&without, libc::SYS_getcpu, [0; 6]), EPERM);
        assert_eq!(
            answer(&program(Allow::All, 1), libc::SYS_execve, [0; 6]),
            libc::SECCOMP_RET_ALLOW
        );
    }
}
