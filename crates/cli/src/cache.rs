//! `wherry-E cache`: lists and removes compiled code.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use wherry_image::cache::Entry;
use wherry_image::{Cache, Size};

use crate::args;
use crate::error::{Error, Result};

/// Runs a command. Returns the text to print.
pub(crate) fn run(cache: &Cache, command: &args::Cache) -> Result<String> {
    match command {
        args::Cache::Ls { json } => {
            let entries = cache
                .entries()
                .map_err(|source| Error::Read { path: cache.directory().to_owned(), source })?;
            Ok(if *json { as_json(&entries) } else { table(cache, &entries) })
        }
        args::Cache::Prune { older_than } => prune(cache, older_than.unwrap_or_default()),
    }
}

fn as_json(entries: &[Entry]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|entry| {
            json!({
                "digest": format!("sha256:{}", entry.digest),
                "engine": entry.engine,
                "key": entry.key,
                "bytes": entry.bytes,
                "unusedSeconds": entry.age().as_secs(),
            })
        })
        .collect();
    format!("{:#}\n", json!(entries))
}

fn table(cache: &Cache, entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut line = |columns: [&str; 4]| {
        let [digest, engine, size, used] = columns;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{digest:<16}{engine:<44}{size:<12}{used}");
    };
    line(["MODULE SHA256", "ENGINE AND KEY", "SIZE", "LAST USED"]);
    for entry in entries {
        line([
            &format!("{:.12}", entry.digest),
            &format!("{} {}", entry.engine, entry.key),
            &Size(entry.bytes).to_string(),
            &ago(entry.age()),
        ]);
    }
    let total = Size(entries.iter().map(|entry| entry.bytes).sum());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}, {total}, in {}", count(entries.len()), cache.directory().display());
    text
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
    fn ages_are_told_as_finely_as_they_are_known() {
        assert_eq!(ago(Duration::from_secs(3599)), "within the hour");
        assert_eq!(ago(Duration::from_secs(3600 * 47)), "47 h ago");
        assert_eq!(ago(Duration::from_secs(3600 * 48)), "2 d ago");
    }

    #[test]
    fn a_cache_that_is_not_there_is_empty() {
        let cache = Cache::new("/nonexistent/cache".into(), "e", 1);
        let run = |command| run(&cache, &command).unwrap();
        let listed = run(args::Cache::Ls { json: false });
        assert!(listed.ends_with("0 modules, 0 bytes, in /nonexistent/cache\n"), "{listed}");
        assert_eq!(run(args::Cache::Ls { json: true }), "[]\n");
        let pruned = run(args::Cache::Prune { older_than: None });
        assert!(pruned.starts_with("removed 0 modules"), "{pruned}");
    }

    #[test]
    fn modules_are_counted_in_the_singular_and_the_plural() {
        assert_eq!([0, 1, 2].map(count), ["0 modules", "1 module", "2 modules"]);
    }
}
