//! A WebAssembly binary: its imports, exports and needs, and the engines that run it.

use std::collections::{BTreeMap, BTreeSet};

use wasmparser::{Encoding, KnownCustom, Parser, Payload};
use wherry_engine::Start;
use wherry_engine::check::{check, runtimes};
use wit_component::{DecodedWasm, WitPrinter};

use crate::error::{OciError, Result};

/// The kind of a binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A core module.
    Module,
    /// A component.
    Component,
    /// A WIT package, which is interface definitions alone.
    Package,
}

impl Kind {
    /// Returns the name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Module => "core module",
            Kind::Component => "component",
            Kind::Package => "WIT package",
        }
    }
}

/// Whether an engine of Wherry runs a binary as a container's entrypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// The engine's name, as in `io.containerd.<name>.v1`.
    pub name: &'static str,
    /// The reason why it does not.
    pub refusal: Option<String>,
}

/// The facts about a binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kind.
    pub kind: Kind,
    /// The version of WASI, like `0.2.3`, or `preview 1` of a module that imports it.
    pub wasi: Option<String>,
    /// The imports: `module::name` of a module, interfaces and functions of a component.
    pub imports: Vec<String>,
    /// The exports.
    pub exports: Vec<String>,
    /// The world of a component, as WIT.
    pub wit: Option<String>,
    /// The packages or modules that the imports belong to, like `wasi:http 0.2.3`.
    pub needs: Vec<String>,
    /// The engines, the first choice first.
    pub engines: Vec<Engine>,
    /// The languages of the sources, with their versions.
    pub languages: Vec<String>,
    /// The tools that made it, with their versions.
    pub tools: Vec<String>,
}

impl Facts {
    /// Reads a binary.
    ///
    /// # Errors
    /// [`OciError::Decode`], if it is invalid.
    pub fn of(wasm: &[u8]) -> Result<Facts> {
        let Outline { is_component, imports, exports, producers } =
            Outline::of(wasm).map_err(|error| OciError::Decode(error.to_string()))?;
        let mut facts = Facts {
            kind: Kind::Module,
            wasi: None,
            imports,
            exports,
            wit: None,
            needs: Vec::new(),
            engines: engines(wasm),
            languages: listed(&producers, "language"),
            tools: [listed(&producers, "processed-by"), listed(&producers, "sdk")].concat(),
        };
        if is_component {
            facts.describe_component(wasm)?;
        } else {
            let modules: BTreeSet<&str> = facts
                .imports
                .iter()
                .filter_map(|import| Some(import.split_once("::")?.0))
                .collect();
            facts.wasi = match modules {
                _ if modules.contains("wasi_snapshot_preview1") => Some("preview 1".to_owned()),
                _ if modules.contains("wasi_unstable") => Some("preview 0".to_owned()),
                _ => None,
            };
            facts.needs = modules.into_iter().map(str::to_owned).collect();
        }
        Ok(facts)
    }

    fn describe_component(&mut self, wasm: &[u8]) -> Result<()> {
        let invalid = |error: &dyn std::fmt::Display| OciError::Decode(format!("{error:#}"));
        let decoded = wit_component::decode(wasm).map_err(|error| invalid(&error))?;
        self.kind = match decoded {
            DecodedWasm::Component(..) => Kind::Component,
            DecodedWasm::WitPackage(..) => Kind::Package,
        };
        let mut printer = WitPrinter::default();
        printer
            .print(decoded.resolve(), decoded.package(), &[])
            .map_err(|error| invalid(&error))?;
        self.wit = Some(printer.output.to_string());
        let packages: BTreeSet<(String, String)> =
            self.imports.iter().filter_map(|import| package(import)).collect();
        let all = self.imports.iter().chain(&self.exports);
        let versions = all.filter_map(|name| package(name));
        self.wasi = versions
            .filter(|(name, version)| name.starts_with("wasi:") && !version.is_empty())
            .map(|(_, version)| version)
            .max_by_key(|version| numbers(version));
        self.needs = packages
            .into_iter()
            .map(|(name, version)| format!("{name} {version}").trim_end().to_owned())
            .collect();
        Ok(())
    }

    /// The names of the engines that run it.
    #[must_use]
    pub fn runs_on(&self) -> Vec<&'static str> {
        let runs = self.engines.iter().filter(|engine| engine.refusal.is_none());
        runs.map(|engine| engine.name).collect()
    }
}

/// Asks each engine's check, which the engines apply before they run a guest.
fn engines(wasm: &[u8]) -> Vec<Engine> {
    let engine = |(name, support)| {
        let refusal = check(wasm, &support, Some(&Start::default())).err();
        Engine { name, refusal: refusal.map(|error| error.to_string()) }
    };
    runtimes::all().into_iter().map(engine).collect()
}

