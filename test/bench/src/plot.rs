//! The plot: for each measure that runc has too, a bar relative to runc's. Shorter is better.

use std::fmt::Write;

use crate::measures::{
    CTR_HELLO, DOCKER_FIB, DOCKER_HELLO, LIFE, MANY, PSS_20, PSS_100, START, TO_GUEST, Unit,
};
use crate::measures::{MEASURES, Measure};
use crate::results::{NOTHING, RUNC, Results};

/// The measures in the plot.
const DRAWN: [&str; 9] =
    [CTR_HELLO, MANY, DOCKER_HELLO, DOCKER_FIB, TO_GUEST, START, LIFE, PSS_20, PSS_100];
const WIDTH: f64 = 880.0;
/// The length of runc's bar, its left edge, and the height of a bar.
const WHOLE: f64 = 340.0;
const LEFT: f64 = 390.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
const TOP: f64 = 56.0;
const COLOURS: [&str; 4] = ["#5b4bdb", "#0f8b8d", "#c2571a", "#a02c6b"];
const FLOOR: &str = "#9aa0a6";

/// The picture as SVG. A bar is a runtime's median divided by runc's; for a throughput, the
/// inverse.
pub(crate) fn svg(results: &Results, engines: &[String]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for measure in
        DRAWN.iter().filter_map(|key| MEASURES.iter().find(|measure| measure.key == *key))
    {
        let mut bars: Vec<(&str, &str)> =
            engines.iter().map(String::as_str).zip(COLOURS.into_iter().cycle()).collect();
        bars.push((NOTHING, FLOOR));
        let bars: Vec<(f64, String, &str)> =
            bars.iter().filter_map(|(who, colour)| bar(results, measure, who, colour)).collect();
        if bars.is_empty() {
            continue;
        }
        let middle = y + BAR * bars.len() as f64 / 2.0 + 4.0;
        label(&mut body, LEFT - 12.0, middle, "end", &measure.text.replace('`', ""));
        for (share, text, colour) in bars {
            // A bar that would leave the picture is cut off; its number gives its length.
            let length = WHOLE * share.min(1.05);
            // Writing to a String cannot fail.
            let _ = writeln!(
                body,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{:.1}" fill="{colour}" rx="2"/>"#,
                BAR - 2.0
            );
            label(&mut body, LEFT + length + 6.0, y + BAR - 5.0, "start", &text);
            y += BAR;
        }
        y += GAP;
    }
    let (height, edge) = (y + 8.0, LEFT + WHOLE);
    let mut text = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
"##
    );
    let mut x = LEFT;
    let floor = (NOTHING, FLOOR);
    let names = engines.iter().map(String::as_str).zip(COLOURS.into_iter().cycle());
    for (name, colour) in names.chain([floor]) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            r#"<rect x="{x}" y="14" width="11" height="11" fill="{colour}" rx="2"/>"#
        );
        label(&mut text, x + 16.0, 24.0, "start", name);
        x += 36.0 + 7.0 * name.len() as f64;
    }
    label(&mut text, edge, 42.0, "middle", "runc = 1");
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        r##"<line x1="{edge}" y1="48" x2="{edge}" y2="{:.1}" stroke="#d93025" stroke-dasharray="4 3"/>"##,
        height - 8.0
    );
    text + &body + "</svg>\n"
}

/// A bar's length as a share of runc's, its text and its colour.
fn bar<'c>(
    results: &Results,
    measure: &Measure,
    who: &str,
    colour: &'c str,
) -> Option<(f64, String, &'c str)> {
    let ratio = results.ratio(measure.key, who, RUNC)?;
    let share = if measure.unit == Unit::PerSecond { 1.0 / ratio } else { ratio };
    let median = results.median(measure.key, who)?;
    Some((share, format!("{share:.2} ({median:.1} {})", measure.unit.text()), colour))
}

fn label(to: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a String cannot fail.
    let _ = writeln!(
        to,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#202124">{text}</text>"##
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_of_runc() {
        let mut results = Results::default();
        results.add(CTR_HELLO, "some", 30.0);
        results.add(CTR_HELLO, RUNC, 120.0);
        results.add(MANY, "some", 40.0);
        results.add(MANY, RUNC, 20.0);
        let picture = svg(&results, &["some".to_owned()]);
        assert!(
            picture.contains(r#"width="85.0""#) && picture.contains("0.25 (30.0 ms)"),
            "{picture}"
        );
        assert!(
            picture.contains(r#"width="170.0""#) && picture.contains("0.50 (40.0 /s)"),
            "{picture}"
        );
        assert!(!picture.contains("docker"));
    }
}
