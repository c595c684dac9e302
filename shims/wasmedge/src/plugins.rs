//! WasmEdge's plug-ins: shared objects with functions for a guest to import, such as wasi-nn.
//!
//! Only plug-ins that the runtime's options name are loaded, outside the container and before its
//! process is forked. Their functions run in the guest's process, under its confinement.

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
        // WasmEdge writes the reason to its log only, which is off.
        let text = format!("no plug-in was found that WasmEdge {} can load", crate::version());
        return Err(LoadError::Engine(text));
    }
    Ok(())
}

/// Returns the names of the modules of all loaded plug-ins.
pub(crate) fn modules() -> Vec<String> {
    let plugins = PluginManager::names().into_iter();
    plugins
        .filter_map(|name| Some(PluginManager::find(&name).ok()?.mod_names()))
        .flatten()
        .collect()
}

/// Creates an instance of each module of all loaded plug-ins.
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
