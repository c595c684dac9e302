//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Args as Group, Parser, Subcommand, ValueEnum};

use crate::config::Sandboxer;

/// Installs WebAssembly runtimes for containerd on this machine.
#[derive(Debug, Parser)]
#[command(name = "wherry-node", version, arg_required_else_help = true)]
#[command(disable_version_flag = true)]
pub(crate) struct Args {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The host's root, and overrides for values that are otherwise detected. All paths except `--root`
/// are the host's.
#[derive(Debug, Group)]
pub(crate) struct Host {
    /// Directory at which the host's root filesystem is mounted.
    #[arg(long, global = true, default_value = "/", value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// containerd's configuration file, in place of the detected one.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) containerd_config: Option<PathBuf>,
    /// containerd's socket, in place of the detected one.
    #[arg(long, global = true, value_name = "SOCKET")]
    pub(crate) address: Option<PathBuf>,
    /// containerd's executable, in place of the detected one.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) containerd: Option<PathBuf>,
    /// The systemd unit that runs containerd, in place of the detected one.
    #[arg(long, global = true, value_name = "UNIT")]
    pub(crate) service: Option<String>,
    /// Shell command that restarts containerd where systemd does not run it. With --root it runs in
    /// the namespaces of the host's first process, which takes a privileged container.
    #[arg(long, global = true, value_name = "COMMAND")]
    pub(crate) restart_command: Option<String>,
    /// Directory of the installation record and of the replaced files.
    #[arg(long, global = true, default_value = "/var/lib/wherry/node", value_name = "DIR")]
    pub(crate) state: PathBuf,
}

/// The command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copies the executables, adds the runtimes to containerd's configuration, restarts containerd
    /// if that changed.
    Install(Install),
    /// Restores the state before `install`.
    Uninstall(Uninstall),
    /// Prints the installed runtimes and files; fails if containerd does not list the runtimes.
    Status(Status),
    /// Checks this machine, and prints advice for each fault.
    Doctor(Doctor),
    /// Serves a registry on loopback that hands requests on, and answers a tag of an artifact of
    /// WebAssembly with an image. containerd's hosts.toml names it.
    Mirror(Mirror),
    /// Waits for SIGTERM: the long-running container of the DaemonSet.
    #[command(hide = true)]
    Hold,
    /// Checks the logs of finished pods: the last step of `helm test`.
    #[command(hide = true)]
    CheckPods(CheckPods),
    /// Runs a program in the namespaces of the host's first process.
    #[command(hide = true)]
    InHost {
        /// The host's root directory.
        root: PathBuf,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// Runs a program in another root directory.
    #[command(hide = true)]
    InRoot {
        /// The directory.
        root: PathBuf,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
}

/// Options of `install`.
#[derive(Debug, Group)]
pub(crate) struct Install {
    /// Directory of the executables to install. Default: that of wherry-node itself.
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// Directory to install to. Default: /usr/local/bin, or /opt/wherry/bin if that cannot be
    /// written.
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// The engines to install, separated by commas, and their shared modes, such as wasmtimed.
    /// Default: all engines in the directory, without their shared modes.
    #[arg(long, value_delimiter = ',', value_name = "ENGINE")]
    pub(crate) engines: Vec<String>,
    /// Whether systemd creates the containers' cgroups. `auto`: as for runc's handler.
    #[arg(long, value_enum, default_value_t = SystemdCgroup::Auto)]
    pub(crate) systemd_cgroup: SystemdCgroup,
    /// The creator of pods: containerd, with a pause container, or the shim, without one. The shim
    /// needs containerd 2.3.
    #[arg(long, value_enum, default_value_t = Sandboxer::Podsandbox)]
    pub(crate) sandboxer: Sandboxer,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Options of `uninstall`.
#[derive(Debug, Group)]
pub(crate) struct Uninstall {
    /// Uninstall although pods use the runtimes.
    #[arg(long)]
    pub(crate) force: bool,
    /// Remove the cache of compiled code too.
    #[arg(long)]
    pub(crate) purge: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Options of `install` and `uninstall`.
#[derive(Debug, Group)]
pub(crate) struct Common {
    /// Seconds to wait until the restarted containerd answers.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) timeout: u64,
    /// Label this Kubernetes node through the API, with the pod's service account.
    #[arg(long, env = "WHERRY_LABEL_NODE", value_name = "NODE")]
    pub(crate) label_node: Option<String>,
}

/// Options of `mirror`.
#[derive(Debug, Group)]
pub(crate) struct Mirror {
    /// A registry to mirror, as images name it. Repeatable.
    #[arg(long, required = true, value_name = "NAME")]
    pub(crate) registry: Vec<String>,
    /// One of the registries that is connected to without TLS. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub(crate) plain_http: Vec<String>,
    /// A file of certificates that the registries' may be signed with. Repeatable.
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Vec<PathBuf>,
    /// The address of loopback to listen on.
    #[arg(long, default_value = MIRROR_ADDRESS, value_name = "ADDRESS")]
    pub(crate) listen: std::net::SocketAddr,
    /// Writes the hosts.toml of each registry to this folder, containerd's `config_path`, unless
    /// another one exists there.
    #[arg(long, value_name = "DIR")]
    pub(crate) hosts_dir: Option<PathBuf>,
    /// The seconds after which a registry that sends nothing has stalled.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
}

/// The address of the mirror.
const MIRROR_ADDRESS: &str = "127.0.0.1:5123";

/// Options of `status`.
#[derive(Debug, Group)]
pub(crate) struct Status {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `doctor`.
#[derive(Debug, Group)]
pub(crate) struct Doctor {
    /// Do not start a container for each engine.
    #[arg(long)]
    pub(crate) no_containers: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `check-pods`.
#[derive(Debug, Group)]
pub(crate) struct CheckPods {
    /// The pods' namespace.
    #[arg(long)]
    pub(crate) namespace: String,
    /// The text that each log must contain.
    #[arg(long)]
    pub(crate) expect: String,
    /// The pods' names.
    #[arg(required = true)]
    pub(crate) pods: Vec<String>,
}

/// The creator of containers' cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SystemdCgroup {
    /// The same as for the handler `runc` of the running containerd.
    Auto,
    /// systemd.
    True,
    /// The runtime.
    False,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_list_of_engines_is_split_at_commas() {
        let args = Args::parse_from(["wherry-node", "install", "--engines", "wasmtime,wamr"]);
        let Command::Install(options) = args.command else { panic!("install was parsed") };
        assert_eq!(options.engines, ["wasmtime", "wamr"]);
    }
}
