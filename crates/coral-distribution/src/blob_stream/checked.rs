//! Holds a stream of bytes against what a descriptor promises.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use coral_image::{Descriptor, Digest, Hasher};
use futures::{Stream, StreamExt};

use super::BlobStream;
use crate::error::{Error, Problem};

/// What is to come.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where the caller begins.
    pub(crate) offset: u64,
    /// State after everything before `offset`; without it only the length is checked.
    pub(crate) hasher: Option<Hasher>,
}

impl Promise {
    pub(crate) fn new(blob: &Descriptor, offset: u64, hasher: Option<Hasher>) -> Self {
        Self {
            digest: blob.digest,
            size: blob.size,
            offset,
            hasher,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// Everything has come and was right; what follows is looked at once.
    Complete,
    Ended,
}

/// Ends with an error at the first byte too many, at a short end, or at a wrong digest; in the
/// last case the final chunk is not given.
pub(crate) struct Checked {
    inner: BlobStream,
    promise: Promise,
    /// Bytes to drop first, where the other side ignored the offset.
    skip: u64,
    received: u64,
    state: State,
    place: String,
    asked: String,
}

impl Checked {
    pub(crate) fn new(
        inner: BlobStream,
        promise: Promise,
        skip: u64,
        place: impl Into<String>,
        asked: impl Into<String>,
    ) -> Self {
        Self {
            inner,
            received: promise.offset,
            promise,
            skip,
            state: State::Reading,
            place: place.into(),
            asked: asked.into(),
        }
    }

    fn fail(&mut self, problem: Problem) -> Error {
        self.state = State::Ended;
        Error::new(&self.place, &self.asked, problem)
    }

    /// Takes in a chunk; an empty one has nothing for the caller.
    fn take(&mut self, mut chunk: Bytes) -> Result<Bytes, Error> {
        let skipped = self.skip.min(chunk.len() as u64);
        self.skip -= skipped;
        chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
        if chunk.len() as u64 > self.promise.size - self.received {
            return Err(self.fail(Problem::TooLarge {
                limit: self.promise.size,
            }));
        }
        self.received += chunk.len() as u64;
        if let Some(hasher) = &mut self.promise.hasher {
            hasher.update(&chunk);
        }
        Ok(chunk)
    }

    /// Compares the digest once everything has come.
    fn complete(&mut self) -> Result<(), Error> {
        self.state = State::Complete;
        let Some(hasher) = self.promise.hasher.take() else {
            return Ok(());
        };
        let actual = hasher.finish();
        match actual == self.promise.digest {
            true => Ok(()),
            false => Err(self.fail(Problem::digest(self.promise.digest, actual))),
        }
    }

    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            if self.received == self.promise.size {
                return match self.complete() {
                    Ok(()) => self.poll_complete(cx),
                    Err(error) => Poll::Ready(Some(Err(error))),
                };
            }
            let item = match ready!(self.inner.poll_next_unpin(cx)) {
                Some(Ok(chunk)) => self.take(chunk),
                Some(Err(error)) => {
                    self.state = State::Ended;
                    Err(error)
                }
                None => {
                    let received = self.received;
                    Err(self.fail(Problem::Cut {
                        received,
                        cause: String::new(),
                    }))
                }
            };
            match item {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) if self.received == self.promise.size => {
                    return Poll::Ready(Some(self.complete().map(|()| chunk)));
                }
                other => return Poll::Ready(Some(other)),
            }
        }
    }

    /// The blob is whole. Whether more bytes come is worth one look, not a wait.
    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let next = self.inner.poll_next_unpin(cx);
        self.state = State::Ended;
        match next {
            Poll::Ready(Some(Ok(more))) if !more.is_empty() && self.skip == 0 => {
                let limit = self.promise.size;
                Poll::Ready(Some(Err(self.fail(Problem::TooLarge { limit }))))
            }
            _ => Poll::Ready(None),
        }
    }
}

impl Stream for Checked {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.state {
            State::Reading => self.poll_reading(cx),
            State::Complete => self.poll_complete(cx),
            State::Ended => Poll::Ready(None),
        }
    }
}
