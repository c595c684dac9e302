//! Reports the results: tables in the terminal, and tables, JSON and plot in files.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::options::Options;
use crate::results::Results;
use crate::{bounds, machine, plot, table};

/// The sentence below the tables of the document.
const EVERY_VALUE: &str = "[performance.json](performance.json) has every single value.";

/// Prints the tables, and writes the files; an existing `performance.md` gets the tables between
/// its marks. `load` is the share of the machine that other processes used.
pub(crate) fn report(options: &Options, results: &Results, load: f64) {
    let facts = machine::facts();
    let tables = table::tables(results, &options.engines);
    let text = format!("{}\n\n{tables}", sentence(options, &facts, load));
    println!("\n{text}");
    if load > machine::QUIET {
        println!("Other processes used this machine: the figures are not reliable.");
    }
    let json = json!({
        "machine": facts,
        "load": load,
        "rounds": options.rounds,
        "measures": results.json(),
        "promises": promises(options, results),
    });
    let out = &options.out;
    fs::create_dir_all(out).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
    write(&out.join("performance.json"), &format!("{json:#}\n"));
    write(&out.join("performance.svg"), &plot::svg(results, &options.engines));
    let document = out.join("performance.md");
    if let Ok(old) = fs::read_to_string(&document) {
        let text = format!("![Wherry beside runc](performance.svg)\n\n{text}\n{EVERY_VALUE}\n");
        let new = table::insert(&old, &text);
        write(&document, &new.unwrap_or_else(|| panic!("{} has no marks", document.display())));
    }
    println!("Written: {}/performance.{{json,svg}}", out.display());
}

/// The time and the machine of the run.
fn sentence(options: &Options, facts: &Value, load: f64) -> String {
    let text = |key: &str| facts[key].as_str().unwrap_or_default().to_owned();
    format!(
        "Measured {} at {} on {} processors ({}), {}, Linux {}, cgroup {}; {}; {}; {}. Up to {} rounds; medians, ± median \
         absolute deviation, (÷ runc). Others used {:.0} % of the machine.",
        text("date"),
        text("wherry"),
        facts["cores"],
        text("processor"),
        text("system"),
        text("kernel"),
        text("cgroup"),
        text("containerd"),
        text("docker"),
        text("runc"),
        options.rounds,
        load * 100.0
    )
}

fn promises(options: &Options, results: &Results) -> Value {
    let of = |engine: &String| (engine.clone(), bounds::json(results, engine));
    Value::Object(options.engines.iter().map(of).collect())
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{} cannot be written: {e}", path.display()));
}
