//! The engines of a runtime, and the choice among them for a container.
//!
//! The runtime of one engine has that engine alone. The runtime `io.containerd.wherry.v1` has all
//! that are installed. An annotation names one; without one, each engine gets the module in the
//! order of the settings until one does not refuse it. So no other code decides what an engine
//! runs, and the refusals together are the error. A wrong first guess costs a fork: nothing of the
//! container has run by then, and all that was set up is removed before the next attempt.

use std::collections::HashMap;
use std::io;

use wherry_image::Cache;
use wherry_protocol::{Failure, FailureKind, Stdio};

use crate::SpareHosts;
use crate::program::Program;
use crate::settings::Settings;

/// The annotation that names the engine of a container. A pod's annotation
/// `wherry.engine/CONTAINER` names that of one of its containers: Kubernetes has no annotations of
/// containers.
pub const ENGINE: &str = "wherry.engine";
/// crun's annotation for the same.
const CRUN_HANDLER: &str = "run.oci.handler";
/// The value of crun's annotation for any engine.
const CRUN_ANY: &str = "wasm";
/// The annotation of containerd's CRI plug-in with the name of a container in its pod.
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

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
    /// The others, in the order of preference.
    pub others: Vec<Engine>,
    /// Whether annotations name the engine.
    pub by_annotation: bool,
}

impl Engines {
    /// The runtime of one engine.
    #[must_use]
    pub fn only(engine: Engine) -> Engines {
        Engines { first: engine, others: Vec::new(), by_annotation: false }
    }

    /// Searches for an engine.
    ///
    /// # Errors
    /// If its host is not installed.
    pub fn find(name: &str, settings: &Settings) -> Result<Engines, Failure> {
        Engine::find(name, settings).map(Engines::only)
    }

    /// Searches for the engines in the settings' order, and leaves out those that are not
    /// installed.
    ///
    /// # Errors
    /// If none is installed.
    pub fn find_all(settings: &Settings) -> Result<Engines, Failure> {
        let mut missing = None;
        let mut found = Vec::new();
        for name in &settings.engines {
            match Engine::find(name, settings) {
                Ok(engine) => found.push(engine),
                Err(failure) => missing = missing.or(Some(failure)),
            }
        }
        let mut found = found.into_iter();
        match (found.next(), missing) {
            (Some(first), _) => Ok(Engines { first, others: found.collect(), by_annotation: true }),
            (None, Some(failure)) => Err(failure),
            (None, None) => {
                Err(Failure::new(FailureKind::System, "WHERRY_ENGINES names no engine"))
            }
        }
    }

