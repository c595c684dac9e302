//! The compiled code of a guest's module: what the daemon answers when a process that is being prepared asks for it.

use std::fs::File;

use wherry_image::{CacheEvent, Module};
use wherry_sandbox::bundle::CgroupName;
use wherry_sandbox::cancel::Cancel;
use wherry_sandbox::compiler::{self, Customer, HostCompiler};
use wherry_sandbox::config::Config;
use wherry_sandbox::{Mount, layer};

use crate::create::Runtime;

/// For which container code is wanted.
pub(crate) struct Order<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) id: &'a str,
    /// How its root filesystem was mounted, if that is known.
    pub(crate) rootfs: &'a [Mount],
    pub(crate) cgroup: &'a CgroupName,
    /// Its limit of memory, bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) cancel: &'a Cancel,
}

/// The limit of memory that a configuration sets, if it sets one.
pub(crate) fn memory_limit(config: &Config) -> Option<u64> {
    let resources = config.linux.as_ref()?.resources.as_ref()?;
    let limit = resources.memory().as_ref()?.limit()?;
    // -1 is none.
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

impl Order<'_> {
    /// The code of a module under `key`, or under `quick` if there is none. What comes from the guest's process is checked
    /// before it is used.
    pub(crate) fn code(
        &self,
        module: &File,
        key: &str,
        quick: Option<&str>,
        start: &[String],
    ) -> Result<File, String> {
        layer::check(module)?;
        let Order { runtime, id, .. } = self;
        let image = layer::image_file(module, self.rootfs);
        let name = layer::name(module).display().to_string();
        let module = Module {
            file: image.as_ref().unwrap_or(module),
            name: &name,
            of_image: image.is_some(),
        };
        let compiler = HostCompiler {
            program: &runtime.compiler,
            reaper: Some(&runtime.reaper),
            bounds: runtime.bounds.within(self.memory),
            module: &name,
            quickly: quick.is_some(),
            behind: false,
            start,
            customer: Some(Customer { cgroup: self.cgroup, cancel: self.cancel }),
        };
        let mut tell = |note: CacheEvent| match note {
            CacheEvent::Warning(_) => log::warn!("{id}: {note}"),
            note => log::info!("{id}: {note}"),
        };
        let code = runtime
            .cache
            .get_or_baseline(module, key, quick, &compiler, &mut tell)
            .map_err(|error| error.to_string())?;
        if code.baseline
            && let Some(turn) = runtime.cache.background_lock()
            && let Err(error) = compiler::behind(&runtime.compiler, module.file, turn)
        {
            log::warn!("{id}: {name} stays at code that was made quickly: {error}");
        }
        Ok(code.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_memory_is_what_the_configuration_says() {
        let limit = |resources: &str| {
            let text = format!(r#"{{"linux": {{"resources": {resources}}}}}"#);
            memory_limit(&wherry_sandbox::bundle::parse(text.as_bytes()).unwrap())
        };
        assert_eq!(limit(r#"{"memory": {"limit": 33554432}}"#), Some(32 << 20));
        assert_eq!(limit(r#"{"memory": {"limit": -1}}"#), None);
        assert_eq!(limit("{}"), None);
    }
}
