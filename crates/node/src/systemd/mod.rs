//! systemd on the host, through its D-Bus interface.
//!
//! A pod needs the bus's socket for it and neither the host's PID namespace nor its mount
//! namespace, as running
//! `systemctl` there would.

mod bus;
mod wire;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::NodeError;
use crate::root::HostRoot;
use bus::{Bus, Fault};

const MANAGER: (&str, &str) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
/// The sockets of the system bus, and of systemd itself, which root may use where no bus runs.
const SOCKETS: [(&str, bool); 2] =
    [("/run/dbus/system_bus_socket", true), ("/run/systemd/private", false)];
/// A job's end is not signalled to us; a restart of containerd takes a second or so.
const POLL: Duration = Duration::from_millis(100);

/// A connection to the host's systemd.
#[derive(Debug)]
pub(crate) struct Systemd {
    bus: Bus,
}

impl Systemd {
    /// Connects to the host's systemd.
    pub(crate) fn connect(root: &HostRoot) -> Result<Systemd, NodeError> {
        let mut reasons = Vec::new();
        for (path, is_bus) in SOCKETS {
            let socket = root.resolve(Path::new(path))?;
            match Bus::connect(&socket, is_bus) {
                Ok(bus) => return Ok(Systemd { bus }),
                Err(e) => reasons.push(format!("{path}: {e}")),
            }
        }
        Err(NodeError::Systemd { doing: "connecting".into(), reason: reasons.join("; ") })
    }

    /// Of these units the first that is active.
    pub(crate) fn active_unit(&mut self, units: &[String]) -> Result<String, NodeError> {
        let mut states = Vec::new();
        for unit in units {
            match self.unit_property(unit, "org.freedesktop.systemd1.Unit", "ActiveState") {
                Ok(state) if state.contains(&"active".to_owned()) => return Ok(unit.clone()),
                Ok(state) => states.push(format!("{unit} is {}", state.join(" "))),
                Err(error) => states.push(error.to_string()),
            }
        }
        Err(NodeError::Systemd {
            doing: "finding the unit of containerd".into(),
            reason: format!("{}; name it with --service", states.join("; ")),
        })
    }

    /// Restarts a unit and waits for the end of the job.
    pub(crate) fn restart(&mut self, unit: &str, timeout: Duration) -> Result<(), NodeError> {
        let doing = || format!("restarting {unit}");
        let (path, interface) = MANAGER;
        let job = self
            .bus
            .call(path, interface, "RestartUnit", &[unit, "replace"])
            .map_err(|fault| failed(doing(), &fault))?;
        let job = job.into_iter().next().unwrap_or_default();
        let started = Instant::now();
        // A job that is over has no object any more.
        while self.property(&job, "org.freedesktop.systemd1.Job", "State").is_ok() {
            if started.elapsed() > timeout {
                let reason = format!("it still runs after {} s", timeout.as_secs());
                return Err(NodeError::Systemd { doing: doing(), reason });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The strings, or the number as text, of a unit's property.
    pub(crate) fn unit_property(
        &mut self,
        unit: &str,
        interface: &str,
        name: &str,
    ) -> Result<Vec<String>, NodeError> {
        let doing = || format!("reading {name} of {unit}");
        let (path, manager) = MANAGER;
        let found = self
            .bus
            .call(path, manager, "LoadUnit", &[unit])
            .map_err(|fault| failed(doing(), &fault))?;
        let path = found.into_iter().next().unwrap_or_default();
        self.property(&path, interface, name).map_err(|fault| failed(doing(), &fault))
    }

    fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<Vec<String>, Fault> {
        self.bus.call(path, "org.freedesktop.DBus.Properties", "Get", &[interface, name])
    }
}

fn failed(doing: String, fault: &Fault) -> NodeError {
    NodeError::Systemd { doing, reason: fault.to_string() }
}
