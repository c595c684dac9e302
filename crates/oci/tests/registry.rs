//! Pulls from registries that misbehave: a server in this process plays each of them.

// Test code, though not all of it is in tests: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use wherry_oci::registry::{Options, Registry};
use wherry_oci::{Data, Image, Platform, Silent, artifact, convert, layout};

/// A request, with the value of its header `Range`.
#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    range: Option<u64>,
}

/// What a registry does with a request.
enum Reply {
    /// A status, a header, and a body of which only a part may be sent.
    Body { status: u16, header: String, body: Vec<u8>, sent: usize },
    /// Nothing.
    Stall,
}

fn whole(status: u16, header: &str, body: Vec<u8>) -> Reply {
    Reply::Body { status, header: header.to_owned(), sent: body.len(), body }
}

/// A registry on loopback.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&requests), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || serve(&stream.unwrap(), &log, &*answer));
            }
        });
        Server { address, requests }
    }

    /// A registry of an image: its documents and blobs, by their digests.
    fn of(
        image: &Image,
        change: impl Fn(&Request, usize, Reply) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let root = image.root.digest().to_string();
        let blobs: HashMap<String, Vec<u8>> = image
            .blobs()
            .map(|(digest, data)| (digest.to_owned(), data.bytes("blob", digest, 1 << 30).unwrap()))
            .collect();
        Server::start(move |request, earlier| {
            let last = request.path.rsplit('/').next().unwrap();
            let key = if last == "1" { root.as_str() } else { last };
            let reply = match blobs.get(key) {
                _ if request.path == "/v2/" => whole(200, "", Vec::new()),
                None => whole(404, "", br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#.to_vec()),
                Some(blob) => match request.range {
                    Some(offset) => whole(206, "", blob[offset as usize..].to_vec()),
                    None => whole(200, "", blob.clone()),
                },
            };
            change(request, earlier, reply)
        })
    }

    fn blob_requests(&self) -> Vec<Request> {
        let all = self.requests.lock().unwrap().clone();
        all.into_iter().filter(|request| request.path.contains("/blobs/")).collect()
    }
}

fn serve(stream: &TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request, usize) -> Reply) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let words: Vec<&str> = first.split(' ').collect();
    let mut request =
        Request { method: words[0].to_owned(), path: words[1].to_owned(), range: None };
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let lower = line.to_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            request.range = range.trim_end_matches('-').parse().ok();
        }
    }
    let earlier = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.iter().filter(|other| other.path == request.path).count() - 1
    };
    match answer(&request, earlier) {
        Reply::Stall => {
            // Until the client closes the connection.
            let _ = stream.try_clone().unwrap().read(&mut [0]);
        }
        Reply::Body { status, header, body, sent } => {
            let head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n{header}\r\n",
                body.len()
            );
            let mut stream = stream;
            // A client that has read enough closes its end.
            let _ = stream.write_all(head.as_bytes());
            if request.method != "HEAD" {
                let _ = stream.write_all(&body[..sent]);
            }
        }
    }
}

/// A module of this size.
fn module(size: usize) -> Vec<u8> {
    let mut section = vec![1, b'x'];
    section.extend((0..size).map(|at| (at * 7) as u8));
    let mut bytes = b"\0asm\x01\0\0\0\0".to_vec();
    let length = section.len() as u32;
    bytes
        .extend((0..5).map(|at| (length >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 }));
    bytes.extend(section);
    bytes
}

fn made(size: usize) -> Image {
    let labels = std::collections::BTreeMap::new();
    artifact::make(&Data::from(module(size)), None, "app.wasm", &labels, None).unwrap()
}

fn options(downloads: &Path) -> Options {
    Options {
        plain_http: true,
        retries: 2,
        timeout: Duration::from_secs(20),
        downloads: downloads.to_owned(),
        ..Options::default()
    }
}

