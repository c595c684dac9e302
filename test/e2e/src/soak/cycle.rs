//! Carries out the life of one container.

use super::life::{End, Exec, Fate, Guest, Life, Paused};
use super::tally::Tally;
use crate::client::{Client, Fifos, Paths, Wanted, is_gone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tonic::Status;
use wherry_testing::{Containerd, DEADLINE};

const KILL: u32 = 9;
const TERM: u32 = 15;

/// The environment of a life.
#[derive(Clone)]
pub(super) struct Cycle {
    pub(super) client: Client,
    /// The folder of containerd's bundles.
    pub(super) bundles: std::path::PathBuf,
    pub(super) tally: Tally,
    /// The group whose shim serves the container; `None`: a separate shim.
    pub(super) group: Option<String>,
}

/// A failure: the step, and containerd's error.
type Trouble = (&'static str, Status);

/// A pending Wait for the end of a process.
type Ending = JoinHandle<Result<u32, Status>>;

trait Step<T> {
    fn step(self, name: &'static str) -> Result<T, Trouble>;
}

impl<T> Step<T> for Result<T, Status> {
    fn step(self, name: &'static str) -> Result<T, Trouble> {
        self.map_err(|status| (name, status))
    }
}

impl Cycle {
    /// Carries out one life, under this id, to its end.
    ///
    /// # Panics
    /// If a step fails although the shim was not killed, or if the remains of a dead shim cannot be
    /// deleted.
    pub(super) async fn run(&self, containerd: &Containerd, life: &Life, id: &str) {
        let group = self.group.as_deref();
        let wanted = Wanted { id, args: life.guest.args(), terminal: life.terminal, group };
        self.client.make(wanted).await.unwrap_or_else(|e| panic!("{life:?}: make: {e}"));
        let killer = life.kill_shim.map(|after| {
            tokio::spawn(kill_shim(self.bundles.join(id), id.to_owned(), after, self.tally.clone()))
        });
        let mut fifos = life.streams.then(|| self.client.fifos(id, ""));
        match self.live(containerd, life, id, fifos.as_mut()).await {
            Ok(()) => {}
            Err((step, status)) if life.kill_shim.is_some() && expected(&status) => {
                self.tally
                    .count(&format!("{step} refused after its shim's death: {:?}", status.code()));
            }
            Err((step, status)) => panic!("{life:?} as {id}: {step}: {status}"),
        }
        if let Some(killer) = killer {
            // A later container with the same id must not be killed.
            killer.abort();
            let _ = killer.await;
        }
        self.clear(life, id).await;
        self.tally.count("lives");
    }

    async fn live(
        &self,
        containerd: &Containerd,
        life: &Life,
        id: &str,
        mut fifos: Option<&mut Fifos>,
    ) -> Result<(), Trouble> {
        let client = &self.client;
        let paths = fifos.as_ref().map_or_else(Paths::default, |fifos| fifos.paths());
        let created = client.create(id, life.terminal, &paths).await.step("Create");
        containerd.note_shim(containerd.namespace(), id);
        created?;
        if !life.started {
            self.tally.count("deleted as created");
            return client.delete(id, "").await.step("Delete");
        }
        let ended = self.ending(id, "");
        client.start(id, "").await.step("Start")?;
        self.tally.count("starts");
        if life.terminal {
            self.tally.count("terminals");
        }
        let mut streams = Vec::new();
        let mut left = Vec::new();
        let mut raced = None;
        for (index, exec) in life.execs.iter().enumerate() {
            let exec_id = format!("e{index}");
            let pipes = client.fifos(id, &exec_id);
            client.exec(id, &exec_id, exec.guest.args(), &pipes.paths()).await.step("Exec")?;
            streams.push(pipes);
            match exec.fate {
                Fate::Forgotten => {}
                Fate::Raced => raced = Some(exec_id),
                Fate::Ended => self.exec_to_its_end(id, &exec_id, *exec).await?,
                Fate::Left | Fate::Abandoned => {
                    let ending = self.ending(id, &exec_id);
                    client.start(id, &exec_id).await.step("Start of an exec")?;
                    left.push((exec_id, *exec, ending));
                }
            }
            self.tally.count("execs");
        }
        if let Some(paused) = life.paused {
            client.freeze(id, true).await.step("Pause")?;
            self.tally.count("pauses");
            if paused == Paused::ForAMoment {
                client.freeze(id, false).await.step("Resume")?;
            }
        }
        let race = raced.map(|exec_id| {
            let (client, id) = (client.clone(), id.to_owned());
            tokio::spawn(async move { client.start(&id, &exec_id).await })
        });
        let ending = self.end(life, id, fifos.as_deref_mut()).await;
        if let Some(race) = race {
            // Either may come first.
            let _ = race.await.expect("the task does not panic");
        }
        ending?;
        let status = ended.await.expect("the task does not panic").step("Wait")?;
        if life.kill_shim.is_none() {
            assert_eq!(status, life.status(), "{life:?} as {id}");
            if let (Guest::Hello, Some(fifos)) = (life.guest, fifos) {
                let expected: &[u8] = if life.terminal { b"hello\r\n" } else { b"hello\n" };
                assert_eq!(fifos.output(), expected, "{life:?} as {id}");
            }
        }
        for (exec_id, exec, ending) in left {
            let status = ending.await.expect("the task does not panic").step("Wait for an exec")?;
            let ended = exec.guest == Guest::Hello && status == 0;
            assert!(
                life.kill_shim.is_some() || ended || status == 137,
                "{life:?} as {id}: {exec_id}: {status}"
            );
            if exec.fate == Fate::Left {
                client.delete(id, &exec_id).await.step("Delete of an exec")?;
            }
        }
        client.delete(id, "").await.step("Delete")
    }

    async fn exec_to_its_end(&self, id: &str, exec_id: &str, exec: Exec) -> Result<(), Trouble> {
        let client = &self.client;
        let ending = self.ending(id, exec_id);
        client.start(id, exec_id).await.step("Start of an exec")?;
        let wanted = if exec.guest == Guest::Hello {
            0
        } else {
            client.kill(id, exec_id, KILL).await.step("Kill of an exec")?;
            137
        };
        let status = ending.await.expect("the task does not panic").step("Wait for an exec")?;
        assert!(status == wanted || self.is_dying(id).await, "{id}: {exec:?} ended with {status}");
        client.delete(id, exec_id).await.step("Delete of an exec")
    }

    /// Whether the container is stopped or its shim is gone, which ends its processes.
    async fn is_dying(&self, id: &str) -> bool {
        self.client
            .get(id, "")
            .await
            .map_or(true, |task| task.status != crate::client::api::RUNNING)
    }

    async fn end(&self, life: &Life, id: &str, fifos: Option<&mut Fifos>) -> Result<(), Trouble> {
        let client = &self.client;
        let signal = match life.end {
            End::Itself => return Ok(()),
            End::Input => {
                if let Some(fifos) = fifos {
                    fifos.say(b"the last words\n");
                    fifos.close_input();
                }
                self.tally.count("ends of input");
                return client.close_input(id, "").await.step("CloseIO");
            }
            End::Term => TERM,
            End::Kill => KILL,
        };
        self.tally.count(if signal == KILL { "KILL" } else { "TERM" });
        client.kill(id, "", signal).await.step("Kill")
    }

    fn ending(&self, id: &str, exec_id: &str) -> Ending {
        let (client, id, exec_id) = (self.client.clone(), id.to_owned(), exec_id.to_owned());
        tokio::spawn(async move { client.wait(&id, &exec_id, DEADLINE).await })
    }

    /// Removes the container, as a client would: at the latest when containerd has cleaned up after
    /// a dead shim, everything can be deleted.
    async fn clear(&self, life: &Life, id: &str) {
        let start = Instant::now();
        loop {
            match self.client.delete(id, "").await {
                Ok(()) => break,
                Err(status) if is_gone(&status) => break,
                Err(status) if start.elapsed() > DEADLINE => {
                    panic!("{life:?} as {id} cannot be deleted: {status}")
                }
                Err(_) => {}
            }
            // The container may have ended; Delete says whether it has.
            let _ = self.client.kill(id, "", KILL).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if life.kill_shim.is_some() {
            self.wait_for_clean_up(life, id).await;
        }
        self.client.forget(id).await.unwrap_or_else(|e| panic!("{life:?}: forget {id}: {e}"));
    }

    /// Waits until containerd has cleaned up after a dead shim. If the shim died in the middle of
    /// Create, containerd cleans up after its answer; a client that reuses the id before that loses
    /// its new bundle, with any runtime.
    async fn wait_for_clean_up(&self, life: &Life, id: &str) {
        let bundle = self.bundles.join(id);
        let namespace = self.bundles.file_name().unwrap_or_default().to_string_lossy();
        let start = Instant::now();
        while bundle.exists() || !shims(&namespace, id).is_empty() {
            assert!(start.elapsed() < DEADLINE, "{life:?} as {id}: containerd does not clean up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Life {
    /// The expected exit status.
    fn status(&self) -> u32 {
        match self.end {
            End::Itself | End::Input => 0,
            End::Term => 128 + TERM,
            End::Kill => 128 + KILL,
        }
    }
}

/// Whether this error is acceptable while, or after, a shim was killed. A missing answer never is.
fn expected(status: &Status) -> bool {
    status.code() != tonic::Code::DeadlineExceeded
}

/// Kills the shim of a container, this long after it appears.
async fn kill_shim(bundle: std::path::PathBuf, id: String, after: Duration, tally: Tally) {
    while !bundle.join("address").exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(after).await;
    let namespace = bundle.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
    let socket = Path::new(address.trim_start_matches("unix://"));
    let shims = shims(&namespace, &id);
    let known = is_connected(socket);
    for shim in &shims {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(*shim), Signal::SIGKILL);
    }
    if shims.is_empty() {
        tally.count("shims that were gone already");
    } else if known {
        tally.count("shims killed");
    } else {
        // No client was connected that could report its death: containerd answers that it cannot
        // connect, and starts no clean-up. Only the socket is left.
        tally.count("shims killed before containerd knew them");
        let _ = fs::remove_file(socket);
    }
}

/// Whether a client is connected to the server at this socket.
fn is_connected(socket: &Path) -> bool {
    let table = fs::read_to_string("/proc/net/unix").expect("/proc is there");
    let socket = socket.to_string_lossy();
    // Number, references, protocol, flags, type, state (3: connected), inode, path.
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(5) == Some(&"03") && words.get(7) == Some(&&*socket)
    })
}

/// The shims that were started for this container.
pub(super) fn shims(namespace: &str, id: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let follows = |option: &str, value: &str| {
            words.windows(2).any(|pair| pair[0] == option.as_bytes() && pair[1] == value.as_bytes())
        };
        words[0].windows(16).any(|part| part == b"containerd-shim-")
            && follows("-namespace", namespace)
            && follows("-id", id)
    };
    pids.filter(ours).collect()
}
