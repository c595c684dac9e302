//! A soak: many containers, eight at a time, live random lives, and some of their shims, or their
//! containerd, are killed. At the end everything is as before.

mod cycle;
mod life;
mod losses;
mod size;
mod tally;

use crate::client::{Client, Paths, Wanted};
use crate::images;
use cycle::Cycle;
use life::Life;
pub use losses::soak_losses;
use size::Size;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally::Tally;
use tokio::runtime::{Builder, Runtime};
use wherry_testing::{
    Containerd, DEADLINE, Daemon, Leftovers, managers, processes, shared, wait_until,
};

/// The number of containers that live at the same time.
const AT_A_TIME: usize = 8;

/// The accepted growth of containerd's resident memory, KB: Go returns collected memory to the
/// kernel over minutes, and keeps some.
const MEMORY_MARGIN: u64 = 8192;

/// The accepted growth of a shim's memory, KB: it depends on the busiest moment and on the
/// fragmentation of the heap.
const SHIM_MARGIN: u64 = 1024;

/// The number of lives before the first measurement.
const WARM_UP: usize = 64;

/// The accepted growth of containerd's heap after a collection, KB: it keeps buffers for reuse. A
/// leaked task takes about 10 KB.
const HEAP_MARGIN: u64 = 2048;

/// Soaks a private containerd, and returns a summary.
///
/// # Panics
/// If a life goes wrong, or if something is left behind.
pub fn soak(containerd: &Containerd, seed: u64, cycles: usize) -> String {
    let begin = Instant::now();
    // The lasting effects of the first containers (parents of cgroups, connections, threads,
    // compiled code) do not count as leftovers.
    let ground = Ground::new(containerd);
    ground.live(|number| Life::draw(!seed, number, true), WARM_UP, None, &Tally::default());
    let leftovers = Leftovers::snapshot(containerd);
    let daemon = containerd.daemon_pid();
    let (heap, goroutines) = size::heap_and_goroutines(&containerd.debug_address());
    let before = Size::of(daemon);

    let tally = Tally::default();
    ground.live(|number| Life::draw(seed, number, true), cycles, None, &tally);
    assert_eq!(tally.of("lives"), cycles);

    leftovers.assert_none_new();
    wait_until_nothing("has grown in containerd", || {
        let (heap_now, goroutines_now) = size::heap_and_goroutines(&containerd.debug_address());
        let mut grown = Size::of(daemon).since(&before, MEMORY_MARGIN);
        if heap_now > heap + HEAP_MARGIN {
            grown.push(format!("heap: {heap} KB, now {heap_now}"));
        }
        if goroutines_now > goroutines {
            grown.push(format!("goroutines: {goroutines}, now {goroutines_now}"));
        }
        grown
    });
    let after = Size::of(daemon);
    let (heap_now, _) = size::heap_and_goroutines(&containerd.debug_address());
    format!(
        "soak of {}, seed {seed}: {tally}; containerd's heap {heap} KB, then {heap_now} KB, its memory {} KB, then {} KB; {} s",
        containerd.name(),
        before.memory,
        after.memory,
        begin.elapsed().as_secs()
    )
}

/// Soaks the shim of one pod with many containers, and returns a summary.
///
/// # Panics
/// As [`soak`], and if the shim has grown.
pub fn soak_a_pod(containerd: &Containerd, seed: u64, cycles: usize) -> String {
    let begin = Instant::now();
    let ground = Ground::new(containerd);
    let (pod, pause) = (Some("pod"), ["/bin/sleep", "1000000"]);
    ground.runtime.block_on(async {
        let wanted = Wanted { id: "pod", args: &pause, terminal: false, group: pod };
        ground.client.make(wanted).await.expect("a container");
        ground.client.create("pod", false, &Paths::default()).await.expect("Create answers");
        ground.client.start("pod", "").await.expect("Start answers");
    });
    let shims = cycle::shims(containerd.namespace(), "pod");
    assert_eq!(shims.len(), 1, "{shims:?}");
    ground.live(|number| Life::draw(!seed, number, false), WARM_UP, pod, &Tally::default());
    let leftovers = Leftovers::snapshot(containerd);
    let before = Size::of(shims[0]);

    let tally = Tally::default();
    ground.live(|number| Life::draw(seed, number, false), cycles, pod, &tally);

    leftovers.assert_none_new();
    wait_until_nothing("has grown in the shim", || {
        let now = Size::of(shims[0]);
        let mut grown = now.since(&before, SHIM_MARGIN);
        if now.threads > before.threads {
            grown.push(format!("threads: {}, now {}", before.threads, now.threads));
        }
        grown
    });
    let after = Size::of(shims[0]);
    ground.runtime.block_on(async {
        ground.client.kill("pod", "", 9).await.expect("Kill answers");
        ground.client.wait("pod", "", DEADLINE).await.expect("Wait answers");
        ground.client.delete("pod", "").await.expect("Delete answers");
        ground.client.forget("pod").await.expect("it is known");
    });
    wait_until("the pod's shim has ended", DEADLINE, || {
        cycle::shims(containerd.namespace(), "pod").is_empty()
    });
    format!(
        "one pod's shim on {}, seed {seed}: {tally}; {} files and {} threads as before; its own memory \
         {} KB, then {} KB; {} s",
        containerd.name(),
        after.files.values().sum::<usize>(),
        after.threads,
        before.memory,
        after.memory,
        begin.elapsed().as_secs()
    )
}

