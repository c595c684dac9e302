//! The table of commands and options per daemon: declared rows, and the run of the tests that
//! proves them.

use crate::needs;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use wherry_testing::runtime_of;

/// A daemon: its client, the column's title, and the module of its tests.
struct Column {
    client: &'static str,
    title: &'static str,
    module: &'static str,
}

/// In the order of the table.
const COLUMNS: [Column; 7] = [
    Column { client: "docker", title: "Docker 26", module: "docker_26" },
    Column { client: "docker", title: "Docker 28", module: "docker_28" },
    Column { client: "docker", title: "Docker 29", module: "docker_29" },
    Column { client: "ctr", title: "containerd 1.6", module: "containerd_1_6" },
    Column { client: "ctr", title: "containerd 1.7", module: "containerd_1_7" },
    Column { client: "ctr", title: "containerd 2.x", module: "containerd_2" },
    Column { client: "ctr", title: "containerd 2.4", module: "containerd_2_4" },
];

const HEAD: &str = "# Compatibility

Commands and options of Docker and containerd, and whether they work for a WebAssembly container. `make test-e2e`
writes this file: ✓ if the tests at the end of the row passed on that daemon, untried if they need a capability that
the engine lacks, or one shim for each container, — if that client has no such command or option. Rows are declared in `test/e2e/compatibility.toml`.
One engine is tested on all daemons, the others, and its shared mode (`wasmtimed`), on one Docker and one containerd.
containerd 2.x is the version of Debian unstable.
";

/// The declared rows, by section.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    section: Vec<Section>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    title: String,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// The command or option, as a user writes it.
    what: String,
    /// The tests that prove it, as `subject::test`.
    tests: Vec<String>,
    /// The reason why it cannot work. The tests prove that it is refused.
    refused: Option<String>,
    /// A remark on something that works.
    remark: Option<String>,
    /// The beginnings of the titles of those columns whose client lacks it, regardless of the
    /// tests.
    #[serde(default)]
    absent: Vec<String>,
}

impl Declared {
    /// Parses the declaration, `test/e2e/compatibility.toml`.
    ///
    /// # Errors
    /// Names the invalid line.
    pub fn parse(text: &str) -> Result<Declared, String> {
        let declared: Declared = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut seen = BTreeSet::new();
        for section in &declared.section {
            for row in &section.rows {
                let name = format!("{}: {}", section.title, row.what);
                if row.tests.is_empty() {
                    return Err(format!("{name}: no test is named"));
                }
                let is_column =
                    |start: &String| COLUMNS.iter().any(|column| column.title.starts_with(start));
                if let Some(other) = row.absent.iter().find(|start| !is_column(start)) {
                    return Err(format!("{name}: no column begins with {other}"));
                }
                if !seen.insert(name.clone()) {
                    return Err(format!("{name}: there are two such rows"));
                }
            }
        }
        Ok(declared)
    }

    /// Returns the part of an engine, in the mode under test, of the document.
    ///
    /// # Errors
    /// A sentence for each row that the run did not prove.
    pub fn part(&self, engine: &str, run: &TestRun) -> Result<String, Vec<String>> {
        let mut errors = Vec::new();
        let mut text = format!("## {}\n", runtime_of(engine));
        for section in &self.section {
            text += &format!("\n### {}\n\n| |", section.title);
            run.columns().for_each(|column| text += &format!(" {} |", column.title));
            text += " | tests |\n|---|";
            run.columns().for_each(|_| text += ":-:|");
            text += "---|---|\n";
            for row in &section.rows {
                let problems = row.problems(run);
                errors.extend(problems.iter().map(|problem| format!("{}: {problem}", row.what)));
                text += &row.line(engine, run);
            }
        }
        if errors.is_empty() { Ok(text) } else { Err(errors) }
    }
}

