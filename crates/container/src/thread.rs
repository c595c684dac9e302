//! Threads for blocking work.
//!
//! A thread is taken before the work begins: if the kernel refuses one (EAGAIN at a limit on pids,
//! ENOMEM), the request fails before it has changed anything. After its work a thread waits
//! [`IDLE_TIMEOUT`] for more: Create, Start and Delete of a short container share one.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, ThreadId};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use wherry_sys::memory;

/// How long a thread waits for more work.
const IDLE_TIMEOUT: Duration = Duration::from_millis(50);

/// The pieces of work that are not done.
static UNDONE: AtomicUsize = AtomicUsize::new(0);

/// The idle threads, the last to become idle at the end.
static IDLE: Mutex<Vec<Thread>> = Mutex::new(Vec::new());

type Work = Box<dyn FnOnce() + Send>;

/// The kernel refuses to start a thread.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread: {0}")]
pub struct NoThread(#[from] pub(crate) io::Error);

/// A thread that waits for work. It ends if it is dropped without any.
#[derive(Debug)]
pub(crate) struct Thread {
    jobs: Sender<Job>,
    id: ThreadId,
}

/// A piece of work, and the handle of its thread, which becomes idle afterwards.
struct Job {
    work: Work,
    /// The tokio runtime of the caller.
    runtime: Option<Handle>,
    thread: Thread,
}

impl Thread {
    /// Takes an idle thread, or starts one.
    ///
    /// # Errors
    /// If the kernel refuses a new thread.
    pub(crate) fn take() -> Result<Thread, NoThread> {
        let idle = idle().pop();
        match idle {
            Some(thread) => Ok(thread),
            None => {
                let (jobs, queue) = channel();
                let handle = Builder::new().name("blocking".to_owned()).spawn(|| serve(queue))?;
                Ok(Thread { jobs, id: handle.thread().id() })
            }
        }
    }

    /// Runs `work` on this thread, within the caller's tokio runtime, if it has one. The receiver
    /// fails if `work` panics.
    pub(crate) fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, result) = oneshot::channel();
        // The caller may have stopped waiting.
        self.begin(Box::new(move || drop(done.send(work()))));
        result
    }

    fn begin(self, work: Work) {
        let jobs = self.jobs.clone();
        UNDONE.fetch_add(1, Ordering::SeqCst);
        // The thread waits as long as its handle exists, so the channel is open.
        let _ = jobs.send(Job { work, runtime: Handle::try_current().ok(), thread: self });
    }
}

/// Whether no thread works: none forks, or has something in hand.
#[must_use]
pub fn are_idle() -> bool {
    UNDONE.load(Ordering::SeqCst) == 0
}

/// Runs `work` on a thread, or on the caller's if the kernel refuses one: for work that must be
/// done and blocks for at most a few milliseconds.
pub(crate) fn run_or_block(work: impl FnOnce() + Send + 'static) -> oneshot::Receiver<()> {
    match Thread::take() {
        Ok(thread) => thread.run(work),
        Err(error) => {
            log::warn!("{error}: the work is done on the main thread");
            let (done, result) = oneshot::channel();
            work();
            // The receiver is returned below.
            let _ = done.send(());
            result
        }
    }
}

/// Runs work until none has come for [`IDLE_TIMEOUT`].
fn serve(queue: Receiver<Job>) {
    loop {
        match queue.recv_timeout(IDLE_TIMEOUT) {
            Ok(Job { work, runtime, thread }) => {
                let within = runtime.as_ref().map(Handle::enter);
                // The panic hook has logged a panic, and the caller's receiver fails.
                let _ = catch_unwind(AssertUnwindSafe(work));
                drop(within);
                UNDONE.fetch_sub(1, Ordering::SeqCst);
                idle().push(thread);
            }
            Err(RecvTimeoutError::Timeout) => {
                let own = std::thread::current().id();
                let mut idle = idle();
                let Some(index) = idle.iter().position(|thread| thread.id == own) else {
                    // Another thread has just taken this one: its work is about to arrive.
                    continue;
                };
                idle.remove(index);
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    memory::trim_heap();
}

/// No code panics while it holds this lock, so it is never poisoned.
fn idle() -> MutexGuard<'static, Vec<Thread>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_within_the_runtime_of_its_caller() {
        let thread = Thread::take().unwrap();
        let here = Handle::current().id();
        assert_eq!(thread.run(|| Handle::current().id()).await.unwrap(), here);
    }

    #[tokio::test]
    async fn a_panic_fails_its_own_work_and_no_other() {
        let thread = Thread::take().unwrap();
        let id = thread.id;
        assert!(thread.run(|| panic!("a test")).await.is_err());
        let (sender, receiver) = channel();
        Thread::take().unwrap().run(move || sender.send(id)).await.unwrap().unwrap();
        assert_eq!(receiver.recv().unwrap(), id);
    }

    #[tokio::test]
    async fn many_pieces_of_work_are_all_done() {
        let work: Vec<_> = (0..100).map(|n| Thread::take().unwrap().run(move || n)).collect();
        let mut sum = 0;
        for done in work {
            sum += done.await.unwrap();
        }
        assert_eq!(sum, 4950);
    }

    /// In a separate process, which gives up root's powers: no limit on processes holds for root.
    #[test]
    fn a_thread_that_cannot_be_had_is_an_error() {
        if !wherry_sys::alone("thread::tests::a_thread_that_cannot_be_had_is_an_error") {
            return;
        }
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NPROC, 0, 0).unwrap();
        if nix::unistd::geteuid().is_root() {
            nix::unistd::setuid(nix::unistd::Uid::from_raw(54321)).unwrap();
        }
        let refused = Thread::take().unwrap_err().to_string();
        assert_eq!(
            refused,
            "cannot start a thread: Resource temporarily unavailable (os error 11)"
        );
        assert!(run_or_block(|| ()).try_recv().is_ok(), "the work was not done");
    }
}
