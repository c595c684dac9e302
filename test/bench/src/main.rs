//! What a container costs: under each engine, under runc, and under a shim that does nothing.
//!
//! `make bench` builds everything and runs this; docs/performance.md says what is measured and how. In each round each
//! runtime has its turn, so that a machine that slows down slows all of them.
//!
//! | variable | default | |
//! |---|---|---|
//! | `BENCH_ROUNDS` | 20 | how often; what takes long is measured less often, what takes a moment more often |
//! | `BENCH_PARTS` | all | some of `sizes direct ctr docker memory idle many cold` |
//! | `BENCH_IDLE_SECONDS` | 60 | how long an idle container is watched |
//! | `BENCH_OUT` | beside the executables | the folder of what is written: `docs` for the figures that it shows |
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
            "many" => parts::many::measure,
            "docker" => parts::docker::measure,
            "memory" => parts::memory::measure,
            _ => parts::idle::measure,
        };
        measure(&mut world);
        world.settle();
        // What the last part has left to be compiled when nobody needs the processors is not others'.
        if part != COLD {
            load = load.max(machine::load());
        }
    }
    eprintln!("bench: {:>4.0} s: done", begin.elapsed().as_secs_f64());
    report::report(&world.options, &world.results, load);
    ExitCode::SUCCESS
}
