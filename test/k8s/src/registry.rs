//! A registry of the tests' images: the part of the distribution specification that a pull needs,
//! over HTTP.

use crate::machine::Machine;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use wherry_testing::Image;

/// Its port, on the control plane's address.
pub(crate) const PORT: u16 = 5000;

/// Serves images until the process ends.
#[derive(Clone)]
pub(crate) struct Registry {
    blobs: PathBuf,
    /// `registry.k8s.io/pause:3.10` to the digest of its manifest.
    names: Arc<Mutex<HashMap<String, String>>>,
}

impl Registry {
    /// Starts to serve, in the network of a machine.
    pub(crate) fn start(root: &Path, machine: &Machine) -> Registry {
        let blobs = root.join("blobs");
        fs::create_dir_all(&blobs).unwrap_or_else(|e| panic!("{}: {e}", blobs.display()));
        let registry = Registry { blobs, names: Arc::default() };
        let bind = || TcpListener::bind(("0.0.0.0", PORT));
        let listener = machine.in_network(bind).unwrap_or_else(|e| panic!("port {PORT}: {e}"));
        let serving = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let registry = serving.clone();
                thread::spawn(move || registry.serve(stream));
            }
        });
        registry
    }

    /// Adds an image under a full name, like `docker.io/wherry/kit:wasm`.
    pub(crate) fn add(&self, name: &str, image: &Image) {
        self.add_archive(name, &image.pack().path);
    }

    /// Like [`Registry::add`], of an archive.
    pub(crate) fn add_archive(&self, name: &str, archive: &Path) {
        let file = fs::File::open(archive);
        let file = file.unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
        let mut archive = tar::Archive::new(file);
        let mut manifest = None;
        for entry in archive.entries().expect("an archive") {
            let mut entry = entry.expect("an archive");
            let path = entry.path().expect("a path").into_owned();
            if path.starts_with("blobs") {
                let digest = path.file_name().expect("a digest").to_owned();
                entry.unpack(self.blobs.join(digest)).expect("the folder is writable");
            } else if path.ends_with("index.json") {
                let index: serde_json::Value = serde_json::from_reader(entry).expect("JSON");
                manifest = index["manifests"][0]["digest"].as_str().map(str::to_owned);
            }
        }
        let digest = manifest.expect("an archive has one manifest");
        let mut names = self.names.lock().unwrap_or_else(|p| p.into_inner());
        names.insert(name.to_owned(), digest.trim_start_matches("sha256:").to_owned());
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        loop {
            line.clear();
            if !matches!(reader.read_line(&mut line), Ok(1..)) {
                return;
            }
            let request = line.trim().to_owned();
            while !line.trim().is_empty() {
                line.clear();
                if !matches!(reader.read_line(&mut line), Ok(1..)) {
                    return;
                }
            }
            if self.answer(&stream, &request).is_err() {
                return;
            }
        }
    }

    fn answer(&self, mut stream: &TcpStream, request: &str) -> std::io::Result<()> {
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let found = self.find(target);
        let (status, kind, digest, body) = match found {
            Some((kind, body)) => {
                let digest: String =
                    Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
                ("200 OK", kind, digest, body)
            }
            None => ("404 Not Found", "application/json", String::new(), b"{}".to_vec()),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Docker-Content-Digest: sha256:{digest}\r\n\r\n",
            body.len()
        )?;
        if method == "HEAD" { Ok(()) } else { stream.write_all(&body) }
    }

    /// The media type and the bytes of a manifest or a blob:
    /// `/v2/NAME/manifests/REFERENCE?ns=REGISTRY`.
    fn find(&self, target: &str) -> Option<(&'static str, Vec<u8>)> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.strip_prefix("/v2/")?;
        if path.is_empty() {
            return Some(("application/json", b"{}".to_vec()));
        }
        let (rest, reference) = path.rsplit_once('/')?;
        let (name, what) = rest.rsplit_once('/')?;
        let host =
            query.split('&').find_map(|part| part.strip_prefix("ns=")).unwrap_or("docker.io");
        let digest = match reference.strip_prefix("sha256:") {
            Some(digest) => digest.to_owned(),
            None => {
                let names = self.names.lock().unwrap_or_else(|p| p.into_inner());
                names.get(&format!("{host}/{name}:{reference}"))?.clone()
            }
        };
        let kind = match what {
            "manifests" => "application/vnd.oci.image.manifest.v1+json",
            _ => "application/octet-stream",
        };
        // A digest alone, never a path.
        let valid = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some((kind, fs::read(self.blobs.join(&digest)).ok().filter(|_| valid)?))
    }
}
