//! The orders of messages, one conversation for each, without a host.

use super::*;

use std::path::PathBuf;

use wherry_protocol::ExecRequest;

/// The messages that ask for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Cgroup,
    Hooks,
    Compile,
}

const ASKS: [Ask; 3] = [Ask::Cgroup, Ask::Hooks, Ask::Compile];

impl Ask {
    fn packet(self, pid: i32) -> Packet<SetupMessage> {
        let null = || vec![File::open("/dev/null").unwrap().into()];
        match self {
            Ask::Cgroup => Packet { message: SetupMessage::Cgroup, fds: Vec::new() },
            Ask::Hooks => Packet { message: SetupMessage::Hooks { pid }, fds: Vec::new() },
            Ask::Compile => Packet { message: compile(), fds: null() },
        }
    }
}

fn exec() -> HostRequest {
    HostRequest::Exec(ExecRequest {
        id: "x".into(),
        exec_id: "e".into(),
        bundle: PathBuf::from("/bundle"),
        process: String::new(),
        cwd: "/".into(),
        terminal: false,
        options: RuntimeOptions::default(),
        module_max: 1 << 20,
    })
}

/// Has a conversation with `service` about `request`. `speak` gets the process's end too, and a
/// child that may be the new process.
fn talk<T>(
    request: &HostRequest,
    service: &mut Done,
    speak: impl FnOnce(Conversation<'_>, &Channel, &mut Child) -> T,
) -> T {
    let (setup, process) = Channel::pair().unwrap();
    let reaper = Reaper::default();
    let since = Ticks::now().unwrap();
    // Started after `since`, as a new process of a container is.
    let mut child = Child::start();
    let conversation = Conversation::new(request, None, since, setup, &reaper, service);
    speak(conversation, &process, &mut child)
}

/// Sends `asks`. Returns how many were answered before one was refused, and the answers' number.
fn answered(request: &HostRequest, asks: &[Ask]) -> usize {
    let mut done = Done::default();
    talk(request, &mut done, |mut conversation, process, child| {
        for (index, ask) in asks.iter().enumerate() {
            match conversation.answer(ask.packet(child.pid())) {
                Ok(()) => {
                    let reply = process.receive::<SetupReply>().unwrap().unwrap();
                    let compiled = matches!(reply.message, SetupReply::Compiled);
                    assert_eq!(
                        (compiled, reply.fds.len()),
                        match ask {
                            Ask::Compile => (true, 1),
                            Ask::Cgroup | Ask::Hooks => (false, 0),
                        }
                    );
                }
                Err(Invalid::Unexpected(_)) => return index,
                Err(invalid) => panic!("{asks:?}: {invalid}"),
            }
        }
        asks.len()
    })
}

/// Every sequence of at most three messages.
fn sequences() -> Vec<Vec<Ask>> {
    let longer = |all: &[Vec<Ask>]| -> Vec<Vec<Ask>> {
        all.iter()
            .flat_map(|head| ASKS.iter().map(|ask| [head.as_slice(), &[*ask]].concat()))
            .collect()
    };
    let one = longer(&[Vec::new()]);
    let two = longer(&one);
    let three = longer(&two);
    [one, two, three].concat()
}

#[test]
fn every_order_of_messages_of_a_new_container_is_answered_as_far_as_it_is_valid() {
    for asks in sequences() {
        // Valid: each at most once, in the order of their definition.
        let valid = asks.windows(2).take_while(|pair| (pair[0] as u8) < pair[1] as u8).count();
        assert_eq!(answered(&create(false), &asks), valid + 1, "{asks:?}");
    }
}

#[test]
fn a_process_that_joins_a_container_may_ask_for_code_once_and_for_nothing_else() {
    for asks in sequences() {
        let valid = usize::from(asks.first() == Some(&Ask::Compile));
        assert_eq!(answered(&exec(), &asks), valid, "{asks:?}");
    }
}

#[test]
fn nothing_is_done_for_a_process_that_has_reported_a_failure() {
    for ask in ASKS {
        let mut done = Done::default();
        talk(&create(false), &mut done, |mut conversation, _, child| {
            let failed = SetupMessage::Failed(Failure::new(FailureKind::NotFound, "x"));
            conversation.answer(Packet { message: failed, fds: Vec::new() }).unwrap();
            let refused = conversation.answer(ask.packet(child.pid()));
            assert!(matches!(refused, Err(Invalid::Unexpected(_))), "{ask:?}");
        });
        assert_eq!((done.cgroups, done.hooks.len(), done.compiled), (0, 0, 0), "{ask:?}");
    }
}

#[test]
fn nothing_is_done_after_a_cgroup_or_hook_that_failed() {
    let failure = Failure::new(FailureKind::Invalid, "cannot set pids.max");
    for (index, failed) in [Ask::Cgroup, Ask::Hooks].into_iter().enumerate() {
        let mut done = Done { failed: Some(failure.clone()), ..Done::default() };
        talk(&create(false), &mut done, |mut conversation, process, child| {
            conversation.answer(failed.packet(child.pid())).unwrap();
            let reply = process.receive::<SetupReply>().unwrap().unwrap().message;
            assert!(matches!(reply, SetupReply::Refused(text) if text == failure.message));
            let next = conversation.answer(ASKS[index + 1].packet(child.pid()));
            assert!(matches!(next, Err(Invalid::Unexpected(_))), "{failed:?}");
        });
    }
}

#[test]
fn the_failure_of_a_cgroup_is_that_of_create_also_if_the_host_has_its_own() {
    let failure = Failure::new(FailureKind::Invalid, "cannot set pids.max");
    let mut done = Done { failed: Some(failure.clone()), ..Done::default() };
    let request = create(false);
    let concluded = talk(&request, &mut done, |mut conversation, _, _| {
        conversation.answer(Ask::Cgroup.packet(0)).unwrap();
        let message = HostReply::Failed(Failure::new(FailureKind::System, "refused"));
        conversation.conclude(Packet { message, fds: Vec::new() }, &request)
    });
    assert_eq!(concluded.unwrap().unwrap_err(), failure);
}

#[test]
fn code_that_cannot_be_had_is_refused_and_the_process_reports_why() {
    let failure = Failure::new(FailureKind::System, "unused");
    let mut done = Done { failed: Some(failure), ..Done::default() };
    talk(&create(false), &mut done, |mut conversation, process, _| {
        conversation.answer(Ask::Compile.packet(0)).unwrap();
        let reply = process.receive::<SetupReply>().unwrap().unwrap();
        let expected = CacheError::Cancelled.to_string();
        assert!(matches!(reply.message, SetupReply::Refused(text) if text == expected));
        let failed = SetupMessage::Failed(Failure::new(FailureKind::Invalid, expected));
        conversation.answer(Packet { message: failed, fds: Vec::new() }).unwrap();
    });
}

#[test]
fn conditions_that_no_start_has_are_refused_in_a_message_that_fits() {
    let mut done = Done::default();
    talk(&create(false), &mut done, |mut conversation, process, _| {
        // Each quote becomes four bytes of the answer.
        let start = vec!["--no-such-condition".to_owned(), "\"".repeat(100_000)];
        let message = SetupMessage::Compile { key: "k".into(), baseline: None, start };
        let fds = vec![File::open("/dev/null").unwrap().into()];
        conversation.answer(Packet { message, fds }).unwrap();
        let reply = process.receive::<SetupReply>().unwrap().unwrap();
        let SetupReply::Refused(text) = reply.message else { panic!("it was answered") };
        assert!(text.starts_with("invalid conditions of a start: [\"--no-such-condition\""));
    });
    assert_eq!(done.compiled, 0);
}

#[test]
fn a_process_that_has_ended_runs_no_hooks() {
    let mut done = Done::default();
    let (refused, pid) = talk(&create(false), &mut done, |mut conversation, _, child| {
        child.0.kill().unwrap();
        let process = Process::new(child.pid());
        // Ended and not reaped: the pid is still its own.
        while !process.has_ended() {
            std::thread::yield_now();
        }
        (conversation.answer(Ask::Hooks.packet(child.pid())).unwrap_err(), child.pid())
    });
    assert!(refused.to_string().ends_with(&format!("process {} has ended", pid)));
    assert!(done.hooks.is_empty());
}
