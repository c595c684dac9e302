//! Builds OCI images in code, as archives that `ctr images import` and `docker load` take.

use crate::places::cache_dir;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// A description of an image: one layer of files, and its configuration.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    os: String,
    architecture: String,
    entries: Vec<Entry>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    workdir: String,
    user: String,
    healthcheck: Vec<String>,
    compressed: bool,
}

#[derive(Clone, Debug)]
enum Entry {
    File { path: String, mode: u32, bytes: Vec<u8> },
    Folder { path: String, mode: u32 },
    Link { path: String, target: String },
    HardLink { path: String, target: String },
}

/// An image's archive on disk.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The full reference; its tag is a digest of the content.
    pub reference: String,
    /// The archive.
    pub path: PathBuf,
    /// Its platform, like `linux/amd64`.
    pub platform: String,
    /// The entrypoint: `ctr run` needs it spelled out before arguments.
    pub entrypoint: Vec<String>,
}

impl Image {
    /// An empty image for `linux/amd64`.
    pub fn new(name: &str) -> Image {
        Image {
            name: name.to_owned(),
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            entries: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            workdir: String::new(),
            user: String::new(),
            healthcheck: Vec::new(),
            compressed: false,
        }
    }

    /// Compresses the layer with gzip, for an image that goes to a registry.
    #[must_use]
    pub fn compressed(mut self) -> Image {
        self.compressed = true;
        self
    }

