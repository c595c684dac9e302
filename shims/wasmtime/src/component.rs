//! Components of WASI preview 2 that are programs.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, ResourceTable, Val};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wherry_engine::{
    Entry, ExitCode, Export, Guest, LoadError, Program, Trap, find_component_entry,
};

use crate::outgoing::{Client, Hooks};
use crate::server::Limiter;
use crate::{context, errno, failed};

/// The imports that a component can have.
pub(crate) type Linker = wasmtime::component::Linker<State>;

/// Creates the linker of a component. The functions of HTTP are added only if it imports them:
/// creating them takes memory of each container.
fn linker(component: &Component) -> wasmtime::Result<Linker> {
    let engine = component.engine();
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    errno::shadow(&mut linker)?;
    let component = component.component_type();
    if component.imports(engine).any(|(name, _)| name.starts_with("wasi:http/")) {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    }
    Ok(linker)
}

/// The state of a component's store.
pub(crate) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    /// The limits of a server's request.
    pub(crate) limiter: Limiter,
}

impl State {
    pub(crate) fn new(wasi: WasiCtx, client: Arc<Client>, limiter: Limiter) -> State {
        let (table, http) = (ResourceTable::new(), WasiHttpCtx::new());
        State { wasi, table, http, hooks: Hooks::new(client), limiter }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// A component with all imports resolved.
struct Ready {
    instance: InstancePre<State>,
    entry: ComponentExportIndex,
    store: Store<State>,
}

pub(crate) fn load(component: &Component, guest: Guest) -> Result<Box<dyn Program>, LoadError> {
    let instance = instance(component)?;
    let entry = entry(component, guest.function.as_deref())?;
    let wasi = context::build(&guest)?.build();
    let client = Arc::new(Client::new(&guest.env));
    let mut store = Store::new(component.engine(), State::new(wasi, client, Limiter::none()));
    // For a function of a component that otherwise is a server: its code checks this.
    store.set_epoch_deadline(u64::MAX / 2);
    Ok(Box::new(Ready { instance, entry, store }))
}

/// Resolves the imports of a component.
pub(crate) fn instance(component: &Component) -> Result<InstancePre<State>, LoadError> {
    linker(component).map_err(failed)?.instantiate_pre(component).map_err(missing_import)
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
pub(crate) fn exports(component: &Component) -> Vec<Export> {
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
    let found = match find_component_entry(&exports, wanted)? {
        Entry::Function(found) => found,
        // The code of a server does not reach this function.
        Entry::Server(found) => {
            return Err(LoadError::Engine(format!("{} needs the code of a server", found.name)));
        }
    };
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
