//! What holds for every method, whatever it does.
//!
//! ttrpc drops what it is doing for a client that has gone away, or whose time is over. A container that is half
//! created would then be nobody's: so a request is carried out to its end, but for Wait, which changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::asynchronous::{MethodHandler, Service, TtrpcContext};
use ttrpc::{Code, Request, Response};

type Handler = Arc<dyn MethodHandler + Send + Sync>;

/// The one method that may take for ever.
const WAIT: &str = "Wait";

struct CarriedOut(Handler);

/// The same methods, each carried out to its end, and each with a fitting code for a request that cannot be read.
pub(crate) fn carried_out(service: Service) -> Service {
    let methods = service.methods.into_iter().map(|(name, handler)| {
        let handler: Box<dyn MethodHandler + Send + Sync> = Box::new(CarriedOut(handler.into()));
        (name, handler)
    });
    Service { methods: methods.collect(), ..service }
}

#[async_trait]
impl MethodHandler for CarriedOut {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let method = request.method.clone();
        let handler = Arc::clone(&self.0);
        let work = async move { handler.handler(context, request).await };
        let result = if method == WAIT { Ok(work.await) } else { tokio::spawn(work).await };
        Ok(match result {
            Ok(Ok(response)) => response,
            // What the generated code says of itself: the rest is in the response.
            Ok(Err(error)) => refused(
                Code::INVALID_ARGUMENT,
                format!("the request {method} cannot be read: {error}"),
            ),
            Err(error) => refused(Code::INTERNAL, format!("{method} failed: {error}")),
        })
    }
}

fn refused(code: Code, text: String) -> Response {
    let mut response = Response::new();
    response.set_status(ttrpc::get_status(code, text));
    response
}
