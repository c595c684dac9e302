//! What all methods have in common: none is cancelled half-way, and the requests in flight are
//! counted.
//!
//! ttrpc drops a handler when its client disconnects or its deadline passes. A half-created
//! container would then have no owner, so every method but Wait runs as a separate task, to its
//! end. Wait changes nothing and may be dropped.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use ttrpc::asynchronous::{MethodHandler, Service, TtrpcContext};
use ttrpc::{Request, Response};

use crate::error::Error;

type Handler = Arc<dyn MethodHandler + Send + Sync>;

/// The methods that may run without a bound in time.
const WAITS: [&str; 2] = ["Wait", "WaitSandbox"];

/// How many requests other than Wait are being answered.
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
            let counted = self.in_flight.count();
            let work = tokio::spawn(async move {
                let _counted = counted;
                work.await
            });
            work.await
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
