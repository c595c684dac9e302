//! `wherry-E watch`: compiles the modules of each new image of containerd, so that the first start
//! of a container is as fast as later ones.
//!
//! One thread follows containerd's events and keeps the [`queue`] of images; this one compiles them
//! ([`worker`]), one after the other. An event only says that a namespace has changed: its images
//! are listed then, and from time to time without an event. So nothing depends on events that were
//! lost while containerd restarted, or in the moment before the subscription.

mod content;
mod queue;
mod worker;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wherry_containerd::{Client, ContainerdError, Event};
use wherry_engine::Engine;
use wherry_supervisor::settings::Settings;

use crate::args;
use crate::compile::print_progress;
use crate::error::{Error, Result};
use queue::Queue;
use worker::Worker;

/// The events of images.
const FILTER: &str = "topic~=\"^/images/\"";
/// The time until images are listed without an event: soon after the subscription, of whose begin
/// containerd sends no sign, and then rarely.
const SOON: Duration = Duration::from_secs(1);
const RARELY: Duration = Duration::from_secs(60);
/// The pause before a connection that failed is opened again.
const PAUSE: Duration = Duration::from_secs(2);

/// Compiles images until the process is ended.
pub(crate) fn run(
    engine: &dyn Engine,
    settings: &Settings,
    options: &args::Watch,
) -> Result<Infallible> {
    let name = engine.name();
    let key = engine.compile_key().ok_or(Error::NoCompiler(name))?;
    let cache = settings.cache(name);
    let unusable = |source| Error::Cache { path: cache.directory().to_owned(), source };
    cache.prepare().map_err(unusable)?;
    // Both threads inherit it, and the compilers.
    wherry_compiler::yield_to_all();
    let program = format!("wherry-{name}");
    let queue = Arc::new(Queue::default());
    let follower = Follower {
        queue: Arc::clone(&queue),
        client: Client::new(&options.address)?,
        wanted: options.namespace.clone(),
        program: program.clone(),
        place: options.address.display().to_string(),
    };
    let existing = options.existing;
    thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || follower.follow(existing))
        .map_err(Error::Thread)?;
    // A client is used by one thread.
    let client = Client::new(&options.address)?;
    let worker = Worker::new(client, cache, key.0, settings, program)?;
    loop {
        let job = queue.next();
        worker.process(&job);
        queue.done();
    }
}

/// Follows containerd's images.
struct Follower {
    queue: Arc<Queue>,
    client: Client,
    /// The namespaces; empty: all.
    wanted: Vec<String>,
    program: String,
    place: String,
}

impl Follower {
    /// Follows them over restarts of containerd. `existing`: the images of the first list are
    /// compiled.
    fn follow(&self, existing: bool) {
        let (mut compile, mut last) = (existing, String::new());
        loop {
            let text = match self.listen(&mut compile, &mut last) {
                Ok(()) => format!("containerd at {} has closed the connection", self.place),
                Err(error) => error.to_string(),
            };
            // Once for a containerd that stays away.
            if text != last {
                crate::print_error(&self.program, &format!("{text}; trying again"));
                last = text;
            }
            thread::sleep(PAUSE);
        }
    }

    fn listen(
        &self,
        compile: &mut bool,
        last: &mut String,
    ) -> std::result::Result<(), ContainerdError> {
        self.list_all(*compile)?;
        *compile = true;
        last.clear();
        print_progress(&format!("watching the images of containerd at {}", self.place));
        let mut lists = 0_u32;
        let pause = || {
            lists = lists.saturating_add(1);
            if lists == 1 { SOON } else { RARELY }
        };
        self.client.events(&[FILTER], pause, |event| match event {
            Some(Event { namespace, .. }) if self.is_wanted(&namespace) => {
                self.list(&namespace, true)
            }
            Some(_) => Ok(()),
            None => self.list_all(true),
        })
    }

    fn is_wanted(&self, namespace: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == namespace)
    }

    fn list_all(&self, compile: bool) -> std::result::Result<(), ContainerdError> {
        let mut namespaces: BTreeSet<String> = self.queue.namespaces();
        namespaces.extend(self.client.namespaces()?);
        for namespace in namespaces.iter().filter(|namespace| self.is_wanted(namespace)) {
            self.list(namespace, compile)?;
        }
        Ok(())
    }

    fn list(&self, namespace: &str, compile: bool) -> std::result::Result<(), ContainerdError> {
        let images = self.client.images(namespace)?;
        self.queue.update(namespace, &images, compile);
        Ok(())
    }
}
