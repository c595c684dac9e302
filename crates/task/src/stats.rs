//! Converts resource usage to containerd's cgroup metrics, version 1 or 2 according to the host.

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use wherry_cgroup::usage::{Counter, IoEntry, Keyed, Usage, V1, V2};

use crate::convert;
use crate::error::Result;

/// Encodes the usage of a container as an `Any`.
pub(crate) fn metrics(usage: &Usage) -> Result<Any> {
    match usage {
        Usage::V1(usage) => convert::any("io.containerd.cgroups.v1.Metrics", &version_1(usage)),
        Usage::V2(usage) => convert::any("io.containerd.cgroups.v2.Metrics", &version_2(usage)),
    }
}

fn get(keyed: &Keyed, key: &str) -> u64 {
    keyed.get(key).copied().unwrap_or(0)
}

fn some<T>(message: T) -> MessageField<T> {
    MessageField::some(message)
}

fn version_1(usage: &V1) -> v1::Metrics {
    let mut metrics = v1::Metrics::new();
    let mut pids = v1::PidsStat::new();
    (pids.current, pids.limit) = usage.pids;
    metrics.pids = some(pids);

    let mut cpu = v1::CPUStat::new();
    let mut time = v1::CPUUsage::new();
    time.total = usage.cpu_total;
    time.kernel = usage.cpu_kernel;
    time.user = usage.cpu_user;
    time.per_cpu.clone_from(&usage.cpu_each);
    cpu.usage = some(time);
    let mut throttling = v1::Throttle::new();
    throttling.periods = get(&usage.throttling, "nr_periods");
    throttling.throttled_periods = get(&usage.throttling, "nr_throttled");
    throttling.throttled_time = get(&usage.throttling, "throttled_time");
    cpu.throttling = some(throttling);
    metrics.cpu = some(cpu);

    metrics.memory = some(memory_v1(usage));
    let mut oom = v1::MemoryOomControl::new();
    oom.oom_kill_disable = get(&usage.oom_control, "oom_kill_disable");
    oom.under_oom = get(&usage.oom_control, "under_oom");
    oom.oom_kill = get(&usage.oom_control, "oom_kill");
    metrics.memory_oom_control = some(oom);

    let mut io = v1::BlkIOStat::new();
    io.io_service_bytes_recursive = usage.io_bytes.iter().map(io_entry).collect();
    io.io_serviced_recursive = usage.io_operations.iter().map(io_entry).collect();
    metrics.blkio = some(io);
    metrics
}

fn memory_v1(usage: &V1) -> v1::MemoryStat {
    let stat = |key: &str| get(&usage.memory, key);
    let mut memory = v1::MemoryStat::new();
    memory.cache = stat("cache");
    memory.rss = stat("rss");
    memory.rss_huge = stat("rss_huge");
    memory.mapped_file = stat("mapped_file");
    memory.dirty = stat("dirty");
    memory.writeback = stat("writeback");
    memory.pg_pg_in = stat("pgpgin");
    memory.pg_pg_out = stat("pgpgout");
    memory.pg_fault = stat("pgfault");
    memory.pg_maj_fault = stat("pgmajfault");
    memory.inactive_anon = stat("inactive_anon");
    memory.active_anon = stat("active_anon");
    memory.inactive_file = stat("inactive_file");
    memory.active_file = stat("active_file");
    memory.unevictable = stat("unevictable");
    memory.hierarchical_memory_limit = stat("hierarchical_memory_limit");
    memory.hierarchical_swap_limit = stat("hierarchical_memsw_limit");
    memory.total_cache = stat("total_cache");
    memory.total_rss = stat("total_rss");
    memory.total_rss_huge = stat("total_rss_huge");
    memory.total_mapped_file = stat("total_mapped_file");
    memory.total_dirty = stat("total_dirty");
    memory.total_writeback = stat("total_writeback");
    memory.total_pg_pg_in = stat("total_pgpgin");
    memory.total_pg_pg_out = stat("total_pgpgout");
    memory.total_pg_fault = stat("total_pgfault");
    memory.total_pg_maj_fault = stat("total_pgmajfault");
    memory.total_inactive_anon = stat("total_inactive_anon");
    memory.total_active_anon = stat("total_active_anon");
    memory.total_inactive_file = stat("total_inactive_file");
    memory.total_active_file = stat("total_active_file");
    memory.total_unevictable = stat("total_unevictable");
    memory.usage = some(counter(usage.memory_usage));
    memory.swap = some(counter(usage.swap));
    memory.kernel = some(counter(usage.kernel));
    memory.kernel_tcp = some(counter(usage.kernel_tcp));
    memory
}

