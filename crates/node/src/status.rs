//! `status`: prints the installed runtimes and files, and whether containerd serves the runtimes.

use std::process::ExitCode;

use serde_json::json;

use crate::args::Status;
use crate::error::NodeError;
use crate::node::Node;
use crate::record::{Kind, Record};
use crate::{print_line, restart};

/// Runs the command; it succeeds if containerd lists all that is installed.
pub(crate) fn run(node: &Node, options: &Status) -> Result<ExitCode, NodeError> {
    let record = Record::load(node)?;
    let running = node.cri()?.running();
    let fault = match &running {
        _ if record.is_empty() => Some("nothing is installed".to_owned()),
        Ok(running) => restart::missing(running, &record.engines),
        Err(error) => Some(error.to_string()),
    };
    let configs = record.files.iter().filter(|file| file.kind != Kind::Executable);
    let configs: Vec<String> = configs.map(|file| file.path.display().to_string()).collect();
    let ready = fault.is_none();
    if options.json {
        let value = json!({
            "ready": ready, "fault": fault, "version": record.version, "engines": record.engines,
            "distribution": node.distribution.name(), "socket": node.socket, "binDir": record.bin_dir,
            "configuration": configs,
        });
        print_line(value.to_string());
    } else {
        if !record.is_empty() {
            print_line(format!("version:       {}", record.version));
            print_line(format!("engines:       {}", record.engines.join(", ")));
            print_line(format!("executables:   {}", record.bin_dir.display()));
            print_line(format!("configuration: {}", configs.join(", ")));
        }
        print_line(format!(
            "containerd:    {} ({})",
            node.socket.display(),
            node.distribution.name()
        ));
        print_line(format!(
            "ready:         {}",
            fault.map_or_else(|| "yes".to_owned(), |why| format!("no, {why}"))
        ));
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
