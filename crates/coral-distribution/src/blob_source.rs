//! A blob that can be read more than once: a read resumes after an interruption, and can restart at
//! the offset that the other side of a copy has reached.

mod checkpoints;
mod reads;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use coral_image::{Descriptor, Hasher};
use futures::{Stream, StreamExt};

use crate::blob_stream::{BlobStream, Checked, Promise, Skip};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::resume::may_resume;

pub(crate) use checkpoints::Checkpoints;
pub(crate) use reads::Reads;

type Wrap = dyn Fn(BlobStream) -> BlobStream + Send + Sync;
type Opening = Pin<Box<dyn Future<Output = Result<BlobStream, Error>> + Send>>;

/// What the bytes of a read are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Length and digest.
    Digest,
    /// The length only: the registry verifies the digest.
    Length,
}

/// One blob at one endpoint. Interrupted reads resume at their offset, as long as they make
/// progress.
#[derive(Clone)]
pub struct BlobSource {
    endpoint: Endpoint,
    blob: Descriptor,
    wrap: Option<Arc<Wrap>>,
    checkpoints: Arc<Mutex<Checkpoints>>,
    /// Shared by all reads, so that an upload that resumes does not give a slow source new
    /// attempts.
    reads: Arc<Mutex<Reads>>,
}

impl std::fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobSource({} of {})", self.blob.digest, self.endpoint)
    }
}

impl BlobSource {
    /// The given blob at the given endpoint. Nothing is read yet.
    pub fn new(endpoint: Endpoint, blob: Descriptor) -> Self {
        Self {
            endpoint,
            blob,
            wrap: None,
            checkpoints: Arc::default(),
            reads: Arc::default(),
        }
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        // Ignores poisoning: every change is a single step, so a panic elsewhere does no harm.
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error with which this side kept the other side of a copy waiting for bytes, if there was
    /// one.
    pub(crate) fn take_slowness(&self) -> Option<Error> {
        self.reads().take_slowness()
    }

    /// Passes every byte through `wrap`, for instance to count bytes or to limit the rate. After an
    /// interruption `wrap` is called again, for the stream of the missing bytes.
    #[must_use]
    pub fn with_wrapper(
        mut self,
        wrap: impl Fn(BlobStream) -> BlobStream + Send + Sync + 'static,
    ) -> Self {
        self.wrap = Some(Arc::new(wrap));
        self
    }

    /// The same blob through another client, for instance one with another credential. The bytes
    /// read so far count towards its digest.
    #[must_use]
    pub fn with_endpoint(&self, endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            ..self.clone()
        }
    }

    /// The descriptor of the blob.
    pub fn blob(&self) -> &Descriptor {
        &self.blob
    }

    /// The whole blob, verified.
    pub async fn read(&self) -> Result<BlobStream, Error> {
        self.read_from(0, Check::Digest).await
    }

    /// The rest of the blob after its first `offset` bytes, verified with them. They must have been read
    /// before, by this value or a clone of it.
    pub async fn read_on(&self, offset: u64) -> Result<BlobStream, Error> {
        self.read_from(offset, Check::Digest).await
    }

    /// The blob from `offset` on. Its digest includes the bytes that were read before; if the state
    /// of the digest at `offset` is no longer known, some of them are read again.
    pub(crate) async fn read_from(&self, offset: u64, check: Check) -> Result<BlobStream, Error> {
        let (start, hasher) = match check {
            Check::Digest => {
                let (start, hasher) = self.resume_point(offset);
                (start, Some(hasher))
            }
            Check::Length => (offset, None),
        };
        let promise = Promise::new(&self.blob, start, hasher);
        let first = self.open(start).await?;
        let on = ResumingStream {
            source: self.clone(),
            state: State::Reading(first),
            offset: start,
        };
        let (place, asked) = (
            self.endpoint.place(),
            format!("reading blob {}", self.blob.digest),
        );
        let mut checked = Checked::new(BlobStream::new(on), promise, 0, place, asked)
            .with_checkpoints(Arc::clone(&self.checkpoints));
        if matches!(self.endpoint, Endpoint::Registry(_)) {
            checked = checked.with_page_detection();
        }
        if start == offset {
            return Ok(BlobStream::new(checked));
        }
        Ok(BlobStream::new(Skip::new(checked, offset - start)))
    }

    /// The last known state of the digest at or before `offset`, with its offset.
    fn resume_point(&self, offset: u64) -> (u64, Hasher) {
        let known = self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known
            .before(offset)
            .unwrap_or_else(|| (0, self.blob.digest.algorithm().hasher()))
    }

    /// The bytes from `offset` on. Their number is right; their digest is not verified yet.
    async fn open(&self, offset: u64) -> Result<BlobStream, Error> {
        let promise = Promise::new(&self.blob, offset, None);
        let stream = self.endpoint.open_blob(promise).await?;
        Ok(match &self.wrap {
            Some(wrap) => wrap(stream),
            None => stream,
        })
    }
}

enum State {
    Reading(BlobStream),
    Opening(Opening),
    Ended,
}

/// A stream that resumes after an interruption.
struct ResumingStream {
    source: BlobSource,
    state: State,
    offset: u64,
}

impl ResumingStream {
    /// Prepares to reopen the blob after a wait, or returns the error if it is time to give up.
    fn resume_after(&mut self, error: Error) -> Result<(), Error> {
        self.state = State::Ended;
        if !may_resume(&error) {
            return Err(error);
        }
        let text = error.to_string();
        let wait = self.source.reads().failed(error, self.offset)?;
        tracing::info!(
            error = text,
            offset = self.offset,
            "a download was interrupted and resumes"
        );
        let (source, offset) = (self.source.clone(), self.offset);
        self.state = State::Opening(Box::pin(async move {
            tokio::time::sleep(wait).await;
            source.open(offset).await
        }));
        Ok(())
    }
}

impl Stream for ResumingStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let failed = match &mut self.state {
                State::Reading(stream) => match ready!(stream.poll_next_unpin(cx)) {
                    Some(Ok(chunk)) => {
                        self.offset += chunk.len() as u64;
                        self.source.reads().moved_to(self.offset);
                        return Poll::Ready(Some(Ok(chunk)));
                    }
                    Some(Err(error)) => Some(error),
                    None => return Poll::Ready(None),
                },
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(stream) => {
                        self.state = State::Reading(stream);
                        None
                    }
                    Err(error) => Some(error),
                },
                State::Ended => return Poll::Ready(None),
            };
            if let Some(Err(error)) = failed.map(|error| self.resume_after(error)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}
