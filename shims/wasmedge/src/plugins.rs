//! WasmEdge's plug-ins: shared objects beside the library, with functions for a guest to import: wasi-nn and others.
//!
//! They are loaded only where the runtime's options name them, outside of the container, before its process is forked. What
//! they do for a guest they do in the guest's process, as confined as that is.

use std::path::Path;

use wasmedge_sdk::Instance;
use wasmedge_sdk::plugin::PluginManager;
use wherry_engine::LoadError;

use crate::module::failed;

/// Loads one file, or all files in a directory.
pub(crate) fn load(path: &Path) -> Result<(), LoadError> {
    let before = PluginManager::count();
    PluginManager::load(Some(path)).map_err(failed)?;
    if PluginManager::count() == before {
        // The library tells the reasons to its log only, which would go to nobody.
        let text = format!("no plug-in was found that WasmEdge {} takes", crate::version());
        return Err(LoadError::Engine(text));
    }
    Ok(())
}

/// An instance of each module of all plug-ins that were loaded.
pub(crate) fn instances() -> Result<Vec<Instance>, LoadError> {
    let mut instances = Vec::new();
    for name in PluginManager::names() {
        let plugin = PluginManager::find(&name).map_err(failed)?;
        for module in plugin.mod_names() {
            let instance = plugin.mod_instance(&module).map_err(|error| {
                LoadError::Engine(format!("module {module} of WasmEdge's plug-in {name}: {error}"))
            })?;
            instances.push(instance);
        }
    }
    Ok(instances)
}
