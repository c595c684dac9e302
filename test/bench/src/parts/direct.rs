//! A container's life without containerd: a client calls the shim as containerd does, including
//! containerd's pause between `start` and Create, in which an engine host loads.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wherry_bench::wire::Message;
use wherry_testing::{Daemon, daemon_bin, guests};

use crate::bundle::{Bundle, Template};
use crate::client::{Client, take_events};
use crate::images;
use crate::measures::{
    AT_ONCE, LIFE, LIFE_CREATE, LIFE_DELETE, LIFE_START, PAUSE, SHARED_TO_GUEST, START, TO_GUEST,
};
use crate::results::NOTHING;
use crate::stats::median;
use crate::world::{World, is_native, milliseconds, shim};

/// Until the host that a Create has used is replaced.
const REFILL: Duration = Duration::from_millis(50);

/// The runtimes take turns in each round; the first round fills the caches.
pub(crate) fn measure(world: &mut World) {
    let pause = pause(world);
    let events = world.containerd.root().join("events.sock");
    take_events(&events);
    let module = Template::new(&world.containerd, "wasm", &guests::bytes("instant.wasm"));
    let program = Template::new(&world.containerd, "native", &guests::bytes("instant.static"));
    for round in 0..=world.options.rounds_of_short() {
        for who in world.runtimes(true) {
            world.settle();
            let template = if is_native(&who) { &program } else { &module };
            let bundle = template.bundle(&world.containerd.new_id());
            let at_once = round % 2 == 0;
            let pause = if at_once { Duration::ZERO } else { pause };
            let way = Way { who: &who, settings: None };
            let values = live(world, way, bundle, &events, pause);
            for (key, value) in values {
                match key {
                    _ if round == 0 => {}
                    TO_GUEST if at_once => world.results.add(AT_ONCE, &who, value),
                    _ if at_once => {}
                    _ => world.results.add(key, &who, value),
                }
            }
        }
    }
}

/// The time from Create to the first instruction in the shared mode of `engine`, with spare hosts:
/// each life begins when the last one's host was replaced.
pub(crate) fn measure_shared(world: &mut World, engine: &str, settings: &Path) {
    let events = world.containerd.root().join("events-shared.sock");
    take_events(&events);
    let module = Template::new(&world.containerd, "shared", &guests::bytes("instant.wasm"));
    let who = format!("{engine}d");
    for round in 0..=world.options.rounds_of_short() {
        thread::sleep(REFILL);
        let bundle = module.bundle(&world.containerd.new_id());
        let way = Way { who: &who, settings: Some(settings) };
        let values = live(world, way, bundle, &events, Duration::ZERO);
        let to_guest = values.into_iter().find(|(key, _)| *key == TO_GUEST).filter(|_| round > 0);
        if let Some((_, value)) = to_guest {
            world.results.add(SHARED_TO_GUEST, engine, value);
        }
    }
}

/// A runtime of a round.
#[derive(Clone, Copy)]
struct Way<'w> {
    who: &'w str,
    /// The settings of its manager, which stays, if it has one.
    settings: Option<&'w Path>,
}

/// The time from the end of `start` to containerd's Create.
fn pause(world: &mut World) -> Duration {
    let hello = images::hello();
    world.containerd.load(hello.image(true));
    for round in 0..=world.options.rounds {
        world.ctr_run(NOTHING, hello.image(true), hello.says);
        if round == 0 {
            fs::remove_file(&world.pauses).expect("the first container's is there");
        }
    }
    let text = fs::read_to_string(&world.pauses).expect("each container's is there");
    let pauses: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    pauses.iter().for_each(|pause| world.results.add(PAUSE, NOTHING, *pause));
    Duration::from_secs_f64(median(&pauses).expect("there was a round") / 1e3)
}

/// Runs one container to its end, and returns the time of each step, in milliseconds.
fn live(
    world: &World,
    way: Way<'_>,
    mut bundle: Bundle,
    events: &Path,
    pause: Duration,
) -> Vec<(&'static str, f64)> {
    let about = Message::new().text(1, &bundle.id);
    let called = Instant::now();
    let answer = start(world, way, &bundle, events);
    let started = called.elapsed();
    let mut client = Client::connect(&answer);
    let request = bundle.create_request();
    thread::sleep(pause.saturating_sub(called.elapsed() - started));

    let sent = (Instant::now(), SystemTime::now());
    client.call("Create", &request);
    let create = sent.0.elapsed();
    client.call("Start", &about);
    let start = sent.0.elapsed() - create;
    // The shim that does nothing starts no guest.
    let line = (way.who != NOTHING).then(|| bundle.read_line());
    client.call("Wait", &about);
    let before_delete = sent.0.elapsed();
    client.call("Delete", &about);
    let whole = sent.0.elapsed();

    if way.settings.is_none() {
        client.shut_down(&bundle.id);
    }
    bundle.remove();
    let mut values = vec![
        (START, milliseconds(started)),
        (LIFE, milliseconds(whole)),
        (LIFE_CREATE, milliseconds(create)),
        (LIFE_START, milliseconds(start)),
        (LIFE_DELETE, milliseconds(whole - before_delete)),
    ];
    if let Some(line) = line {
        let first = first_instruction(&line).unwrap_or_else(|| panic!("the guest said {line:?}"));
        values.push((TO_GUEST, milliseconds(first - since_1970(sent.1))));
    }
    values
}

/// Runs a shim's `start` as containerd does, and returns its output.
fn start(world: &World, way: Way<'_>, bundle: &Bundle, events: &Path) -> String {
    let Way { who, settings } = way;
    let address = world.containerd.address();
    let mut command = Command::new(shim(who));
    command.args(["-namespace", world.containerd.namespace(), "-address"]).arg(&address);
    command.args(["-publish-binary", "/bin/true", "-id", &bundle.id, "start"]);
    let runc = daemon_bin("runc");
    command.current_dir(&bundle.path).env_clear();
    command.env("WHERRY_CACHE_DIR", &world.code);
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", runc.display()));
    command.env("TTRPC_ADDRESS", events).env("GRPC_ADDRESS", &address).env("MAX_SHIM_VERSION", "3");
    command.env("NAMESPACE", world.containerd.namespace());
    if let Some(settings) = settings {
        command.env("WHERRY_MANAGER_CONFIG", settings);
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", shim(who).display()));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "start of {who}: {stdout}{stderr}");
    stdout.into_owned()
}

/// The moment that `instant.c` prints.
fn first_instruction(said: &str) -> Option<Duration> {
    said.trim().parse().ok().map(Duration::from_nanos)
}

fn since_1970(moment: SystemTime) -> Duration {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default()
}
