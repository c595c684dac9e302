//! The ends of a conversation: replies of the host, early ends, malformed messages.

use super::*;

use std::os::fd::AsFd;

fn failed(kind: FailureKind, text: &str) -> Failure {
    Failure::new(kind, text)
}

/// Sends a packet that is not such a message.
fn send_malformed(channel: &Channel, bytes: &str) {
    wherry_protocol::channel::send(channel.as_fd(), &bytes, &[]).unwrap();
}

#[test]
fn the_first_reason_of_the_process_counts_more_than_the_hosts() {
    let text = refused(|host, process| {
        for text in ["the first", "the second"] {
            let failure = failed(FailureKind::Invalid, text);
            process.send(&SetupMessage::Failed(failure), &[]).unwrap();
        }
        host.send(&HostReply::Failed(failed(FailureKind::System, "the last")), &[]).unwrap();
    });
    assert_eq!(text, "the first");
}

#[test]
fn a_process_that_was_forked_and_could_not_be_executed_is_a_failure() {
    let text = refused(|host, process| {
        let child = Child::start();
        let failure = failed(FailureKind::NotExecutable, "exec format error");
        process.send(&SetupMessage::Failed(failure), &[]).unwrap();
        host.send(&HostReply::Forked { pid: child.pid() }, &[]).unwrap();
    });
    assert_eq!(text, "exec format error");
}

#[test]
fn without_reason_and_details_the_hosts_failure_counts() {
    let text = refused(|host, _| {
        host.send(&HostReply::Failed(failed(FailureKind::System, "out of memory")), &[]).unwrap();
    });
    assert_eq!(text, "out of memory");
}

#[test]
fn a_process_may_close_its_end_before_the_host_replies() {
    let (sender, pids) = std::sync::mpsc::channel();
    let (result, _) = conversation(move |host, process| {
        let child = Child::start();
        // The caller has the descriptor open.
        shut_down(process);
        host.send(&HostReply::Forked { pid: child.pid() }, &[]).unwrap();
        sender.send(child).unwrap();
    });
    assert_eq!(result, Ok(pids.recv().unwrap().pid()));
}

fn shut_down(channel: &Channel) {
    let socket = channel.as_fd().try_clone_to_owned().unwrap();
    std::os::unix::net::UnixStream::from(socket).shutdown(std::net::Shutdown::Both).unwrap();
}

#[test]
fn a_host_that_ends_without_a_reply_is_an_error_of_the_request() {
    let text = refused(|_, _| {});
    assert_eq!(text, "the engine host ended early: broken pipe");
}

#[test]
fn a_host_that_ended_before_the_request_is_an_error_of_the_request() {
    let (ours, theirs) = Channel::pair().unwrap();
    drop(theirs);
    let directory = tempfile::tempdir().unwrap();
    let lock = SetupLock::shared(&Bundle::new(directory.path(), "x")).unwrap();
    let mut done = Done::default();
    let forked = Host::over(ours)
        .fork(&create(true), lock, None, &Reaper::default(), &mut done)
        .unwrap_err();
    assert!(forked.message.starts_with("the engine host ended early: "), "{}", forked.message);
    assert_eq!(forked.kind, FailureKind::System);
}

#[test]
fn a_malformed_message_ends_the_conversation() {
    for hostile in ["", "Compile", "{\"Hooks\":{}}", "{\"Failed\":\"text\"}"] {
        let text = refused(move |_, process| send_malformed(process, hostile));
        assert!(text.contains("unknown variant") || text.contains("invalid type"), "{text}");
        let text = refused(move |host, _| send_malformed(host, hostile));
        assert!(text.starts_with("the engine host ended early: "), "{text}");
    }
}

#[test]
fn a_message_with_more_descriptors_than_any_takes_ends_the_conversation() {
    let text = refused(|_, process| {
        let null = File::open("/dev/null").unwrap();
        process.send(&compile(), &[null.as_raw_fd(); 7]).unwrap();
    });
    assert_eq!(text, "a message was truncated");
}

#[test]
fn a_request_that_is_too_large_says_how_to_make_it_smaller() {
    let (ours, _theirs) = Channel::pair().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lock = SetupLock::shared(&Bundle::new(directory.path(), "x")).unwrap();
    let HostRequest::Create(mut request) = create(true) else { panic!("another request") };
    request.id = "x".repeat(300_000);
    let request = HostRequest::Create(request);
    let mut done = Done::default();
    let failure =
        Host::over(ours).fork(&request, lock, None, &Reaper::default(), &mut done).unwrap_err();
    assert_eq!(
        failure.message,
        "the request is larger than 256 KiB: use fewer layers, arguments or variables"
    );
    assert_eq!(failure.kind, FailureKind::Invalid);
}

#[test]
fn the_setup_lock_is_free_when_the_host_and_the_process_have_ended() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = Bundle::new(directory.path(), "x");
    let (ours, theirs) = Channel::pair().unwrap();
    let lock = SetupLock::shared(&bundle).unwrap();
    let daemon = std::thread::spawn(move || {
        let mut done = Done::default();
        Host::over(ours).fork(&create(true), lock, None, &Reaper::default(), &mut done)
    });
    let packet = theirs.receive::<HostRequest>().unwrap().unwrap();
    assert!(wherry_bundle::setup_lock::try_exclusive(&bundle).is_none());
    drop((packet, theirs));
    daemon.join().unwrap().unwrap_err();
    assert!(wherry_bundle::setup_lock::try_exclusive(&bundle).is_some());
}

/// The reply of a host that has forked a process with a terminal, with so many descriptors.
fn conclude(descriptors: usize) -> Result<Result<Forked, Failure>, Invalid> {
    let request = create(true);
    let (setup, _process) = Channel::pair().unwrap();
    let (reaper, since) = (Reaper::default(), Ticks::now().unwrap());
    let child = Child::start();
    let mut done = Done::default();
    let conversation = Conversation::new(&request, None, since, setup, &reaper, &mut done);
    let fds = (0..descriptors).map(|_| File::open("/dev/null").unwrap().into()).collect();
    let message = HostReply::Forked { pid: child.pid() };
    conversation.conclude(Packet { message, fds }, &request)
}

#[test]
fn a_process_with_a_terminal_comes_with_the_daemons_end_of_it() {
    for wrong in [0, 2] {
        let invalid = conclude(wrong).unwrap_err().to_string();
        let expected = format!("{wrong} descriptors with a Forked message, which takes 1");
        assert_eq!(invalid, expected);
    }
    assert!(conclude(1).unwrap().unwrap().console.is_some());
}

#[test]
fn a_failed_reply_has_no_descriptors() {
    let request = create(false);
    let (setup, _process) = Channel::pair().unwrap();
    let (reaper, since) = (Reaper::default(), Ticks::now().unwrap());
    let mut done = Done::default();
    let conversation = Conversation::new(&request, None, since, setup, &reaper, &mut done);
    let message = HostReply::Failed(failed(FailureKind::System, "x"));
    let fds = vec![File::open("/dev/null").unwrap().into()];
    let invalid = conversation.conclude(Packet { message, fds }, &request).unwrap_err();
    assert_eq!(invalid.to_string(), "1 descriptors with a Failed message, which takes 0");
}
