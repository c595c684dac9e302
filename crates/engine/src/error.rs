//! Errors of an engine, with texts for the user of a container.

use std::fmt::Write;
use std::io;

use crate::SERVER;

/// The most names that one error text lists. The rest is a count.
const LISTED: usize = 10;

/// An error of [`Engine::compile`](crate::Engine::compile).
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The module or component is not valid; the text ends with the offset.
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// The module or component is valid, and this engine cannot run it; the text says why.
    #[error("{0}")]
    Unsupported(String),
    /// The check before the compilation refused the module or component.
    #[error(transparent)]
    Refused(#[from] LoadError),
    /// Writing the output failed.
    #[error("cannot write compiled code: {0}")]
    Io(#[from] io::Error),
}

/// An error of [`Engine::check`](crate::Engine::check) or [`Engine::load`](crate::Engine::load).
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The module or component is not valid; the text ends with the offset.
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// The module or component is valid and uses a feature that the engine does not support.
    #[error("{0}")]
    Unsupported(String),
    /// The module or component imports what neither WASI nor a plug-in provides.
    #[error("{}: this runtime provides {provided}", missing(.imports))]
    MissingImports {
        /// The imports: `module::name` of a module, the interface of a component.
        imports: Vec<String>,
        /// The imports that the runtime provides.
        provided: String,
    },
    /// A function imported from WASI has another type than WASI's.
    #[error("import {import} has the type {found}, but WASI defines {expected}")]
    ImportType {
        /// The import: `module::name`.
        import: String,
        /// The type in the module.
        found: String,
        /// The type in WASI.
        expected: String,
    },
    /// The module or component does not export the requested function.
    #[error("no function {function:?} to call; {}", exported(.exports))]
    MissingFunction {
        /// The requested function.
        function: String,
        /// All exports.
        exports: Vec<Export>,
    },
    /// The requested function takes parameters, for which a container has no values.
    #[error("cannot call {function}: it takes parameters, and a container passes none; {}", callable(.exports))]
    Parameters {
        /// The requested function with its parameters.
        function: String,
        /// All exports.
        exports: Vec<Export>,
    },
    /// The module has no `_start` or the component no `wasi:cli/run`, and no function was
    /// requested.
    #[error("nothing to run: it does not export {entry}{}; {}", note(.exports), exported(.exports))]
    NoEntry {
        /// The default entry.
        entry: String,
        /// All exports.
        exports: Vec<Export>,
    },
    /// A part of the guest's WASI context, such as a preopened directory, could not be set up.
    #[error("{what}: {source}")]
    Context {
        /// The failed step, with its path.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
}

/// Why a guest that is ready cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A trap of the guest: the message and, below it, the wasm backtrace.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trap(pub String);

/// An export of a module or component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name; of an interface's function `interface#function`.
    pub name: String,
    /// The parameters and results of a function, `(i32) -> i32`, or the kind of another export.
    pub detail: String,
    /// True for a function without parameters: a container can call it.
    pub callable: bool,
}

impl Export {
    /// A function: `detail` is its type.
    #[must_use]
    pub fn function(name: &str, detail: String, callable: bool) -> Export {
        Export { name: name.to_owned(), detail, callable }
    }

    /// An export that is not a function: a memory, a table, an interface without functions.
    #[must_use]
    pub fn other(name: &str, kind: &str) -> Export {
        Export { name: name.to_owned(), detail: format!(" ({kind})"), callable: false }
    }
}

/// The function that `wanted` names, or else the error for these exports.
///
/// # Errors
/// [`LoadError::NoEntry`], [`LoadError::MissingFunction`] or [`LoadError::Parameters`].
pub fn find_entry<'e>(
    exports: &'e [Export],
    wanted: Option<&str>,
    is_default: impl Fn(&str) -> bool,
    default: &str,
) -> Result<&'e Export, LoadError> {
    let matches = |export: &&Export| match wanted {
        Some(wanted) => {
            export.name == wanted
                || export.name.rsplit_once('#').is_some_and(|(_, function)| function == wanted)
        }
        None => is_default(&export.name),
    };
    // A function without parameters takes precedence over another of the same name.
    if let Some(found) = exports.iter().filter(matches).find(|export| export.callable) {
        return Ok(found);
    }
    let exports = exports.to_vec();
    let unfit = exports.iter().find(|export| matches(export) && export.detail.starts_with('('));
    Err(match (unfit, wanted) {
        (Some(unfit), _) => {
            LoadError::Parameters { function: format!("{}{}", unfit.name, unfit.detail), exports }
        }
        (None, Some(function)) => {
            LoadError::MissingFunction { function: function.to_owned(), exports }
        }
        (None, None) => LoadError::NoEntry { entry: default.to_owned(), exports },
    })
}

