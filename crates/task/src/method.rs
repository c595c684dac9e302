//! Wraps every method: none is cancelled half-way, and the requests in flight are counted.
//!
//! ttrpc drops a handler when its client disconnects or its deadline passes. A half-created
//! container would then have no owner, so every method but Wait runs as a separate task, to its
//! end. Wait changes nothing and may be dropped.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use ttrpc::asynchronous::{MethodHandler, Service, TtrpcContext};
use ttrpc::{Request, Response};
use wherry_sys::measure::{Clock, Measurement};

use crate::error::Error;
use crate::upgrade;

type Handler = Arc<dyn MethodHandler + Send + Sync>;

/// The methods that may run without a bound in time, and that the next version of this executable
/// may be asked again: they change nothing, or only once.
pub(crate) const WAITS: [&str; 3] = ["Wait", "WaitSandbox", upgrade::UPGRADE];

/// The number of requests in flight other than Wait.
#[derive(Debug, Clone)]
pub(crate) struct InFlight(Arc<watch::Sender<usize>>);

/// One request, counted until this is dropped.
struct Counted(InFlight);

struct Uncancellable {
    handler: Handler,
    in_flight: InFlight,
}

impl InFlight {
    pub(crate) fn new() -> InFlight {
        InFlight(Arc::new(watch::Sender::new(0)))
    }

    /// Waits until no request is in flight.
    pub(crate) async fn none(&self) {
        // `self` holds the sender: the channel cannot close.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Whether no request is in flight.
    pub(crate) fn is_none(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until the number changes: until a request arrives, or is answered.
    pub(crate) async fn next(&self) {
        // `self` holds the sender: the channel cannot close.
        let _ = self.0.subscribe().changed().await;
    }

    fn count(&self) -> Counted {
        self.0.send_modify(|count| *count += 1);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Wraps each method of `service`: a client that disconnects does not cancel it, and a request that
/// cannot be decoded is answered INVALID_ARGUMENT.
pub(crate) fn uncancellable(service: Service, in_flight: &InFlight) -> Service {
    let methods = service.methods.into_iter().map(|(name, handler)| {
        let handler = Uncancellable { handler: handler.into(), in_flight: in_flight.clone() };
        let handler: Box<dyn MethodHandler + Send + Sync> = Box::new(handler);
        (name, handler)
    });
    Service { methods: methods.collect(), ..service }
}

#[async_trait]
impl MethodHandler for Uncancellable {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let method = request.method.clone();
        let handler = Arc::clone(&self.handler);
        let work = async move { handler.handler(context, request).await };
        let result = if WAITS.contains(&method.as_str()) {
            Ok(work.await)
        } else {
            let (counted, clock) = (self.in_flight.count(), Clock::start());
            let work = tokio::spawn(async move {
                let _counted = counted;
                work.await
            });
            let result = work.await;
            clock.report(|took| Measurement::Answered { method: &method, took });
            result
        };
        Ok(match result {
            Ok(Ok(response)) => response,
            // The generated code fails only to decode; the method's own error is in the response.
            Ok(Err(source)) => failed(&Error::Decode { method, source }),
            Err(source) => failed(&Error::Panicked { method, source }),
        })
    }
}

fn failed(error: &Error) -> Response {
    let mut response = Response::new();
    response.set_status(error.status());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;
    use ttrpc::Code;

    /// A method that ends when a test says so.
    struct Slow {
        proceed: std::sync::Mutex<Option<oneshot::Receiver<()>>>,
        done: Arc<AtomicBool>,
    }

    #[async_trait]
    impl MethodHandler for Slow {
        async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
            let proceed = self.proceed.lock().unwrap().take().unwrap();
            // A test that drops the sender lets the method proceed too.
            let _ = proceed.await;
            self.done.store(true, Ordering::SeqCst);
            Ok(Response::new())
        }
    }

    struct Faulty(fn() -> ttrpc::Result<Response>);

    #[async_trait]
    impl MethodHandler for Faulty {
        async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
            self.0()
        }
    }

    fn context() -> TtrpcContext {
        TtrpcContext {
            mh: ttrpc::proto::MessageHeader::default(),
            metadata: std::collections::HashMap::new(),
            timeout_nano: 0,
            connection_data: Arc::default(),
        }
    }

    fn request(method: &str) -> Request {
        let mut request = Request::new();
        request.method = method.to_owned();
        request
    }

    /// Calls `method`, whose client leaves before the method ends. Returns whether it ended.
    async fn abandoned(method: &str) -> bool {
        let (proceed, receiver) = oneshot::channel();
        let done = Arc::new(AtomicBool::new(false));
        let slow = Slow { proceed: std::sync::Mutex::new(Some(receiver)), done: done.clone() };
        let in_flight = InFlight::new();
        let handler = Uncancellable { handler: Arc::new(slow), in_flight: in_flight.clone() };
        let request = request(method);
        let call = tokio::spawn(async move { handler.handler(context(), request).await });
        let counted = !WAITS.contains(&method);
        if counted {
            in_flight.0.subscribe().wait_for(|count| *count == 1).await.unwrap();
        }
        tokio::task::yield_now().await;
        call.abort();
        // The task was aborted: its result is of no interest.
        let _ = call.await;
        assert_eq!(*in_flight.0.borrow(), usize::from(counted), "{method}");
        drop(proceed);
        in_flight.none().await;
        tokio::task::yield_now().await;
        done.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_method_ends_also_when_its_client_has_left_except_wait() {
        assert!(abandoned("Create").await);
        assert!(abandoned("Delete").await);
        assert!(!abandoned(WAITS[0]).await);
    }

    async fn status(result: fn() -> ttrpc::Result<Response>) -> (Code, String) {
        let handler =
            Uncancellable { handler: Arc::new(Faulty(result)), in_flight: InFlight::new() };
        let response = handler.handler(context(), request("State")).await.unwrap();
        (response.status().code(), response.status().message().to_owned())
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_decoded_is_the_clients_fault() {
        let (code, text) = status(|| Err(ttrpc::Error::Others("truncated".to_owned()))).await;
        assert_eq!(code, Code::INVALID_ARGUMENT);
        assert!(text.starts_with("cannot decode the State request: "), "{text}");
    }

    #[tokio::test]
    async fn a_panic_of_a_method_is_answered_as_an_internal_error() {
        let (code, text) = status(|| panic!("a test")).await;
        assert_eq!(code, Code::INTERNAL);
        assert!(text.starts_with("State failed: "), "{text}");
    }
}
