//! The messages of a guest and of an engine host: any bytes, with any number of descriptors beside
//! them. No descriptor may stay open, and a user is shown one short sentence.
//!
//! Input: a byte for the number of descriptors, and the packet. The same packet, line by line, also
//! serves as libcontainer's errors.
#![no_main]

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use wherry_protocol::error_text::sentence;
use wherry_protocol::failure::shortened;
use wherry_protocol::{
    Channel, Failure, FailureKind, HostReply, HostRequest, SetupMessage, SetupReply,
};

/// About as long as a sentence may be.
const SENTENCE: usize = 1100;

fuzz_target!(|bytes: &[u8]| {
    let Some((count, packet)) = bytes.split_first() else { return };
    let before = open_descriptors();
    let message = receive::<SetupMessage>(*count, packet);
    match &message {
        Some(SetupMessage::Failed(failure)) => shown(failure),
        Some(SetupMessage::Detail(text)) => explained(std::slice::from_ref(text)),
        _ => {}
    }
    if let Some(HostReply::Failed(failure)) = receive::<HostReply>(*count, packet) {
        shown(&failure);
    }
    // Most inputs are refused: only a panic is a fault.
    let _ = receive::<SetupReply>(*count, packet);
    if let Some(request) = receive::<HostRequest>(*count, packet) {
        let _ = request.cwd();
    }
    assert_eq!(open_descriptors(), before, "a descriptor stays open");
    let text = String::from_utf8_lossy(packet);
    explained(&text.lines().map(str::to_owned).collect::<Vec<_>>());
});

/// Sends the packet, and reads it as a message of this type.
fn receive<T: serde::de::DeserializeOwned>(count: u8, packet: &[u8]) -> Option<T> {
    let (ours, theirs) = Channel::pair().expect("there is room");
    let null = File::open("/dev/null").expect("it is there");
    let fds: Vec<RawFd> = (0..count % 9).map(|_| null.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let slices = [IoSlice::new(packet)];
    sendmsg::<()>(theirs.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None).ok()?;
    drop(theirs);
    ours.receive::<T>().ok().flatten().map(|packet| packet.message)
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc is there").count()
}

fn shown(failure: &Failure) {
    let short = Failure::new(failure.kind, failure.message.clone());
    assert!(short.message.len() <= SENTENCE, "{}", short.message.len());
}

fn explained(details: &[String]) {
    let Some(text) = sentence(details, Path::new("/work")) else {
        assert!(details.is_empty());
        return;
    };
    shown(&Failure::new(FailureKind::System, text.clone()));
    assert!(shortened(text.clone()).len() <= SENTENCE);
    if details.iter().all(|detail| !detail.contains('\n')) {
        assert!(!text.contains('\n'), "{text:?}");
    }
}
