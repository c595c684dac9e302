//! The life of one container of the soak: random, and equal for equal seeds.

use fastrand::Rng;
use std::time::Duration;

/// The life of a container.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// Its number in the soak, for messages.
    #[expect(dead_code, reason = "Debug shows it")]
    number: usize,
    pub(super) guest: Guest,
    /// Whether it has pipes.
    pub(super) streams: bool,
    /// Whether it has a terminal.
    pub(super) terminal: bool,
    /// Whether it reuses the id that its predecessor has just released.
    pub(super) same_id: bool,
    /// Whether it is started, or deleted after its creation.
    pub(super) started: bool,
    pub(super) execs: Vec<Exec>,
    pub(super) paused: Option<Paused>,
    pub(super) end: End,
    /// The shim is killed this long after its start.
    pub(super) kill_shim: Option<Duration>,
}

/// The program of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    /// Prints hello and exits.
    Hello,
    /// Computes forever.
    Spin,
    /// Waits for input.
    Cat,
    /// Fills its output, which has no reader, and waits.
    Flood,
    /// A native program that sleeps.
    Sleep,
}

/// Another process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exec {
    pub(super) guest: Guest,
    pub(super) fate: Fate,
}

/// The fate of another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is added, and never started.
    Forgotten,
    /// It ends by itself, or is killed, and is deleted.
    Ended,
    /// It runs when the container ends, and is deleted then.
    Left,
    /// It runs when the container ends, and is never deleted.
    Abandoned,
    /// It is started at the moment at which the container is killed.
    Raced,
}

/// Paused, for a moment or until the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paused {
    ForAMoment,
    UntilTheEnd,
}

/// How the first process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Itself,
    Input,
    Term,
    Kill,
}

const GUESTS: [Guest; 5] = [Guest::Hello, Guest::Spin, Guest::Cat, Guest::Flood, Guest::Sleep];

impl Guest {
    /// The command line of the program.
    pub(super) fn args(self) -> &'static [&'static str] {
        match self {
            Guest::Hello => &["/hello.wasm"],
            Guest::Spin => &["/spin.wasm"],
            Guest::Cat => &["/cat.wasm"],
            Guest::Flood => &["/flood.wasm"],
            Guest::Sleep => &["/bin/sleep", "1000000"],
        }
    }
}

impl Life {
    /// Draws the life of this number. With `kill_shim`, one shim in six is killed.
    pub(super) fn draw(seed: u64, number: usize, kill_shim: bool) -> Life {
        // One generator per life: the life does not depend on which of the eight workers takes it.
        let rng = &mut Rng::with_seed(seed.wrapping_add((number as u64) << 32));
        let guest = GUESTS[rng.usize(..GUESTS.len())];
        let lasting = guest != Guest::Hello;
        let many = if lasting { rng.usize(..4) } else { 0 };
        let execs: Vec<Exec> = (0..many).map(|_| Exec::draw(rng)).collect();
        let paused = match rng.u8(..8) {
            0 if lasting => Some(Paused::ForAMoment),
            1 if lasting => Some(Paused::UntilTheEnd),
            _ => None,
        };
        let terminal = rng.u8(..6) == 0;
        let end = match (guest, paused) {
            (Guest::Hello, _) => End::Itself,
            // A paused container reacts to SIGKILL only; a native first process only to signals
            // that it handles.
            (Guest::Sleep, _) | (_, Some(Paused::UntilTheEnd)) => End::Kill,
            // No client can end the input of a terminal.
            (Guest::Cat, _) if rng.bool() && !terminal => End::Input,
            _ => [End::Term, End::Kill][rng.usize(..2)],
        };
        // Most faults happen during creation.
        let moment = if rng.bool() { rng.u64(..15_000) } else { rng.u64(..150_000) };
        let kill_shim = (rng.u8(..6) == 0 && kill_shim).then(|| Duration::from_micros(moment));
        Life {
            number,
            guest,
            streams: terminal || guest != Guest::Sleep || rng.u8(..4) > 0,
            terminal,
            same_id: rng.bool(),
            started: rng.u8(..10) > 0,
            execs,
            paused,
            end,
            kill_shim,
        }
    }
}

impl Exec {
    fn draw(rng: &mut Rng) -> Exec {
        let guest = GUESTS[rng.usize(..GUESTS.len())];
        let fate = match rng.u8(..8) {
            0 => Fate::Forgotten,
            1 => Fate::Left,
            2 => Fate::Abandoned,
            3 => Fate::Raced,
            _ => Fate::Ended,
        };
        Exec { guest, fate }
    }
}
