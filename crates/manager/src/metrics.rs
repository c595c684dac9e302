//! The metrics of a manager, which Prometheus reads. The names follow its conventions: a prefix,
//! the unit as a suffix, and `_total` for counters.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use wherry_shim::operator::Manager;
use wherry_sys::measure::{Measurement, Recorder};
use wherry_task::Census;

/// The upper bounds of the times of starts and requests, seconds.
const TIMES: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The upper bounds of the times of compilations, seconds.
const COMPILE_TIMES: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1200.0];
/// The exit status of a process that a signal killed is above this.
const SIGNALLED: u32 = 128;

/// One label: its name and value.
type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of this process.
pub(crate) struct Metrics {
    registry: Registry,
    starts: Counters,
    start_seconds: Histograms<Label>,
    spare_hosts: Counters,
    code: Counters,
    compile_seconds: Histogram,
    forks: Counters,
    exits: Counters,
    rpc_seconds: Histograms<[(&'static str, String); 1]>,
    containers: Family<Label, Gauge>,
    unsent_events: Gauge,
    ready_hosts: Gauge,
    /// The containers that were created and not started yet.
    pending: Mutex<HashMap<String, Pending>>,
}

/// The start of a container, up to now.
#[derive(Debug, Default)]
struct Pending {
    /// Whether it waited for an engine host to start, or for a compilation.
    cold: bool,
    /// How long Create took.
    create: Duration,
}

impl Metrics {
    /// Makes the metrics of a manager, all of them 0.
    pub(crate) fn new(manager: &Manager, version: &'static str) -> Metrics {
        let times: fn() -> Histogram = || Histogram::new(TIMES);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("wherry"),
            starts: Family::default(),
            start_seconds: Family::new_with_constructor(times),
            spare_hosts: Family::default(),
            code: Family::default(),
            compile_seconds: Histogram::new(COMPILE_TIMES),
            forks: Family::default(),
            exits: Family::default(),
            rpc_seconds: Family::new_with_constructor(times),
            containers: Family::default(),
            unsent_events: Gauge::default(),
            ready_hosts: Gauge::default(),
            pending: Mutex::default(),
        };
        metrics.register(manager, version);
        // A series that exists from the start has a rate from its first event on.
        for (family, name, values) in [
            (&metrics.starts, "result", &["success", "failure"][..]),
            (&metrics.spare_hosts, "result", &["hit", "miss"]),
            (&metrics.code, "result", &["hit", "miss"]),
            (&metrics.forks, "process", &["init", "exec"]),
            (&metrics.exits, "cause", &["exit", "signal", "oom"]),
        ] {
            values.iter().for_each(|value| drop(family.get_or_create(&[(name, value)])));
        }
        for value in ["cold", "warm"] {
            drop(metrics.start_seconds.get_or_create(&[("start", value)]));
        }
        metrics
    }

    fn register(&mut self, manager: &Manager, version: &'static str) {
        let Manager { runtime, namespace, address, .. } = manager.clone();
        let labels = [
            ("version", version.to_owned()),
            ("runtime", runtime),
            ("namespace", namespace),
            ("address", address),
        ];
        let seconds = || Unit::Seconds;
        let registry = &mut self.registry;
        registry.register("manager", "The manager", Info::new(labels));
        let help = "The containers, by state";
        registry.register("containers", help, self.containers.clone());
        let help = "The starts of containers, by result";
        registry.register("starts", help, self.starts.clone());
        let help = "The time of Create and Start of a container, in the manager: cold if it waited \
                    for an engine host to start or for a compilation, warm otherwise";
        registry.register_with_unit("start", help, seconds(), self.start_seconds.clone());
        let help = "The engine hosts that were needed: hit if a spare one was ready";
        registry.register("spare_host_requests", help, self.spare_hosts.clone());
        let help = "The spare engine hosts that are ready";
        registry.register("spare_hosts", help, self.ready_hosts.clone());
        let help = "The requests for compiled code: hit if it was in the cache";
        registry.register("cache_requests", help, self.code.clone());
        let help = "The time of compilations that a start waited for";
        registry.register_with_unit("compile", help, seconds(), self.compile_seconds.clone());
        let help = "The processes that engine hosts forked";
        registry.register("forks", help, self.forks.clone());
        let help = "The exits of containers' first processes: signal if the exit status is above \
                    128, as that of a trap, oom if the kernel killed a process because memory was \
                    short";
        registry.register("exits", help, self.exits.clone());
        let help = "The time of requests but Wait, by method";
        registry.register_with_unit("rpc", help, seconds(), self.rpc_seconds.clone());
        let help = "The events that containerd has not acknowledged";
        registry.register("unsent_events", help, self.unsent_events.clone());
    }

    /// Encodes the metrics, with the values of this moment.
    pub(crate) fn encode(&self, now: &Now) -> Result<String, fmt::Error> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, count) in now.containers.by_state() {
            self.containers.get_or_create(&[("state", state)]).set(gauge(count));
        }
        self.unsent_events.set(gauge(now.unsent_events));
        self.ready_hosts.set(gauge(now.spare_hosts));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// No code panics while it holds this lock.
    fn pending(&self) -> MutexGuard<'_, HashMap<String, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, id: &str, success: bool, took: Duration) {
        let pending = self.pending().remove(id);
        count(&self.starts, "result", if success { "success" } else { "failure" });
        if let Some(Pending { cold, create }) = pending.filter(|_| success) {
            let start = if cold { "cold" } else { "warm" };
            let time = create + took;
            self.start_seconds.get_or_create(&[("start", start)]).observe(time.as_secs_f64());
        }
    }
}

