//! A full disk: at each point at which a container's files no longer fit, Create reports it, and
//! nothing stays.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::Value;
use wherry_e2e::beside::{Beside, is_a_sentence, lives_on};
use wherry_e2e::images::{hello_wasm, spin};
use wherry_e2e::on_containerds;
use wherry_e2e::shim::Shim;
use wherry_testing::{Containerd, DEADLINE, Daemon, Leftovers, Run, wait_until};

const ID: &str = "beside";

/// A small disk for one bundle, until this is dropped.
struct Disk(Beside);

impl Disk {
    fn new(containerd: &Containerd, config: &Value) -> Disk {
        let beside = Beside::new(containerd, ID, config);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "tmpfs"]).arg(beside.path());
        assert!(mount.status().expect("there is mount").success());
        fs::create_dir(beside.path().join("rootfs")).expect("it is writable");
        fs::write(beside.path().join("rootfs/app.wasm"), hello_wasm()).expect("it is writable");
        beside.configure(&config.to_string());
        Disk(beside)
    }

    /// Fills it until this many pages are free.
    fn leave_pages(&self, free: u64) {
        let path = self.0.path().join("fill");
        let mut file = File::create(path).expect("it is not yet full");
        let full = loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let length = file.metadata().expect("our own file").len();
        file.set_len(length - free * 4096).expect("our own file");
    }

    /// Fills it until this many more files can be created.
    fn leave_files(&self, free: usize) {
        let name = |number: usize| self.0.path().join(format!("fill-{number}"));
        let made = (0..).take_while(|number| File::create(name(*number)).is_ok()).count();
        for number in made - free..made {
            fs::remove_file(name(number)).expect("our own file");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = |option: &[&str]| {
            let status = Command::new("umount").args(option).arg(self.0.path()).status();
            status.is_ok_and(|status| status.success())
        };
        if thread::panicking() {
            unmount(&["--lazy"]);
            return;
        }
        // The engine host ends after the answer.
        wait_until("the end of the last user of the bundle", DEADLINE, || unmount(&[]));
    }
}

/// The files of a bundle, without those that fill the disk.
fn files(bundle: &Path) -> Vec<String> {
    let entries = fs::read_dir(bundle).expect("it is there").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("fill")).collect();
    names.sort();
    names
}

fn a_full_one_is_said_and_nothing_stays(containerd: &Containerd) {
    let container = containerd.start(&Run::new(&spin()));
    let shim = Shim::of(&container);
    let config = Beside::config_like(&container, containerd, ID);
    assert_eq!(Beside::new(containerd, ID, &config).run(&shim), Ok(0));
    let leftovers = Leftovers::snapshot(containerd);
    for fill in [(|disk, free| Disk::leave_pages(disk, free)) as fn(&Disk, u64), |disk, free| {
        Disk::leave_files(disk, free.try_into().expect("a small number"))
    }] {
        let mut refused = 0;
        for free in 0.. {
            let disk = Disk::new(containerd, &config);
            fill(&disk, free);
            let result = disk.0.run(&shim);
            assert_eq!(files(disk.0.path()), ["config.json", "rootfs"], "with {free} free");
            match result {
                Ok(code) => {
                    assert_eq!(code, 0);
                    break;
                }
                Err((_, text)) => {
                    is_a_sentence(&text);
                    assert!(text.to_lowercase().contains("no space left on device"), "{text}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 1, "the disk was never full");
    }
    leftovers.assert_none_new();
    lives_on(containerd, &container);
}

on_containerds!(a_full_one_is_said_and_nothing_stays);
