//! The bytes of a blob as a stream.

mod checked;
mod incoming;
mod skip;

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;

pub(crate) use checked::{Checked, Promise};
pub(crate) use incoming::Incoming;
pub(crate) use skip::Skip;

use crate::error::Error;

/// The bytes of a blob as they arrive. The stream ends after exactly the promised number of bytes,
/// or with one error. It returns the last chunk only after the digest was verified, so a caller
/// that passes the chunks on can never complete a wrong blob.
///
/// The lock is never taken: it makes the stream `Sync`, so that futures that hold one are `Send`.
pub struct BlobStream(Mutex<Pin<Box<Inner>>>);

type Inner = dyn Stream<Item = Result<Bytes, Error>> + Send;

impl BlobStream {
    /// Wraps a stream, for instance one that counts the bytes of another.
    pub fn new(stream: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Self {
        Self(Mutex::new(Box::pin(stream)))
    }

    /// An empty stream; a placeholder where a body has been taken out.
    pub(crate) fn empty() -> Self {
        Self::new(futures::stream::empty())
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let inner = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        inner.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobStream")
    }
}
