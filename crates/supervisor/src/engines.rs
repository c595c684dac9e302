//! The engines of a runtime, and the choice among them for a container.
//!
//! The runtime of one engine has that engine alone. The runtime `io.containerd.wherry.v1` has all
//! that are installed. An annotation names one; without one, each engine gets the module in the
//! order of the settings until one does not refuse it. So no other code decides what an engine
//! runs, and the refusals together are the error. A wrong first guess costs a fork: nothing of the
//! container has run by then, and all that was set up is removed before the next attempt.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;

use wherry_bundle::{Bundle, Config};
use wherry_image::Cache;
use wherry_protocol::{Failure, FailureKind, Stdio};

use crate::SpareHosts;
use crate::conversation::Forked;
use crate::program::Program;
use crate::settings::Settings;

/// The engines, in the order in which they get a module: names, separated by commas.
const ORDER: (&str, &str) = ("WHERRY_ENGINES", "wasmtime,wamr,wasmedge");
/// The annotation that names the engine of a container. A pod's annotation
/// `wherry.engine/CONTAINER` names that of one of its containers: Kubernetes has no annotations of
/// containers.
const ENGINE: &str = "wherry.engine";
/// crun's annotation for the same.
const CRUN_HANDLER: &str = "run.oci.handler";
/// The value of crun's annotation for any engine.
const CRUN_ANY: &str = "wasm";
/// The annotation of containerd's CRI plug-in with the name of a container in its pod.
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

/// The annotations of a container.
pub type Annotations = HashMap<String, String>;

/// An installed engine.
#[derive(Debug)]
pub struct Engine {
    /// Its name, as in `io.containerd.<name>.v1`.
    pub name: String,
    /// The engine host's executable.
    pub host: Program,
    /// The compiler's executable.
    pub compiler: Program,
    /// The cache of compiled code.
    pub cache: Cache,
    /// Engine hosts that were started ahead of time.
    pub spare: SpareHosts,
}

impl Engine {
    /// The engine whose host is this executable.
    #[must_use]
    pub fn new(name: &str, host: Program, cache: Cache) -> Engine {
        let compiler = host.compiler(name);
        Engine { name: name.to_owned(), host, compiler, cache, spare: SpareHosts::default() }
    }

    fn find(name: &str, settings: &Settings) -> Result<Engine, Failure> {
        // Guests get descriptors of the cache's files.
        let cache = settings.cache(name).reading_through(wherry_sys::readonly::view);
        Ok(Engine::new(name, Program::host(name)?, cache))
    }
}

/// The engines of a runtime.
#[derive(Debug)]
pub struct Engines {
    /// The one that is tried first.
    pub first: Engine,
    /// The choice among this and others. It is behind a trait, so that the shims of one engine do
    /// not contain its code.
    choice: Option<Box<dyn Choice>>,
}

/// An attempt to start a process with an engine and the standard streams.
pub(crate) type Attempt<'a> = dyn FnMut(&Engine, Option<Stdio>) -> Result<Forked, Failure> + 'a;

/// The choice of a container's engine.
trait Choice: Debug + Send + Sync {
    /// The engines besides the first one.
    fn others(&self) -> &[Engine];

    /// The engines that may run a container, in the order of the attempts.
    fn candidates<'e>(
        &'e self,
        first: &'e Engine,
        annotations: &Annotations,
    ) -> Result<Vec<&'e Engine>, Failure>;

    /// As [`Engines::attempt`], with one engine after the other until one does not refuse the
    /// module.
    fn attempt(
        &self,
        first: &Engine,
        bundle: &Bundle,
        config: Option<&Config>,
        stdio: Option<Stdio>,
        attempt: &mut Attempt<'_>,
    ) -> Result<Forked, Failure>;
}

impl Engines {
    /// The runtime of one engine.
    #[must_use]
    pub fn only(engine: Engine) -> Engines {
        Engines { first: engine, choice: None }
    }

    /// Searches for an engine.
    ///
    /// # Errors
    /// If its host is not installed.
    pub fn find(name: &str, settings: &Settings) -> Result<Engines, Failure> {
        Engine::find(name, settings).map(Engines::only)
    }