/// How a component starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'e> {
    /// As a program, with this function.
    Function(&'e Export),
    /// As a server of HTTP, with this handler.
    Server(&'e Export),
}

/// The entry of a component: the function or server that `wanted` names. Without one `run`, or the
/// handler of a component that has no `run`.
///
/// # Errors
/// As for [`find_entry`].
pub fn find_component_entry<'e>(
    exports: &'e [Export],
    wanted: Option<&str>,
) -> Result<Entry<'e>, LoadError> {
    let handler = exports.iter().find(|export| is_handler(&export.name));
    let runs = || exports.iter().any(|export| is_run(&export.name));
    match (handler, wanted) {
        (Some(handler), Some(SERVER)) => Ok(Entry::Server(handler)),
        (Some(handler), None) if !runs() => Ok(Entry::Server(handler)),
        _ => find_entry(exports, wanted, is_run, COMPONENT).map(Entry::Function),
    }
}

/// Joins the lists of parameters and results of a function's type.
#[must_use]
pub fn signature(parameters: &str, results: &str) -> String {
    if results.is_empty() {
        format!("({parameters})")
    } else {
        format!("({parameters}) -> {results}")
    }
}

/// The interfaces of which a component exports one, for error texts.
const COMPONENT: &str = "wasi:cli/run@0.2 or wasi:http/incoming-handler@0.2";

/// Returns true for the function that runs a command component: `run` of `wasi:cli/run` 0.2.
#[must_use]
pub fn is_run(export: &str) -> bool {
    is_function_of(export, "wasi:cli/run@0.2.", "#run")
}

/// Returns true for the function that handles a request: `handle` of `wasi:http/incoming-handler`
/// 0.2.
#[must_use]
pub fn is_handler(export: &str) -> bool {
    is_function_of(export, "wasi:http/incoming-handler@0.2.", "#handle")
}

/// Whether the name is `interface`, a number for the patch release, and `function`.
fn is_function_of(export: &str, interface: &str, function: &str) -> bool {
    let patch = export.strip_prefix(interface).and_then(|rest| rest.strip_suffix(function));
    patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

/// Joins at most [`LISTED`] names and counts the rest.
fn listed<'n>(names: impl Iterator<Item = std::borrow::Cow<'n, str>>) -> String {
    let names: Vec<_> = names.collect();
    let mut text = names.iter().take(LISTED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(LISTED).filter(|more| *more > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, " and {more} more");
    }
    text
}

fn missing(imports: &[String]) -> String {
    let plural = if imports.len() == 1 { "" } else { "s" };
    format!("missing import{plural} {}", listed(imports.iter().map(|name| name.as_str().into())))
}

fn exported(exports: &[Export]) -> String {
    if exports.is_empty() {
        return "it has no exports".to_owned();
    }
    let all = exports.iter().map(|export| format!("{}{}", export.name, export.detail).into());
    format!("it exports {}; {}", listed(all), callable(exports))
}

fn callable(exports: &[Export]) -> String {
    let server = exports.iter().any(|export| is_handler(&export.name)).then_some(SERVER);
    let names = exports.iter().filter(|export| export.callable).map(|export| &*export.name);
    let names = listed(server.into_iter().chain(names).map(|name| format!("#{name}").into()));
    if names.is_empty() {
        "a container can call only a function without parameters, and it exports none".to_owned()
    } else {
        format!("append to the file's name, to call a function: {names}")
    }
}

