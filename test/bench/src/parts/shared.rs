//! The shared mode beside a shim for each container, runc and the shim that does nothing, through
//! containerd's own API: a client that keeps its connection, because `ctr` takes longer than what
//! is measured.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use wherry_e2e::client::{Client, Paths, Wanted};
use wherry_testing::{Containerd, ContainerdVersion, Image, Usage, guests, wait_until};

use crate::measures::{
    API_CPU, API_LIFE, API_MANY, SHARED_CPU, SHARED_CPU_OWN, SHARED_LIFE, SHARED_MANY,
    SHARED_PIDS_P99, SHARED_PSS_100, SHARED_START_AT_1, SHARED_START_AT_100, SHARED_START_AT_500,
    SHARED_START_AT_1000, SHARED_STATE_P99,
};
use crate::parts::direct;
use crate::results::{NOTHING, RUNC};
use crate::world::{World, is_native, milliseconds, runtime};

/// The containers of one measurement of throughput, and how many run at the same time.
const MANY: usize = 100;
const AT_A_TIME: usize = 4;
/// The containers that run at the same time at the end.
const MOST: usize = 1000;
/// How many starts around a number of running containers count for it.
const AROUND: usize = 20;
/// The deadline of a life.
const LIFE: Duration = Duration::from_secs(60);
/// Until the processes of the last round have ended.
const SETTLE: Duration = Duration::from_millis(500);
/// The end of a manager without containers.
const IDLE: &str = "idle = 10\n";

/// A containerd, a client of it, and how its containers are run.
struct Clients {
    containerd: Containerd,
    /// The settings of its manager.
    settings: PathBuf,
    client: Client,
    runtime: Runtime,
    /// The number of containers so far.
    next: AtomicUsize,
}

/// A runtime of a round.
#[derive(Clone, Copy)]
struct Way<'w> {
    /// The column of the table.
    who: &'w str,
    /// Whether it has one daemon for all containers.
    shared: bool,
}

impl Way<'_> {
    fn runtime(self) -> String {
        let name = runtime(self.who);
        if self.shared { name.replace(".v1", "d.v1") } else { name }
    }

    fn program(self, name: &str) -> String {
        format!("/{name}{}", if is_native(self.who) { "" } else { ".wasm" })
    }
}

/// Measures the first engine: the parts of the shared mode do not depend on the engine.
pub(crate) fn measure(world: &mut World) {
    let Some(engine) = world.options.engines.last().cloned() else { return };
    let clients = Arc::new(Clients::start(world));
    let way = |who, shared| Way { who, shared };
    let ways = [
        way(engine.as_str(), false),
        way(engine.as_str(), true),
        way(RUNC, false),
        way(NOTHING, false),
        way(NOTHING, true),
    ];
    for way in ways {
        clients.life(way);
    }
    for _ in 0..world.options.rounds {
        for way in ways {
            thread::sleep(SETTLE);
            let took = milliseconds(clients.life(way));
            add(world, way, took, [API_LIFE, SHARED_LIFE]);
        }
    }
    for _ in 0..world.options.rounds_of(5) {
        let mut cpu = [0.0; 2];
        for way in ways {
            thread::sleep(SETTLE);
            let (each, per_second) = clients.many(way);
            add(world, way, each, [API_CPU, SHARED_CPU]);
            add(world, way, per_second, [API_MANY, SHARED_MANY]);
            if way.shared {
                cpu[usize::from(way.who == NOTHING)] = each;
            }
        }
        world.results.add(SHARED_CPU_OWN, &engine, cpu[0] - cpu[1]);
    }
    let shared = way(engine.as_str(), true);
    let ids = clients.sleepers(shared, world, &engine);
    clients.remove(&ids);
    clients.latency(shared, world, &engine);
    direct::measure_shared(world, &engine, &clients.settings);
    for containerd in [&clients.containerd, &world.containerd] {
        wait_until("the manager's end", LIFE, || Usage::pids(containerd).is_empty());
    }
}

