//! The bounds of each engine, and whether the figures meet them.

use std::fs;

use serde_json::{Value, json};
use wherry_testing::repository;

use crate::measures::{
    COLD_LARGE, CTR_HELLO, DOCKER_FIB, IDLE_CALLS, LAYER, MANY, POD_ALONE_OF_SHIM,
    POD_ALONE_WITH_PAUSE, POD_OF_SHIM, POD_PSS_OF_SHIM, POD_WITH_PAUSE, PSS_20, PULLED_COMPILED,
    SECOND_LARGE, SHARED_CPU_OWN, SHARED_LIFE, SHARED_MANY, SHARED_PIDS_P99, SHARED_PSS_100,
    SHARED_START_AT_1, SHARED_START_AT_1000, SHARED_STATE_P99, SHARED_TO_GUEST, SIZE_SHIM, START,
    TO_GUEST, Unit,
};
use crate::results::{NOTHING, RUNC, Results};

/// A bound on one figure.
pub(crate) struct Bound {
    /// The description, for people.
    pub(crate) text: &'static str,
    /// The name in `package.metadata.bounds` of an engine's `Cargo.toml`, which may set another
    /// limit, or `false`.
    key: &'static str,
    figure: Figure,
    limit: Limit,
}

/// A figure that is computed from medians.
enum Figure {
    /// The engine's own.
    Own(&'static str, Unit),
    /// The engine's divided by that of another runtime.
    Against(&'static str, &'static str),
    /// One of the engine's divided by another of the engine's.
    Over(&'static str, &'static str),
}

/// The accepted range.
#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// All bounds, in the order of the table.
pub(crate) const BOUNDS: [Bound; 24] = [
    Bound {
        text: "`ctr run --rm` of hello, warm ÷ runc",
        key: "ctr-runc",
        figure: Figure::Against(CTR_HELLO, RUNC),
        limit: Limit::AtMost(0.50),
    },
    Bound {
        text: "`ctr run --rm` of hello, warm ÷ the shim that does nothing",
        key: "ctr-nothing",
        figure: Figure::Against(CTR_HELLO, NOTHING),
        limit: Limit::AtMost(1.25),
    },
    Bound {
        text: "100 containers, 4 at a time: throughput ÷ runc's",
        key: "many-runc",
        figure: Figure::Against(MANY, RUNC),
        limit: Limit::AtLeast(4.0),
    },
    Bound {
        text: "`docker run --rm` of fib(35) ÷ native under runc",
        key: "fib-native",
        figure: Figure::Against(DOCKER_FIB, RUNC),
        limit: Limit::AtMost(0.85),
    },
    Bound {
        text: "PSS per running container, shim and guest, at 20",
        key: "container-mb",
        figure: Figure::Own(PSS_20, Unit::Mb),
        limit: Limit::AtMost(2.0),
    },
    Bound {
        text: "pull to the first output of a program of over 5 MB, compiled at the pull ÷ runc",
        key: "pulled-runc",
        figure: Figure::Against(PULLED_COMPILED, RUNC),
        limit: Limit::AtMost(1.0),
    },
    Bound {
        text: "`wherry-layer`",
        key: "layer",
        figure: Figure::Own(LAYER, Unit::MbPerSecond),
        limit: Limit::AtLeast(500.0),
    },
    Bound {
        text: "RunPodSandbox with `sandboxer = \"shim\"` ÷ with a pause container",
        key: "pod-pause",
        figure: Figure::Over(POD_OF_SHIM, POD_WITH_PAUSE),
        limit: Limit::AtMost(0.60),
    },
    Bound {
        text: "the same in the node's network, without a network plug-in",
        key: "pod-alone-pause",
        figure: Figure::Over(POD_ALONE_OF_SHIM, POD_ALONE_WITH_PAUSE),
        limit: Limit::AtMost(0.60),
    },
    Bound {
        text: "PSS per pod with one container, with `sandboxer = \"shim\"`, at 20",
        key: "pod-mb",
        figure: Figure::Own(POD_PSS_OF_SHIM, Unit::Mb),
        limit: Limit::AtMost(1.6),
    },
    Bound {
        text: "shared mode: a life through containerd's API ÷ the shim that does nothing",
        key: "shared-life",
        figure: Figure::Against(SHARED_LIFE, NOTHING),
        limit: Limit::AtMost(1.15),
    },
    Bound {
        text: "shared mode: processor time per container beyond the shim that does nothing",
        key: "shared-cpu",
        figure: Figure::Own(SHARED_CPU_OWN, Unit::Ms),
        limit: Limit::AtMost(7.0),
    },
    Bound {
        text: "shared mode: throughput ÷ the shim that does nothing",
        key: "shared-many-nothing",
        figure: Figure::Against(SHARED_MANY, NOTHING),
        limit: Limit::AtLeast(0.65),
    },
    Bound {
        text: "shared mode: throughput ÷ runc's",
        key: "shared-many-runc",
        figure: Figure::Against(SHARED_MANY, RUNC),
        limit: Limit::AtLeast(5.0),
    },
    Bound {
        text: "shared mode: Create to the guest's first instruction, cached, without containerd",
        key: "shared-create",
        figure: Figure::Own(SHARED_TO_GUEST, Unit::Ms),
        limit: Limit::AtMost(3.0),
    },
    Bound {
        text: "shared mode: PSS per running container at 100",
        key: "shared-pss",
        figure: Figure::Own(SHARED_PSS_100, Unit::Mb),
        limit: Limit::AtMost(0.8),
    },
    Bound {
        text: "shared mode: the start of the 1,000th container ÷ the first",
        key: "shared-flat",
        figure: Figure::Over(SHARED_START_AT_1000, SHARED_START_AT_1),
        limit: Limit::AtMost(1.5),
    },
    Bound {
        text: "shared mode: State while 100 containers start, 99th percentile",
        key: "shared-state",
        figure: Figure::Own(SHARED_STATE_P99, Unit::Ms),
        limit: Limit::AtMost(20.0),
    },
    Bound {
        text: "shared mode: Pids while 100 containers start, 99th percentile",
        key: "shared-pids",
        figure: Figure::Own(SHARED_PIDS_P99, Unit::Ms),
        limit: Limit::AtMost(20.0),
    },
    Bound {
        text: "`start`: exec to address printed",
        key: "start-ms",
        figure: Figure::Own(START, Unit::Ms),
        limit: Limit::AtMost(3.0),
    },
    Bound {
        text: "the shim's own share: Create to the guest's first instruction, cached",
        key: "create-ms",
        figure: Figure::Own(TO_GUEST, Unit::Ms),
        limit: Limit::AtMost(10.0),
    },
    Bound {
        text: "shim executable, stripped",
        key: "shim-mb",
        figure: Figure::Own(SIZE_SHIM, Unit::Mb),
        limit: Limit::AtMost(4.0),
    },
    Bound {
        text: "a module of over 5 MB: second run ÷ first",
        key: "second-first",
        figure: Figure::Over(SECOND_LARGE, COLD_LARGE),
        limit: Limit::AtMost(0.1),
    },
    Bound {
        text: "system calls of an idle container, shim and guest, in a minute",
        key: "idle-calls",
        figure: Figure::Own(IDLE_CALLS, Unit::Count),
        limit: Limit::AtMost(0.0),
    },
];

/// A bound and the measured figure.
pub(crate) struct Verdict {
    /// The bound.
    pub(crate) bound: &'static Bound,
    limit: Limit,
    /// The measured figure.
    pub(crate) value: f64,
    /// Whether the figure is within the bound.
    pub(crate) met: bool,
}

impl Verdict {
    /// The limit as text: `≤ 0.50`.
    pub(crate) fn limit_text(&self) -> String {
        match self.limit {
            Limit::AtMost(limit) => format!("≤ {}", self.bound.text_of(limit)),
            Limit::AtLeast(limit) => format!("≥ {}", self.bound.text_of(limit)),
        }
    }
}

impl Bound {
    /// A value of this figure as text.
    pub(crate) fn text_of(&self, value: f64) -> String {
        match &self.figure {
            Figure::Own(_, Unit::Count) => format!("{value:.0}"),
            Figure::Own(_, unit) => format!("{value:.1} {}", unit.text()),
            Figure::Against(..) | Figure::Over(..) => format!("{value:.2}"),
        }
    }

