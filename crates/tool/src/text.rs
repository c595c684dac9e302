//! The output for people.

use std::fmt::Write as _;

use serde_json::Value;
use wherry_image::Size;
use wherry_oci::daemon::Stored;
use wherry_oci::inspect::Description;
use wherry_oci::module::{Engine, Facts};

/// The most imports that are listed without `--json`.
const LISTED: usize = 40;

/// Formats JSON.
pub(crate) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Lines of a name and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name:<12}{value}");
    }

    /// The first line has the name, the others are indented.
    fn add_all(&mut self, name: &str, values: &[String]) {
        for (number, value) in values.iter().take(LISTED).enumerate() {
            self.add(if number == 0 { name } else { "" }, value);
        }
        if let Some(more) = values.len().checked_sub(LISTED).filter(|more| *more > 0) {
            self.add("", &format!("and {more} more, which --json lists"));
        }
    }

    fn add_facts(&mut self, size: u64, facts: &Facts) {
        self.add("kind", &format!("{}, {}", facts.kind.name(), Size(size)));
        self.add("WASI", facts.wasi.as_deref().unwrap_or("none"));
        self.add("needs", &needs(facts));
        for engine in &facts.engines {
            if let Some(refusal) = &engine.refusal {
                self.add("", &format!("not on {}: {refusal}", engine.name));
            }
        }
        self.add("languages", &facts.languages.join(", "));
        self.add("made by", &facts.tools.join(", "));
        match &facts.wit {
            Some(wit) => self.add_all("world", &wit.lines().map(str::to_owned).collect::<Vec<_>>()),
            None => {
                self.add_all("imports", &facts.imports);
                self.add_all("exports", &facts.exports);
            }
        }
    }
}

/// Returns the needs of a module and the engines that have them, in one sentence.
fn needs(facts: &Facts) -> String {
    let needs = match facts.needs.as_slice() {
        [] => "nothing".to_owned(),
        needs => needs.join(", "),
    };
    let runs = facts.runs_on();
    let first: Option<&Engine> = facts.engines.first();
    match runs.as_slice() {
        [] => {
            // Interfaces alone are not run by an engine of any version.
            let reason = if first.is_some() { "runs on no engine of Wherry" } else { "" };
            format!("{needs}; {reason}")
        }
        runs => format!("{needs}; runs on {}", runs.join(", ")),
    }
}

/// Describes a module or component.
pub(crate) fn module(name: &str, size: u64, facts: &Facts) -> String {
    let mut lines = Lines::default();
    lines.add("file", name);
    lines.add_facts(size, facts);
    lines.0
}

/// Describes an image or artifact.
pub(crate) fn description(described: &Description, signed: Option<bool>) -> String {
    let mut lines = Lines::default();
    lines.add("name", described.name.as_deref().unwrap_or_default());
    lines.add("digest", &described.digest);
    lines.add("package", &format!("{}, {}", described.packaging.name(), Size(described.size)));
    lines.add("platforms", &described.platforms.join(", "));
    lines.add("command", &described.command.join(" "));
    let layers: Vec<String> = described
        .layers
        .iter()
        .map(|layer| format!("{} {}, {}", layer.digest(), layer.media_type(), Size(layer.size())))
        .collect();
    lines.add_all("layers", &layers);
    match signed {
        Some(true) => lines.add("signature", "a cosign signature is attached; it was not verified"),
        Some(false) => lines.add("signature", "none"),
        None => {}
    }
    match &described.module {
        Ok((size, facts)) => lines.add_facts(*size, facts),
        Err(reason) => lines.add("module", reason),
    }
    lines.0
}

/// Lists images.
pub(crate) fn list(images: &[Stored]) -> String {
    let width = images.iter().map(|image| image.name.len()).max().unwrap_or_default().max(4);
    let mut text = String::new();
    let mut line = |name: &str, digest: &str, size: &str, platforms: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<width$}  {digest:<20} {size:<12} {platforms}");
    };
    line("NAME", "DIGEST", "SIZE", "PLATFORMS");
    for image in images {
        line(
            &image.name,
            image.digest.get(..19).unwrap_or(&image.digest),
            &image.size,
            &image.platforms.join(","),
        );
    }
    text
}

/// Formats a time in seconds since 1970, as RFC 3339 writes it. `None`: it is after the year 9999.
pub(crate) fn rfc3339(seconds: u64) -> Option<String> {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Counts from the 1st of March of the year 0, so that a leap day is the last of its year.
    let days = days.checked_add(719_468)?;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    (year <= 9999)
        .then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds).unwrap(), text);
        }
        assert_eq!(rfc3339(u64::MAX), None);
    }
}
