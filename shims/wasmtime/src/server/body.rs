//! The bodies of requests and responses.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// What a request's guest and its connection know of each other.
#[derive(Default)]
pub(super) struct Course {
    too_large: AtomicBool,
    failed: AtomicBool,
}

impl Course {
    /// Whether the client has sent more than a body may have.
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    /// Ends the response without its regular end.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// The body of a request, up to a limit.
pub(super) struct Limited {
    body: Incoming,
    limit: u64,
    left: u64,
    course: Arc<Course>,
}

impl Limited {
    pub(super) fn new(body: Incoming, limit: Option<u64>, course: Arc<Course>) -> Limited {
        let limit = limit.unwrap_or(u64::MAX);
        Limited { body, limit, left: limit, course }
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let size =
            frame.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
        match self.left.checked_sub(size as u64) {
            Some(left) => {
                self.left = left;
                Poll::Ready(frame.map(|frame| frame.map_err(Error::Hyper)))
            }
            None => {
                self.course.too_large.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.limit)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a guest's response. Wasmtime's ends regularly when its guest is gone: here the
/// client sees that it is incomplete.
pub(super) struct Guarded {
    body: HyperOutgoingBody,
    course: Arc<Course>,
}

impl Guarded {
    /// A body that ends regularly.
    pub(super) fn regular(body: HyperOutgoingBody) -> Guarded {
        Guarded::new(body, Arc::default())
    }

    pub(super) fn new(body: HyperOutgoingBody, course: Arc<Course>) -> Guarded {
        Guarded { body, course }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() && self.course.failed.load(Ordering::Relaxed) {
            return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