fn counter(counter: Counter) -> v1::MemoryEntry {
    let mut entry = v1::MemoryEntry::new();
    entry.limit = counter.limit;
    entry.usage = counter.usage;
    entry.max = counter.max;
    entry.failcnt = counter.failures;
    entry
}

fn io_entry(io: &IoEntry) -> v1::BlkIOEntry {
    let mut entry = v1::BlkIOEntry::new();
    (entry.major, entry.minor) = io.device;
    entry.op.clone_from(&io.operation);
    entry.value = io.value;
    entry
}

fn version_2(usage: &V2) -> v2::Metrics {
    let mut metrics = v2::Metrics::new();
    let mut pids = v2::PidsStat::new();
    (pids.current, pids.limit) = usage.pids;
    metrics.pids = some(pids);

    let mut cpu = v2::CPUStat::new();
    cpu.usage_usec = get(&usage.cpu, "usage_usec");
    cpu.user_usec = get(&usage.cpu, "user_usec");
    cpu.system_usec = get(&usage.cpu, "system_usec");
    cpu.nr_periods = get(&usage.cpu, "nr_periods");
    cpu.nr_throttled = get(&usage.cpu, "nr_throttled");
    cpu.throttled_usec = get(&usage.cpu, "throttled_usec");
    metrics.cpu = some(cpu);

    metrics.memory = some(memory_v2(usage));
    let event = |key: &str| get(&usage.memory_events, key);
    let mut events = v2::MemoryEvents::new();
    events.low = event("low");
    events.high = event("high");
    events.max = event("max");
    events.oom = event("oom");
    events.oom_kill = event("oom_kill");
    metrics.memory_events = some(events);

    let mut io = v2::IOStat::new();
    io.usage = usage
        .io
        .iter()
        .map(|((major, minor), counts)| {
            let mut entry = v2::IOEntry::new();
            (entry.major, entry.minor) = (*major, *minor);
            entry.rbytes = get(counts, "rbytes");
            entry.wbytes = get(counts, "wbytes");
            entry.rios = get(counts, "rios");
            entry.wios = get(counts, "wios");
            entry
        })
        .collect();
    metrics.io = some(io);
    metrics
}