impl Row {
    /// The columns of a run that this row has a cell for.
    fn columns(&self, run: &TestRun) -> impl Iterator<Item = &'static Column> {
        run.columns().filter(|column| {
            !self.absent.iter().any(|start| column.title.starts_with(start.as_str()))
        })
    }

    /// The reason why a run does not prove this row.
    fn problems(&self, run: &TestRun) -> Vec<String> {
        let mut problems = Vec::new();
        for test in &self.tests {
            if self.columns(run).all(|column| run.passed(test, column).is_none()) {
                problems.push(format!("no test called {test} ran"));
            }
            for column in self.columns(run) {
                // A client has it in all of its versions, or in none.
                let mut siblings = self.columns(run).filter(|other| other.client == column.client);
                match run.passed(test, column) {
                    Some(true) => {}
                    Some(false) => problems.push(format!("{test} failed on {}", column.title)),
                    None if siblings.any(|other| run.passed(test, other).is_some()) => {
                        problems.push(format!("{test} did not run on {}", column.title));
                    }
                    None => {}
                }
            }
        }
        problems
    }

    fn line(&self, engine: &str, run: &TestRun) -> String {
        let untried = self.tests.iter().find_map(|test| needs::untried(engine, test));
        let mut line = format!("| {} |", self.what.replace('|', "\\|"));
        for column in run.columns() {
            let about = self.columns(run).any(|own| own.title == column.title);
            let ran = self.tests.iter().any(|test| run.passed(test, column).is_some());
            line += match &self.refused {
                _ if !about || !ran => " — |",
                _ if untried.is_some() => " untried |",
                Some(_) => " refused |",
                None => " ✓ |",
            };
        }
        let remark = match (untried, &self.refused, &self.remark) {
            (Some(reason), ..) => reason.to_owned(),
            (None, Some(reason), _) => format!("refused: {reason}"),
            (None, None, remark) => remark.clone().unwrap_or_default(),
        };
        format!("{line} {remark} | `{}` |\n", self.tests.join("`, `"))
    }
}

