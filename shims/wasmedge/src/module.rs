//! Core modules of WASI preview 1.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use wasmedge_sdk::config::Config;
use wasmedge_sdk::error::WasmEdgeError;
use wasmedge_sdk::wasi::WasiModule;
use wasmedge_sdk::{
    AsInstance, ExternalInstanceType, Instance, Module, RunMode, Store, ValType, Vm, WasmEdgeResult,
};
use wherry_engine::{
    Code, ExitCode, Export, Guest, LoadError, Network, Program, Trap, find_entry, signature,
};

use crate::settings::{self, INTERPRETED};
use crate::{binary, context, plugins, stack};

/// The entry of a command.
const START: &str = "_start";

/// The export that a reactor needs called first.
const INITIALIZE: &str = "_initialize";

/// The imports that a guest without a network may not have.
const SOCKETS: [&str; 6] =
    ["sock_open", "sock_bind", "sock_listen", "sock_connect", "sock_getaddrinfo", "sock_send_to"];

/// A module with all imports resolved.
struct Ready {
    module: Module,
    wasi: WasiModule,
    plugins: Vec<Instance>,
    config: Config,
    /// The exports to call, in this order.
    calls: Vec<String>,
    /// The result of [`stack::end`].
    stack_end: Option<usize>,
}

pub(crate) fn load(code: Code, guest: &Guest) -> Result<Box<dyn Program>, LoadError> {
    let (module, config) = open(code)?;
    let wasi = context::build(guest)?;
    let plugins = plugins::instances()?;
    let wasi_instance: &Instance = wasi.as_ref();
    let offered: Vec<&Instance> = plugins.iter().chain([wasi_instance]).collect();
    check_imports(&module, &offered, guest.network)?;
    let calls = calls(&module, guest.function.as_deref())?;
    let stack_end = stack::end();
    Ok(Box::new(Ready { module, wasi, plugins, config, calls, stack_end }))
}

/// Loads the module and the configuration of its run mode.
fn open(code: Code) -> Result<(Module, Config), LoadError> {
    let file = match code {
        Code::Wasm(wasm) => return interpreted(&wasm),
        Code::Compiled(file) => file,
    };
    let unreadable = |source| LoadError::Context { what: "compiled code".to_owned(), source };
    if let Some(wasm) = wasm_in(&file).map_err(unreadable)? {
        return interpreted(&wasm);
    }
    let config = settings::config(RunMode::Aot).map_err(failed)?;
    // The dynamic loader takes paths only.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let module = Module::from_file(Some(&config), path).map_err(failed)?;
    Ok((module, config))
}

/// Returns the wasm that the compiler passed on unchanged, if it did.
fn wasm_in(file: &File) -> io::Result<Option<Vec<u8>>> {
    let (mut mark, mut length) = ([0; 8], [0; 8]);
    file.read_exact_at(&mut mark, 0)?;
    if mark != *INTERPRETED {
        return Ok(None);
    }
    file.read_exact_at(&mut length, 8)?;
    let length = usize::try_from(u64::from_le_bytes(length)).map_err(io::Error::other)?;
    let mut wasm = vec![0; length];
    file.read_exact_at(&mut wasm, 16)?;
    Ok(Some(wasm))
}

fn interpreted(wasm: &[u8]) -> Result<(Module, Config), LoadError> {
    log::warn!(
        "this WasmEdge has no compiler: the module is interpreted, which is many times slower"
    );
    let config = settings::config(RunMode::Interpreter).map_err(failed)?;
    let wasm =
        binary::without_native_code(wasm).map_err(|error| LoadError::Invalid(error.to_string()))?;
    let module = Module::from_bytes(Some(&config), &wasm).map_err(failed)?;
    Ok((module, config))
}

fn check_imports(
    module: &Module,
    offered: &[&Instance],
    network: Network,
) -> Result<(), LoadError> {
    let mut missing = Vec::new();
    for import in module.imports() {
        let (from, name) = (import.module_name(), import.name());
        let mut from_there =
            offered.iter().filter(|instance| instance.name().as_deref() == Some(&*from));
        if !from_there.any(|instance| instance.get_func(&name).is_ok()) {
            missing.push(format!("{from}::{name}"));
            continue;
        }
        let socket = SOCKETS.contains(&name.strip_suffix("_v2").unwrap_or(&name));
        if network == Network::None && socket {
            return Err(LoadError::Context {
                what: format!("import {name}: the guest has no network"),
                source: io::ErrorKind::PermissionDenied.into(),
            });
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let provided = "wasi_snapshot_preview1 and WasmEdge's sockets".to_owned();
    Err(LoadError::MissingImports { imports: missing, provided })
}

/// Returns the exports to call. An entry function takes no parameters, because a container has no
/// values for them.
fn calls(module: &Module, function: Option<&str>) -> Result<Vec<String>, LoadError> {
    let exports: Vec<Export> = module
        .exports()
        .iter()
        .map(|export| describe(&export.name(), export.ty().ok().as_ref()))
        .collect();
    let entry = find_entry(&exports, function, |name| name == START, START)?;
    let initialize = exports.iter().find(|export| export.name == INITIALIZE && export.callable);
    let first = initialize.filter(|_| entry.name != INITIALIZE);
    Ok(first.into_iter().chain([entry]).map(|export| export.name.clone()).collect())
}

fn describe(name: &str, kind: Option<&ExternalInstanceType>) -> Export {
    let list = |types: &[ValType]| {
        let names = types.iter().map(|kind| format!("{kind:?}").to_lowercase());
        names.collect::<Vec<_>>().join(", ")
    };
    match kind {
        Some(ExternalInstanceType::Func(function)) => {
            let text = signature(&list(function.args()), &list(function.returns()));
            Export::function(name, text, function.args_len() == 0)
        }
        Some(ExternalInstanceType::Memory(_)) => Export::other(name, "memory"),
        Some(ExternalInstanceType::Table(_)) => Export::other(name, "table"),
        Some(ExternalInstanceType::Global(_)) => Export::other(name, "global"),
        None => Export::other(name, "tag"),
    }
}

impl Program for Ready {
    fn run(self: Box<Self>) -> Result<ExitCode, Trap> {
        let Ready { module, mut wasi, mut plugins, config, calls, stack_end } = *self;
        match call(module, &mut wasi, &mut plugins, &config, &calls) {
            Ok(()) => Ok(code(&wasi)),
            Err(error) => {
                Err(Trap(stack::cause(&error, stack_end).unwrap_or_else(|| error.to_string())))
            }
        }
    }
}

/// Returns the guest's exit code, or 0 without `proc_exit`, which WasmEdge reports as success.
fn code(wasi: &WasiModule) -> ExitCode {
    ExitCode(wasi.exit_code().to_le_bytes()[0])
}

fn call(
    module: Module,
    wasi: &mut WasiModule,
    plugins: &mut [Instance],
    config: &Config,
    calls: &[String],
) -> WasmEdgeResult<()> {
    let instances = plugins.iter_mut().chain([wasi.as_mut()]);
    // Imports name an instance, so one without a name cannot be used.
    let offered = instances.filter_map(|instance| Some((instance.name()?, instance)));
    let store = Store::new(Some(config), offered.collect::<HashMap<_, _>>())?;
    let mut vm = Vm::new(store);
    vm.register_module(None, module)?;
    for name in calls {
        vm.run_func(None, name, [])?;
    }
    Ok(())
}

pub(crate) fn failed(error: Box<WasmEdgeError>) -> LoadError {
    LoadError::Engine(format!("WasmEdge: {error}"))
}
