//! The measures: the names, units and order of all rows of the table.

/// A measure. The key names it in the JSON file and in [`crate::bounds`].
pub(crate) struct Measure {
    /// The name for programs.
    pub(crate) key: &'static str,
    /// The name for people.
    pub(crate) text: &'static str,
    /// The unit.
    pub(crate) unit: Unit,
}

/// The unit of a measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds.
    Ms,
    /// Megabytes of 10⁶ bytes.
    Mb,
    /// Megabytes of 10⁶ bytes per second.
    MbPerSecond,
    /// Containers per second.
    PerSecond,
    /// A plain number.
    Count,
}

impl Unit {
    /// The unit as text.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Unit::Ms => "ms",
            Unit::Mb => "MB",
            Unit::MbPerSecond => "MB/s",
            Unit::PerSecond => "/s",
            Unit::Count => "",
        }
    }
}

pub(crate) const CTR_HELLO: &str = "ctr-hello";
pub(crate) const COLD_SMALL: &str = "cold-small";
pub(crate) const COLD_LARGE: &str = "cold-large";
pub(crate) const SECOND_LARGE: &str = "second-large";
pub(crate) const MANY: &str = "many";
pub(crate) const MANY_LOST: &str = "many-lost";
pub(crate) const PULLED_COLD: &str = "pulled-cold";
pub(crate) const PULLED_COMPILED: &str = "pulled-compiled";
pub(crate) const LAYER: &str = "layer";
pub(crate) const DOCKER_HELLO: &str = "docker-hello";
pub(crate) const DOCKER_FIB: &str = "docker-fib";
pub(crate) const PSS_20: &str = "pss-20";
pub(crate) const PSS_100: &str = "pss-100";
pub(crate) const PROCESSES: &str = "processes";
pub(crate) const THREADS: &str = "threads";
pub(crate) const SIZE_SHIM: &str = "size-shim";
pub(crate) const SIZE_HOST: &str = "size-host";
pub(crate) const START: &str = "start";
pub(crate) const TO_GUEST: &str = "create-to-guest";
pub(crate) const AT_ONCE: &str = "create-at-once";
pub(crate) const PAUSE: &str = "pause";
pub(crate) const LIFE: &str = "life";
pub(crate) const LIFE_CREATE: &str = "life-create";
pub(crate) const LIFE_START: &str = "life-start";
pub(crate) const LIFE_DELETE: &str = "life-delete";
pub(crate) const POD_WITH_PAUSE: &str = "pod-with-pause";
pub(crate) const POD_OF_SHIM: &str = "pod-of-shim";
pub(crate) const POD_ALONE_WITH_PAUSE: &str = "pod-alone-with-pause";
pub(crate) const POD_ALONE_OF_SHIM: &str = "pod-alone-of-shim";
pub(crate) const POD_PSS: &str = "pod-pss";
pub(crate) const POD_PSS_OF_SHIM: &str = "pod-pss-of-shim";
pub(crate) const IDLE_CALLS: &str = "idle-calls";
pub(crate) const API_LIFE: &str = "api-life";
pub(crate) const SHARED_LIFE: &str = "shared-life";
pub(crate) const API_MANY: &str = "api-many";
pub(crate) const SHARED_MANY: &str = "shared-many";
pub(crate) const API_CPU: &str = "api-cpu";
pub(crate) const SHARED_CPU: &str = "shared-cpu";
pub(crate) const SHARED_CPU_OWN: &str = "shared-cpu-own";
pub(crate) const SHARED_TO_GUEST: &str = "shared-to-guest";
pub(crate) const SHARED_PSS_100: &str = "shared-pss-100";
pub(crate) const SHARED_STATE_P99: &str = "shared-state-p99";
pub(crate) const SHARED_PIDS_P99: &str = "shared-pids-p99";
pub(crate) const SHARED_START_AT_1: &str = "shared-start-1";
pub(crate) const SHARED_START_AT_100: &str = "shared-start-100";
pub(crate) const SHARED_START_AT_500: &str = "shared-start-500";
pub(crate) const SHARED_START_AT_1000: &str = "shared-start-1000";

const fn measure(key: &'static str, unit: Unit, text: &'static str) -> Measure {
    Measure { key, text, unit }
}

