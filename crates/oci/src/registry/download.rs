//! Downloads of blobs. An interrupted one continues where it ended, also in a later process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;
use oci_spec::image::Descriptor;
use sha2::{Digest as _, Sha256};
use wherry_image::Size;

use super::{Registry, explain, label};
use crate::blob::{self, Data};
use crate::error::{OciError, Result};
use crate::image::verify;

/// The age at which an abandoned download is removed.
const ABANDONED: Duration = Duration::from_secs(7 * 86_400);
/// The end of the name of a download.
const SUFFIX: &str = ".part";

/// Returns the user's folder of incomplete downloads.
pub(super) fn folder() -> PathBuf {
    let of =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    of("XDG_CACHE_HOME")
        .or_else(|| of("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("wherry/downloads")
}

/// The folder of incomplete downloads.
pub(super) struct Folder {
    path: PathBuf,
    /// Those of this process, which are removed once the whole image is complete.
    complete: Vec<PathBuf>,
}

impl Folder {
    /// Creates the folder, and removes abandoned downloads.
    pub(super) fn open(path: &Path) -> Result<Folder> {
        fs::create_dir_all(path).map_err(OciError::file("create", path))?;
        for entry in fs::read_dir(path).map_err(OciError::file("read", path))?.flatten() {
            let is_part = entry.file_name().to_string_lossy().ends_with(SUFFIX);
            let age = entry.metadata().and_then(|meta| meta.modified()).map(|time| time.elapsed());
            if is_part && matches!(age, Ok(Ok(age)) if age > ABANDONED) {
                // Another process may have removed it.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Folder { path: path.to_owned(), complete: Vec::new() })
    }

    /// Removes the complete downloads. Their content stays readable.
    pub(super) fn clear(&mut self) {
        for path in self.complete.drain(..) {
            // Another process that needed the same blob may have removed it.
            let _ = fs::remove_file(path);
        }
    }
}

/// A blob's file, with the digest and the size of its content so far.
struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
}

impl Part {
    /// Opens the file. Waits while another process downloads the same blob.
    fn open(path: PathBuf) -> Result<Part> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(OciError::file("open", &path))?;
        file.lock().map_err(OciError::file("lock", &path))?;
        Ok(Part { path, file, hash: Sha256::new(), size: 0 })
    }

    /// Reads the content of an earlier attempt, unless it has more bytes than the blob.
    fn resume(&mut self, whole: u64) -> io::Result<()> {
        if self.file.metadata()?.len() > whole {
            return self.restart();
        }
        self.file.rewind()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    self.hash.update(buffer.get(..count).unwrap_or_default());
                    self.size += count as u64;
                }
            }
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = Sha256::new();
        self.size = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// Why an attempt failed.
enum Failure {
    /// The registry or the network.
    Network(OciDistributionError),
    /// The content, or the disk.
    Final(OciError),
}

impl Registry<'_> {
    /// Downloads a blob, with its size and digest checked while it arrives.
    pub(super) fn download(&self, descriptor: &Descriptor, folder: &mut Folder) -> Result<Data> {
        let digest = descriptor.digest().to_string();
        if !digest.starts_with("sha256:") {
            return Err(OciError::Algorithm(digest));
        }
        let name = format!("{}{SUFFIX}", descriptor.digest().digest());
        let mut part = Part::open(folder.path.join(name))?;
        part.resume(descriptor.size()).map_err(OciError::file("read", &part.path))?;
        self.progress.begin(&label("download", &digest), descriptor.size());
        self.progress.reach(part.size);
        let done = self.attempts(descriptor, &digest, &mut part);
        self.progress.end();
        if let Err(error) = done {
            if is_damaged(&error) {
                // It would not become better by more bytes.
                let _ = fs::remove_file(&part.path);
            }
            return Err(error);
        }
        folder.complete.push(part.path.clone());
        // Another process that waits finds a complete download.
        part.file.unlock().map_err(OciError::file("unlock", &part.path))?;
        Data::of_file(part.file).map_err(OciError::file("read", &part.path))
    }

    fn attempts(&self, descriptor: &Descriptor, digest: &str, part: &mut Part) -> Result<()> {
        let mut attempt = 0;
        while part.size < descriptor.size() {
            let before = part.size;
            match self.runtime.block_on(self.attempt(descriptor, digest, part)) {
                Ok(()) => break,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Network(error)) => {
                    // An attempt with progress does not count.
                    attempt = if part.size > before { 1 } else { attempt + 1 };
                    if attempt > self.options.retries || !explain::may_pass(&error) {
                        return Err(self.fault(&error));
                    }
                    self.wait(attempt - 1, &error);
                }
            }
        }
        if part.size != descriptor.size() {
            return Err(OciError::WrongSize {
                digest: digest.to_owned(),
                found: Size(part.size),
                expected: Size(descriptor.size()),
            });
        }
        verify(digest, &blob::text(part.hash.clone()))
    }

    async fn attempt(
        &self,
        descriptor: &Descriptor,
        digest: &str,
        part: &mut Part,
    ) -> std::result::Result<(), Failure> {
        // Only the digest: a layer's other addresses are not used.
        let response = if part.size == 0 {
            let stream = self.client.pull_blob_stream(&self.reference, digest).await;
            stream.map(BlobResponse::Full)
        } else {
            self.client.pull_blob_stream_partial(&self.reference, digest, part.size, None).await
        };
        let on_disk = |path: &Path| {
            let path = path.to_owned();
            move |error| Failure::Final(OciError::file("write", path)(error))
        };
        let mut stream = match response.map_err(Failure::Network)? {
            BlobResponse::Partial(stream) => stream,
            BlobResponse::Full(stream) => {
                part.restart().map_err(on_disk(&part.path))?;
                stream
            }
        };
        while let Some(bytes) = stream.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                // The caller compares the size and the digest, with a better sentence.
                Err(error) if explain::is_damage(&error) => return Ok(()),
                Err(error) => return Err(Failure::Network(OciDistributionError::IoError(error))),
            };
            let size = part.size + bytes.len() as u64;
            if size > descriptor.size() {
                return Err(Failure::Final(OciError::WrongSize {
                    digest: digest.to_owned(),
                    found: Size(size),
                    expected: Size(descriptor.size()),
                }));
            }
            part.append(&bytes).map_err(on_disk(&part.path))?;
            self.progress.reach(part.size);
        }
        Ok(())
    }
}

/// Returns true if the content is at fault.
fn is_damaged(error: &OciError) -> bool {
    matches!(error, OciError::WrongSize { .. } | OciError::WrongDigest { .. })
}