fn memory_v2(usage: &V2) -> v2::MemoryStat {
    let stat = |key: &str| get(&usage.memory, key);
    let mut memory = v2::MemoryStat::new();
    memory.anon = stat("anon");
    memory.file = stat("file");
    memory.kernel_stack = stat("kernel_stack");
    memory.slab = stat("slab");
    memory.sock = stat("sock");
    memory.shmem = stat("shmem");
    memory.file_mapped = stat("file_mapped");
    memory.file_dirty = stat("file_dirty");
    memory.file_writeback = stat("file_writeback");
    memory.anon_thp = stat("anon_thp");
    memory.inactive_anon = stat("inactive_anon");
    memory.active_anon = stat("active_anon");
    memory.inactive_file = stat("inactive_file");
    memory.active_file = stat("active_file");
    memory.unevictable = stat("unevictable");
    memory.slab_reclaimable = stat("slab_reclaimable");
    memory.slab_unreclaimable = stat("slab_unreclaimable");
    memory.pgfault = stat("pgfault");
    memory.pgmajfault = stat("pgmajfault");
    memory.workingset_refault = stat("workingset_refault_file") + stat("workingset_refault_anon");
    memory.workingset_activate =
        stat("workingset_activate_file") + stat("workingset_activate_anon");
    memory.workingset_nodereclaim = stat("workingset_nodereclaim");
    memory.pgrefill = stat("pgrefill");
    memory.pgscan = stat("pgscan");
    memory.pgsteal = stat("pgsteal");
    memory.pgactivate = stat("pgactivate");
    memory.pgdeactivate = stat("pgdeactivate");
    memory.pglazyfree = stat("pglazyfree");
    memory.pglazyfreed = stat("pglazyfreed");
    memory.thp_fault_alloc = stat("thp_fault_alloc");
    memory.thp_collapse_alloc = stat("thp_collapse_alloc");
    memory.usage = usage.memory_usage;
    memory.usage_limit = usage.memory_limit;
    memory.max_usage = usage.memory_peak;
    memory.swap_usage = usage.swap_usage;
    memory.swap_limit = usage.swap_limit;
    memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::Message;

    #[test]
    fn the_type_tells_the_version() {
        let one = metrics(&Usage::V1(Box::default())).unwrap();
        assert_eq!(one.type_url, "io.containerd.cgroups.v1.Metrics");
        let two = metrics(&Usage::V2(Box::default())).unwrap();
        assert_eq!(two.type_url, "io.containerd.cgroups.v2.Metrics");
    }

    #[test]
    fn the_count_of_kills_arrives() {
        let keyed: Keyed = [("oom_kill".to_owned(), 2)].into();
        let one = metrics(&Usage::V1(Box::new(V1 { oom_control: keyed.clone(), ..V1::default() })));
        let one = v1::Metrics::parse_from_bytes(&one.unwrap().value).unwrap();
        assert_eq!(one.memory_oom_control.oom_kill, 2);
        let two = metrics(&Usage::V2(Box::new(V2 { memory_events: keyed, ..V2::default() })));
        let two = v2::Metrics::parse_from_bytes(&two.unwrap().value).unwrap();
        assert_eq!(two.memory_events.oom_kill, 2);
    }

    #[test]
    fn a_file_that_the_kernel_does_not_have_counts_as_zero() {
        let two = metrics(&Usage::V2(Box::default())).unwrap();
        let two = v2::Metrics::parse_from_bytes(&two.value).unwrap();
        assert_eq!((two.memory.anon, two.cpu.usage_usec, two.io.usage.len()), (0, 0, 0));
    }

    #[test]
    fn devices_and_limits_arrive() {
        let counts: Keyed = [("rbytes".to_owned(), 5), ("wios".to_owned(), 6)].into();
        let usage = V2 {
            io: vec![((8, 1), counts)],
            pids: (3, 10),
            memory_usage: 7,
            memory_limit: u64::MAX,
            ..V2::default()
        };
        let any = metrics(&Usage::V2(Box::new(usage))).unwrap();
        let two = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        let io = &two.io.usage[0];
        assert_eq!((io.major, io.minor, io.rbytes, io.wios, io.wbytes), (8, 1, 5, 6, 0));
        assert_eq!((two.pids.current, two.pids.limit), (3, 10));
        assert_eq!((two.memory.usage, two.memory.usage_limit), (7, u64::MAX));

        let entry = IoEntry { device: (8, 1), operation: "Read".to_owned(), value: 9 };
        let memory_usage = Counter { limit: 1, usage: 2, max: 3, failures: 4 };
        let usage = V1 { io_bytes: vec![entry], memory_usage, cpu_total: 5, ..V1::default() };
        let any = metrics(&Usage::V1(Box::new(usage))).unwrap();
        let one = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        let io = &one.blkio.io_service_bytes_recursive[0];
        assert_eq!((io.major, io.minor, io.op.as_str(), io.value), (8, 1, "Read", 9));
        let memory = &one.memory.usage;
        assert_eq!((memory.limit, memory.usage, memory.max, memory.failcnt), (1, 2, 3, 4));
        assert_eq!(one.cpu.usage.total, 5);
    }
}