/// Adds a value to one of two measures. runc, which has no shared mode, is in both.
fn add(world: &mut World, way: Way<'_>, value: f64, [single, shared]: [&str; 2]) {
    if way.shared || way.who == RUNC {
        world.results.add(shared, way.who, value);
    }
    if !way.shared {
        world.results.add(single, way.who, value);
    }
}

impl Clients {
    fn start(world: &World) -> Clients {
        let settings = world.code.with_file_name("manager.toml");
        fs::write(&settings, IDLE).expect("the folder is writable");
        let environment = [
            ("WHERRY_CACHE_DIR", &*world.code.to_string_lossy()),
            ("WHERRY_MANAGER_CONFIG", &*settings.to_string_lossy()),
        ];
        let containerd = Containerd::start_with(ContainerdVersion::V2, &environment);
        let image =
            ["hello", "kit"].iter().fold(Image::new("bench-shared"), |image, name| {
                image
                    .file(&format!("/{name}"), 0o755, guests::bytes(&format!("{name}.static")))
                    .file(&format!("/{name}.wasm"), 0o755, guests::bytes(&format!("{name}.wasm")))
            });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for the client");
        let client = {
            let _inside = runtime.enter();
            Client::new(&containerd, &image)
        };
        Clients { containerd, settings, client, runtime, next: AtomicUsize::new(0) }
    }

    fn new_id(&self) -> String {
        format!("c{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// From Create to the answer to Delete of a container that prints a line.
    fn life(&self, way: Way<'_>) -> Duration {
        self.runtime.block_on(life(self.client.with(way), self.new_id(), way.program("hello")))
    }

    /// The processor time of the whole machine for each of many containers, in milliseconds, and
    /// how many end in a second.
    fn many(&self, way: Way<'_>) -> (f64, f64) {
        let (start, before) = (Instant::now(), busy());
        self.runtime.block_on(async {
            let mut lives = JoinSet::new();
            for _ in 0..MANY {
                if lives.len() == AT_A_TIME {
                    lives.join_next().await.expect("some are alive").expect("no panic");
                }
                lives.spawn(life(self.client.with(way), self.new_id(), way.program("hello")));
            }
            lives.join_all().await;
        });
        let took = start.elapsed().as_secs_f64();
        let spent = milliseconds(busy() - before);
        (spent / MANY as f64, MANY as f64 / took)
    }

    /// Starts sleeping containers one after the other, and measures their starts, and the memory
    /// of a hundred.
    fn sleepers(&self, way: Way<'_>, world: &mut World, engine: &str) -> Vec<String> {
        let client = self.client.with(way);
        let args = [way.program("kit"), "sleep".to_owned(), "1000000".to_owned()];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut ids = Vec::new();
        let mut times = Vec::new();
        for number in 1..=MOST {
            let id = self.new_id();
            times.push(self.runtime.block_on(async {
                client.make(wanted(&id, &args)).await.expect("the container is registered");
                let start = Instant::now();
                client.create(&id, false, &Paths::default()).await.expect("Create answers");
                client.start(&id, "").await.expect("Start answers");
                milliseconds(start.elapsed())
            }));
            ids.push(id);
            if number == 100 {
                thread::sleep(SETTLE);
                let pss = Usage::of(&self.containerd).pss;
                world.results.add(SHARED_PSS_100, engine, pss as f64 / 1e6 / number as f64);
            }
        }
        self.runtime.block_on(async {
            for id in &ids {
                client.get(id, "").await.expect("State answers");
            }
        });
        for (number, key) in [
            (1, SHARED_START_AT_1),
            (100, SHARED_START_AT_100),
            (500, SHARED_START_AT_500),
            (MOST, SHARED_START_AT_1000),
        ] {
            let from = number.saturating_sub(AROUND / 2).min(MOST - AROUND);
            for time in times.iter().skip(from).take(AROUND) {
                world.results.add(key, engine, *time);
            }
        }
        ids
    }

    /// Ends and deletes containers.
    fn remove(&self, ids: &[String]) {
        self.runtime.block_on(async {
            for id in ids {
                self.client.kill(id, "", 9).await.expect("Kill answers");
                self.client.wait(id, "", LIFE).await.expect("it ends");
                self.client.delete(id, "").await.expect("Delete answers");
                self.client.forget(id).await.expect("the container is removed");
            }
        });
    }

    /// The 99th percentile of State and Pids of one container while a hundred others start.
    fn latency(&self, way: Way<'_>, world: &mut World, engine: &str) {
        let client = self.client.with(way);
        let observed = self.new_id();
        let args = [way.program("kit"), "sleep".to_owned(), "1000000".to_owned()];
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        self.runtime.block_on(async {
            client.make(wanted(&observed, &words)).await.expect("the container is registered");
            client.create(&observed, false, &Paths::default()).await.expect("Create answers");
            client.start(&observed, "").await.expect("Start answers");
        });
        // A separate client: its calls must not wait behind those of the others.
        let over = Arc::new(AtomicBool::new(false));
        let (mut states, mut pids) = thread::scope(|scope| {
            let watching = scope.spawn(|| self.watch(&observed, &over));
            self.many(way);
            over.store(true, Ordering::Relaxed);
            watching.join().expect("no panic")
        });
        world.results.add(SHARED_STATE_P99, engine, p99(&mut states));
        world.results.add(SHARED_PIDS_P99, engine, p99(&mut pids));
        self.remove(&[observed]);
    }

    /// Asks for the state and the pids of a container until `over`, and returns how long each took.
    fn watch(&self, id: &str, over: &AtomicBool) -> (Vec<f64>, Vec<f64>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime for the client").block_on(async {
            let client = self.client.reconnected(&self.containerd);
            let (mut states, mut pids) = (Vec::new(), Vec::new());
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                client.get(id, "").await.expect("State answers");
                states.push(milliseconds(start.elapsed()));
                let start = Instant::now();
                client.pids(id).await.expect("Pids answers");
                pids.push(milliseconds(start.elapsed()));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (states, pids)
        })
    }
}

