//! A manager that systemd runs: on a machine with systemd, as the virtual machine of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use wherry_e2e::images::{hello, spin};
use wherry_e2e::managed::{Managed, kill, manager};
use wherry_testing::{
    DEADLINE, Daemon, Outcome, Process, Run, bin_dir, call, engine, managers, repository,
    wait_until,
};

/// The folder of units that do not survive a reboot.
const UNITS: &str = "/run/systemd/system";

/// The installed units, which are removed when this is dropped.
struct Units(Vec<PathBuf>);

impl Units {
    /// Installs them, as `make install` does.
    fn install() -> Units {
        let folder = repository().join("packaging/systemd");
        let text = fs::read_to_string(folder.join("wherry-manager@.service")).expect("it is there");
        let (runtime, bin) = (format!("{}d", engine()), bin_dir().display().to_string());
        let text = text.replace("@RUNTIME@", &runtime).replace("@BINDIR@", &bin);
        let service = Path::new(UNITS).join(format!("wherry-{runtime}@.service"));
        let slice = Path::new(UNITS).join("wherry.slice");
        fs::write(&service, text).expect("the folder is writable");
        fs::copy(folder.join("wherry.slice"), &slice).expect("the folder is writable");
        systemctl(&["daemon-reload"]).success();
        Units(vec![service, slice])
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
        systemctl(&["daemon-reload"]);
    }
}

fn systemctl(args: &[&str]) -> Outcome {
    let mut command = Command::new("systemctl");
    command.args(args);
    call(command, None)
}

/// A run of an image with the runtime of the shared mode, also where the tests use the other.
fn shared(image: &wherry_testing::Image) -> Run {
    Run::new(image).runtime(&format!("io.containerd.{}d.v1", engine()))
}

/// The unit of a manager, by its cgroup, which is in the slice.
#[track_caller]
fn unit(manager: &Process) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", manager.pid)).expect("it lives");
    let found = cgroups.lines().find_map(|line| line.split_once(":/wherry.slice/"));
    let (_, unit) = found.unwrap_or_else(|| panic!("it is not in the slice: {cgroups}"));
    unit.to_owned()
}

fn systemd_runs_a_manager_in_its_slice_and_never_ends_its_containers(managed: &Managed) {
    let containerd = &managed.containerd;
    let missing = containerd.run(&shared(&hello())).failure();
    assert!(missing.contains("systemd did not start wherry-"), "{missing}");
    assert!(missing.contains(".service not found"), "{missing}");
    assert!(managers(&containerd.address()).is_empty());

    let _units = Units::install();
    assert_eq!(containerd.run(&shared(&hello())).success(), "hello\n");
    let first = manager(containerd);
    let name = unit(&first);
    let state = |name: &str| systemctl(&["is-active", name]).out().trim().to_owned();
    assert_eq!(state(&name), "active");
    let container = containerd.start(&shared(&spin()));
    let guest = container.pid();
    containerd.kill9();
    containerd.start_again();
    assert!(!container.ended());
    assert_eq!((container.pid(), manager(containerd).pid), (guest, first.pid));
    assert_eq!(containerd.run(&shared(&hello())).success(), "hello\n");

    // systemctl reports the failure of a stop by the state of the unit.
    systemctl(&["stop", &name]);
    let refusal = "the shim was asked to end, and does so without containers: it has 1 running";
    wait_until("the refusal in the journal", DEADLINE, || {
        let mut journal = Command::new("journalctl");
        journal.args(["--unit", &name]);
        call(journal, None).out().contains(refusal)
    });
    assert!(!container.ended() && Process::of(guest).is_some());
    assert_eq!(manager(containerd).pid, first.pid);
    assert_eq!(containerd.run(&shared(&hello())).success(), "hello\n");
    container.remove();
    wait_until("the manager's end", DEADLINE, || Process::of(first.pid).is_none());

    assert_eq!(containerd.run(&shared(&hello())).success(), "hello\n");
    let second = manager(containerd);
    assert_eq!(unit(&second), name);
    kill(second.pid);
    thread::scope(|scope| {
        let runs: Vec<_> =
            (0..8).map(|_| scope.spawn(|| containerd.run(&shared(&hello())))).collect();
        for run in runs {
            assert_eq!(run.join().expect("no panic").success(), "hello\n");
        }
    });
    let third = manager(containerd);
    assert_eq!(unit(&third), name);
    assert_ne!(third.pid, second.pid);
    // Without a container it ends at once, and is not restarted.
    systemctl(&["stop", &name]).success();
    assert!(managers(&containerd.address()).is_empty());
    assert_eq!(state(&name), "inactive");
}

mod systemd {
    use super::systemd_runs_a_manager_in_its_slice_and_never_ends_its_containers;

    wherry_e2e::on_containerd_versions!(
        version => &wherry_e2e::managed::Managed::start(version, "systemd = true");
        systemd_runs_a_manager_in_its_slice_and_never_ends_its_containers
    );
}
