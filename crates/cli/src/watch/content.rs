//! The content of an image in containerd's store: its documents are read at once, and its layers
//! when they are needed.

use std::io::{self, Read};
use std::sync::Arc;

use wherry_containerd::{Client, ContainerdError};
use wherry_oci::blob::Store;
use wherry_oci::image::{self, DOCUMENT_MAX};
use wherry_oci::{Data, Image, OciError, media};
use wherry_supervisor::Cancel;

use super::queue::Job;

/// The blobs of a namespace, until the job is cancelled.
#[derive(Debug)]
struct Blobs {
    client: Client,
    namespace: String,
    cancel: Cancel,
}

impl Store for Blobs {
    fn open(&self, digest: &str, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let inner = self.client.read(&self.namespace, digest, offset).map_err(io::Error::other)?;
        Ok(Box::new(Cancellable { inner, cancel: self.cancel.clone() }))
    }
}

struct Cancellable<R> {
    inner: R,
    cancel: Cancel,
}

impl<R: Read> Read for Cancellable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            // ErrorKind::Interrupted would be tried again.
            return Err(io::Error::other("the image was removed"));
        }
        self.inner.read(buffer)
    }
}

/// Reads the documents of an image.
pub(super) fn read(client: &Client, job: &Job) -> Result<Image, OciError> {
    let Job { namespace, image, cancel } = job;
    let root = image::descriptor(&image.media_type, &image.digest, image.size)?;
    let store: Arc<dyn Store> = Arc::new(Blobs {
        client: client.clone(),
        namespace: namespace.clone(),
        cancel: cancel.clone(),
    });
    Image::read(root, Some(image.name.clone()), &image::runs_here, &mut |descriptor| {
        let (digest, size) = (descriptor.digest().to_string(), descriptor.size());
        let media_type = descriptor.media_type().to_string();
        if !media::is_index(&media_type) && !media::is_manifest(&media_type) {
            return Ok(Some(Data::Stored { store: Arc::clone(&store), digest, size }));
        }
        let mut bytes = Vec::new();
        let content = match client.read(namespace, &digest, 0) {
            Ok(content) => content,
            // Only the manifests of some platforms were pulled.
            Err(ContainerdError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(fault(digest, io::Error::other(error))),
        };
        // One byte more, by which a document that is too large is seen.
        let read = content.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| fault(digest, error))?;
        Ok(Some(Data::from(bytes)))
    })
}

fn fault(digest: String, source: io::Error) -> OciError {
    OciError::Blob { digest, source }
}
