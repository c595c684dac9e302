//! One request: an instance, its limits, and its response.
//!
//! The guest runs within the task of its connection until it has set the response. If it continues
//! after that, it gets a task for itself, while the connection sends the body.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::Store;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wherry_engine::{Guest, Http, LoadError};

use super::body::{Course, Guarded, Limited};
use super::limiter::Limiter;
use super::output::Lines;
use super::ticker::{self, Ticker};
use super::{listen::Started, refusal};
use crate::component::State;
use crate::outgoing::Client;
use crate::stdio::Output;
use crate::{context, trap};

/// A guest's response, or the error that it gave in place of one.
type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// All that requests share.
pub(super) struct Handler {
    guests: ProxyPre<State>,
    guest: Guest,
    /// The directories, opened once.
    files: WasiFilesystemCtx,
    client: Arc<Client>,
    permits: Arc<Semaphore>,
}

/// Why a guest failed.
enum Failure {
    Timeout,
    Trap(wasmtime::Error),
}

/// The next event of a request.
enum Event {
    /// The guest has ended: well, or with this status if it has given no response.
    Ended(Result<(), StatusCode>),
    /// The guest has given its response and continues.
    Answered(Answer),
}

impl Handler {
    pub(super) fn new(guests: ProxyPre<State>, guest: Guest) -> Result<Handler, LoadError> {
        let files = context::build(&guest)?.build().filesystem().clone();
        let client = Arc::new(Client::new(&guest.env));
        let permits = Arc::new(Semaphore::new(guest.http.requests as usize));
        Ok(Handler { guests, guest, files, client, permits })
    }

    pub(super) fn limits(&self) -> &Http {
        &self.guest.http
    }

    pub(super) fn start_ticker(&self) -> io::Result<Ticker> {
        Ticker::start(self.guests.engine())
    }

    /// The number of guests that run.
    pub(super) fn running(&self) -> usize {
        (self.guest.http.requests as usize).saturating_sub(self.permits.available_permits())
    }

    /// Waits until no guest runs.
    pub(super) async fn finished(&self) {
        // It is never closed.
        let _ = self.permits.acquire_many(self.guest.http.requests).await;
    }

    fn store(&self, stdout: &Lines, stderr: &Lines) -> Store<State> {
        let mut wasi = context::without_directories(&self.guest);
        let mut wasi = wasi.stdout(stdout.clone()).stderr(stderr.clone()).build();
        *wasi.filesystem() = self.files.clone();
        let limiter = Limiter::new(self.guest.http.memory);
        let state = State::new(wasi, Arc::clone(&self.client), limiter);
        let mut store = Store::new(self.guests.engine(), state);
        store.limiter(|state| &mut state.limiter);
        ticker::yield_at_ticks(&mut store);
        store
    }

    /// Runs the guest to its end.
    async fn call(
        &self,
        store: &mut Store<State>,
        request: Request<Limited>,
        answer: oneshot::Sender<Answer>,
    ) -> wasmtime::Result<()> {
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(answer)?;
        let guest = self.guests.instantiate_async(&mut *store).await?;
        guest.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await
    }
}

/// The streams of a request. Their last lines are completed when it ends, also if its client has
/// disconnected.
struct Streams {
    stdout: Lines,
    stderr: Lines,
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stdout.finish();
        self.stderr.finish();
    }
}

