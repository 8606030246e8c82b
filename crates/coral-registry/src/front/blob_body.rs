//! Sends blobs as the bodies of responses.

use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http_body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::range::Span;
use crate::kernel::Mapped;
use crate::store::{BlobContent, GrowingFile, StoreError};

/// How many bytes of a file are read at once.
const PIECE: usize = 256 * 1024;
/// How many bytes of a mapped file are sent at once.
const MAPPED_PIECE: usize = 1024 * 1024;
/// Shorter ranges are not worth a mapping.
const LEAST_MAPPED: u64 = 64 * 1024;
/// How long to wait for the next piece of a stream. The connection's timeouts end a client that does
/// not read, but not a source that does not answer.
const STALL: Duration = Duration::from_mins(2);

/// How the bytes of a body are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The kernel reads them directly.
    Untouched,
    /// The process reads them, to encrypt or to frame them.
    Processed,
}

/// A range of a blob as the body of a response: exactly its bytes, or an error, on which the
/// connection is closed.
pub(super) struct RangeBody {
    pieces: Pieces,
    rest: Span,
    sent: Counter,
}

enum Pieces {
    File(FilePieces),
    Growing(GrowingPieces),
    Stream(StreamPieces),
}

impl RangeBody {
    pub(super) fn new(content: BlobContent, span: Span, wire: Wire, sent: Counter) -> Self {
        let pieces = match content {
            BlobContent::File(file) => {
                let mapped = mapped(&file, span, wire);
                Pieces::File(FilePieces::new(file, mapped))
            }
            BlobContent::Growing(growing) => {
                let mapped = mapped(growing.file(), span, wire);
                let file = FilePieces::new(Arc::clone(growing.file()), mapped);
                Pieces::Growing(GrowingPieces::new(growing, file))
            }
            BlobContent::Foreign(file) => Pieces::File(FilePieces::new(file, None)),
            BlobContent::Stream(reader) => {
                let stream = reader.read(span.start..span.start + span.length);
                let alarm = None;
                Pieces::Stream(StreamPieces { stream, alarm })
            }
        };
        Self {
            pieces,
            rest: span,
            sent,
        }
    }

    fn hand_out(&mut self, bytes: Bytes) -> Frame<Bytes> {
        let length = bytes.len() as u64;
        self.rest.start += length;
        self.rest.length -= length;
        self.sent.inc_by(length);
        Frame::data(bytes)
    }
}

impl http_body::Body for RangeBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let rest = self.rest;
        if rest.length == 0 {
            return Poll::Ready(None);
        }
        let piece = match &mut self.pieces {
            Pieces::File(file) => ready!(file.poll_piece(rest, cx)),
            Pieces::Growing(growing) => ready!(growing.poll_piece(rest, cx)),
            Pieces::Stream(stream) => ready!(stream.poll_piece(rest, cx)),
        };
        Poll::Ready(Some(match piece {
            // Happens only if another program truncated the content.
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => Ok(self.hand_out(bytes)),
            Err(error) => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.length)
    }
}

fn mapped(file: &File, span: Span, wire: Wire) -> Option<Mapped> {
    let is_worth_it = wire == Wire::Untouched && span.length >= LEAST_MAPPED;
    is_worth_it
        .then(|| Mapped::map(file, span.start, span.length))
        .flatten()
}

/// The end of a body whose source failed.
fn cut_off(error: StoreError) -> io::Error {
    if matches!(error, StoreError::Closed) {
        tracing::info!("a blob was cut off while it was sent: the registry is stopping");
        return io::Error::other(error);
    }
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    let category = error.category();
    tracing::error!(
        category,
        reason,
        "a blob was cut off while it was sent: {error}"
    );
    io::Error::other(error)
}

/// The end of a body whose source sends nothing.
fn stalled(rest: Span) -> io::Error {
    let seconds = STALL.as_secs();
    tracing::error!(
        missing = rest.length,
        seconds,
        "a blob was cut off while it was sent: its source sent nothing for that long"
    );
    io::ErrorKind::TimedOut.into()
}

/// The content of a file that grows, as far as it may be read.
struct GrowingPieces {
    growing: GrowingFile,
    file: FilePieces,
    /// How many bytes of the file may be read.
    readable: u64,
    /// Set while waiting for more.
    waiting: Option<BoxFuture<'static, io::Result<u64>>>,
}

impl GrowingPieces {
    fn new(growing: GrowingFile, file: FilePieces) -> Self {
        Self {
            growing,
            file,
            readable: 0,
            waiting: None,
        }
    }

