//! The thread that interrupts guests.
//!
//! The code of a server compares a counter, the epoch, with a deadline at each loop and call. This
//! thread increments the counter every millisecond while a guest computes, so that a guest yields
//! to other requests, to timers and to signals. It sleeps while all guests wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::{Engine, Store, UpdateDeadline};

/// The longest time for which a guest computes without yielding.
const PERIOD: Duration = Duration::from_millis(1);
/// The number of periods without a computing guest after which the thread sleeps: waking it up
/// costs a system call.
const LINGER: u32 = 50;
/// The stack of the thread, bytes.
const STACK: usize = 64 << 10;

/// The ticker of an engine.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// A guest has computed since the thread has last cleared this.
    computed: AtomicBool,
    /// A guest computes now.
    computing: AtomicBool,
    asleep: AtomicBool,
}

impl Ticker {
    /// Starts the thread.
    pub(super) fn start(engine: &Engine) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared::default());
        let (of_thread, engine) = (Arc::clone(&shared), engine.clone());
        let thread = thread::Builder::new().name("ticker".to_owned()).stack_size(STACK);
        let thread = thread.spawn(move || of_thread.tick(&engine))?.thread().clone();
        Ok(Ticker { shared, thread })
    }

    /// Runs a part of a guest, to the point where it waits.
    pub(super) fn during<T>(&self, part: impl FnOnce() -> T) -> T {
        let Shared { computed, computing, asleep } = &*self.shared;
        computed.store(true, Ordering::Relaxed);
        computing.store(true, Ordering::SeqCst);
        if asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        let result = part();
        computing.store(false, Ordering::Relaxed);
        result
    }
}

impl Shared {
    fn tick(&self, engine: &Engine) {
        let mut idle = 0;
        loop {
            thread::sleep(PERIOD);
            engine.increment_epoch();
            let computed = self.computed.swap(false, Ordering::Relaxed);
            idle = if computed || self.computing.load(Ordering::Relaxed) { 0 } else { idle + 1 };
            if idle < LINGER {
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            while !self.computing.load(Ordering::SeqCst) && !self.computed.load(Ordering::Relaxed) {
                thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

/// Makes the guest of this store yield at each tick.
pub(super) fn yield_at_ticks<T: 'static>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    // Unlike a plain wake-up, tokio's `yield_now` lets sockets and timers be polled in between.
    store.epoch_deadline_callback(|_| {
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
}