    /// Adds a file; `path` starts with `/`. Missing parent folders are added.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Image {
        self.entries.push(Entry::File { path: path.to_owned(), mode, bytes: bytes.into() });
        self
    }

    /// Adds a folder with a mode.
    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32) -> Image {
        self.entries.push(Entry::Folder { path: path.to_owned(), mode });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Image {
        self.entries.push(Entry::Link { path: path.to_owned(), target: target.to_owned() });
        self
    }

    /// Adds another name of a file that was added before.
    #[must_use]
    pub fn hard_link(mut self, path: &str, target: &str) -> Image {
        self.entries.push(Entry::HardLink { path: path.to_owned(), target: target.to_owned() });
        self
    }

    /// Sets the entrypoint.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Image {
        self.entrypoint = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Sets the default arguments.
    #[must_use]
    pub fn cmd(mut self, words: &[&str]) -> Image {
        self.cmd = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Image {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn workdir(mut self, path: &str) -> Image {
        self.workdir = path.to_owned();
        self
    }

    /// Sets the user the entrypoint runs as: `1234`, `1234:1234` or a name from its `/etc/passwd`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Image {
        self.user = user.to_owned();
        self
    }

    /// Sets the health check, with an interval of 0.2 s.
    #[must_use]
    pub fn healthcheck(mut self, words: &[&str]) -> Image {
        self.healthcheck = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Sets the platform, for instance `wasi` and `wasm`.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Image {
        self.os = os.to_owned();
        self.architecture = architecture.to_owned();
        self
    }

    /// Packs the image into the cache, unless an identical one is there.
    pub fn pack(&self) -> Packed {
        let layer = self.layer();
        let config = serde_json::to_vec(&self.config(&layer)).expect("JSON of plain values");
        let tag = &hex(&config)[..12];
        let dir = cache_dir().join("archives");
        fs::create_dir_all(&dir)
            .unwrap_or_else(|e| panic!("{} cannot be created: {e}", dir.display()));
        let packed = Packed {
            reference: format!("docker.io/wherry/{}:{tag}", self.name),
            path: dir.join(format!("{}-{tag}.tar", self.name)),
            platform: format!("{}/{}", self.os, self.architecture),
            entrypoint: self.entrypoint.clone(),
        };
        if !packed.path.exists() {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let part = dir.join(format!(
                ".part-{}-{}",
                process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ));
            self.write(&part, &packed.reference, &layer, &config);
            fs::rename(&part, &packed.path)
                .unwrap_or_else(|e| panic!("{}: {e}", packed.path.display()));
        }
        packed
    }

    /// Unpacks the files into a folder, which is then a root filesystem without a daemon.
    pub fn unpack(&self, dir: &Path) {
        tar::Archive::new(self.layer().as_slice())
            .unpack(dir)
            .unwrap_or_else(|e| panic!("cannot unpack an image into {}: {e}", dir.display()));
    }

    /// Writes the archive to `path` under the reference, like `docker.io/wherry/hello:latest`.
    pub fn pack_to(&self, path: &Path, reference: &str) {
        let layer = self.layer();
        let config = serde_json::to_vec(&self.config(&layer)).expect("JSON of plain values");
        self.write(path, reference, &layer, &config);
    }

    fn write(&self, path: &Path, reference: &str, layer: &[u8], config: &[u8]) {
        let platform = json!({"os": self.os, "architecture": self.architecture});
        let mut layer_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        let packed = self.compressed.then(|| gzip(layer));
        if packed.is_some() {
            layer_type.push_str("+gzip");
        }
        let layer = packed.as_deref().unwrap_or(layer);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor(&layer_type, layer)],
        }))
        .expect("JSON of plain values");
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = platform;
        entry["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference.rsplit(':').next(),
        });
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        // For Docker's own image store, which reads no OCI layout.
        let blob = |blob| format!("blobs/sha256/{}", hex(blob));
        let docker =
            json!([{"Config": blob(config), "RepoTags": [reference], "Layers": [blob(layer)]}]);

        let mut tar = Tar::new();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        tar.file("index.json", 0o644, index.to_string().as_bytes());
        tar.file("manifest.json", 0o644, docker.to_string().as_bytes());
        for bytes in [layer, config, &manifest] {
            tar.file(&blob(bytes), 0o644, bytes);
        }
        fs::File::create(path)
            .and_then(|mut file| file.write_all(&tar.end()))
            .unwrap_or_else(|e| panic!("{} cannot be written: {e}", path.display()));
    }

    fn config(&self, layer: &[u8]) -> Value {
        let mut config = json!({"Env": self.env});
        let mut set = |key: &str, value: Value| config[key] = value;
        if !self.entrypoint.is_empty() {
            set("Entrypoint", json!(self.entrypoint));
        }
        if !self.cmd.is_empty() {
            set("Cmd", json!(self.cmd));
        }
        if !self.workdir.is_empty() {
            set("WorkingDir", json!(self.workdir));
        }
        if !self.user.is_empty() {
            set("User", json!(self.user));
        }
        if !self.healthcheck.is_empty() {
            let test: Vec<&str> =
                std::iter::once("CMD").chain(self.healthcheck.iter().map(String::as_str)).collect();
            set("Healthcheck", json!({"Test": test, "Interval": 200_000_000, "Retries": 1}));
        }
        json!({
            "os": self.os,
            "architecture": self.architecture,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(layer))]},
        })
    }

    fn layer(&self) -> Vec<u8> {
        let mut tar = Tar::new();
        let mut made = BTreeSet::new();
        for entry in &self.entries {
            let (Entry::File { path, .. }
            | Entry::Folder { path, .. }
            | Entry::Link { path, .. }
            | Entry::HardLink { path, .. }) = entry;
            let above: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
            for folder in above.into_iter().rev().filter(|folder| folder.parent().is_some()) {
                if made.insert(folder.to_owned()) {
                    tar.folder(&folder.to_string_lossy(), 0o755);
                }
            }
            match entry {
                Entry::File { path, mode, bytes } => tar.file(path, *mode, bytes),
                Entry::Folder { path, mode } => {
                    made.insert(path.into());
                    tar.folder(path, *mode);
                }
                Entry::Link { path, target } => tar.link(tar::EntryType::Symlink, path, target),
                Entry::HardLink { path, target } => {
                    let target = target.trim_start_matches('/');
                    tar.link(tar::EntryType::Link, path, target);
                }
            }
        }
        tar.end()
    }
}

/// A tar archive in memory, reproducible: it has no times and no owners.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let mut header = Tar::header(tar::EntryType::Regular, mode, bytes.len());
        self.0
            .append_data(&mut header, path.trim_start_matches('/'), bytes)
            .expect("tar in memory");
    }

    fn folder(&mut self, path: &str, mode: u32) {
        let mut header = Tar::header(tar::EntryType::Directory, mode, 0);
        self.0
            .append_data(&mut header, path.trim_start_matches('/'), [].as_slice())
            .expect("tar in memory");
    }

    fn link(&mut self, kind: tar::EntryType, path: &str, target: &str) {
        let mut header = Tar::header(kind, 0o777, 0);
        self.0
            .append_link(&mut header, path.trim_start_matches('/'), target)
            .expect("tar in memory");
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().expect("tar in memory")
    }
}

/// Compresses, with no time in the header.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("gzip in memory")
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", hex(blob)), "size": blob.len()})
}

fn hex(blob: &[u8]) -> String {
    Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect()
}