fn pull(server: &Server, options: &Options) -> Result<Image, String> {
    let name = format!("{}/app:1", server.address);
    let registry = Registry::open(&name, options, &Silent).map_err(|error| error.to_string())?;
    registry.pull(None).map_err(|error| error.to_string())
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn is_layer(request: &Request, image: &Image) -> bool {
    let manifest = image.preferred(None).unwrap();
    request.path.ends_with(manifest.content.layers()[0].digest().as_ref())
}

#[test]
fn an_artifact_is_pulled_and_converted() {
    let (image, downloads) = (made(100_000), tempfile::tempdir().unwrap());
    let server = Server::of(&image, |_, _, reply| reply);
    let pulled = pull(&server, &options(downloads.path())).unwrap();
    pulled.verify().unwrap();
    assert_eq!(pulled.root.digest(), image.root.digest());
    assert_eq!(files(downloads.path()), 0);
    let converted = convert::to_image(&pulled, &Platform::usual()).unwrap();
    let archive = tempfile::NamedTempFile::new().unwrap();
    layout::write_file(&converted, archive.path()).unwrap();
    let read = layout::read(archive.path(), None).unwrap();
    read.verify().unwrap();
    assert_eq!(read.name, pulled.name);
    assert_eq!(read.root.digest(), converted.root.digest());
}

#[test]
fn a_broken_download_continues_where_it_was() {
    let (image, downloads) = (made(100_000), tempfile::tempdir().unwrap());
    let other = image.clone();
    let server = Server::of(&image, move |request, earlier, reply| match reply {
        Reply::Body { status, header, body, .. } if earlier == 0 && is_layer(request, &other) => {
            Reply::Body { status, header, body, sent: 50_000 }
        }
        reply => reply,
    });
    pull(&server, &options(downloads.path())).unwrap().verify().unwrap();
    let ranges: Vec<Option<u64>> = server
        .blob_requests()
        .iter()
        .filter(|request| is_layer(request, &image))
        .map(|request| request.range)
        .collect();
    assert_eq!(ranges, [None, Some(50_000)]);
}

#[test]
fn a_download_that_failed_is_continued_by_the_next_pull() {
    let (image, downloads) = (made(100_000), tempfile::tempdir().unwrap());
    let other = image.clone();
    let server = Server::of(&image, move |request, earlier, reply| match reply {
        Reply::Body { status, header, body, .. } if earlier == 0 && is_layer(request, &other) => {
            Reply::Body { status, header, body, sent: 30_000 }
        }
        reply => reply,
    });
    let once = Options { retries: 0, ..options(downloads.path()) };
    pull(&server, &once).unwrap_err();
    assert!(files(downloads.path()) > 0);
    pull(&server, &once).unwrap().verify().unwrap();
    assert_eq!(server.blob_requests().last().unwrap().range, Some(30_000));
    assert_eq!(files(downloads.path()), 0);
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let (image, downloads) = (made(100_000), tempfile::tempdir().unwrap());
    let other = image.clone();
    let all = module(100_000);
    let server = Server::of(&image, move |request, earlier, reply| match reply {
        _ if !is_layer(request, &other) => reply,
        _ if earlier == 0 => {
            Reply::Body { status: 200, header: String::new(), body: all.clone(), sent: 1000 }
        }
        _ => whole(200, "", all.clone()),
    });
    pull(&server, &options(downloads.path())).unwrap().verify().unwrap();
}

#[test]
fn content_that_does_not_match_its_descriptor_is_refused_and_not_kept() {
    let (image, downloads) = (made(1000), tempfile::tempdir().unwrap());
    let layer = image.preferred(None).unwrap().content.layers()[0].digest().to_string();
    let size = module(1000).len();
    let cases: [(Vec<u8>, &str); 3] = [
        (module(2000), "and its descriptor says 1.0 kB: the content is damaged"),
        (vec![7; size], "has the digest sha256:"),
        (module(10), "and its descriptor says 1.0 kB: the content is damaged"),
    ];
    for (body, expected) in cases {
        let other = image.clone();
        let server = Server::of(&image, move |request, _, reply| {
            if is_layer(request, &other) { whole(200, "", body.clone()) } else { reply }
        });
        let once = Options { retries: 0, ..options(downloads.path()) };
        let error = pull(&server, &once).unwrap_err();
        assert!(error.starts_with(&layer) && error.contains(expected), "{error}");
        let kept = downloads.path().join(format!("{}.part", layer.split_once(':').unwrap().1));
        assert!(!kept.exists(), "{error}");
    }
}

#[test]
fn a_registry_that_stalls_is_named_with_the_time() {
    let (image, downloads) = (made(1000), tempfile::tempdir().unwrap());
    let server =
        Server::of(
            &image,
            |request, _, reply| {
                if request.path.contains("/blobs/") { Reply::Stall } else { reply }
            },
        );
    let timeout = Duration::from_secs(1);
    let impatient = Options { retries: 0, timeout, ..options(downloads.path()) };
    let error = pull(&server, &impatient).unwrap_err();
    let expected = "the registry stalled: nothing arrived for 1 s; --timeout waits longer";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn an_expired_token_names_the_login() {
    let downloads = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| {
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"token expired"}]}"#.to_vec();
        whole(401, "WWW-Authenticate: Basic realm=\"r\"\r\n", body)
    });
    let error = pull(&server, &options(downloads.path())).unwrap_err();
    assert!(error.contains("the registry refused access"), "{error}");
    assert!(error.contains(&format!("docker login {}", server.address)), "{error}");
}

