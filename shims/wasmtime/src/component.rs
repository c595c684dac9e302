//! Components of WASI preview 2.

use wasmtime::Store;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, ResourceTable, Val};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wherry_engine::{ExitCode, Export, Guest, LoadError, Program, RUN, Trap, find_entry, is_run};

use crate::{context, errno, failed};

/// The imports that a component can have.
pub(crate) type Linker = wasmtime::component::Linker<State>;

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    errno::shadow(&mut linker)?;
    Ok(linker)
}

/// The state of a component's store.
pub(crate) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// A component with all imports resolved.
struct Ready {
    instance: InstancePre<State>,
    entry: ComponentExportIndex,
    store: Store<State>,
}

pub(crate) fn load(component: &Component, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
    let linker = linker(component.engine()).map_err(failed)?;
    let instance = linker.instantiate_pre(component).map_err(missing_import)?;
    let entry = entry(component, guest.function.as_deref())?;
    let wasi = context::build(&guest)?.build();
    let store = Store::new(component.engine(), State { wasi, table: ResourceTable::new() });
    Ok(Box::new(Ready { instance, entry, store }))
}

/// Parses a missing import from the text of Wasmtime's error, which has no other form: the
/// interface and its item, each between backticks.
fn missing_import(error: wasmtime::Error) -> LoadError {
    if !error.root_cause().to_string().ends_with("implementation is missing") {
        return failed(error);
    }
    let names: Vec<String> = error
        .chain()
        .filter_map(|cause| cause.to_string().split('`').nth(1).map(str::to_owned))
        .collect();
    LoadError::MissingImports {
        imports: vec![names.join("#")],
        provided: "another version of it, or none".to_owned(),
    }
}

/// Describes all exports. A function in an interface is named `interface#function`.
fn exports(component: &Component) -> Vec<Export> {
    let engine = component.engine();
    let mut exports = Vec::new();
    for (name, export) in component.component_type().exports(engine) {
        match export.ty {
            ComponentItem::ComponentInstance(instance) => {
                let before = exports.len();
                for (member, item) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(function) = item.ty {
                        exports.push(describe(&format!("{name}#{member}"), &function));
                    }
                }
                if exports.len() == before {
                    exports.push(Export::other(name, "interface"));
                }
            }
            ComponentItem::ComponentFunc(function) => exports.push(describe(name, &function)),
            _ => exports.push(Export::other(name, "type or module")),
        }
    }
    exports
}

fn describe(name: &str, function: &ComponentFunc) -> Export {
    let parameters: Vec<&str> = function.params().map(|(name, _)| name).collect();
    Export::function(name, format!("({})", parameters.join(", ")), parameters.is_empty())
}

fn entry(component: &Component, wanted: Option<&str>) -> Result<ComponentExportIndex, LoadError> {
    let exports = exports(component);
    let found = find_entry(&exports, wanted, is_run, RUN)?;
    let index = match found.name.rsplit_once('#') {
        Some((interface, function)) => component
            .get_export_index(None, interface)
            .and_then(|interface| component.get_export_index(Some(&interface), function)),
        None => component.get_export_index(None, &found.name),
    };
    index.ok_or_else(|| {
        LoadError::Engine(format!("Wasmtime does not find the export {}", found.name))
    })
}

impl Program for Ready {
    fn run(self: Box<Self>) -> Result<ExitCode, Trap> {
        context::block_on(async move {
            let Ready { instance, entry, mut store } = *self;
            let instance = instance.instantiate_async(&mut store).await?;
            let Some(function) = instance.get_func(&mut store, entry) else {
                return Err(wasmtime::Error::msg("the export to call is not a function"));
            };
            let mut results = vec![Val::Bool(false); function.ty(&store).results().len()];
            function.call_async(&mut store, &[], &mut results).await?;
            let failed = matches!(results.first(), Some(Val::Result(Err(_))));
            Ok(ExitCode(u8::from(failed)))
        })
    }
}
