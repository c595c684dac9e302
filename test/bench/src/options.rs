//! The options of a run, from the environment.

use std::env;
use std::path::PathBuf;

use wherry_testing::{bin_dir, repository};

/// The part after which better code is compiled in the background, once the processors are idle: it
/// runs last.
pub(crate) const COLD: &str = "cold";

/// The parts of a run, in order.
pub(crate) const PARTS: [&str; 11] =
    ["sizes", "direct", "ctr", "docker", "memory", "shared", "pod", "idle", "many", "images", COLD];

/// The options of a run.
pub(crate) struct Options {
    /// The engines to measure.
    pub(crate) engines: Vec<String>,
    /// The parts to run, of [`PARTS`].
    pub(crate) parts: Vec<String>,
    /// The number of rounds of short measurements; long ones have fewer.
    pub(crate) rounds: usize,
    /// How long an idle container is traced, in seconds.
    pub(crate) idle_seconds: u64,
    /// The folder of the results.
    pub(crate) out: PathBuf,
}

impl Options {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the invalid variable.
    pub(crate) fn from_environment() -> Result<Options, String> {
        Options::from(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Options, String> {
        let number = |name: &str, default: u64| match variable(name) {
            None => Ok(default),
            Some(text) => match text.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("{name} is {text:?}: it takes a number from 1 on")),
            },
        };
        let parts = variable("BENCH_PARTS").map_or_else(
            || PARTS.map(str::to_owned).to_vec(),
            |text| {
                text.split([',', ' ']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
            },
        );
        if let Some(part) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            return Err(format!("BENCH_PARTS has {part:?}, which is none of: {}", PARTS.join(" ")));
        }
        Ok(Options {
            engines: variable("WHERRY_ENGINE").map_or_else(all_engines, |engine| vec![engine]),
            parts,
            rounds: usize::try_from(number("BENCH_ROUNDS", 20)?).unwrap_or(usize::MAX),
            idle_seconds: number("BENCH_IDLE_SECONDS", 60)?,
            out: variable("BENCH_OUT").map_or_else(|| bin_dir().join("bench"), PathBuf::from),
        })
    }

    /// Whether this part was requested.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }

    /// The number of rounds of a measurement that is short and varies.
    pub(crate) fn rounds_of_short(&self) -> usize {
        self.rounds.saturating_mul(4)
    }

    /// The number of rounds of a measurement that takes so many times as long as the others.
    pub(crate) fn rounds_of(&self, weight: usize) -> usize {
        (self.rounds / weight).max(3).min(self.rounds)
    }
}

/// All engines: the folders of shims/.
fn all_engines() -> Vec<String> {
    let folder = repository().join("shims");
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{} cannot be read: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> Result<Options, String> {
        Options::from(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn everything_is_measured_unless_less_is_asked_for() {
        let all = options(&[("BENCH_OUT", "docs")]).unwrap();
        assert!(PARTS.iter().all(|part| all.wants(part)));
        let some = options(&[("BENCH_OUT", "docs"), ("BENCH_PARTS", "ctr, cold")]).unwrap();
        assert_eq!(some.parts, ["ctr", "cold"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(options(&[("BENCH_PARTS", "ctr,cool")]).err().unwrap().contains("\"cool\""));
        assert!(options(&[("BENCH_ROUNDS", "0")]).err().unwrap().contains("BENCH_ROUNDS"));
    }

    #[test]
    fn what_takes_long_is_measured_less_often() {
        let few = options(&[("BENCH_OUT", "docs"), ("BENCH_ROUNDS", "2")]).unwrap();
        assert_eq!((few.rounds_of(1), few.rounds_of(5)), (2, 2));
        let many = options(&[("BENCH_OUT", "docs"), ("BENCH_ROUNDS", "20")]).unwrap();
        assert_eq!((many.rounds_of(1), many.rounds_of(5), many.rounds_of(100)), (20, 4, 3));
    }
}