    /// All engines.
    pub fn iter(&self) -> impl Iterator<Item = &Engine> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The engines that may run a container with these annotations, in the order of the attempts.
    ///
    /// # Errors
    /// If an annotation names an engine that is not installed.
    pub fn candidates(
        &self,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Vec<&Engine>, Failure> {
        let wanted = annotations.filter(|_| self.by_annotation).and_then(wanted);
        let Some((annotation, name)) = wanted else { return Ok(self.iter().collect()) };
        if let Some(engine) = self.iter().find(|engine| engine.name == name) {
            return Ok(vec![engine]);
        }
        let installed: Vec<&str> = self.iter().map(|engine| engine.name.as_str()).collect();
        let text = format!(
            "annotation {annotation}: the engine {name:?} is not installed, or WHERRY_ENGINES leaves it \
             out; installed are {}",
            installed.join(", ")
        );
        Err(Failure::new(FailureKind::Invalid, text))
    }
}

/// The annotation that names an engine, and the engine. crun's other annotation,
/// `module.wasm.image/variant`, names none: what it distinguishes is read from the file.
fn wanted(annotations: &HashMap<String, String>) -> Option<(String, &str)> {
    let of_container = annotations.get(CONTAINER_NAME).map(|name| format!("{ENGINE}/{name}"));
    let keys = of_container.into_iter().chain([ENGINE.to_owned(), CRUN_HANDLER.to_owned()]);
    let mut named = keys.filter_map(|key| annotations.get(&key).map(|name| (key, name.as_str())));
    named.next().filter(|(key, name)| key != CRUN_HANDLER || *name != CRUN_ANY)
}

/// Attempts to start a process of the container `id` with one engine after the other, until one
/// does not refuse its module.
pub(crate) fn first_that_runs<T>(
    id: &str,
    candidates: &[&Engine],
    stdio: Option<Stdio>,
    mut attempt: impl FnMut(&Engine, Option<Stdio>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut refusals = Vec::new();
    let Some((last, others)) = candidates.split_last() else {
        return Err(Failure::new(FailureKind::System, "no engine is installed"));
    };
    for engine in others {
        let copy = stdio.as_ref().map(duplicate).transpose();
        let copy = copy.map_err(|error| Failure::new(FailureKind::System, error.to_string()))?;
        match attempt(engine, copy) {
            Err(failure) if failure.kind == FailureKind::Unsupported => {
                log::info!("{id}: {} does not run it: {}", engine.name, failure.message);
                refusals.push((engine.name.as_str(), failure.message));
            }
            result => return result,
        }
    }
    match attempt(last, stdio) {
        Err(failure) if failure.kind == FailureKind::Unsupported && !refusals.is_empty() => {
            refusals.push((last.name.as_str(), failure.message));
            Err(Failure::new(FailureKind::Invalid, together(&refusals)))
        }
        result => result,
    }
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

    fn engine(name: &str) -> Engine {
        let host = Program::new(format!("/none/wherry-{name}-host").into());
        Engine::new(name, host, Cache::new("/none".into(), name, 0))
    }

    fn engines() -> Engines {
        let others = vec![engine("b"), engine("c")];
        Engines { first: engine("a"), others, by_annotation: true }
    }

    fn names(engines: &Engines, annotations: &[(&str, &str)]) -> Result<Vec<String>, Failure> {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let found = engines.candidates(Some(&annotations.collect()))?;
        Ok(found.into_iter().map(|engine| engine.name.clone()).collect())
    }

    fn refusal(text: &str) -> Failure {
        Failure::new(FailureKind::Unsupported, text)
    }

    #[test]
    fn an_annotation_names_the_engine_and_the_more_specific_one_decides() {
        let engines = engines();
        assert_eq!(names(&engines, &[]).unwrap(), ["a", "b", "c"]);
        assert_eq!(names(&engines, &[("wherry.engine", "b")]).unwrap(), ["b"]);
        assert_eq!(names(&engines, &[("run.oci.handler", "c")]).unwrap(), ["c"]);
        let both = [("run.oci.handler", "c"), ("wherry.engine", "b")];
        assert_eq!(names(&engines, &both).unwrap(), ["b"]);
        let mut pod = vec![(CONTAINER_NAME, "web"), ("wherry.engine", "b")];
        assert_eq!(names(&engines, &pod).unwrap(), ["b"]);
        pod.push(("wherry.engine/web", "c"));
        assert_eq!(names(&engines, &pod).unwrap(), ["c"]);
        pod[0].1 = "other";
        assert_eq!(names(&engines, &pod).unwrap(), ["b"]);
    }

    #[test]
    fn annotations_of_crun_that_name_no_engine_leave_the_order() {
        for annotation in [
            ("run.oci.handler", "wasm"),
            ("module.wasm.image/variant", "compat"),
            ("module.wasm.image/variant", "compat-smart"),
        ] {
            assert_eq!(names(&engines(), &[annotation]).unwrap(), ["a", "b", "c"]);
        }
    }

    #[test]
    fn an_engine_that_is_not_installed_is_named_with_those_that_are() {
        let failure = names(&engines(), &[("wherry.engine", "wasmer")]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
        let text = failure.message;
        assert!(text.contains("wherry.engine: the engine \"wasmer\""), "{text}");
        assert!(text.ends_with("installed are a, b, c"), "{text}");
    }

    #[test]
    fn the_runtime_of_one_engine_ignores_annotations() {
        let only = Engines::only(engine("a"));
        assert_eq!(names(&only, &[("wherry.engine", "b")]).unwrap(), ["a"]);
    }

    #[test]
    fn the_next_engine_gets_a_module_that_one_refuses() {
        let engines = engines();
        let candidates: Vec<&Engine> = engines.iter().collect();
        let mut asked = Vec::new();
        let chosen = first_that_runs("x", &candidates, None, |engine, _| {
            asked.push(engine.name.clone());
            if engine.name == "a" {
                Err(refusal("/app: it is new"))
            } else {
                Ok(engine.name.clone())
            }
        });
        assert_eq!((chosen.unwrap(), asked), ("b".to_owned(), vec!["a".to_owned(), "b".into()]));
    }

    #[test]
    fn a_failure_that_is_not_the_modules_ends_the_attempts() {
        let engines = engines();
        let candidates: Vec<&Engine> = engines.iter().collect();
        let mut attempts = 0;
        let failure = first_that_runs("x", &candidates, None, |_, _| {
            attempts += 1;
            Err::<(), _>(Failure::new(FailureKind::NotFound, "no such file"))
        });
        assert_eq!((failure.unwrap_err().kind, attempts), (FailureKind::NotFound, 1));
    }

    #[test]
    fn a_module_that_no_engine_runs_gets_the_reason_of_each() {
        let engines = engines();
        let candidates: Vec<&Engine> = engines.iter().collect();
        let failure = first_that_runs("x", &candidates, None, |engine, _| {
            Err::<(), _>(refusal(&format!("/app: imports: {} has none", engine.name)))
        })
        .unwrap_err();
        let text = "/app: no installed engine runs it: a: imports: a has none; \
                    b: imports: b has none; c: imports: c has none";
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Invalid, text));
        let failure = first_that_runs("x", &candidates, None, |_, _| {
            Err::<(), _>(refusal("/app: invalid WebAssembly: unexpected end"))
        });
        assert_eq!(failure.unwrap_err().message, "/app: invalid WebAssembly: unexpected end");
        let alone = first_that_runs("x", &candidates[..1], None, |_, _| {
            Err::<(), _>(refusal("/app: it is new"))
        });
        assert_eq!(alone, Err(refusal("/app: it is new")));
    }
}
