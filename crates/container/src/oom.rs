//! Waits for out-of-memory kills.

use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wherry_cgroup::Meter;
use wherry_cgroup::oom::{OomWatch, SavedOomWatch};
use wherry_sys::handover::{Incoming, Outgoing, ResumeError};

/// An [`OomWatch`] that is registered with the async runtime. Wakes no task until there is a kill.
#[derive(Debug)]
pub(crate) struct OomEvents(AsyncFd<OomWatch>);

impl OomEvents {
    /// Registers with the kernel and the runtime. Must be called within the runtime.
    ///
    /// # Errors
    /// If the kernel has no notifications for this cgroup.
    pub(crate) fn new(meter: &Meter) -> io::Result<OomEvents> {
        OomEvents::register(OomWatch::new(meter)?)
    }

    /// The watch, for the next version of this executable.
    pub(crate) fn save(&self, out: &mut Outgoing) -> SavedOomWatch {
        self.0.get_ref().save(out)
    }

    /// The watch of [`OomEvents::save`]. Must be called within the runtime.
    pub(crate) fn restore(
        saved: &SavedOomWatch,
        meter: &Meter,
        from: &mut Incoming,
    ) -> Result<OomEvents, ResumeError> {
        let watch = OomWatch::restore(saved, meter, from)?;
        OomEvents::register(watch).map_err(ResumeError::of("watch for out-of-memory kills"))
    }

    #[allow(unsafe_code)]
    fn register(watch: OomWatch) -> io::Result<OomEvents> {
        // SAFETY: the watch owns its descriptor and never replaces it.
        let registered = unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) };
        Ok(OomEvents(registered.map_err(io::Error::from)?))
    }

    /// Waits for the next kill. Cancellation safe.
    ///
    /// # Errors
    /// If no more notifications can be read.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            match ready.try_io(|watch| watch.get_mut().read()) {
                Ok(Ok(true)) => return Ok(()),
                // Without a kill, or not ready after all.
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// The number of kills that [`OomEvents::next`] has reported.
    pub(crate) fn reported(&self) -> u64 {
        self.0.get_ref().reported()
    }
}
