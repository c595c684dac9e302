//! Installs Wherry's runtimes on a machine that runs containerd, usually a Kubernetes node.
//!
//! | module | subject |
//! |---|---|
//! | [`args`] | the command line |
//! | [`root`] | paths and programs of the host, which may be mounted below another directory |
//! | [`distribution`], [`node`] | which containerd the node uses, and where its configuration is |
//! | [`plan`] | which file of the configuration is changed |
//! | [`config`] | changes of the configuration: pure functions from text to text |
//! | [`executables`] | the files of the runtimes |
//! | [`record`] | the installed files and the original ones |
//! | [`cri`], [`systemd`], [`restart`] | the running containerd |
//! | [`install`], [`uninstall`], [`status`], [`doctor`] | the commands |
//! | [`mirror`] | the registry on loopback, and containerd's way to it |
//! | [`kubernetes`] | labels of the node, and the log of a test pod |

mod args;
mod config;
mod cri;
mod distribution;
mod doctor;
mod error;
mod executables;
mod files;
mod hold;
mod install;
mod kubernetes;
mod mirror;
mod node;
mod plan;
mod record;
mod restart;
mod root;
mod status;
mod systemd;
mod uninstall;

use std::io::Write;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use error::NodeError;
use node::Node;

/// The version of the project, in labels and in the record.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Parses the command line, runs the command and prints its result.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            // Without standard error the text cannot be shown.
            let _ = writeln!(std::io::stderr(), "wherry-node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, NodeError> {
    match &args.command {
        Command::Install(options) => install::run(&Node::find(&args.host)?, options),
        Command::Uninstall(options) => uninstall::run(&Node::find(&args.host)?, options),
        Command::Status(options) => status::run(&Node::find(&args.host)?, options),
        Command::Doctor(options) => doctor::run(&args.host, options),
        Command::Mirror(options) => mirror::run(options),
        Command::Hold => hold::run(),
        Command::CheckPods(options) => kubernetes::logs::run(options),
        Command::InHost { root, program } => root::run_in_namespaces(root, program),
        Command::InRoot { root, program } => root::exec_in(root, program),
    }
}

/// Prints a line for the user or the pod's log.
pub(crate) fn print_line(line: impl AsRef<str>) {
    // A closed standard output must not interrupt an installation.
    let _ = writeln!(std::io::stdout(), "{}", line.as_ref());
}
