//! `doctor`: checks of the machine, each with a sentence and, for a fault, what to do.

mod containers;
mod daemon;
mod engines;
mod machine;

use std::process::ExitCode;

use serde::Serialize;

use crate::args::{Doctor, Host};
use crate::cri::Running;
use crate::error::NodeError;
use crate::node::Node;
use crate::print_line;
use crate::record::Record;
use crate::root::HostRoot;
use crate::systemd::Systemd;

/// The result level of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Ok,
    /// It works, with a limitation.
    Warn,
    /// Containers cannot run.
    Fail,
    /// It could not be checked.
    Skip,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// The subject, a word or two.
    pub(crate) subject: String,
    pub(crate) text: String,
    /// What to do.
    pub(crate) advice: Option<String>,
}

/// The findings so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, subject: &str, text: impl Into<String>, advice: Option<&str>) {
        self.0.push(Finding {
            level,
            subject: subject.to_owned(),
            text: text.into(),
            advice: advice.map(str::to_owned),
        });
    }

    pub(crate) fn ok(&mut self, subject: &str, text: impl Into<String>) {
        self.add(Level::Ok, subject, text, None);
    }

    pub(crate) fn warn(&mut self, subject: &str, text: impl Into<String>, advice: &str) {
        self.add(Level::Warn, subject, text, Some(advice));
    }

    pub(crate) fn fail(&mut self, subject: &str, text: impl Into<String>, advice: &str) {
        self.add(Level::Fail, subject, text, Some(advice));
    }

    pub(crate) fn skip(&mut self, subject: &str, text: impl Into<String>) {
        self.add(Level::Skip, subject, text, None);
    }
}

/// The state that the checks of containerd and the engines share.
pub(crate) struct Checked {
    pub(crate) node: Node,
    pub(crate) record: Record,
    pub(crate) running: Result<Running, NodeError>,
    /// The environment of containerd's unit, `NAME=value` each; empty if it cannot be read.
    pub(crate) environment: Vec<String>,
    /// The greatest number of tasks of the unit.
    pub(crate) tasks_max: Option<u64>,
}

/// Runs the command; it succeeds unless a check failed.
pub(crate) fn run(host: &Host, options: &Doctor) -> Result<ExitCode, NodeError> {
    let mut findings = Findings::default();
    let root = HostRoot::new(&host.root);
    machine::check(&root, &mut findings);
    match Node::find(host).and_then(Checked::read) {
        Err(error) => findings.fail("containerd", error.to_string(), "start containerd"),
        Ok(checked) => {
            machine::check_limits(&checked, &mut findings);
            machine::check_cache(&checked, &mut findings);
            daemon::check(&checked, &mut findings);
            let found = engines::check(&checked, &mut findings);
            if options.no_containers {
                findings.skip("containers", "none was started, as --no-containers asks");
            } else {
                containers::check(&checked, &found, &mut findings);
            }
        }
    }
    print(&findings.0, options.json);
    let failed = findings.0.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Checked {
    fn read(node: Node) -> Result<Checked, NodeError> {
        let record = Record::load(&node)?;
        let running = node.cri().and_then(|cri| cri.running());
        let (mut environment, mut tasks_max) = (Vec::new(), None);
        // Without systemd, the checks assume systemd's defaults.
        if let Ok(mut systemd) = Systemd::connect(&node.root)
            && let Ok(unit) = systemd.active_unit(&node.units)
        {
            let service = "org.freedesktop.systemd1.Service";
            environment = systemd.unit_property(&unit, service, "Environment").unwrap_or_default();
            let tasks = systemd.unit_property(&unit, service, "TasksMax").unwrap_or_default();
            tasks_max = tasks.first().and_then(|number| number.parse().ok());
        }
        Ok(Checked { node, record, running, environment, tasks_max })
    }

    /// A variable of containerd's unit.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find_map(|text| text.strip_prefix(name)?.strip_prefix('='))
    }
}

fn print(findings: &[Finding], json: bool) {
    if json {
        // Cannot fail: a finding consists of strings and unit variants.
        print_line(serde_json::to_string_pretty(findings).unwrap_or_default());
        return;
    }
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
            Level::Skip => "skip",
        };
        print_line(format!("{level} {}: {}", finding.subject, finding.text));
        if let Some(advice) = &finding.advice {
            print_line(format!("     → {advice}"));
        }
    }
}
