//! The program of the engine's seccomp filter: the guarded calls and the allow-list.

use wherry_sys::seccomp::{ALLOW, ENOSYS, EPERM, Filter};

use super::{Allow, calls};

/// Builds the filter. The calls that open files pass with `cookie` as their sixth argument; without
/// it they raise SIGSYS.
pub(super) fn program(allow: Allow, cookie: u64) -> Filter {
    let mut filter = Filter::new();
    for number in calls::GUARDED {
        filter.allow_with_cookie(*number, cookie);
    }
    match allow {
        Allow::All => filter.otherwise(ALLOW),
        Allow::Listed(more) => {
            listed(&mut filter, more);
            filter.otherwise(EPERM);
        }
    }
    filter
}

fn listed(filter: &mut Filter, more: &[i64]) {
    for number in calls::COMMON.iter().chain(more) {
        filter.call(*number, ALLOW);
    }
    // Its flags are in memory, which no filter can read. After ENOSYS the C library uses clone.
    filter.call(libc::SYS_clone3, ENOSYS);
    // Threads, not processes.
    filter.any_bit(libc::SYS_clone, 0, calls::NEW_THREAD, (ALLOW, EPERM));
    // No memory becomes executable from here on.
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        filter.any_bit(number, 2, libc::PROT_EXEC.unsigned_abs(), (EPERM, ALLOW));
    }
    filter.one_of(libc::SYS_socket, 0, &calls::SOCKETS);
    filter.one_of(libc::SYS_ioctl, 1, &calls::IOCTLS);
    filter.one_of(libc::SYS_prctl, 0, &calls::PRCTLS);
    // abort(3) sends a signal to its own process.
    filter.one_of(libc::SYS_tgkill, 0, &[std::process::id()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_opened_with_the_cookie_alone() {
        let cookie = 0x1234_5678_9abc_def0;
        for allow in [Allow::All, Allow::Listed(&[])] {
            let program = program(allow, cookie);
            for number in calls::GUARDED {
                let with = |sixth| program.action(*number, [0, 0, 0, 0, 0, sixth]);
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
        let first = |number, value| program.action(number, [value, 0, 0, 0, 0, 0]);
        assert_eq!(first(libc::SYS_clone, u64::from(calls::NEW_THREAD)), allow);
        assert_eq!(first(libc::SYS_clone, 0x11), EPERM);
        assert_eq!(program.action(libc::SYS_clone3, none), ENOSYS);
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(program.action(number, [0, 0, 3, 0, 0, 0]), allow);
            assert_eq!(program.action(number, [0, 0, 5, 0, 0, 0]), EPERM);
        }
        assert_eq!(first(libc::SYS_socket, 2), allow);
        assert_eq!(first(libc::SYS_socket, 17), EPERM);
        assert_eq!(program.action(libc::SYS_ioctl, [0, libc::FIONREAD, 0, 0, 0, 0]), allow);
        assert_eq!(program.action(libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]), EPERM);
        assert_eq!(first(libc::SYS_tgkill, u64::from(std::process::id())), allow);
        assert_eq!(first(libc::SYS_tgkill, 1), EPERM);
        assert_eq!(program.action(libc::SYS_read, none), allow);
        assert_eq!(program.action(libc::SYS_execve, none), EPERM);
    }

    #[test]
    fn an_engine_has_what_it_asks_for_besides() {
        let with = program(Allow::Listed(&[libc::SYS_getcpu]), 1);
        assert_eq!(with.action(libc::SYS_getcpu, [0; 6]), libc::SECCOMP_RET_ALLOW);
        let without = program(Allow::Listed(&[]), 1);
        assert_eq!(without.action(libc::SYS_getcpu, [0; 6]), EPERM);
        assert_eq!(
            program(Allow::All, 1).action(libc::SYS_execve, [0; 6]),
            libc::SECCOMP_RET_ALLOW
        );
    }
}