/// All measures, in the order of the table.
pub(crate) const MEASURES: [Measure; 47] = [
    measure(CTR_HELLO, Unit::Ms, "`ctr run --rm` of hello, warm"),
    measure(COLD_SMALL, Unit::Ms, "`ctr run --rm` of hello, its first run"),
    measure(COLD_LARGE, Unit::Ms, "`ctr run --rm` of a module of over 5 MB, its first run"),
    measure(SECOND_LARGE, Unit::Ms, "… its second run"),
    measure(
        PULLED_COLD,
        Unit::Ms,
        "pull to the first output of a program of over 5 MB: `ctr images pull` and `ctr run --rm`",
    ),
    measure(PULLED_COMPILED, Unit::Ms, "… compiled between the two"),
    measure(LAYER, Unit::MbPerSecond, "`wherry-layer`: WebAssembly to an archive"),
    measure(MANY, Unit::PerSecond, "`ctr run --rm` of 100 containers, 4 at a time"),
    measure(MANY_LOST, Unit::Count, "… outputs that were lost, of 100"),
    measure(DOCKER_HELLO, Unit::Ms, "`docker run --rm` of hello"),
    measure(DOCKER_FIB, Unit::Ms, "`docker run --rm` of fib(35)"),
    measure(START, Unit::Ms, "`start`: exec to address printed"),
    measure(PAUSE, Unit::Ms, "containerd: the end of `start` to Create"),
    measure(TO_GUEST, Unit::Ms, "Create, sent then, to the guest's first instruction, cached"),
    measure(AT_ONCE, Unit::Ms, "… sent at once"),
    measure(LIFE, Unit::Ms, "without containerd: Create sent to deleted"),
    measure(LIFE_CREATE, Unit::Ms, "… of it Create"),
    measure(LIFE_START, Unit::Ms, "… of it Start"),
    measure(LIFE_DELETE, Unit::Ms, "… of it Delete"),
    measure(PSS_20, Unit::Mb, "PSS per running container, 20 of them"),
    measure(PSS_100, Unit::Mb, "PSS per running container, 100 of them"),
    measure(PROCESSES, Unit::Count, "processes per running container"),
    measure(THREADS, Unit::Count, "threads per running container"),
    measure(POD_WITH_PAUSE, Unit::Ms, "RunPodSandbox with a pause container"),
    measure(POD_OF_SHIM, Unit::Ms, "… with `sandboxer = \"shim\"`"),
    measure(
        POD_ALONE_WITH_PAUSE,
        Unit::Ms,
        "RunPodSandbox in the node's network, without a network plug-in, with a pause container",
    ),
    measure(POD_ALONE_OF_SHIM, Unit::Ms, "… with `sandboxer = \"shim\"`"),
    measure(
        POD_PSS,
        Unit::Mb,
        "PSS per pod with one container, 20 of them, with a pause container",
    ),
    measure(POD_PSS_OF_SHIM, Unit::Mb, "… with `sandboxer = \"shim\"`"),
    measure(
        API_LIFE,
        Unit::Ms,
        "through containerd's API: create, start, wait and delete of hello",
    ),
    measure(SHARED_LIFE, Unit::Ms, "… in the shared mode"),
    measure(API_MANY, Unit::PerSecond, "through containerd's API: 100 containers, 4 at a time"),
    measure(SHARED_MANY, Unit::PerSecond, "… in the shared mode"),
    measure(API_CPU, Unit::Ms, "… processor time of the machine per container"),
    measure(SHARED_CPU, Unit::Ms, "… in the shared mode"),
    measure(SHARED_CPU_OWN, Unit::Ms, "… beyond that of the shim that does nothing"),
    measure(
        SHARED_TO_GUEST,
        Unit::Ms,
        "shared mode, without containerd: Create to the guest's first instruction, cached",
    ),
    measure(
        SHARED_PSS_100,
        Unit::Mb,
        "shared mode: PSS per running container, 100 of them, all included",
    ),
    measure(
        SHARED_STATE_P99,
        Unit::Ms,
        "shared mode: State while 100 containers start, 99th percentile",
    ),
    measure(
        SHARED_PIDS_P99,
        Unit::Ms,
        "shared mode: Pids while 100 containers start, 99th percentile",
    ),
    measure(
        SHARED_START_AT_1,
        Unit::Ms,
        "shared mode: Create and Start of the first 20 containers",
    ),
    measure(SHARED_START_AT_100, Unit::Ms, "… of 20 around the 100th"),
    measure(SHARED_START_AT_500, Unit::Ms, "… of 20 around the 500th"),
    measure(SHARED_START_AT_1000, Unit::Ms, "… of the last 20 of 1,000"),
    measure(SIZE_SHIM, Unit::Mb, "shim executable, stripped"),
    measure(SIZE_HOST, Unit::Mb, "engine host executable (runc itself), stripped"),
    measure(IDLE_CALLS, Unit::Count, "system calls of an idle container in a minute"),
];
