//! The imports and exports of a component.

use wasmparser::component_types::{ComponentEntityType, ComponentFuncTypeId};
use wasmparser::types::TypesRef;
use wasmparser::{Error, Parser, Payload};

use super::preview2;
use crate::error::{Export, LoadError, find_component_entry, is_handler, is_run};
use crate::start::Start;

/// Checks that WASI 0.2 provides the imports, and finds the function to call.
pub(super) fn check(wasm: &[u8], types: TypesRef<'_>, start: &Start) -> Result<(), LoadError> {
    let Names { imports, exports } =
        names(wasm).map_err(|error| LoadError::Invalid(error.to_string()))?;
    let is_type = |name: &str| {
        let item = types.component_item_for_import(name);
        item.is_some_and(|item| matches!(item.ty, ComponentEntityType::Type { .. }))
    };
    let missing: Vec<String> = imports
        .iter()
        .filter(|name| !preview2::provides(name) && !is_type(name))
        .map(|name| (*name).to_owned())
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::MissingImports { imports: missing, provided: preview2::provided() });
    }
    let parameters = |id: ComponentFuncTypeId| -> Vec<&str> {
        let parameters = types.get(id).map_or(&[][..], |kind| &kind.params);
        parameters.iter().map(|(name, _)| name.as_str()).collect()
    };
    let mut found = Vec::new();
    for name in exports {
        let Some(item) = types.component_item_for_export(name) else { continue };
        let function = |name: &str, id: ComponentFuncTypeId| {
            let parameters: Vec<&str> = parameters(id);
            Export::function(name, format!("({})", parameters.join(", ")), parameters.is_empty())
        };
        match item.ty {
            ComponentEntityType::Func(id) => found.push(function(name, id)),
            ComponentEntityType::Instance(id) => {
                let before = found.len();
                for (member, item) in types.get(id).into_iter().flat_map(|kind| &kind.exports) {
                    if let ComponentEntityType::Func(id) = item.ty {
                        found.push(function(&format!("{name}#{member}"), id));
                    }
                }
                if found.len() == before {
                    found.push(Export::other(name, "interface"));
                }
            }
            ComponentEntityType::Module(_) => found.push(Export::other(name, "module")),
            ComponentEntityType::Component(_) => found.push(Export::other(name, "component")),
            ComponentEntityType::Value(_) => found.push(Export::other(name, "value")),
            ComponentEntityType::Type { .. } => found.push(Export::other(name, "type")),
        }
    }
    find_component_entry(&found, start.function.as_deref()).map(drop)
}

/// Whether a component starts as a server if no function is named. False for an invalid one.
#[must_use]
pub fn serves(wasm: &[u8]) -> bool {
    let exports = names(wasm).map(|names| names.exports).unwrap_or_default();
    let has = |is: fn(&str) -> bool, function: &str| {
        exports.iter().any(|interface| is(&format!("{interface}{function}")))
    };
    has(is_handler, "#handle") && !has(is_run, "#run")
}

/// The names that a component itself imports and exports.
#[derive(Default)]
struct Names<'a> {
    imports: Vec<&'a str>,
    exports: Vec<&'a str>,
}

fn names(wasm: &[u8]) -> Result<Names<'_>, Error> {
    let mut names = Names::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            // Each nested module or component has a header too.
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    names.imports.push(import?.name.name);
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    names.exports.push(export?.name.name);
                }
            }
            _ => {}
        }
    }
    Ok(names)
}
