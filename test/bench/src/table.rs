//! The tables, for the terminal and for docs/performance.md.

use std::fmt::Write;

use crate::bounds::verdicts;
use crate::measures::{MEASURES, Measure, Unit};
use crate::results::{NOTHING, RUNC, Results};
use crate::stats;

/// The marks around the tables in docs/performance.md.
const BEGIN: &str = "<!-- bench: begin -->\n";
const END: &str = "<!-- bench: end -->";

/// All measures, with a column for each runtime, and the verdicts on the bounds.
pub(crate) fn tables(results: &Results, engines: &[String]) -> String {
    let mut columns: Vec<&str> = engines.iter().map(String::as_str).collect();
    columns.extend([RUNC, NOTHING].iter().filter(|who| results.measured(who).next().is_some()));
    let mut text =
        format!("| | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(columns.len()));
    for measure in &MEASURES {
        let cells: Vec<String> = columns.iter().map(|who| cell(results, measure, who)).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {} | {} |", measure.text, cells.join(" | "));
        }
    }
    text += "\n| engine | promise | bound | measured | |\n|---|---|--:|--:|---|\n";
    for engine in engines {
        for verdict in verdicts(results, engine) {
            let (bound, met) = (verdict.bound, if verdict.met { "met" } else { "**not met**" });
            let (limit, value) = (verdict.limit_text(), bound.text_of(verdict.value));
            // As above.
            let _ = writeln!(text, "| {engine} | {} | {limit} | {value} | {met} |", bound.text);
        }
    }
    text
}

/// Puts `text` between the marks of a document. None if it has no such marks.
pub(crate) fn insert(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{text}{END}{after}"))
}

fn cell(results: &Results, measure: &Measure, who: &str) -> String {
    let values = results.values(measure.key, who);
    let (Some(median), Some(deviation)) = (stats::median(values), stats::deviation(values)) else {
        return String::new();
    };
    if measure.unit == Unit::Count {
        return format!("{}", (median * 100.0).round() / 100.0);
    }
    let digits = if median < 10.0 { 2 } else { 1 };
    let mut text = format!("{median:.digits$}");
    if values.len() > 1 {
        // As above.
        let _ = write!(text, " ± {deviation:.digits$}");
    }
    // As above.
    let _ = write!(text, " {}", measure.unit.text());
    if let Some(ratio) = results.ratio(measure.key, who, RUNC).filter(|_| who != RUNC) {
        // As above.
        let _ = write!(text, " ({ratio:.2})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::{CTR_HELLO, PROCESSES, SIZE_SHIM};

    #[test]
    fn a_table_has_what_was_measured() {
        let mut results = Results::default();
        for value in [40.0, 41.0, 45.0] {
            results.add(CTR_HELLO, "some", value);
            results.add(CTR_HELLO, RUNC, value * 2.0);
        }
        results.add(SIZE_SHIM, "some", 4.5);
        results.add(PROCESSES, "some", 2.0);
        let text = tables(&results, &["some".to_owned()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| | some | runc |");
        assert_eq!(
            lines[2],
            "| `ctr run --rm` of hello, warm | 41.0 ± 1.0 ms (0.50) | 82.0 ± 2.0 ms |"
        );
        assert_eq!(lines[3], "| processes per running container | 2 |  |");
        assert_eq!(lines[4], "| shim executable, stripped | 4.50 MB |  |");
        assert_eq!(
            lines[8..],
            [
                "| some | `ctr run --rm` of hello, warm ÷ runc | ≤ 0.50 | 0.50 | met |",
                "| some | shim executable, stripped | ≤ 4.0 MB | 4.5 MB | **not met** |"
            ]
        );
    }

    #[test]
    fn a_document_keeps_what_is_around_its_tables() {
        let document = format!("above\n{BEGIN}old\n{END}\nbelow\n");
        let new = insert(&document, "new\n").unwrap();
        assert_eq!(new, format!("above\n{BEGIN}new\n{END}\nbelow\n"));
        assert_eq!(insert("no marks", "new"), None);
    }
}
