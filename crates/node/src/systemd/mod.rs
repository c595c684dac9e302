//! systemd on the host, through its D-Bus interface.
//!
//! A pod needs only the socket of the bus for it. Running `systemctl` on the host would need the
//! host's pid and mount namespaces.

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
/// The interval of polling a job, whose end is not signalled. A restart of containerd takes about a
/// second.
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

    /// Returns the first active unit of these.
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
        let job = first(job).map_err(|fault| failed(doing(), &fault))?;
        let started = Instant::now();
        // systemd removes the object of a finished job.
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
        let path = first(found).map_err(|fault| failed(doing(), &fault))?;
        self.property(&path, interface, name).map_err(|fault| failed(doing(), &fault))
    }

    fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<Vec<String>, Fault> {
        self.bus.call(path, "org.freedesktop.DBus.Properties", "Get", &[interface, name])
    }
}

/// The only value of an answer.
fn first(values: Vec<String>) -> Result<String, Fault> {
    values.into_iter().next().ok_or(Fault::Malformed)
}

fn failed(doing: String, fault: &Fault) -> NodeError {
    NodeError::Systemd { doing, reason: fault.to_string() }
}