/// A client of the containers of a way.
trait OfWay {
    fn with(&self, way: Way<'_>) -> Client;
}

impl OfWay for Client {
    fn with(&self, way: Way<'_>) -> Client {
        self.clone().with_runtime(&way.runtime())
    }
}

fn wanted<'w>(id: &'w str, args: &'w [&'w str]) -> Wanted<'w> {
    Wanted { id, args, terminal: false, group: None }
}

/// Runs a container to its end, and returns the time from Create to the answer to Delete.
async fn life(client: Client, id: String, program: String) -> Duration {
    client.make(wanted(&id, &[&program])).await.expect("the container is registered");
    let start = Instant::now();
    client.create(&id, false, &Paths::default()).await.expect("Create answers");
    let (status, started) = tokio::join!(client.wait(&id, "", LIFE), client.start(&id, ""));
    started.expect("Start answers");
    assert_eq!(status.expect("it ends"), 0, "{program}");
    client.delete(&id, "").await.expect("Delete answers");
    let took = start.elapsed();
    client.forget(&id).await.expect("the container is removed");
    took
}

/// The processor time that the machine has spent on programs and on the kernel.
fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let line = text.lines().next().expect("the sum of all processors");
    // user, nice, system, idle, iowait, irq, softirq; in hundredths of a second.
    let fields = line.split_whitespace().skip(1).map(|field| field.parse().expect("a number"));
    let ticks: u64 = fields
        .enumerate()
        .filter(|(at, _)| [0, 1, 2, 5, 6].contains(at))
        .map(|(_, n): (_, u64)| n)
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The 99th percentile.
fn p99(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * 99 / 100).min(values.len().saturating_sub(1));
    *values.get(at).expect("something was measured")
}
