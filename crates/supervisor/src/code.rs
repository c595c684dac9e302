//! The compiled code of a guest's module: the daemon's answer to a process that is being set up.

use std::fs::File;

use wherry_bundle::BundleError;
use wherry_cgroup::{CgroupName, PathError};
use wherry_image::overlay::{self, InvalidDescriptor};
use wherry_image::{CacheError, CacheEvent, Module};
use wherry_protocol::Mount;
use wherry_sys::measure::{self, Measurement};

use crate::cancel::Cancel;
use crate::compiler::{ProcessCompiler, compile_in_background};
use crate::{Engine, Supervisor};

/// The container that needs code.
pub(crate) struct Order<'a> {
    pub(crate) supervisor: &'a Supervisor,
    pub(crate) engine: &'a Engine,
    pub(crate) id: &'a str,
    /// The mounts of its root filesystem, if this process mounted it.
    pub(crate) rootfs: &'a [Mount],
    pub(crate) cgroup: &'a CgroupName,
    /// Its memory limit, bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) cancel: &'a Cancel,
}

/// Why compiled code is not available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    #[error(transparent)]
    Descriptor(#[from] InvalidDescriptor),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Path(#[from] PathError),
    /// The conditions of the start, which the process sent, cannot be parsed.
    #[error("invalid conditions of a start: {0:?}")]
    Start(Vec<String>),
    /// No descriptor came with the request.
    #[error("the module is missing")]
    NoModule,
}

impl CodeError {
    /// Whether the engine does not run the module: another engine may.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, CodeError::Cache(CacheError::Compile(_)))
    }
}

impl Order<'_> {
    /// The code of a module under `key`, or under `baseline` if that is missing. Everything that
    /// comes from the guest's process is validated.
    pub(crate) fn code(
        &self,
        module: &File,
        key: &str,
        baseline: Option<&str>,
        start: &[String],
    ) -> Result<File, CodeError> {
        overlay::validate(module)?;
        let Order { supervisor, engine, id, .. } = self;
        let options: Vec<&str> = self
            .rootfs
            .iter()
            .filter(|mount| mount.fstype == "overlay")
            .flat_map(|mount| mount.options.iter().map(String::as_str))
            .collect();
        let image = overlay::image_file(module, &options);
        let name = overlay::name(module).map_err(InvalidDescriptor::Unknown)?.display().to_string();
        let module = Module {
            file: image.as_ref().unwrap_or(module),
            name: &name,
            of_image: image.is_some(),
        };
        let compiler = ProcessCompiler {
            program: &engine.compiler,
            reaper: Some(&supervisor.reaper),
            bounds: supervisor.bounds.within(self.memory),
            module: &name,
            baseline: baseline.is_some(),
            background: false,
            start,
            cgroup: Some(self.cgroup),
            cancel: Some(self.cancel),
        };
        let mut compiled = None;
        let mut report = |event: CacheEvent| match event {
            CacheEvent::Warning(_) => log::warn!("{id}: {event}"),
            event => {
                if let CacheEvent::Compiled { took, .. } = event {
                    compiled = Some(took);
                }
                log::info!("{id}: {event}");
            }
        };
        let code = engine.cache.get_or_baseline(module, key, baseline, &compiler, &mut report)?;
        measure::report(|| Measurement::Code { id, compiled });
        if code.baseline
            && let Some(lock) = engine.cache.background_lock()
            && let Err(error) = compile_in_background(&engine.compiler, module.file, lock)
        {
            log::warn!("{id}: {name} stays at baseline code: {error}");
        }
        Ok(code.file)
    }
}
