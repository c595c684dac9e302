//! Compiles the modules of an image.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use wherry_containerd::Client;
use wherry_image::{Cache, CacheError, CacheEvent, Kind, Module, Size, kind};
use wherry_oci::image::Manifest;
use wherry_oci::{Image, OciError, program};
use wherry_supervisor::Program;
use wherry_supervisor::compiler::ProcessCompiler;
use wherry_supervisor::settings::Settings;

use super::content;
use super::queue::Job;
use crate::compile::{host_compiler, print_progress};
use crate::error::{Error, Result};

/// The interval at which the lock for background compilation is tried: a container with an engine
/// that has baseline code may hold it.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// Compiles images with one engine.
pub(super) struct Worker<'s> {
    client: Client,
    cache: Cache,
    key: String,
    settings: &'s Settings,
    compiler: Program,
    /// The name of this program, for warnings.
    name: String,
}

/// A module that was copied from an image.
struct Found {
    file: File,
    name: String,
}

impl<'s> Worker<'s> {
    pub(super) fn new(
        client: Client,
        cache: Cache,
        key: String,
        settings: &'s Settings,
        name: String,
    ) -> Result<Worker<'s>> {
        let compiler = Program::own().map_err(Error::OwnExecutable)?;
        Ok(Worker { client, cache, key, settings, compiler, name })
    }

    /// Compiles an image. A fault of the image is one warning.
    pub(super) fn process(&self, job: &Job) {
        let name = &job.image.name;
        match self.compile_image(job) {
            Ok(()) => {}
            Err(_) if job.cancel.is_cancelled() => {
                print_progress(&format!("{name}: cancelled: the image was removed"));
            }
            Err(error) => crate::print_error(&self.name, &format!("{name}: {error}")),
        }
    }

    fn compile_image(&self, job: &Job) -> Result<()> {
        let image = content::read(&self.client, job)?;
        let mut done: Vec<Manifest> = Vec::new();
        for manifest in image.manifests()? {
            // The manifests for WebAssembly and for this machine often have the same layers.
            let layers = manifest.content.layers();
            if done.iter().any(|earlier| earlier.content.layers() == layers) {
                continue;
            }
            if program::may_be_wasm(&image, &manifest)?
                && let Some(found) = self.find(&image, &manifest)?
            {
                self.compile(job, &found)?;
            }
            done.push(manifest);
        }
        Ok(())
    }

    /// Copies the module that a manifest runs to a temporary file. `None`: it runs something else.
    fn find(&self, image: &Image, manifest: &Manifest) -> Result<Option<Found>> {
        let max = self.settings.bounds.module;
        let mut found = None;
        let opened = program::open(image, manifest, max, &mut |name, _, content| {
            let mut head = Vec::new();
            content.take(kind::PROBE as u64).read_to_end(&mut head)?;
            if matches!(Kind::of(&head), Kind::Module | Kind::Component | Kind::Text) {
                let mut file = tempfile::tempfile()?;
                file.write_all(&head)?;
                io::copy(&mut content.take(max), &mut file)?;
                found = Some(Found { file, name: name.to_owned() });
            }
            Ok(())
        });
        match opened {
            Ok(()) => Ok(found),
            // An image without a program, such as one of data.
            Err(OciError::Entrypoint(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn compile(&self, job: &Job, found: &Found) -> Result<()> {
        let (image, name) = (&job.image.name, found.name.as_str());
        let failed = |source| Error::Compile { module: name.to_owned(), source };
        let _lock = loop {
            if job.cancel.is_cancelled() {
                return Err(failed(CacheError::Cancelled));
            }
            match self.cache.background_lock() {
                Some(lock) => break lock,
                None => thread::sleep(LOCK_INTERVAL),
            }
        };
        let compiler = ProcessCompiler {
            background: true,
            cancel: Some(&job.cancel),
            ..host_compiler(&self.compiler, self.settings, name)
        };
        let (mut done, mut warning) = (None, None);
        let mut on_event = |event: CacheEvent| match event {
            CacheEvent::Compiled { took, bytes, .. } => {
                done = Some(format!(
                    "{image}: compiled {name} in {:.1} s, {}",
                    took.as_secs_f64(),
                    Size(bytes)
                ))
            }
            CacheEvent::Warning(text) => warning = Some(text),
            CacheEvent::Compiling { .. } | CacheEvent::Waiting { .. } => {}
        };
        let module = Module { file: &found.file, name, of_image: false };
        self.cache.get(module, &self.key, &compiler, &mut on_event).map_err(failed)?;
        match warning {
            Some(text) => return Err(Error::NotCached(text)),
            // It is in the cache now.
            None => done.as_deref().into_iter().for_each(print_progress),
        }
        Ok(())
    }
}