    /// Searches for the engines of `WHERRY_ENGINES`, and leaves out those that are not installed.
    ///
    /// # Errors
    /// If none is installed, or the variable is invalid.
    pub fn find_all(settings: &Settings) -> Result<Engines, Failure> {
        let (variable, default) = ORDER;
        let text = std::env::var(variable).unwrap_or_default();
        let mut missing = None;
        let mut found = Vec::new();
        for name in names(if text.is_empty() { default } else { &text })? {
            match Engine::find(name, settings) {
                Ok(engine) => found.push(engine),
                Err(failure) => missing = missing.or(Some(failure)),
            }
        }
        let mut found = found.into_iter();
        match found.next() {
            Some(first) => Ok(Engines::all(first, found.collect())),
            None => Err(missing.unwrap_or_else(|| invalid(&text))),
        }
    }

    fn all(first: Engine, others: Vec<Engine>) -> Engines {
        Engines { first, choice: Some(Box::new(All { others })) }
    }

    /// All engines.
    pub fn iter(&self) -> impl Iterator<Item = &Engine> {
        let others = self.choice.as_ref().map_or(&[][..], |choice| choice.others());
        std::iter::once(&self.first).chain(others)
    }

    /// The engine that is tried first for a container. `None`: its annotation names one that is not
    /// installed.
    #[must_use]
    pub fn preferred(&self, annotations: &Annotations) -> Option<&Engine> {
        match &self.choice {
            None => Some(&self.first),
            Some(choice) => choice.candidates(&self.first, annotations).ok()?.into_iter().next(),
        }
    }

    /// Attempts to start a process of the container of `bundle`. `config`: its configuration;
    /// without one it is read if it matters.
    ///
    /// # Errors
    /// If an annotation names an engine that is not installed; the error of `attempt`; or the
    /// reasons of all engines.
    pub(crate) fn attempt(
        &self,
        bundle: &Bundle,
        config: Option<&Config>,
        stdio: Option<Stdio>,
        attempt: &mut Attempt<'_>,
    ) -> Result<Forked, Failure> {
        match &self.choice {
            None => attempt(&self.first, stdio),
            Some(choice) => choice.attempt(&self.first, bundle, config, stdio, attempt),
        }
    }
}

/// The choice among all engines.
#[derive(Debug)]
struct All {
    others: Vec<Engine>,
}

impl Choice for All {
    fn others(&self) -> &[Engine] {
        &self.others
    }

    fn candidates<'e>(
        &'e self,
        first: &'e Engine,
        annotations: &Annotations,
    ) -> Result<Vec<&'e Engine>, Failure> {
        let all = || std::iter::once(first).chain(&self.others);
        let Some((annotation, name)) = wanted(annotations) else { return Ok(all().collect()) };
        if let Some(engine) = all().find(|engine| engine.name == name) {
            return Ok(vec![engine]);
        }
        let installed: Vec<&str> = all().map(|engine| engine.name.as_str()).collect();
        let text = format!(
            "annotation {annotation}: the engine {name:?} is not installed, or WHERRY_ENGINES leaves it \
             out; installed are {}",
            installed.join(", ")
        );
        Err(Failure::new(FailureKind::Invalid, text))
    }

    fn attempt(
        &self,
        first: &Engine,
        bundle: &Bundle,
        config: Option<&Config>,
        mut stdio: Option<Stdio>,
        attempt: &mut Attempt<'_>,
    ) -> Result<Forked, Failure> {
        let read;
        let config = match config {
            Some(config) => config,
            None => {
                read = bundle.config().map_err(|error| system(&error))?;
                &read
            }
        };
        let none = Annotations::new();
        let candidates = self.candidates(first, config.annotations.as_ref().unwrap_or(&none))?;
        let mut refusals = Vec::new();
        for (number, engine) in candidates.iter().enumerate() {
            let given = if number + 1 == candidates.len() {
                stdio.take()
            } else {
                stdio.as_ref().map(duplicate).transpose().map_err(|error| system(&error))?
            };
            match attempt(engine, given) {
                Err(failure) if failure.kind == FailureKind::Unsupported => {
                    let (id, text) = (bundle.id(), &failure.message);
                    log::info!("{id}: {} does not run it: {text}", engine.name);
                    refusals.push((engine.name.as_str(), failure.message));
                }
                result => return result,
            }
        }
        Err(Failure::new(FailureKind::Invalid, together(&refusals)))
    }
}

