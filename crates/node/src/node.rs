//! The containerd that this node uses: its socket, configuration, executable and unit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::args::Host;
use crate::config::Version;
use crate::cri::Cri;
use crate::distribution::Distribution;
use crate::error::NodeError;
use crate::files;
use crate::root::{HostRoot, SEARCH_PATH};

/// The node's containerd. All paths are the host's.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) root: HostRoot,
    pub(crate) distribution: Distribution,
    pub(crate) socket: PathBuf,
    pub(crate) config: PathBuf,
    /// containerd's executable, if it is found.
    pub(crate) containerd: Option<PathBuf>,
    /// The systemd units that can run it, in the order in which to try them.
    pub(crate) units: Vec<String>,
    pub(crate) restart_command: Option<String>,
    /// The directory of the record.
    pub(crate) state: PathBuf,
}

/// A process of the host.
struct Process {
    args: Vec<String>,
    unit: Option<String>,
}

impl Node {
    /// Finds the node's containerd: the one that the command line names, else the one that the
    /// kubelet uses, else that of a distribution whose socket exists.
    pub(crate) fn find(host: &Host) -> Result<Node, NodeError> {
        let root = HostRoot::new(&host.root);
        let processes = processes(&root);
        let (distribution, socket) = socket(host, &root, &processes)?;
        let daemon = processes.iter().find(|process| process.serves(&socket, host));
        let path_in =
            |process: &Process, names: [&str; 2]| process.option(names).map(PathBuf::from);
        let config = host
            .containerd_config
            .clone()
            .or_else(|| {
                let plain = distribution == Distribution::Plain;
                daemon.filter(|_| plain).and_then(|process| path_in(process, ["--config", "-c"]))
            })
            .unwrap_or_else(|| distribution.config().into());
        let units = match (&host.service, daemon.and_then(|process| process.unit.clone())) {
            (Some(unit), _) => vec![unit.clone()],
            (None, Some(unit)) => vec![unit],
            (None, None) => distribution.units().iter().map(|&unit| unit.to_owned()).collect(),
        };
        let running = daemon.and_then(|process| process.args.first()).map(PathBuf::from);
        let containerd = host
            .containerd
            .clone()
            .or(running.filter(|path| path.is_absolute() && root.exists(path)))
            .or_else(|| root.find_program("containerd", SEARCH_PATH));
        Ok(Node {
            root,
            distribution,
            socket,
            config,
            containerd,
            units,
            restart_command: host.restart_command.clone(),
            state: host.state.clone(),
        })
    }

    /// A client of its CRI.
    pub(crate) fn cri(&self) -> Result<Cri, NodeError> {
        Ok(Cri::new(&self.root.resolve(&self.socket)?))
    }

    /// Its version, from the running daemon, or from the executable if no daemon runs.
    pub(crate) fn version(&self) -> Result<Version, NodeError> {
        let text = match (self.cri()?.version(), &self.containerd) {
            (Ok(text), _) => text,
            // The daemon's error is more helpful than that of a missing executable.
            (Err(error), None) => return Err(error),
            (Err(_), Some(program)) => {
                let output = self.root.output(program, &["--version"])?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.split_whitespace().nth(2).unwrap_or_default().to_owned()
            }
        };
        let version = Version::parse(&text).ok_or(NodeError::Version(text))?;
        if version < Version::new(1, 6) {
            return Err(NodeError::TooOld(version.to_string()));
        }
        Ok(version)
    }

    /// containerd's effective configuration; `None` where a distribution writes the configuration
    /// when it starts.
    pub(crate) fn dump(&self) -> Result<Option<String>, NodeError> {
        if !self.distribution.can_dump() {
            return Ok(None);
        }
        let program = self.containerd.as_ref().ok_or(NodeError::NoExecutable)?;
        // Given a file that does not exist, 1.x fails; without the option it takes its defaults.
        let config = self.config.display().to_string();
        let args: &[&str] = match self.root.exists(&self.config) {
            true => &["--config", &config, "config", "dump"],
            false => &["config", "dump"],
        };
        let output = self.root.output(program, args);
        Ok(Some(String::from_utf8_lossy(&output?.stdout).into_owned()))
    }

