//! Components of WASI preview 2.

use wasmtime::Store;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, ResourceTable, Val};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wherry_engine::{ExitCode, Guest, LoadError, Program, Trap};

use crate::{context, failed};

/// The interface that a command exports, without its version.
const RUN: &str = "wasi:cli/run";

/// The imports that a component can have.
type Linker = wasmtime::component::Linker<State>;

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
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
    LoadError::MissingImport(names.join("#"))
}

/// An exported function without parameters, in an interface or at the component's top level.
struct Function {
    interface: Option<String>,
    name: String,
}

impl Function {
    fn is(&self, function: Option<&str>) -> bool {
        match (function, self.interface.as_deref()) {
            (Some(function), _) => self.name == function || self.full_name() == function,
            (None, Some(interface)) => {
                self.name == "run" && interface.split('@').next() == Some(RUN)
            }
            (None, None) => false,
        }
    }

    fn full_name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{interface}#{}", self.name),
            None => self.name.clone(),
        }
    }
}

fn functions(component: &Component) -> Vec<Function> {
    let engine = component.engine();
    let callable = |item: &ComponentItem| matches!(item, ComponentItem::ComponentFunc(function) if function.params().len() == 0);
    let mut functions = Vec::new();
    for (name, export) in component.component_type().exports(engine) {
        match export.ty {
            ComponentItem::ComponentInstance(instance) => {
                functions.extend(
                    instance.exports(engine).filter(|(_, export)| callable(&export.ty)).map(
                        |(function, _)| Function {
                            interface: Some(name.to_owned()),
                            name: function.to_owned(),
                        },
                    ),
                );
            }
            item if callable(&item) => {
                functions.push(Function { interface: None, name: name.to_owned() });
            }
            _ => {}
        }
    }
    functions
}

fn entry(component: &Component, wanted: Option<&str>) -> Result<ComponentExportIndex, LoadError> {
    let functions = functions(component);
    let found = functions.iter().find(|function| function.is(wanted)).and_then(|function| {
        let interface = match &function.interface {
            Some(interface) => Some(component.get_export_index(None, interface)?),
            None => None,
        };
        component.get_export_index(interface.as_ref(), &function.name)
    });
    found.ok_or_else(|| {
        let exports = functions.iter().map(Function::full_name).collect();
        match wanted {
            Some(function) => LoadError::MissingFunction { function: function.to_owned(), exports },
            None => LoadError::NoEntry { entry: RUN.to_owned(), exports },
        }
    })
}

impl Program for Ready {
    fn run(self: Box<Self>) -> Result<ExitCode, Trap> {
        context::block_on(async move {
            let Ready { instance, entry, mut store } = *self;
            let instance = instance.instantiate_async(&mut store).await?;
            let Some(function) = instance.get_func(&mut store, entry) else {
                return Err(wasmtime::Error::msg("the function to call is not one"));
            };
            let mut results = vec![Val::Bool(false); function.ty(&store).results().len()];
            function.call_async(&mut store, &[], &mut results).await?;
            let failed = matches!(results.first(), Some(Val::Result(Err(_))));
            Ok(ExitCode(u8::from(failed)))
        })
    }
}
