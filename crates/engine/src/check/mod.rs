//! The check of a module or component before its code is compiled.
//!
//! One validator for all engines: each names a missing import, a wrong type, an unsupported feature
//! and an invalid byte in the same words. It runs in `wherry-E`, and, for an interpreter only, in
//! the host: an engine host that loads compiled code has no parser.
//!
//! Imports and exports lie in separate sections, so a missing import is reported after
//! milliseconds, also for a module that takes half a minute to compile. Function bodies are
//! validated last.

#[cfg(feature = "check-components")]
mod component;
pub mod features;
pub mod preview1;
#[cfg(feature = "check-components")]
mod preview2;
pub mod runtimes;
#[cfg(all(test, feature = "check-components"))]
mod tests;

#[cfg(feature = "check-components")]
pub use component::serves;
use wasmparser::types::{EntityType, Types, TypesRef};
use wasmparser::{
    CompositeInnerType, Error, FuncToValidate, FuncValidatorAllocations, FunctionBody, Parser,
    SubType, ValType, ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

use crate::Start;
use crate::error::{Export, LoadError, find_entry, signature};

/// The part of WebAssembly and the imports that an engine supports.
pub struct Support<'a> {
    /// The engine's name as its project writes it.
    pub engine: &'a str,
    /// The supported features.
    pub features: WasmFeatures,
    /// Returns true for a function that a module may import, given the module's and its own name.
    pub provides: &'a dyn Fn(&str, &str) -> bool,
    /// The names of those functions, for error texts.
    pub provided: &'a str,
}

/// Checks a module or component in the binary format. Without `start` only its validity is checked.
///
/// # Errors
/// All variants of [`LoadError`] but [`LoadError::Context`] and [`LoadError::Engine`].
pub fn check(wasm: &[u8], support: &Support<'_>, start: Option<&Start>) -> Result<(), LoadError> {
    if is_component(wasm) && !support.features.contains(WasmFeatures::COMPONENT_MODEL) {
        return Err(LoadError::Unsupported(format!(
            "it is a component, and {} runs modules only: the runtime io.containerd.wasmtime.v1 runs components",
            support.engine
        )));
    }
    let fault = |error: Error| fault(wasm, &error, support);
    let Parsed { types, bodies } = parse(wasm, support.features).map_err(fault)?;
    match (start, &types) {
        #[cfg(feature = "check-components")]
        (Some(start), Some(types)) if is_component(wasm) => {
            component::check(wasm, types.as_ref(), start)?;
        }
        (Some(start), Some(types)) => check_module(types.as_ref(), support, start)?,
        _ => {}
    }
    let mut allocations = FuncValidatorAllocations::default();
    for (function, body) in bodies {
        let mut validator = function.into_validator(allocations);
        validator.validate(&body).map_err(fault)?;
        allocations = validator.into_allocations();
    }
    Ok(())
}

/// Returns true for a binary whose header says component.
fn is_component(wasm: &[u8]) -> bool {
    matches!(wasm, [0, b'a', b's', b'm', _, _, 1, 0, ..])
}

/// A binary whose sections are valid, and whose function bodies are not yet validated.
struct Parsed<'a> {
    types: Option<Types>,
    bodies: Vec<(FuncToValidate<ValidatorResources>, FunctionBody<'a>)>,
}

fn parse(wasm: &[u8], features: WasmFeatures) -> Result<Parsed<'_>, Error> {
    let mut validator = Validator::new_with_features(features);
    let mut parser = Parser::new(0);
    parser.set_features(features);
    let (mut bodies, mut types) = (Vec::new(), None);
    for payload in parser.parse_all(wasm) {
        match validator.payload(&payload?)? {
            ValidPayload::Func(function, body) => bodies.push((function, body)),
            // The outermost comes last.
            ValidPayload::End(end) => types = Some(end),
            _ => {}
        }
    }
    Ok(Parsed { types, bodies })
}

/// Returns the error for a binary that the validator refuses with the engine's features.
fn fault(wasm: &[u8], error: &Error, support: &Support<'_>) -> LoadError {
    let valid = |features| Validator::new_with_features(features).validate_all(wasm);
    match valid(WasmFeatures::all()) {
        Err(all) => {
            // A feature that is off can hide the true fault.
            let error = if error.missing_wasm_feature().is_some() { &all } else { error };
            LoadError::Invalid(one_line(&error.to_string()))
        }
        Ok(_) => {
            let missing = error.missing_wasm_feature().or_else(|| {
                let mut off = support.features.complement().iter();
                off.find(|feature| valid(WasmFeatures::all().difference(*feature)).is_err())
            });
            LoadError::Unsupported(match missing {
                Some(feature) => features::unsupported(support.engine, feature),
                None => format!(
                    "{} does not support it: {}",
                    support.engine,
                    one_line(&error.to_string())
                ),
            })
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn check_module(
    types: TypesRef<'_>,
    support: &Support<'_>,
    start: &Start,
) -> Result<(), LoadError> {
    let mut missing = Vec::new();
    for (from, name, kind) in types.core_imports().into_iter().flatten() {
        if start.plugin_modules.iter().any(|module| module == from) {
            continue;
        }
        let import = format!("{from}::{name}");
        let EntityType::Func(id) = kind else {
            missing.push(import);
            continue;
        };
        if !(support.provides)(from, name) {
            missing.push(import);
            continue;
        }
        // Engines that extend WASI with sockets define the functions `sock_*` differently.
        let defined =
            Some(name).filter(|name| from == preview1::MODULE && !name.starts_with("sock_"));
        if let Some(expected) = defined.and_then(preview1::function) {
            let found = core_function(types.get(id));
            if found != expected {
                return Err(LoadError::ImportType { import, found, expected });
            }
        }
    }
    if !missing.is_empty() {
        let provided = support.provided.to_owned();
        return Err(LoadError::MissingImports { imports: missing, provided });
    }
    let exports: Vec<Export> = types
        .core_exports()
        .into_iter()
        .flatten()
        .map(|(name, kind)| match kind {
            EntityType::Func(id) | EntityType::FuncExact(id) => {
                let text = core_function(types.get(id));
                let callable = text.starts_with("()");
                Export::function(name, text, callable)
            }
            EntityType::Table(_) => Export::other(name, "table"),
            EntityType::Memory(_) => Export::other(name, "memory"),
            EntityType::Global(_) => Export::other(name, "global"),
            EntityType::Tag(_) => Export::other(name, "tag"),
        })
        .collect();
    find_entry(&exports, start.function.as_deref(), |name| name == "_start", "_start").map(drop)
}

/// Returns the type of a core function as `(i32, i64) -> i32`.
fn core_function(kind: Option<&SubType>) -> String {
    let Some(CompositeInnerType::Func(function)) = kind.map(|kind| &kind.composite_type.inner)
    else {
        return String::new();
    };
    let list =
        |types: &[ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    signature(&list(function.params()), &list(function.results()))
}