/// The lives of a manager before its size is measured.
const FIRST_OF_MANAGER: usize = 100;

/// Soaks a manager with many containers, and returns a summary. With a shim for each container it
/// only lets them live.
///
/// # Panics
/// As [`soak`], and if the manager is larger than after a hundred containers, or is another.
pub fn soak_a_manager(containerd: &Containerd, seed: u64, cycles: usize) -> String {
    let begin = Instant::now();
    let ground = Ground::new(containerd);
    let draw = |seed| move |number| Life::draw(seed, number, false);
    ground.live(draw(!seed), FIRST_OF_MANAGER, None, &Tally::default());
    let pids_now = || -> Vec<i32> {
        managers(&containerd.address()).iter().map(|manager| manager.pid).collect()
    };
    let pids = pids_now();
    assert_eq!(pids.len(), usize::from(shared()), "{pids:?}");
    let leftovers = Leftovers::snapshot(containerd);
    wait_for_spare_hosts(&pids);
    let before: Vec<Size> = pids.iter().map(|pid| Size::of(*pid)).collect();

    let tally = Tally::default();
    ground.live(draw(seed), cycles, None, &tally);

    leftovers.assert_none_new();
    assert_eq!(pids_now(), pids);
    wait_for_spare_hosts(&pids);
    let sizes = || pids.iter().map(|pid| Size::of(*pid)).zip(&before);
    wait_until_nothing("has grown in the manager", || {
        sizes().flat_map(|(now, before)| now.since(before, SHIM_MARGIN)).collect()
    });
    let memory: Vec<String> = sizes()
        .map(|(now, before)| format!("its memory {} KB, then {} KB", before.memory, now.memory))
        .collect();
    let (daemon, seconds) = (containerd.name(), begin.elapsed().as_secs());
    format!("a manager on {daemon}, seed {seed}: {tally}; {}; {seconds} s", memory.concat())
}

/// Waits until these managers have their two spare hosts, forked from their zygote, and no other
/// child.
fn wait_for_spare_hosts(managers: &[i32]) {
    wait_until("the spare hosts", DEADLINE, || {
        let of = |manager: &&i32| {
            let all = processes().into_iter();
            all.filter(|process| process.parent().is_some_and(|of| of.pid == **manager)).count()
        };
        managers.iter().all(|manager| of(&manager) == 3)
    });
}

/// Waits until a list is empty, or panics with its remaining content.
fn wait_until_nothing(what: &str, look: impl Fn() -> Vec<String>) {
    let start = Instant::now();
    loop {
        let found = look();
        if found.is_empty() {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{what}: {found:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The environment of the soak.
struct Ground<'c> {
    containerd: &'c Containerd,
    runtime: Runtime,
    client: Client,
}

impl<'c> Ground<'c> {
    fn new(containerd: &'c Containerd) -> Ground<'c> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = {
            let _context = runtime.enter();
            Client::new(containerd, &images::guests_and_tools())
        };
        Ground { containerd, runtime, client }
    }

    /// Carries out these lives, so many at a time.
    fn live(
        &self,
        lives: impl Fn(usize) -> Life + Sync,
        cycles: usize,
        group: Option<&str>,
        tally: &Tally,
    ) {
        let next = AtomicUsize::new(0);
        let cycle = Cycle {
            client: self.client.clone(),
            bundles: self.containerd.task_dir(self.containerd.namespace()),
            tally: tally.clone(),
            group: group.map(str::to_owned),
        };
        thread::scope(|scope| {
            for worker in 0..AT_A_TIME {
                let (lives, next, cycle) = (&lives, &next, &cycle);
                scope.spawn(move || {
                    let _stop = StopAll(next);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= cycles {
                            return;
                        }
                        let life = lives(number);
                        let id =
                            if life.same_id { format!("w{worker}") } else { format!("c{number}") };
                        self.runtime.block_on(cycle.run(self.containerd, &life, &id));
                    }
                });
            }
        });
        let mut tasks = self.runtime.block_on(self.client.tasks()).expect("List answers");
        tasks.retain(|id| Some(&**id) != group);
        assert!(tasks.is_empty(), "{tasks:?}");
    }
}

/// Stops the other workers when one of them has failed.
struct StopAll<'n>(&'n AtomicUsize);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(usize::MAX / 2, Ordering::Relaxed);
        }
    }
}
