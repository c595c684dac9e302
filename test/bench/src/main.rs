//! The cost of a container: under each engine, under runc, and under a shim that does nothing.
//!
//! `make bench` builds everything and runs this; docs/performance.md describes the method. In each
//! round the runtimes take turns, so that a machine that slows down slows all of them.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `BENCH_ROUNDS` | 20 | rounds; long measurements have fewer, short ones more |
//! | `BENCH_PARTS` | all | some of the parts, see `options::PARTS` |
//! | `BENCH_IDLE_SECONDS` | 60 | how long an idle container is traced |
//! | `BENCH_OUT` | beside the executables | folder of the results: `docs` publishes them |
//! | `WHERRY_ENGINE` | all | one engine |

mod bounds;
mod bundle;
mod client;
mod images;
mod machine;
mod measures;
mod options;
mod parts;
mod plot;
mod report;
mod results;
mod stats;
mod table;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use options::{COLD, Options, PARTS};
use world::World;

fn main() -> ExitCode {
    let options = match Options::from_environment() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::from(2);
        }
    };
    let begin = Instant::now();
    let mut load = machine::load();
    let mut world = World::new(options);
    for part in PARTS.iter().filter(|part| world.options.wants(part)).copied().collect::<Vec<_>>() {
        eprintln!("bench: {:>4.0} s: {part}", begin.elapsed().as_secs_f64());
        let measure = match part {
            "sizes" => parts::sizes::measure,
            "direct" => parts::direct::measure,
            "ctr" => parts::ctr::measure,
            "cold" => parts::cold::measure,
            "images" => parts::images::measure,
            "many" => parts::many::measure,
            "docker" => parts::docker::measure,
            "memory" => parts::memory::measure,
            "pod" => parts::pod::measure,
            "shared" => parts::shared::measure,
            _ => parts::idle::measure,
        };
        measure(&mut world);
        world.settle();
        // Background compilations of the last part do not count as load of other processes.
        if part != COLD {
            load = load.max(machine::load());
        }
    }
    eprintln!("bench: {:>4.0} s: done", begin.elapsed().as_secs_f64());
    report::report(&world.options, &world.results, load);
    ExitCode::SUCCESS
}