    fn poll_piece(&mut self, rest: Span, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        while self.readable <= rest.start {
            let waiting = self.waiting.get_or_insert_with(|| {
                let more = self.growing.clone().readable_beyond(rest.start, STALL);
                let more = more.map(move |more| match more {
                    Some(readable) => readable.map_err(cut_off),
                    None => Err(stalled(rest)),
                });
                more.boxed()
            });
            let readable = ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
            match readable {
                Ok(readable) => self.readable = readable,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let start = rest.start;
        let length = rest.length.min(self.readable - start);
        self.file.poll_piece(Span { start, length }, cx)
    }
}

/// The content of a stream, piece by piece.
struct StreamPieces {
    stream: BoxStream<'static, Result<Bytes, StoreError>>,
    /// Set while waiting for a piece.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl StreamPieces {
    /// The next bytes; `None` after the end. Bytes beyond the requested range are not sent.
    fn poll_piece(&mut self, rest: Span, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        loop {
            let Poll::Ready(next) = self.stream.as_mut().poll_next(cx) else {
                ready!(self.poll_alarm(cx));
                return Poll::Ready(Err(stalled(rest)));
            };
            match next {
                None => {
                    tracing::error!(
                        missing = rest.length,
                        "a blob ended early while it was sent"
                    );
                    return Poll::Ready(Ok(Bytes::new()));
                }
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(mut bytes)) => {
                    self.alarm = None;
                    bytes.truncate(usize::try_from(rest.length).unwrap_or(usize::MAX));
                    return Poll::Ready(Ok(bytes));
                }
                Some(Err(error)) => return Poll::Ready(Err(cut_off(error))),
            }
        }
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let set = || Box::pin(tokio::time::sleep(STALL));
        self.alarm.get_or_insert_with(set).as_mut().poll(cx)
    }
}

/// A read on the blocking pool: the buffer, and how much of it is filled.
type PendingRead = JoinHandle<io::Result<(Vec<u8>, usize)>>;

/// The content of a file, piece by piece.
///
/// Pieces in the page cache are sent from there, or copied at once if the connection has to process
/// the bytes; a thread of the blocking pool waits for others. Buffers are reused when the
/// connection has sent them.
struct FilePieces {
    file: Arc<File>,
    mapped: Option<Mapped>,
    buffers: Arc<Buffers>,
    reading: Option<PendingRead>,
}

impl FilePieces {
    fn new(file: Arc<File>, mapped: Option<Mapped>) -> Self {
        Self {
            file,
            mapped,
            buffers: Arc::default(),
            reading: None,
        }
    }

    /// The next bytes of the rest; `None` at the end of the file.
    fn poll_piece(&mut self, rest: Span, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let reading = if let Some(reading) = &mut self.reading {
            reading
        } else {
            let start = rest.start;
            let most =
                |piece: usize| usize::try_from(rest.length).map_or(piece, |it| it.min(piece));
            let mapped = self.mapped.as_ref();
            if let Some(bytes) = mapped.and_then(|it| it.piece(start, most(MAPPED_PIECE))) {
                return Poll::Ready(Ok(bytes));
            }
            let wanted = most(PIECE);
            let mut buffer = self.buffers.take(wanted);
            if let Some(read) = read_cached(&self.file, &mut buffer[..wanted], start) {
                return Poll::Ready(read.map(|length| self.piece(buffer, length)));
            }
            let file = Arc::clone(&self.file);
            self.reading.insert(tokio::task::spawn_blocking(move || {
                let length = file.read_at(&mut buffer[..wanted], start)?;
                Ok((buffer, length))
            }))
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let read = read.map_err(io::Error::other).and_then(|read| read);
        Poll::Ready(read.map(|(buffer, length)| self.piece(buffer, length)))
    }

    fn piece(&self, buffer: Vec<u8>, length: usize) -> Bytes {
        let buffers = Arc::clone(&self.buffers);
        Bytes::from_owner(Filled {
            buffer,
            length,
            buffers,
        })
    }
}

/// Reads from the page cache; `None` if the read would wait for the disk.
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> Option<io::Result<usize>> {
    match preadv2(
        file,
        &mut [IoSliceMut::new(buffer)],
        offset,
        ReadWriteFlags::NOWAIT,
    ) {
        Ok(length) => Some(Ok(length)),
        // All of these but the first and the last mean a file system or kernel without this call.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => None,
        Err(error) => Some(Err(error.into())),
    }
}

/// Buffers of one response, for reuse.
#[derive(Debug, Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self, size: usize) -> Vec<u8> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.filter(|buffer| buffer.len() >= size)
            .unwrap_or_else(|| vec![0; size])
    }
}

/// A buffer that is being sent.
struct Filled {
    buffer: Vec<u8>,
    length: usize,
    buffers: Arc<Buffers>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.buffers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffer);
    }
}