/// The results of a run of the tests: for `subject::test` and the module of a daemon whether it
/// passed.
#[derive(Debug, Default)]
pub struct TestRun(BTreeMap<(String, &'static str), bool>);

impl TestRun {
    /// Parses the output of `cargo test`: lines like `test subject::daemon::test ... ok`. Modules
    /// in between, which group tests, are not part of a test's name.
    pub fn parse(output: &str) -> TestRun {
        let mut run = TestRun::default();
        for line in output.lines() {
            let Some((name, result)) =
                line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
            else {
                continue;
            };
            let path: Vec<&str> = name.split("::").collect();
            let daemon = COLUMNS.iter().find(|column| path.contains(&column.module));
            if let (Some(column), [subject, .., test]) = (daemon, &path[..]) {
                let key = (format!("{subject}::{test}"), column.module);
                *run.0.entry(key).or_insert(true) &= result == "ok";
            }
        }
        run
    }

    /// The daemons on which any test ran: an engine need not be tested on all of them.
    fn columns(&self) -> impl Iterator<Item = &'static Column> {
        COLUMNS.iter().filter(|column| self.0.keys().any(|(_, module)| *module == column.module))
    }

    /// Whether a test passed on a daemon; None if it did not run there.
    fn passed(&self, test: &str, column: &Column) -> Option<bool> {
        self.0.get(&(test.to_owned(), column.module)).copied()
    }
}

/// Returns the document with this part of a runtime, added or replaced.
pub fn put(document: &str, runtime: &str, part: &str) -> String {
    let title = |part: &str| part.lines().next().unwrap_or_default().to_owned();
    let parts = document.split("\n## ").skip(1).map(|part| format!("## {}", part.trim_end()));
    let mut parts: BTreeMap<String, String> = parts.map(|part| (title(&part), part)).collect();
    parts.insert(format!("## {runtime}"), part.trim_end().to_owned());
    parts.into_values().fold(HEAD.to_owned(), |text, part| format!("{text}\n{part}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "
test a::docker_26::works ... ok
test a::alone::docker_28::works ... ok
test a::containerd_1_6::works ... ignored
test b::containerd_1_6::no ... ok
test b::containerd_1_7::no ... ok
test b::containerd_2::no ... ok
";
    const ROWS: &str = r#"
[[section]]
title = "docker"
rows = [
    { what = "`docker a`", tests = ["a::works"], remark = "slowly" },
    { what = "`ctr b`", tests = ["b::no"], refused = "it cannot" },
]
"#;

    fn part(rows: &str, output: &str) -> Result<String, Vec<String>> {
        Declared::parse(rows).expect("right").part("engine", &TestRun::parse(output))
    }

    #[test]
    fn a_row_is_what_passed() {
        let run = PASSED.replace("test a::containerd_1_6::works ... ignored\n", "");
        let text = part(ROWS, &run).expect("all passed");
        let lines: Vec<&str> = text.lines().skip(6).collect();
        assert_eq!(
            lines,
            [
                "| `docker a` | ✓ | ✓ | — | — | — | slowly | `a::works` |",
                "| `ctr b` | — | — | refused | refused | refused | refused: it cannot | `b::no` |",
            ]
        );
    }

    #[test]
    fn a_daemon_that_nothing_was_tried_on_is_no_column() {
        let left = |line: &&str| !line.contains("_1_6::") && !line.contains("_1_7::");
        let run = PASSED.lines().filter(left).collect::<Vec<_>>().join("\n");
        let text = part(ROWS, &run).expect("all passed");
        let heading = "| | Docker 26 | Docker 28 | containerd 2.x | | tests |";
        let row = "| `ctr b` | — | — | refused | refused: it cannot | `b::no` |";
        assert!(text.contains(heading) && text.contains(row), "{text}");
    }

    #[test]
    fn what_an_engine_cannot_is_no_tick() {
        let rows = ROWS.replace("a::works", "exec::a_component_runs_too");
        let run = PASSED.replace("test a::containerd_1_6::works ... ignored\n", "");
        let run =
            run.replace("::works", "::a_component_runs_too").replace("test a::", "test exec::");
        let declared = Declared::parse(&rows).expect("right");
        let text = declared.part("wasmedge", &TestRun::parse(&run)).expect("all passed");
        assert!(text.contains("| untried | untried | — | — | — | the guest is a component, and this engine runs modules only |"), "{text}");
    }

    #[test]
    fn what_did_not_pass_is_an_error() {
        let errors = |change: &[(&str, &str)]| {
            let run = change.iter().fold(PASSED.to_owned(), |run, (a, b)| run.replace(a, b));
            part(ROWS, &run).expect_err("a row is not proved").join("\n")
        };
        assert!(errors(&[]).contains("a::works failed on containerd 1.6"));
        let missing = errors(&[("test b::containerd_1_7", "test c::containerd_1_7")]);
        assert!(missing.contains("b::no did not run on containerd 1.7"), "{missing}");
        assert!(errors(&[("b::", "c::")]).contains("no test called b::no ran"));
    }

    #[test]
    fn what_a_client_has_not_is_not_asked_for() {
        let rows = ROWS.replace("refused =", r#"absent = ["containerd 1"], refused ="#);
        let rows = rows.replace("remark =", r#"absent = ["containerd"], remark ="#);
        let text = part(&rows, PASSED).expect("the failure is of something absent");
        let line = "| `ctr b` | — | — | — | — | refused | refused: it cannot | `b::no` |";
        assert_eq!(text.lines().last(), Some(line));
    }

    #[test]
    fn a_declaration_that_says_too_little_is_refused() {
        for (from, to, why) in [
            (r#"["b::no"]"#, "[]", "no test"),
            ("`ctr b`", "`docker a`", "two such rows"),
            ("refused", "absent = [\"Docker 3\"], refused", "no column"),
            ("refused", "refusal", "unknown field"),
        ] {
            let error = Declared::parse(&ROWS.replace(from, to)).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn other_engines_keep_their_parts() {
        let one = put("", "beta", "## beta\n\none\n");
        let two = put(&one, "alpha", "## alpha\n\n### x\n\ntwo\n");
        assert_eq!(two, format!("{HEAD}\n## alpha\n\n### x\n\ntwo\n\n## beta\n\none\n"));
        assert_eq!(put(&two, "beta", "## beta\n\none\n"), two);
    }

    #[test]
    fn the_declared_rows_are_right() {
        Declared::parse(include_str!("../compatibility.toml")).unwrap_or_else(|e| panic!("{e}"));
    }
}
