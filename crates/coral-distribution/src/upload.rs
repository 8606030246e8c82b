//! Pushing one blob.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;

use crate::blob_source::{BlobSource, Check};
use crate::blob_stream::BlobStream;
use crate::error::Error;
use crate::layout::LayoutUpload;
use crate::repository::RegistryUpload;

/// The result of starting a push.
#[derive(Debug)]
pub enum BlobPush {
    /// The registry has the blob: nothing needs to be sent.
    Mounted,
    /// The bytes have to be sent to this upload.
    Upload(Upload),
}

/// Which side of a push failed.
#[derive(Debug)]
pub enum BlobPushError {
    /// The bytes could not be read.
    Source(Error),
    /// The bytes could not be written.
    Destination(Error),
}

/// An open upload. If it is dropped unfinished, it is cancelled at the other side;
/// [`Client::settle`](crate::Client::settle) waits for the cancellation.
#[derive(Debug)]
pub struct Upload(Target);

#[derive(Debug)]
enum Target {
    Registry(Box<RegistryUpload>),
    Layout(LayoutUpload),
}

impl From<RegistryUpload> for Upload {
    fn from(upload: RegistryUpload) -> Self {
        Self(Target::Registry(Box::new(upload)))
    }
}

impl From<LayoutUpload> for Upload {
    fn from(upload: LayoutUpload) -> Self {
        Self(Target::Layout(upload))
    }
}

impl Upload {
    /// Sends a blob in one request and completes the upload. After an interruption on either side
    /// the transfer resumes at the last offset, as long as there is progress.
    pub async fn put_from(self, source: &BlobSource) -> Result<(), BlobPushError> {
        match self.0 {
            Target::Registry(upload) => upload.put_from(source).await,
            Target::Layout(upload) => {
                let tail = Tail::open(source, 0, Check::Digest).await?;
                let (body, end) = tail.watched();
                upload.put(body).await.map_err(|error| end.blame(error))
            }
        }
    }

    /// Sends all `size` bytes in one request and completes the upload. An error of `body` is
    /// returned unchanged.
    pub async fn put(self, size: u64, body: BlobStream) -> Result<(), Error> {
        match self.0 {
            Target::Registry(upload) => upload.put(size, body).await,
            Target::Layout(upload) => upload.put(body).await,
        }
    }

    /// Sends the bytes in chunks of `chunk` bytes (more if the other side asks for more), each held
    /// in memory, and completes the upload.
    pub async fn put_chunked(self, chunk: usize, body: BlobStream) -> Result<(), Error> {
        match self.0 {
            Target::Registry(upload) => upload.put_chunked(chunk, body).await,
            Target::Layout(upload) => upload.put(body).await,
        }
    }

    /// Whether the registry reports on its own that another of its repositories has a blob.
    pub fn reports_mountable_blobs(&self) -> bool {
        match &self.0 {
            Target::Registry(upload) => upload.is_coral(),
            Target::Layout(_) => false,
        }
    }

    /// Whether the registry reported that another of its repositories has the blob.
    pub fn is_elsewhere(&self) -> bool {
        match &self.0 {
            Target::Registry(upload) => upload.is_elsewhere(),
            Target::Layout(_) => false,
        }
    }

    /// Mounts the blob from any repository of the registry that has it, instead of sending it.
    /// Returns an upload if no repository has the blob any more. The caller must have made sure
    /// that the user may read the blob: knowing a digest is no right to its content.
    pub async fn mount(self) -> Result<BlobPush, Error> {
        match self.0 {
            Target::Registry(upload) => upload.mount().await,
            Target::Layout(_) => Ok(BlobPush::Upload(self)),
        }
    }

    /// Cancels the upload at the other side.
    pub async fn cancel(self) -> Result<(), Error> {
        match self.0 {
            Target::Registry(upload) => upload.cancel().await,
            Target::Layout(_) => Ok(()),
        }
    }
}

/// The rest of a blob, and whether reading it failed.
pub(crate) struct Tail {
    stream: BlobStream,
    source: BlobSource,
}

/// Which side ended a push.
pub(crate) struct End {
    read_failed: Arc<AtomicBool>,
    source: BlobSource,
}

impl Tail {
    pub(crate) async fn open(
        source: &BlobSource,
        offset: u64,
        check: Check,
    ) -> Result<Self, BlobPushError> {
        let stream = source.read_from(offset, check).await;
        let source = source.clone();
        let tail = |stream| Self { stream, source };
        stream.map(tail).map_err(BlobPushError::Source)
    }

    pub(crate) fn watched(self) -> (BlobStream, End) {
        let failed = Arc::new(AtomicBool::new(false));
        let end = End {
            read_failed: Arc::clone(&failed),
            source: self.source,
        };
        let body = self.stream.inspect(move |item| {
            if item.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        });
        (BlobStream::new(body), end)
    }
}

impl End {
    /// Attributes an error: if the destination waited too long for bytes, the source that stalled
    /// is to blame.
    pub(crate) fn blame(&self, error: Error) -> BlobPushError {
        if self.read_failed.load(Ordering::Relaxed) {
            return BlobPushError::Source(error);
        }
        let slowness = match error.status() {
            Some(408) => self.source.take_slowness(),
            _ => None,
        };
        slowness.map_or(BlobPushError::Destination(error), BlobPushError::Source)
    }
}