    /// Reads a file of the host as text; `None` if it does not exist.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<String>, NodeError> {
        let bytes = files::read(&self.root.resolve(path)?)?;
        let text = bytes.map(String::from_utf8).transpose();
        // The restored file must equal the original, byte for byte.
        text.map_err(|e| NodeError::file("reading as UTF-8", path)(io::Error::other(e)))
    }
}

/// The distribution and its socket.
fn socket(
    host: &Host,
    root: &HostRoot,
    processes: &[Process],
) -> Result<(Distribution, PathBuf), NodeError> {
    if let Some(address) = &host.address {
        let of = |d: &Distribution| Path::new(d.socket()) == address && d.is_on(root);
        let known = Distribution::ALL.into_iter().find(of);
        return Ok((known.unwrap_or(Distribution::Plain), address.clone()));
    }
    let kubelet = processes.iter().find(|process| process.name() == "kubelet");
    let endpoint = kubelet.and_then(|process| {
        process.option(["--container-runtime-endpoint", "--container-runtime-endpoint"])
    });
    let endpoint = endpoint.map(|text| PathBuf::from(text.trim_start_matches("unix://")));
    let found = Distribution::ALL.into_iter().find(|distribution| {
        let named = endpoint.as_deref().is_none_or(|path| same(root, path, distribution.socket()));
        named && distribution.is_on(root)
    });
    match (found, endpoint) {
        (Some(distribution), _) => Ok((distribution, distribution.socket().into())),
        (None, Some(path)) if root.exists(&path) => Ok((Distribution::Plain, path)),
        // With only --containerd-config given, containerd need not run.
        _ if host.containerd_config.is_some() => {
            Ok((Distribution::Plain, Distribution::Plain.socket().into()))
        }
        _ => {
            let sockets = Distribution::ALL.map(|d| format!("{} ({})", d.socket(), d.name()));
            Err(NodeError::NoContainerd(sockets.join(", ")))
        }
    }
}

/// Whether two paths are one file: `/var/run` is a link to `/run`.
fn same(root: &HostRoot, a: &Path, b: &str) -> bool {
    matches!((root.resolve(a), root.resolve(Path::new(b))), (Ok(a), Ok(b)) if a == b)
}

impl Process {
    fn name(&self) -> &str {
        // A kernel thread has no arguments.
        let path = self.args.first().map(String::as_str).unwrap_or_default();
        path.rsplit_once('/').map_or(path, |(_, name)| name)
    }

    /// The value of an option, given as `--name value` or `--name=value`.
    fn option(&self, names: [&str; 2]) -> Option<String> {
        let mut args = self.args.iter();
        while let Some(arg) = args.next() {
            for name in names {
                if arg == name {
                    return args.next().cloned();
                }
                if let Some(value) = arg.strip_prefix(name).and_then(|rest| rest.strip_prefix('='))
                {
                    return Some(value.to_owned());
                }
            }
        }
        None
    }

    /// Whether it is the containerd of this socket. Without an option its socket is the usual one
    /// or in its configuration, which must then be the one that the command line names.
    fn serves(&self, socket: &Path, host: &Host) -> bool {
        if self.name() != "containerd" {
            return false;
        }
        let config = self.option(["--config", "-c"]).map(PathBuf::from);
        match (self.option(["--address", "-a"]), &host.containerd_config) {
            (Some(address), _) => Path::new(&address) == socket,
            (None, Some(wanted)) => config.as_ref() == Some(wanted),
            (None, None) => socket == Path::new(Distribution::Plain.socket()),
        }
    }
}

