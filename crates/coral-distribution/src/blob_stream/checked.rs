//! Checks a stream of bytes against a descriptor.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use coral_image::{Descriptor, Digest, Hasher};
use futures::{Stream, StreamExt};

use super::BlobStream;
use crate::blob_source::Checkpoints;
use crate::error::{Error, Problem};
use crate::transport::markup;

/// How an HTML page ends.
const CLOSING: &[u8] = b"</html>";
/// How many bytes of a page's end are kept: white space may follow the tag.
const LONGEST_END: usize = 64;

/// The blob and the offset that the response is expected to deliver.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// The offset at which the caller starts to read.
    pub(crate) offset: u64,
    /// State of the digest after all bytes before `offset`; without it only the length is checked.
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
    /// Everything has arrived and is correct; one check for excess bytes follows.
    Complete,
    Ended,
}

/// Ends with an error at the first excess byte, at an early end, or at a wrong digest. In the last
/// case it withholds the final chunk.
pub(crate) struct Checked {
    inner: BlobStream,
    promise: Promise,
    /// Bytes to skip first, because the other side ignored the offset.
    skip: u64,
    received: u64,
    state: State,
    checkpoints: Option<Arc<Mutex<Checkpoints>>>,
    /// Whether the first bytes have not arrived yet, which show whether a page was sent instead of
    /// the blob.
    awaits_start: bool,
    /// Whether the content begins like an HTML page.
    is_page: bool,
    /// The last bytes of content that begins like a page.
    end: Vec<u8>,
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
            checkpoints: None,
            awaits_start: false,
            is_page: false,
            end: Vec::new(),
            place: place.into(),
            asked: asked.into(),
        }
    }

    /// Keeps intermediate states of the digest in `checkpoints`.
    pub(crate) fn with_checkpoints(mut self, checkpoints: Arc<Mutex<Checkpoints>>) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Marks a stream that comes from a registry, in front of which a proxy may answer with a page.
    pub(crate) fn with_page_detection(mut self) -> Self {
        self.awaits_start = self.promise.offset == 0 || self.skip > 0;
        self
    }

    /// A blob may itself be an HTML page, so a page is an error only if the check fails. It is then
    /// reported as a page, not as a damaged blob, and is not requested again.
    fn fail(&mut self, problem: Problem) -> Error {
        self.state = State::Ended;
        let problem = if self.is_page { Problem::Html } else { problem };
        Error::new(&self.place, &self.asked, problem)
    }

    /// A page is complete if it ends like one. Content that is cut off before may be a blob that is
    /// a page, from a server that did not send its length; it is requested again.
    fn cut(&mut self) -> Error {
        let end = self.end.trim_ascii_end();
        self.is_page &= end
            .get(end.len().saturating_sub(CLOSING.len())..)
            .is_some_and(|end| end.eq_ignore_ascii_case(CLOSING));
        let received = self.received;
        self.fail(Problem::Cut {
            received,
            cause: String::new(),
        })
    }

    /// Checks a chunk. If the result is empty, there is nothing to return to the caller.
    fn take(&mut self, mut chunk: Bytes) -> Result<Bytes, Error> {
        if self.awaits_start && !chunk.is_empty() {
            self.awaits_start = false;
            self.is_page = matches!(markup(&chunk), Some(Problem::Html));
        }
        if self.is_page {
            self.end.extend_from_slice(&chunk);
            self.end.drain(..self.end.len().saturating_sub(LONGEST_END));
        }
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
            if let Some(checkpoints) = &self.checkpoints {
                let mut checkpoints = checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
                checkpoints.note(self.received, hasher);
            }
        }
        Ok(chunk)
    }

    /// Verifies the digest once all bytes have arrived.
    fn complete(&mut self) -> Result<(), Error> {
        self.state = State::Complete;
        let Some(hasher) = self.promise.hasher.take() else {
            return Ok(());
        };
        let actual = hasher.finish();
        if actual == self.promise.digest {
            Ok(())
        } else {
            Err(self.fail(Problem::digest(self.promise.digest, actual)))
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
                None => Err(self.cut()),
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

    /// The blob is complete: checks once, without waiting, whether excess bytes arrive.
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

#[cfg(test)]
mod tests {
    use coral_image::Algorithm;
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Category;

    /// The result of reading a blob that is `promised` from a stream of `sent`, in chunks of these
    /// sizes.
    fn read(
        promised: &[u8],
        offset: usize,
        skip: usize,
        sent: &[u8],
        chunk: usize,
    ) -> (Vec<u8>, Option<Category>) {
        let mut hasher = Algorithm::Sha256.hasher();
        hasher.update(&promised[..offset]);
        let promise = Promise {
            digest: Digest::sha256(promised),
            size: promised.len() as u64,
            offset: offset as u64,
            hasher: Some(hasher),
        };
        let chunks: Vec<_> = sent
            .chunks(chunk.max(1))
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let inner = BlobStream::new(futures::stream::iter(chunks));
        let checked = Checked::new(inner, promise, skip as u64, "here", "testing");
        let items: Vec<_> = checked.collect().now_or_never().unwrap();
        let mut bytes = Vec::new();
        let mut failure = None;
        for item in items {
            assert!(failure.is_none(), "nothing comes after an error");
            match item {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(error) => failure = Some(error.category()),
            }
        }
        (bytes, failure)
    }

    /// Regression: a blob that is a page was not requested again when its server, which had not
    /// sent its length, was cut off.
    #[test]
    fn a_page_that_is_cut_is_told_from_one_in_place_of_the_blob() {
        let promised = b"<!DOCTYPE html><html><body>a long manual</body></html>\n";
        let whole = promised.len();
        let portal = b"<html>log in</HTML>\r\n";
        for (sent, expected) in [
            (&promised[..whole - 2], Category::Cut),
            (&promised[..30], Category::Cut),
            (&b"<html>"[..], Category::Cut),
            (&portal[..], Category::Protocol),
        ] {
            for chunk in [16, 100] {
                let promise = Promise {
                    digest: Digest::sha256(promised),
                    size: whole as u64,
                    offset: 0,
                    hasher: Some(Algorithm::Sha256.hasher()),
                };
                let chunks: Vec<_> = sent.chunks(chunk).map(Bytes::copy_from_slice).collect();
                let inner = BlobStream::new(futures::stream::iter(chunks.into_iter().map(Ok)));
                let checked =
                    Checked::new(inner, promise, 0, "here", "testing").with_page_detection();
                let items: Vec<_> = checked.collect().now_or_never().unwrap();
                let failed = items.into_iter().find_map(Result::err).unwrap();
                let told = String::from_utf8_lossy(sent);
                assert_eq!(failed.category(), expected, "{told} by {chunk}: {failed}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_promised_bytes_come_through(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<proptest::sample::Index>(),
            chunk in 1..50_usize,
            ignored: bool,
        ) {
            let offset = at.index(bytes.len() + 1);
            let (skip, sent) = if ignored { (offset, &bytes[..]) } else { (0, &bytes[offset..]) };
            // Nothing is requested when no bytes are missing.
            prop_assume!(offset < bytes.len() || !ignored);
            let (got, failure) = read(&bytes, offset, skip, sent, chunk);
            prop_assert_eq!(failure, None);
            prop_assert_eq!(&got[..], &bytes[offset..]);
        }

        #[test]
        fn wrong_bytes_are_never_completed(
            bytes in proptest::collection::vec(any::<u8>(), 1..200),
            at in any::<proptest::sample::Index>(),
            chunk in 1..50_usize,
        ) {
            let mut sent = bytes.clone();
            sent[at.index(bytes.len())] ^= 1;
            let (got, failure) = read(&bytes, 0, 0, &sent, chunk);
            prop_assert_eq!(failure, Some(Category::Digest));
            prop_assert!(got.len() < bytes.len());
        }

        #[test]
        fn a_short_body_is_cut_and_a_long_one_too_large(
            bytes in proptest::collection::vec(any::<u8>(), 1..200),
            chunk in 1..50_usize,
        ) {
            let (_, failure) = read(&bytes, 0, 0, &bytes[1..], chunk);
            prop_assert_eq!(failure, Some(Category::Cut));
            let longer = [&bytes[..], b"x"].concat();
            let (_, failure) = read(&bytes, 0, 0, &longer, chunk);
            prop_assert_eq!(failure, Some(Category::TooLarge));
        }
    }
}
