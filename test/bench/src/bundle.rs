//! A container's bundle as containerd creates it, for a shim that is driven without containerd.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use wherry_bench::wire::Message;
use wherry_testing::{Containerd, DEADLINE};

/// The layer of the root filesystem, the configuration of a container in it, and the folder of the
/// containers.
pub(crate) struct Template {
    folder: PathBuf,
    bundles: PathBuf,
    layer: PathBuf,
    spec: Value,
    group: String,
}

/// One container's bundle with the named pipe of its output, and the upper layer of its root
/// filesystem.
pub(crate) struct Bundle {
    /// The bundle's folder.
    pub(crate) path: PathBuf,
    /// The container's id.
    pub(crate) id: String,
    /// Standard output, for reading.
    stdout: File,
    // Some shims block until both pipes have a reader.
    _stderr: File,
    _log: File,
    around: PathBuf,
    layer: PathBuf,
}

impl Template {
    /// For containers of one program, `/app`, configured as `ctr run` does.
    pub(crate) fn new(containerd: &Containerd, name: &str, program: &[u8]) -> Template {
        let folder = containerd.root().join("direct").join(name);
        let layer = folder.join("layer");
        fs::create_dir_all(&layer).expect("the folder is ours");
        fs::write(layer.join("app"), program).expect("the folder is ours");
        fs::set_permissions(layer.join("app"), Permissions::from_mode(0o755))
            .expect("the file is ours");
        let text = containerd.ctr(&["oci", "spec"]).success();
        let mut spec: Value = serde_json::from_str(&text).expect("ctr prints a configuration");
        spec["process"]["args"] = json!(["/app"]);
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({"path": "rootfs"});
        let bundles = containerd.state().join("direct").join(name);
        Template { folder, bundles, layer, spec, group: containerd.namespace().to_owned() }
    }

    /// Creates the bundle of a new container.
    pub(crate) fn bundle(&self, id: &str) -> Bundle {
        let around = self.folder.join(id);
        let path = self.bundles.join(id);
        for folder in [around.join("upper"), around.join("work"), path.join("rootfs")] {
            fs::create_dir_all(folder).expect("the folder is ours");
        }
        let mut spec = self.spec.clone();
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", self.group));
        fs::write(path.join("config.json"), spec.to_string()).expect("the folder is ours");
        Bundle {
            id: id.to_owned(),
            stdout: pipe(&path.join("stdout")),
            _stderr: pipe(&path.join("stderr")),
            _log: pipe(&path.join("log")),
            path,
            around,
            layer: self.layer.clone(),
        }
    }
}

impl Bundle {
    /// The `CreateTaskRequest` of containerd, with the mount of its overlay snapshotter.
    pub(crate) fn create_request(&self) -> Message {
        let text = |path: &Path| path.display().to_string();
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        let mount = Message::new()
            .text(1, "overlay")
            .text(2, "overlay")
            .text(4, "index=off")
            .text(4, &option("workdir", self.around.join("work")))
            .text(4, &option("upperdir", self.around.join("upper")))
            .text(4, &option("lowerdir", self.layer.clone()));
        Message::new()
            .text(1, &self.id)
            .text(2, &text(&self.path))
            .bytes(3, mount.encoded())
            .text(6, &text(&self.path.join("stdout")))
            .text(7, &text(&self.path.join("stderr")))
    }

    /// Reads the container's only line as soon as it is written, as a client does: the shim
    /// publishes an exit when the output has been read.
    pub(crate) fn read_line(&mut self) -> String {
        let (mut line, start) = (Vec::new(), Instant::now());
        while !line.ends_with(b"\n") {
            assert!(start.elapsed() < DEADLINE, "the guest printed {line:?} in {DEADLINE:?}");
            thread::sleep(Duration::from_micros(20));
            // It returns "would block", because the pipe never ends.
            let _ = self.stdout.read_to_end(&mut line);
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Removes the bundle, once its container is deleted.
    pub(crate) fn remove(self) {
        for folder in [&self.path, &self.around] {
            fs::remove_dir_all(folder)
                .unwrap_or_else(|e| panic!("{} cannot be removed: {e}", folder.display()));
        }
    }
}

/// Creates a named pipe and opens both of its ends, so that no open has to wait for the other end.
fn pipe(path: &Path) -> File {
    mkfifo(path, Mode::from_bits_truncate(0o600))
        .unwrap_or_else(|e| panic!("{} cannot be made: {e}", path.display()));
    let mut options = File::options();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
    options.open(path).unwrap_or_else(|e| panic!("{} cannot be opened: {e}", path.display()))
}