/// The processes of the host whose command line can be read.
fn processes(root: &HostRoot) -> Vec<Process> {
    let Ok(proc) = root.resolve(Path::new("/proc")) else { return Vec::new() };
    let folders = fs::read_dir(proc).into_iter().flatten().flatten();
    let process = |folder: fs::DirEntry| {
        folder.file_name().to_str()?.parse::<u32>().ok()?;
        let line = fs::read(folder.path().join("cmdline")).ok()?;
        let args = line.split(|byte| *byte == 0).filter(|arg| !arg.is_empty());
        let args = args.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        let groups = fs::read_to_string(folder.path().join("cgroup")).unwrap_or_default();
        Some(Process { args, unit: unit(&groups) })
    };
    folders.filter_map(process).collect()
}

/// The systemd unit in a process's list of cgroups: `0::/system.slice/containerd.service`.
fn unit(groups: &str) -> Option<String> {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut names = paths.flat_map(|path| path.rsplit('/'));
    names.find(|name| name.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    /// A host of these files and sockets (files stand for them), and processes by their command
    /// line and unit.
    fn host(files: &[&str], processes: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        for (number, (line, unit)) in processes.iter().enumerate() {
            let folder = dir.path().join(format!("proc/{}", number + 1));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cmdline"), line.replace(' ', "\0") + "\0").unwrap();
            fs::write(folder.join("cgroup"), format!("0::/system.slice/{unit}\n")).unwrap();
        }
        let root = dir.path().to_str().unwrap();
        let args = Args::parse_from(["wherry-node", "--root", root, "status"]);
        assert!(matches!(args.command, Command::Status(_)));
        (dir, args.host)
    }

    #[test]
    fn plain_containerd_is_found_with_the_configuration_and_unit_that_it_runs_with() {
        let (_dir, host) = host(
            &["/run/containerd/containerd.sock", "/usr/sbin/containerd"],
            &[("/usr/sbin/containerd --config /etc/own.toml", "my-containerd.service")],
        );
        let node = Node::find(&host).unwrap();
        assert_eq!(node.distribution, Distribution::Plain);
        assert_eq!(node.config, Path::new("/etc/own.toml"));
        assert_eq!(node.units, ["my-containerd.service"]);
        assert_eq!(node.containerd.as_deref(), Some(Path::new("/usr/sbin/containerd")));
    }

    #[test]
    fn each_distribution_is_found_by_its_socket_even_beside_dockers_containerd() {
        for (distribution, folder) in [
            (Distribution::K3s, "/var/lib/rancher/k3s/agent/etc/containerd/x"),
            (Distribution::Rke2, "/var/lib/rancher/rke2/agent/etc/containerd/x"),
            (Distribution::K0s, "/etc/k0s/x"),
            (Distribution::Microk8s, "/var/snap/microk8s/current/args/x"),
        ] {
            let files = ["/run/containerd/containerd.sock", distribution.socket(), folder];
            let (_dir, host) = host(&files, &[("/usr/bin/containerd", "containerd.service")]);
            let node = Node::find(&host).unwrap();
            assert_eq!(node.distribution, distribution);
            assert_eq!(node.config, Path::new(distribution.config()));
            assert_eq!(
                node.units.first().map(String::as_str),
                distribution.units().first().copied()
            );
        }
    }

    #[test]
    fn the_kubelets_endpoint_decides() {
        let (_dir, host) = host(
            &[
                "/run/containerd/containerd.sock",
                "/run/k3s/containerd/containerd.sock",
                "/var/lib/rancher/k3s/agent/etc/containerd/x",
            ],
            &[(
                "/usr/bin/kubelet --container-runtime-endpoint=unix:///run/containerd/containerd.sock",
                "kubelet.service",
            )],
        );
        assert_eq!(Node::find(&host).unwrap().distribution, Distribution::Plain);
    }

    #[test]
    fn a_host_without_containerd_is_told_what_was_looked_for() {
        let (_dir, host) = host(&[], &[]);
        let error = Node::find(&host).unwrap_err().to_string();
        assert!(error.contains("/run/k0s/containerd.sock (k0s)"), "{error}");
    }
}