/// Returns the reason why exports that resemble a command's do not make one.
fn note(exports: &[Export]) -> String {
    let interface = |prefix: &str| {
        let export = exports.iter().find(|export| export.name.starts_with(prefix))?;
        let name = export.name.split_once('#').map_or(&*export.name, |(interface, _)| interface);
        Some(name.to_owned())
    };
    let other = interface("wasi:cli/run@").or_else(|| interface("wasi:http/"));
    other.map_or_else(String::new, |other| format!(" ({other} is another version)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exports() -> Vec<Export> {
        vec![
            Export::other("memory", "memory"),
            Export::function("add", "(i32, i32) -> i32".to_owned(), false),
            Export::function("greet", "()".to_owned(), true),
        ]
    }

    fn find(exports: &[Export], wanted: Option<&str>) -> Result<String, String> {
        find_entry(exports, wanted, |name| name == "_start", "_start")
            .map(|export| export.name.clone())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_entry_error_lists_all_exports_and_those_that_can_be_called() {
        assert_eq!(find(&exports(), Some("greet")).unwrap(), "greet");
        assert_eq!(
            find(&exports(), None).unwrap_err(),
            "nothing to run: it does not export _start; it exports memory (memory), \
             add(i32, i32) -> i32, greet(); append to the file's name, to call a function: #greet"
        );
        assert_eq!(
            find(&exports(), Some("add")).unwrap_err(),
            "cannot call add(i32, i32) -> i32: it takes parameters, and a container passes none; \
             append to the file's name, to call a function: #greet"
        );
        assert_eq!(
            find(&[], Some("nope")).unwrap_err(),
            "no function \"nope\" to call; it has no exports"
        );
    }

    #[test]
    fn a_command_and_a_server_of_another_version_are_named() {
        let text = |name: &str| {
            let exports = [Export::function(name, "()".to_owned(), true)];
            find_component_entry(&exports, None).unwrap_err().to_string()
        };
        assert!(text("wasi:cli/run@0.3.0#run").contains("(wasi:cli/run@0.3.0 is another version)"));
        let handler = text("wasi:http/handler@0.3.0#handle");
        assert!(handler.contains("(wasi:http/handler@0.3.0 is another version)"), "{handler}");
        for (name, runs) in [
            ("wasi:cli/run@0.2.0#run", true),
            ("wasi:cli/run@0.2.11#run", true),
            ("wasi:cli/run@0.20.1#run", false),
            ("wasi:cli/run@1.0.0#run", false),
            ("wasi:cli/run@0.2.0-rc#run", false),
            ("run", false),
        ] {
            assert_eq!(is_run(name), runs, "{name}");
        }
    }

    #[test]
    fn a_component_with_a_handler_is_a_server_unless_it_runs() {
        let handler = "wasi:http/incoming-handler@0.2.3#handle";
        let handler = Export::function(handler, "(request, response-out)".to_owned(), false);
        let run = Export::function("wasi:cli/run@0.2.0#run", "()".to_owned(), true);
        let both = [run.clone(), handler.clone()];
        let entry = |exports: &[Export], wanted: Option<&str>| {
            find_component_entry(exports, wanted)
                .map(|entry| matches!(entry, Entry::Server(_)))
                .map_err(|error| error.to_string())
        };
        assert_eq!(entry(std::slice::from_ref(&handler), None), Ok(true));
        assert_eq!(entry(&both, None), Ok(false));
        assert_eq!(entry(&both, Some("http")), Ok(true));
        assert_eq!(entry(&both, Some("run")), Ok(false));
        assert!(entry(&[run], Some("http")).is_err());
        let text = entry(&[handler], Some("handle")).unwrap_err();
        assert!(text.ends_with("append to the file's name, to call a function: #http"), "{text}");
    }

    #[test]
    fn ten_names_are_listed_and_the_rest_is_counted() {
        let imports: Vec<String> = (0..13).map(|number| format!("env::f{number}")).collect();
        let error = LoadError::MissingImports { imports, provided: "WASI".to_owned() }.to_string();
        assert!(error.starts_with("missing imports env::f0, env::f1, "), "{error}");
        assert!(error.ends_with("env::f9 and 3 more: this runtime provides WASI"), "{error}");
    }
}