impl Started {
    /// Responds to a request.
    pub(super) async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Guarded>, Infallible> {
        if let Err(status) = refusal::check(&mut request, self.handler.limits().body) {
            return Ok(refusal::response(status));
        }
        // It is never closed.
        let permit = Arc::clone(&self.handler.permits).acquire_owned().await.ok();
        let course = Arc::new(Course::default());
        let (sender, receiver) = oneshot::channel();
        let mut guest =
            Box::pin(Arc::clone(&self).run(request, sender, Arc::clone(&course), permit));
        let mut receiver = Some(receiver);
        let event = std::future::poll_fn(|context| {
            if let Poll::Ready(ended) = guest.as_mut().poll(context) {
                return Poll::Ready(Event::Ended(ended));
            }
            poll_answer(&mut receiver, context).map(Event::Answered)
        });
        let answer = match event.await {
            Event::Answered(answer) => {
                tokio::spawn(guest);
                Ok(answer)
            }
            Event::Ended(Ok(())) => {
                receiver.and_then(|mut receiver| receiver.try_recv().ok()).ok_or_else(|| {
                    report("a guest ended without a response");
                    StatusCode::INTERNAL_SERVER_ERROR
                })
            }
            Event::Ended(Err(status)) => Err(status),
        };
        let answer = match answer {
            // The guest has seen a body that was cut off.
            _ if course.is_too_large() => Err(StatusCode::PAYLOAD_TOO_LARGE),
            Ok(Err(error)) => {
                report(&format!("a guest's response is the error {error:?}"));
                Err(refusal::status(&error))
            }
            Ok(Ok(response)) => Ok(response),
            Err(status) => Err(status),
        };
        Ok(match answer {
            Ok(response) => response.map(|body| Guarded::new(body, course)),
            Err(status) => refusal::response(status),
        })
    }

    /// Runs a guest to its end, within its limits. A failure is written to standard error; the
    /// result is the status for a client that has no response yet.
    async fn run(
        self: Arc<Self>,
        request: Request<Incoming>,
        answer: oneshot::Sender<Answer>,
        course: Arc<Course>,
        _permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), StatusCode> {
        let Started { handler, ticker, .. } = &*self;
        let limits = handler.limits();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let request = request.map(|body| Limited::new(body, limits.body, Arc::clone(&course)));
        let streams =
            Streams { stdout: Lines::new(Output::Stdout), stderr: Lines::new(Output::Stderr) };
        let mut store = handler.store(&streams.stdout, &streams.stderr);
        let result = {
            let mut call = pin!(handler.call(&mut store, request, answer));
            let call =
                std::future::poll_fn(|context| ticker.during(|| call.as_mut().poll(context)));
            match limits.timeout {
                Some(limit) => tokio::time::timeout(limit, call).await,
                None => Ok(call.await),
            }
        };
        let failure = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(0)) => return Ok(()),
                _ => Failure::Trap(error),
            },
            Err(_) => Failure::Timeout,
        };
        // Before the store is dropped, which ends the response's body.
        course.fail();
        let note = if store.data().limiter.exceeded() {
            format!(
                "\nit was refused more than {} MiB of memory: annotation wherry.http.memory sets that \
                 limit",
                limits.memory >> 20
            )
        } else {
            String::new()
        };
        drop((store, streams));
        let (status, text) = match &failure {
            Failure::Timeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "it reached its time limit: annotation wherry.http.timeout sets it".to_owned(),
            ),
            Failure::Trap(error) => (StatusCode::INTERNAL_SERVER_ERROR, trap::describe(error)),
        };
        report(&format!("{method} {}: {text}{note}", uri.path()));
        Err(status)
    }
}

/// Takes the answer once it is there. A guest may also drop its outparam without one.
fn poll_answer(
    receiver: &mut Option<oneshot::Receiver<Answer>>,
    context: &mut Context<'_>,
) -> Poll<Answer> {
    let Some(waiting) = receiver else { return Poll::Pending };
    match pin!(waiting).poll(context) {
        Poll::Ready(Ok(answer)) => Poll::Ready(answer),
        Poll::Ready(Err(_)) => {
            *receiver = None;
            Poll::Pending
        }
        Poll::Pending => Poll::Pending,
    }
}

/// Writes lines to standard error.
pub(crate) fn report(text: &str) {
    // The log may be closed, as for every process.
    let _ = Output::Stderr.write_all(format!("{text}\n").as_bytes());
}
