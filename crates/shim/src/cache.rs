//! `wherry-E cache`: lists and removes compiled code.

use std::fmt::Write as _;
use std::time::Duration;

use wherry_image::{Cache, Size};

use crate::error::{Error, Result};

const USAGE: &str = "cache ls | prune [--older-than NUMBER(s|m|h|d)]";

/// Runs the command that the arguments after `cache` name. Returns the text to print.
pub(crate) fn run(cache: &Cache, args: &[&str]) -> Result<String> {
    match args {
        ["ls"] => {
            list(cache).map_err(|source| Error::Read { path: cache.directory().to_owned(), source })
        }
        ["prune"] => prune(cache, Duration::ZERO),
        ["prune", "--older-than", age] => prune(cache, duration(age).ok_or(Error::Usage(USAGE))?),
        _ => Err(Error::Usage(USAGE)),
    }
}

fn list(cache: &Cache) -> std::io::Result<String> {
    let entries = cache.entries()?;
    let mut text = String::new();
    let mut line = |columns: [&str; 4]| {
        let [digest, engine, size, used] = columns;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{digest:<16}{engine:<44}{size:<12}{used}");
    };
    line(["MODULE SHA256", "ENGINE AND KEY", "SIZE", "LAST USED"]);
    for entry in &entries {
        line([
            entry.digest.get(..12).unwrap_or_default(),
            &format!("{} {}", entry.engine, entry.key),
            &Size(entry.bytes).to_string(),
            &ago(entry.age()),
        ]);
    }
    let total = Size(entries.iter().map(|entry| entry.bytes).sum());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}, {total}, in {}", count(entries.len()), cache.directory().display());
    Ok(text)
}

fn prune(cache: &Cache, unused_for: Duration) -> Result<String> {
    let pruned = cache
        .prune(unused_for)
        .map_err(|source| Error::Prune { path: cache.directory().to_owned(), source })?;
    let directory = cache.directory().display();
    Ok(format!("removed {}, {}, from {directory}\n", count(pruned.entries), Size(pruned.bytes)))
}

fn count(modules: usize) -> String {
    if modules == 1 { "1 module".to_owned() } else { format!("{modules} modules") }
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

fn duration(text: &str) -> Option<Duration> {
    UNITS.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_secs(number.checked_mul(*seconds)?))
    })
}

/// Formats the time since the last use. The cache records a use once an hour, so nothing finer is
/// known.
fn ago(age: Duration) -> String {
    match age.as_secs() {
        0..3600 => "within the hour".to_owned(),
        3600..172_800 => format!("{} h ago", age.as_secs() / 3600),
        _ => format!("{} d ago", age.as_secs() / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_people_write_them() {
        assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        for wrong in ["", "d", "7", "-1d", "1 week"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ages_are_told_as_finely_as_they_are_known() {
        assert_eq!(ago(Duration::from_secs(3599)), "within the hour");
        assert_eq!(ago(Duration::from_secs(3600 * 47)), "47 h ago");
        assert_eq!(ago(Duration::from_secs(3600 * 48)), "2 d ago");
    }

    #[test]
    fn a_cache_that_is_not_there_is_empty() {
        let cache = Cache::new("/nonexistent/cache".into(), "e", 1);
        assert!(
            run(&cache, &["ls"]).unwrap().ends_with("0 modules, 0 bytes, in /nonexistent/cache\n")
        );
        assert!(run(&cache, &["prune"]).unwrap().starts_with("removed 0 modules"));
        assert!(run(&cache, &["prune", "--older-than", "x"]).is_err());
    }
}
