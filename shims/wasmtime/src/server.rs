//! A component that exports `wasi:http/incoming-handler`: a server of HTTP.
//!
//! [`load`] maps the code and resolves imports, [`Program::start`] listens, and [`Program::run`]
//! serves until SIGTERM. Each request gets an instance from a pool, and all run on one thread: see
//! [`request`]. A second thread exists only to interrupt guests: see [`ticker`].
//!
//! Everything here is created when a server is loaded, and a container that does not serve has none
//! of it.

mod body;
mod limiter;
mod listen;
mod output;
mod refusal;
mod request;
mod ticker;

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wherry_engine::{Entry, ExitCode, Guest, LoadError, Program, StartError, Trap};
use wherry_engine::{Http, find_component_entry};

use crate::settings::{self, Pool};
use crate::{component, failed, map_component};
pub(crate) use limiter::Limiter;
use listen::Listening;
use request::Handler;
pub(crate) use request::report;

/// Whether this error says that the code is that of a server. Wasmtime has no other sign of it.
pub(crate) fn is_code_of_server(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("compiled with epoch interruption")
}

/// A server that is ready to listen.
struct Server {
    address: SocketAddr,
    handler: Arc<Handler>,
    listening: Option<Listening>,
}

/// Loads the code of a server.
pub(crate) fn load(code: &File, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
    let address = guest
        .http
        .listen_address(&guest.env)
        .map_err(|error| LoadError::Engine(error.to_string()))?;
    let component = map(code, &guest.http)?;
    let exports = component::exports(&component);
    if let Entry::Function(_) = find_component_entry(&exports, guest.function.as_deref())? {
        return component::load(&component, guest);
    }
    let instance = component::instance(&component)?;
    let guests = ProxyPre::new(instance).map_err(failed)?;
    let handler = Arc::new(Handler::new(guests, guest)?);
    Ok(Box::new(Server { address, handler, listening: None }))
}

/// Maps the code for an engine whose pool fits it.
fn map(code: &File, http: &Http) -> Result<Component, LoadError> {
    let engine = Engine::new(&settings::server()).map_err(failed)?;
    let component = map_component(&engine, code).map_err(failed)?;
    let Some(needed) = component.resources_required() else { return Ok(component) };
    if needed.max_initial_memory_size.is_some_and(|pages| pages << 16 > http.memory) {
        return Err(LoadError::Engine(format!(
            "its memory is from the start larger than the {} MiB that a request may have: annotation \
             wherry.http.memory sets that limit",
            http.memory >> 20
        )));
    }
    let pool = Pool {
        instances: http.requests,
        memory: http.memory,
        memories: needed.num_memories.max(1),
        tables: needed.num_tables.max(1),
    };
    // Address space may be limited, or a table be too large: then each instance maps its memory.
    let pooled = Engine::new(&settings::pooled(pool)).and_then(|pool| map_component(&pool, code));
    Ok(pooled.unwrap_or(component))
}

impl Program for Server {
    fn start(&mut self) -> Result<(), StartError> {
        self.listening = Some(Listening::on(self.address)?);
        Ok(())
    }

    fn termination(&mut self) -> Option<OwnedFd> {
        self.listening.as_mut().and_then(Listening::termination)
    }

    fn run(mut self: Box<Self>) -> Result<ExitCode, Trap> {
        let Some(listening) = self.listening.take() else {
            return Err(Trap("the server was not started".to_owned()));
        };
        listening.serve(&self.handler).map(|()| ExitCode(0))
    }
}