#[test]
fn an_image_that_does_not_exist_is_named() {
    let (image, downloads) = (made(10), tempfile::tempdir().unwrap());
    let server = Server::of(&image, |_, _, reply| reply);
    let name = format!("{}/app:2", server.address);
    let registry = Registry::open(&name, &options(downloads.path()), &Silent).unwrap();
    let error = registry.pull(None).unwrap_err().to_string();
    assert_eq!(error, format!("{name}: the registry has no such image"));
}

#[test]
fn a_manifest_of_ten_thousand_layers_is_refused_before_a_download() {
    let downloads = tempfile::tempdir().unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let layer = format!(r#"{{"mediaType":"application/wasm","digest":"{digest}","size":8}}"#);
    let layers = vec![layer; 10_000].join(",");
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v0+json",
            "digest":"{digest}","size":2}},"layers":[{layers}]}}"#
    );
    let server = Server::start(move |_, _| whole(200, "", manifest.clone().into_bytes()));
    let error = pull(&server, &options(downloads.path())).unwrap_err();
    assert!(error.ends_with("has 10000 layers, more than the 127 that can be mounted"), "{error}");
    assert_eq!(server.blob_requests().len(), 0);
}

#[test]
fn two_pulls_of_one_image_at_once_both_succeed() {
    let (image, downloads) = (made(300_000), tempfile::tempdir().unwrap());
    let server = Server::of(&image, |_, _, reply| reply);
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| pull(&server, &options(downloads.path())).unwrap()))
            .collect();
        for pull in pulls {
            pull.join().unwrap().verify().unwrap();
        }
    });
    assert_eq!(files(downloads.path()), 0);
}

#[test]
fn a_full_disk_is_named_with_the_file() {
    let (image, downloads) = (made(300_000), tempfile::tempdir().unwrap());
    let none: Option<&str> = None;
    let size = Some("size=64k");
    if mount(none, downloads.path(), Some("tmpfs"), MsFlags::empty(), size).is_err() {
        // Only root can mount.
        return;
    }
    let server = Server::of(&image, |_, _, reply| reply);
    let result = pull(&server, &options(downloads.path()));
    umount2(downloads.path(), MntFlags::MNT_DETACH).unwrap();
    let error = result.unwrap_err();
    assert!(error.contains(".part: cannot write it: No space left on device"), "{error}");
}
