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

/// The memories and tables of nearly every component: one module, its adapter, and the tables that
/// connect them.
const MEMORIES: u32 = 1;
const TABLES: u32 = 4;

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
    let mapped = |memories: u32, tables: u32| {
        let pool = Pool { instances: http.requests, memory: http.memory, memories, tables };
        // Address space may be limited: then each instance maps memory for itself.
        let engine = Engine::new(&settings::pooled(pool))
            .or_else(|_| Engine::new(&settings::server()))
            .map_err(failed)?;
        map_component(&engine, code)
            .map_err(|error| larger_than_allowed(&error, http).unwrap_or_else(|| failed(error)))
    };
    let component = mapped(MEMORIES, TABLES)?;
    match component.resources_required() {
        Some(needed) if needed.num_memories > MEMORIES || needed.num_tables > TABLES => {
            mapped(needed.num_memories.max(1), needed.num_tables.max(1))
        }
        _ => Ok(component),
    }
}

/// The error for a component whose memory is larger than a request may have from its start.
fn larger_than_allowed(error: &wasmtime::Error, http: &Http) -> Option<LoadError> {
    error.root_cause().to_string().contains("which exceeds the limit of").then(|| {
        LoadError::Engine(format!(
            "its memory is from the start larger than the {} MiB that a request may have: annotation \
             wherry.http.memory sets that limit",
            http.memory >> 20
        ))
    })
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
