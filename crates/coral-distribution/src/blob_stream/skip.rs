//! A stream without its first bytes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt as _};

use crate::error::Error;

/// Skips the first bytes.
pub(crate) struct Skip<S> {
    inner: S,
    left: u64,
}

impl<S> Skip<S> {
    pub(crate) fn new(inner: S, bytes: u64) -> Self {
        Self { inner, left: bytes }
    }
}

impl<S: Stream<Item = Result<Bytes, Error>> + Unpin> Stream for Skip<S> {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let mut chunk = match ready!(self.inner.poll_next_unpin(cx)) {
                Some(Ok(chunk)) => chunk,
                other => return Poll::Ready(other),
            };
            let skipped =
                usize::try_from(self.left).map_or(chunk.len(), |left| left.min(chunk.len()));
            self.left -= skipped as u64;
            chunk.advance(skipped);
            if !chunk.is_empty() {
                return Poll::Ready(Some(Ok(chunk)));
            }
        }
    }
}