/// The values that are not counted, but read when they are needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) containers: Census,
    pub(crate) unsent_events: usize,
    pub(crate) spare_hosts: usize,
}

fn count(family: &Counters, name: &'static str, value: &'static str) {
    family.get_or_create(&[(name, value)]).inc();
}

fn hit(hit: bool) -> &'static str {
    if hit { "hit" } else { "miss" }
}

impl Recorder for Metrics {
    fn record(&self, measurement: Measurement<'_>) {
        match measurement {
            Measurement::Host { id, first, spare } => {
                count(&self.spare_hosts, "result", hit(spare));
                if first {
                    let start = Pending { cold: !spare, create: Duration::ZERO };
                    self.pending().insert(id.to_owned(), start);
                }
            }
            Measurement::Code { id, compiled } => {
                count(&self.code, "result", hit(compiled.is_none()));
                if let Some(took) = compiled {
                    self.compile_seconds.observe(took.as_secs_f64());
                    if let Some(start) = self.pending().get_mut(id) {
                        start.cold = true;
                    }
                }
            }
            Measurement::Forked { first } => {
                count(&self.forks, "process", if first { "init" } else { "exec" });
            }
            Measurement::Created { id, success: true, took } => {
                if let Some(start) = self.pending().get_mut(id) {
                    start.create = took;
                }
            }
            Measurement::Created { id, success: false, took } => self.started(id, false, took),
            Measurement::Started { id, success, took } => self.started(id, success, took),
            Measurement::Exited { status, out_of_memory } => {
                let cause = match (out_of_memory, status > SIGNALLED) {
                    (true, true) => "oom",
                    (false, true) => "signal",
                    (_, false) => "exit",
                };
                count(&self.exits, "cause", cause);
            }
            // One that was never started.
            Measurement::Deleted { id } => drop(self.pending().remove(id)),
            Measurement::Answered { method, took } => {
                let labels = [("method", method.to_owned())];
                self.rpc_seconds.get_or_create(&labels).observe(took.as_secs_f64());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        let manager = Manager {
            runtime: "ed".into(),
            address: "/run/\"c\".sock".into(),
            ttrpc_address: String::new(),
            namespace: "n".into(),
            socket: "/s".into(),
            debug: false,
        };
        Metrics::new(&manager, "1")
    }

    fn text(metrics: &Metrics) -> String {
        let containers = Census { running: 3, ..Census::default() };
        metrics.encode(&Now { containers, unsent_events: 2, spare_hosts: 1 }).unwrap()
    }

    #[track_caller]
    fn assert_lines(metrics: &Metrics, lines: &[&str]) {
        let text = text(metrics);
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_start_is_cold_that_waited_for_a_host_or_a_compilation() {
        let metrics = metrics();
        let start = |id: &str, spare: bool, compiled: Option<Duration>| {
            metrics.record(Measurement::Host { id, first: true, spare });
            metrics.record(Measurement::Code { id, compiled });
            metrics.record(Measurement::Created { id, success: true, took: 2 * MS });
            metrics.record(Measurement::Started { id, success: true, took: MS });
        };
        start("a", true, None);
        start("b", false, None);
        start("c", true, Some(2000 * MS));
        // A process that is added to a container does not start one.
        metrics.record(Measurement::Host { id: "a", first: false, spare: false });
        assert_lines(
            &metrics,
            &[
                r#"wherry_start_seconds_count{start="warm"} 1"#,
                r#"wherry_start_seconds_count{start="cold"} 2"#,
                r#"wherry_start_seconds_sum{start="warm"} 0.003"#,
                r#"wherry_start_seconds_bucket{start="warm",le="0.0025"} 0"#,
                r#"wherry_start_seconds_bucket{start="warm",le="0.005"} 1"#,
                r#"wherry_starts_total{result="success"} 3"#,
                r#"wherry_spare_host_requests_total{result="hit"} 2"#,
                r#"wherry_spare_host_requests_total{result="miss"} 2"#,
                r#"wherry_cache_requests_total{result="hit"} 2"#,
                "wherry_compile_seconds_sum 2.0",
            ],
        );
        assert!(metrics.pending().is_empty());
    }

    #[test]
    fn a_start_that_fails_and_one_that_is_never_made_leave_nothing() {
        let metrics = metrics();
        for id in ["a", "b", "c"] {
            metrics.record(Measurement::Host { id, first: true, spare: true });
        }
        metrics.record(Measurement::Created { id: "a", success: false, took: MS });
        metrics.record(Measurement::Created { id: "b", success: true, took: MS });
        metrics.record(Measurement::Started { id: "b", success: false, took: MS });
        metrics.record(Measurement::Created { id: "c", success: true, took: MS });
        metrics.record(Measurement::Deleted { id: "c" });
        assert!(metrics.pending().is_empty());
        assert_lines(
            &metrics,
            &[
                r#"wherry_starts_total{result="failure"} 2"#,
                r#"wherry_starts_total{result="success"} 0"#,
                r#"wherry_start_seconds_count{start="warm"} 0"#,
            ],
        );
    }

    #[test]
    fn exits_forks_and_requests_are_counted_by_their_kind() {
        let metrics = metrics();
        for (status, out_of_memory) in [(0, false), (3, true), (137, true), (143, false)] {
            metrics.record(Measurement::Exited { status, out_of_memory });
        }
        for first in [true, true, false] {
            metrics.record(Measurement::Forked { first });
        }
        metrics.record(Measurement::Answered { method: "Kill", took: MS });
        assert_lines(
            &metrics,
            &[
                r#"wherry_exits_total{cause="exit"} 2"#,
                r#"wherry_exits_total{cause="oom"} 1"#,
                r#"wherry_exits_total{cause="signal"} 1"#,
                r#"wherry_forks_total{process="init"} 2"#,
                r#"wherry_forks_total{process="exec"} 1"#,
                r#"wherry_rpc_seconds_count{method="Kill"} 1"#,
            ],
        );
    }

    #[test]
    fn the_values_of_the_moment_and_the_manager_are_encoded() {
        assert_lines(
            &metrics(),
            &[
                r#"wherry_containers{state="running"} 3"#,
                r#"wherry_containers{state="paused"} 0"#,
                "wherry_unsent_events 2",
                "wherry_spare_hosts 1",
                r#"wherry_manager_info{version="1",runtime="ed",namespace="n",address="/run/\"c\".sock"} 1"#,
                "# TYPE wherry_start_seconds histogram",
                "# TYPE wherry_starts_total counter",
            ],
        );
    }
}