/// Returns the package and the version of an interface, like `wasi:http/types@0.2.3`. `None`: the
/// name is not an interface's.
fn package(name: &str) -> Option<(String, String)> {
    let (package, rest) = name.split_once('/')?;
    let version = rest.split_once('@').map_or("", |(_, version)| version);
    package.contains(':').then(|| (package.to_owned(), version.to_owned()))
}

/// Returns the numbers of a version, to compare it with another.
fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split(['.', '-', '+']);
    parts.map(|part| part.parse().unwrap_or_default()).collect()
}

/// A section `producers`: values with their versions, by field.
type Producers = BTreeMap<String, BTreeMap<String, String>>;

fn listed(producers: &Producers, field: &str) -> Vec<String> {
    let values = producers.get(field).into_iter().flatten();
    values.map(|(name, version)| format!("{name} {version}").trim_end().to_owned()).collect()
}

/// The sections of a binary that name something.
#[derive(Default)]
struct Outline {
    is_component: bool,
    imports: Vec<String>,
    exports: Vec<String>,
    producers: Producers,
}

impl Outline {
    fn of(wasm: &[u8]) -> std::result::Result<Outline, wasmparser::BinaryReaderError> {
        let mut outline = Outline::default();
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                // Each nested module or component has a header too.
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    if depth == 1 {
                        outline.is_component = encoding == Encoding::Component;
                    }
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ImportSection(section) if depth == 1 => {
                    for import in section.into_imports() {
                        let import = import?;
                        outline.imports.push(format!("{}::{}", import.module, import.name));
                    }
                }
                Payload::ExportSection(section) if depth == 1 => {
                    for export in section {
                        outline.exports.push(export?.name.to_owned());
                    }
                }
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        outline.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        outline.exports.push(export?.name.name.to_owned());
                    }
                }
                // A component's languages are those of the modules in it.
                Payload::CustomSection(section) => {
                    if let KnownCustom::Producers(fields) = section.as_known() {
                        outline.add_producers(fields)?;
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }

    fn add_producers(
        &mut self,
        fields: wasmparser::ProducersSectionReader<'_>,
    ) -> std::result::Result<(), wasmparser::BinaryReaderError> {
        for field in fields {
            let field = field?;
            let values = self.producers.entry(field.name.to_owned()).or_default();
            for value in field.values {
                let value = value?;
                values.insert(value.name.to_owned(), value.version.to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Facts {
        Facts::of(&wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn a_module_of_preview_1_runs_everywhere() {
        let facts = facts(
            r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
                 (memory (export "memory") 1) (func (export "_start")))"#,
        );
        assert_eq!((facts.kind, facts.wasi.as_deref()), (Kind::Module, Some("preview 1")));
        assert_eq!(facts.imports, ["wasi_snapshot_preview1::sched_yield"]);
        assert_eq!(facts.exports, ["memory", "_start"]);
        assert_eq!(facts.needs, ["wasi_snapshot_preview1"]);
        assert_eq!(facts.runs_on(), ["wasmtime", "wasmedge", "wamr"]);
    }

    #[test]
    fn sockets_of_wasmedge_run_on_wasmedge_alone() {
        let facts = facts(
            r#"(module (import "wasi_snapshot_preview1" "sock_getaddrinfo" (func))
                 (func (export "_start")))"#,
        );
        assert_eq!(facts.runs_on(), ["wasmedge"]);
        let refusal = facts.engines[0].refusal.as_deref().unwrap();
        assert!(refusal.contains("sock_getaddrinfo"), "{refusal}");
    }

    #[test]
    fn a_component_of_wasi_http_names_its_need_and_runs_nowhere() {
        let facts = facts(
            r#"(component
                 (import "wasi:io/poll@0.2.0" (instance (export "pollable" (type (sub resource)))))
                 (import "wasi:http/types@0.2.3" (instance (export "fields" (type (sub resource))))))"#,
        );
        assert_eq!(facts.kind, Kind::Component);
        assert_eq!(facts.wasi.as_deref(), Some("0.2.3"));
        assert_eq!(facts.needs, ["wasi:http 0.2.3", "wasi:io 0.2.0"]);
        assert_eq!(facts.runs_on(), [] as [&str; 0]);
        let wit = facts.wit.unwrap();
        assert!(wit.contains("import wasi:http/types@0.2.3;"), "{wit}");
    }

    #[test]
    fn languages_of_a_component_are_those_of_its_modules() {
        let producers = r#"(@producers (language "Rust" "1.95") (processed-by "rustc" "1.95.0"))"#;
        let facts = facts(&format!("(component (core module {producers}))"));
        assert_eq!(facts.languages, ["Rust 1.95"]);
        assert_eq!(facts.tools, ["rustc 1.95.0"]);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let error = Facts::of(b"\0asm\x01\0\0\0\x01\xff").unwrap_err().to_string();
        assert!(error.starts_with("invalid WebAssembly: "), "{error}");
    }
}
