//! Core modules of WASI preview 1.

use wasmtime::{ExportType, ExternType, InstancePre, Module, Store, UnknownImportError, ValType};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wherry_engine::{ExitCode, Export, Guest, LoadError, Program, Trap, find_entry, signature};

use crate::{context, failed, preview1};

pub(crate) const WASI: &str = "wasi_snapshot_preview1";

/// The entry of a command.
const START: &str = "_start";

/// The export that a reactor needs called first.
const INITIALIZE: &str = "_initialize";

/// The imports that a module can have.
pub(crate) type Linker = wasmtime::Linker<WasiP1Ctx>;

pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |state| state)?;
    preview1::shadow(&mut linker)?;
    Ok(linker)
}

/// A module with all imports resolved.
struct Ready {
    instance: InstancePre<WasiP1Ctx>,
    /// The exports to call, in this order.
    calls: Vec<String>,
    store: Store<WasiP1Ctx>,
}

pub(crate) fn load(
    linker: &Linker,
    module: &Module,
    guest: Guest,
) -> Result<Box<dyn Program>, LoadError> {
    let instance = linker.instantiate_pre(module).map_err(|error| {
        match error.downcast_ref::<UnknownImportError>() {
            Some(import) => LoadError::MissingImports {
                imports: vec![format!("{}::{}", import.module(), import.name())],
                provided: WASI.to_owned(),
            },
            None => failed(error),
        }
    })?;
    let calls = calls(module, guest.function.as_deref())?;
    let store = Store::new(module.engine(), context::build(&guest)?.build_p1());
    Ok(Box::new(Ready { instance, calls, store }))
}

/// Returns the exports to call. An entry function takes no parameters, because a container has no
/// values for them.
fn calls(module: &Module, function: Option<&str>) -> Result<Vec<String>, LoadError> {
    let exports: Vec<Export> = module.exports().map(|export| describe(&export)).collect();
    let entry = find_entry(&exports, function, |name| name == START, START)?;
    let initialize = exports.iter().find(|export| export.name == INITIALIZE && export.callable);
    let first = initialize.filter(|_| entry.name != INITIALIZE);
    Ok(first.into_iter().chain([entry]).map(|export| export.name.clone()).collect())
}

fn describe(export: &ExportType<'_>) -> Export {
    let ExternType::Func(function) = export.ty() else {
        let kind = match export.ty() {
            ExternType::Memory(_) => "memory",
            ExternType::Table(_) => "table",
            ExternType::Global(_) => "global",
            _ => "tag",
        };
        return Export::other(export.name(), kind);
    };
    let list = |types: &mut dyn Iterator<Item = ValType>| {
        types.map(|kind| kind.to_string()).collect::<Vec<_>>().join(", ")
    };
    let parameters = list(&mut function.params());
    let text = signature(&parameters, &list(&mut function.results()));
    Export::function(export.name(), text, parameters.is_empty())
}

impl Program for Ready {
    fn run(self: Box<Self>) -> Result<ExitCode, Trap> {
        context::block_on(async move {
            let Ready { instance, calls, mut store } = *self;
            let instance = instance.instantiate_async(&mut store).await?;
            for name in calls {
                let Some(function) = instance.get_func(&mut store, &name) else { continue };
                let mut results = vec![wasmtime::Val::I32(0); function.ty(&store).results().len()];
                function.call_async(&mut store, &[], &mut results).await?;
            }
            Ok(ExitCode(0))
        })
    }
}