fn system(error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::System, error.to_string())
}

/// Parses the order of the engines.
fn names(text: &str) -> Result<Vec<&str>, Failure> {
    let mut names = Vec::new();
    for name in text.split(',').map(str::trim) {
        let mut bytes = name.bytes();
        if name.is_empty() || !bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        {
            return Err(invalid(text));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn invalid(text: &str) -> Failure {
    let text = format!("WHERRY_ENGINES={text}: expected names of engines, such as {}", ORDER.1);
    Failure::new(FailureKind::System, text)
}

/// The annotation that names an engine, and the engine. crun's other annotation,
/// `module.wasm.image/variant`, names none: the file itself shows the difference.
fn wanted(annotations: &Annotations) -> Option<(String, &str)> {
    let of_container = annotations.get(CONTAINER_NAME).map(|name| format!("{ENGINE}/{name}"));
    let keys = of_container.into_iter().chain([ENGINE.to_owned(), CRUN_HANDLER.to_owned()]);
    let mut named = keys.filter_map(|key| annotations.get(&key).map(|name| (key, name.as_str())));
    named.next().filter(|(key, name)| key != CRUN_HANDLER || *name != CRUN_ANY)
}

fn duplicate(stdio: &Stdio) -> io::Result<Stdio> {
    let Stdio { stdin, stdout, stderr } = stdio;
    Ok(Stdio {
        stdin: stdin.try_clone()?,
        stdout: stdout.try_clone()?,
        stderr: stderr.try_clone()?,
    })
}

/// One sentence for the refusals of all engines. Each begins with the module's path.
fn together(refusals: &[(&str, String)]) -> String {
    let parts = || refusals.iter().filter_map(|(_, text)| text.split_once(": "));
    let (path, first) = parts().next().unwrap_or_default();
    if refusals.iter().all(|(_, text)| *text == format!("{path}: {first}")) {
        return format!("{path}: {first}");
    }
    let of = |(engine, text): &(&str, String)| {
        let cause = text.strip_prefix(path).and_then(|rest| rest.strip_prefix(": "));
        format!("{engine}: {}", cause.unwrap_or(text))
    };
    let causes: Vec<String> = refusals.iter().map(of).collect();
    format!("{path}: no installed engine runs it: {}", causes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    fn engine(name: &str) -> Engine {
        let host = Program::new(format!("/none/wherry-{name}-host").into());
        Engine::new(name, host, Cache::new("/none".into(), name, 0))
    }

    fn engines() -> Engines {
        Engines::all(engine("a"), vec![engine("b"), engine("c")])
    }

    fn names_of(annotations: &[(&str, &str)]) -> Result<Vec<String>, Failure> {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let engines = engines();
        let choice = engines.choice.as_ref().unwrap();
        let found = choice.candidates(&engines.first, &annotations.collect())?;
        Ok(found.into_iter().map(|engine| engine.name.clone()).collect())
    }

    /// The error of a container with these annotations, and the engines that were asked.
    fn fails(
        annotations: &[(&str, &str)],
        mut with: impl FnMut(&str) -> Failure,
    ) -> (Failure, Vec<String>) {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let config = Config { annotations: Some(annotations.collect()), ..Config::default() };
        let mut asked = Vec::new();
        let mut attempt = |engine: &Engine, _: Option<Stdio>| {
            asked.push(engine.name.clone());
            Err(with(&engine.name))
        };
        let bundle = Bundle::new(Path::new("/none"), "x");
        let failure = engines().attempt(&bundle, Some(&config), None, &mut attempt).unwrap_err();
        (failure, asked)
    }

    fn refusal(text: &str) -> Failure {
        Failure::new(FailureKind::Unsupported, text)
    }

    #[test]
    fn an_annotation_names_the_engine_and_the_more_specific_one_decides() {
        assert_eq!(names_of(&[]).unwrap(), ["a", "b", "c"]);
        assert_eq!(names_of(&[("wherry.engine", "b")]).unwrap(), ["b"]);
        assert_eq!(names_of(&[("run.oci.handler", "c")]).unwrap(), ["c"]);
        let both = [("run.oci.handler", "c"), ("wherry.engine", "b")];
        assert_eq!(names_of(&both).unwrap(), ["b"]);
        let mut pod = vec![(CONTAINER_NAME, "web"), ("wherry.engine", "b")];
        assert_eq!(names_of(&pod).unwrap(), ["b"]);
        pod.push(("wherry.engine/web", "c"));
        assert_eq!(names_of(&pod).unwrap(), ["c"]);
        pod[0].1 = "other";
        assert_eq!(names_of(&pod).unwrap(), ["b"]);
    }

    #[test]
    fn annotations_of_crun_that_name_no_engine_leave_the_order() {
        for annotation in [
            ("run.oci.handler", "wasm"),
            ("module.wasm.image/variant", "compat"),
            ("module.wasm.image/variant", "compat-smart"),
        ] {
            assert_eq!(names_of(&[annotation]).unwrap(), ["a", "b", "c"]);
        }
    }

    #[test]
    fn an_engine_that_is_not_installed_is_named_with_those_that_are() {
        let failure = names_of(&[("wherry.engine", "wasmer")]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
        let text = failure.message;
        assert!(text.contains("wherry.engine: the engine \"wasmer\""), "{text}");
        assert!(text.ends_with("installed are a, b, c"), "{text}");
    }

    #[test]
    fn the_runtime_of_one_engine_reads_no_annotations() {
        let only = Engines::only(engine("a"));
        let bundle = Bundle::new(Path::new("/none"), "x");
        let mut attempt = |_: &Engine, _: Option<Stdio>| Err(refusal("/app: it is new"));
        let failure = only.attempt(&bundle, None, None, &mut attempt).unwrap_err();
        assert_eq!(failure, refusal("/app: it is new"));
        let named = [("wherry.engine".to_owned(), "b".to_owned())].into();
        assert_eq!(only.preferred(&named).unwrap().name, "a");
    }

    #[test]
    fn the_next_engine_gets_a_module_that_one_refuses() {
        let (failure, asked) = fails(&[], |engine| match engine {
            "a" => refusal("/app: it is new"),
            _ => Failure::new(FailureKind::System, "no memory"),
        });
        assert_eq!((failure.message.as_str(), asked), ("no memory", vec!["a".into(), "b".into()]));
    }

    #[test]
    fn a_failure_that_is_not_the_modules_ends_the_attempts() {
        let not_found = || Failure::new(FailureKind::NotFound, "no such file");
        assert_eq!(fails(&[], |_| not_found()), (not_found(), vec!["a".to_owned()]));
    }

    #[test]
    fn an_engine_that_was_named_is_the_only_one_that_is_asked() {
        let (failure, asked) = fails(&[("wherry.engine", "b")], |_| refusal("/app: it is new"));
        assert_eq!((failure.message.as_str(), asked), ("/app: it is new", vec!["b".to_owned()]));
    }

    #[test]
    fn a_module_that_no_engine_runs_gets_the_reason_of_each() {
        let (failure, _) = fails(&[], |name| refusal(&format!("/app: imports: {name} has none")));
        let text = "/app: no installed engine runs it: a: imports: a has none; \
                    b: imports: b has none; c: imports: c has none";
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Invalid, text));
        let damaged = "/app: invalid WebAssembly: unexpected end";
        assert_eq!(fails(&[], |_| refusal(damaged)).0.message, damaged);
    }

    #[test]
    fn the_order_of_engines_is_a_list_of_names() {
        assert_eq!(names("wamr, wasmtime,wamr").unwrap(), ["wamr", "wasmtime"]);
        assert_eq!(names(ORDER.1).unwrap(), ["wasmtime", "wamr", "wasmedge"]);
        for wrong in ["../wamr", "", "wamr,,wasmtime", "WAMR"] {
            let text = names(wrong).unwrap_err().message;
            assert!(text.starts_with(&format!("WHERRY_ENGINES={wrong}: expected names")), "{text}");
        }
    }
}