    /// The engine's figure, and whether it is within the bound; none if it was not measured.
    fn verdict(
        &'static self,
        results: &Results,
        engine: &str,
        own: &toml::Table,
    ) -> Option<Verdict> {
        let limit = match (own.get(self.key), self.limit) {
            (None, limit) => limit,
            (Some(own), Limit::AtMost(_)) => Limit::AtMost(own.as_float()?),
            (Some(own), Limit::AtLeast(_)) => Limit::AtLeast(own.as_float()?),
        };
        let value = match &self.figure {
            Figure::Own(key, _) => results.median(key, engine)?,
            Figure::Against(key, other) => results.ratio(key, engine, other)?,
            Figure::Over(key, below) => {
                results.median(key, engine)? / results.median(below, engine)?
            }
        };
        let met = match limit {
            Limit::AtMost(limit) => value <= limit,
            Limit::AtLeast(limit) => value >= limit,
        };
        Some(Verdict { bound: self, limit, value, met })
    }
}

/// The verdicts about an engine, for all measured figures.
pub(crate) fn verdicts(results: &Results, engine: &str) -> Vec<Verdict> {
    let own = own(engine);
    BOUNDS.iter().filter_map(|bound| bound.verdict(results, engine, &own)).collect()
}

/// The limits that an engine sets in place of the common ones.
fn own(engine: &str) -> toml::Table {
    let path = repository().join("shims").join(engine).join("Cargo.toml");
    let manifest: toml::Table =
        fs::read_to_string(path).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    let metadata = manifest.get("package").and_then(|package| package.get("metadata"));
    let bounds = metadata.and_then(|metadata| metadata.get("bounds"));
    bounds.and_then(toml::Value::as_table).cloned().unwrap_or_default()
}

/// The same in JSON.
pub(crate) fn json(results: &Results, engine: &str) -> Value {
    let of = |verdict: Verdict| {
        json!({
            "what": verdict.bound.text,
            "value": verdict.value,
            "bound": verdict.limit_text(),
            "met": verdict.met,
        })
    };
    verdicts(results, engine).into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_up_to_its_limit() {
        let mut results = Results::default();
        results.add(CTR_HELLO, "some", 50.0);
        results.add(CTR_HELLO, RUNC, 100.0);
        results.add(CTR_HELLO, NOTHING, 39.0);
        results.add(MANY, "some", 39.0);
        results.add(MANY, RUNC, 10.0);
        results.add(SECOND_LARGE, "some", 1.0);
        results.add(COLD_LARGE, "some", 10.0);
        let met: Vec<bool> = verdicts(&results, "some").iter().map(|verdict| verdict.met).collect();
        assert_eq!(met, [true, false, false, true]);
        assert!(verdicts(&results, "other").is_empty());
        let with = |text: &str| {
            let own: toml::Table = text.parse().expect("TOML");
            BOUNDS.iter().filter_map(|bound| bound.verdict(&results, "some", &own)).count()
        };
        assert_eq!((with("ctr-runc = 0.4"), with("ctr-runc = false")), (4, 3));
    }

    #[test]
    fn what_an_engine_promises_in_place_is_known() {
        for engine in fs::read_dir(repository().join("shims")).expect("it is there").flatten() {
            let name = engine.file_name().to_string_lossy().into_owned();
            for key in own(&name).keys() {
                assert!(BOUNDS.iter().any(|bound| bound.key == key), "{name}: {key}");
            }
        }
    }
}
