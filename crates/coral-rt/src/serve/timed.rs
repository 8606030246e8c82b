//! A stream that ends connections of clients that stall, and bounds how much one read returns.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::time::{Sleep, sleep};

use super::{ReadLimit, Timeouts};

/// After this many bytes the protocol is known: the length of the HTTP/2 preface (RFC 9113,
/// section 3.4). From then on hyper's own timeouts hold.
const PREFACE: usize = 24;
/// How much of its response a client has to accept within the timeout.
const MIN_PROGRESS: usize = 32 * 1024;

/// A stream with timeouts.
///
/// - Until the protocol is known, the client has `Timeouts::head` to send its first bytes.
/// - While a write is blocked, the client has `Timeouts::response` to accept [`MIN_PROGRESS`] bytes.
/// - Each read returns at most as many bytes as the [`ReadLimit`] says at that moment.
pub(super) struct TimedStream<T> {
    inner: Take<T>,
    read_limit: ReadLimit,
    /// Set until the protocol is known.
    preface: Option<Preface>,
    response: Duration,
    /// Set while a write is blocked.
    stalled: Option<Stalled>,
}

struct Preface {
    deadline: Pin<Box<Sleep>>,
    received: usize,
}

struct Stalled {
    deadline: Pin<Box<Sleep>>,
    accepted: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> TimedStream<T> {
    pub(super) fn new(inner: T, timeouts: Timeouts, read_limit: ReadLimit) -> Self {
        Self {
            inner: inner.take(0),
            read_limit,
            preface: Some(Preface {
                deadline: Box::pin(sleep(timeouts.head)),
                received: 0,
            }),
            response: timeouts.response,
            stalled: None,
        }
    }

    fn received(&mut self, bytes: usize) {
        if let Some(preface) = &mut self.preface {
            preface.received += bytes;
            if preface.received >= PREFACE {
                self.preface = None;
            }
        }
    }

    fn sent(&mut self, bytes: usize) {
        // There is a response, so the protocol is known.
        self.preface = None;
        if let Some(stalled) = &mut self.stalled {
            stalled.accepted += bytes;
            if stalled.accepted >= MIN_PROGRESS {
                self.stalled = None;
            }
        }
    }

    /// A write is blocked. The timeout runs until the client has accepted enough, or everything.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let response = self.response;
        let stalled = self.stalled.get_or_insert_with(|| Stalled {
            deadline: Box::pin(sleep(response)),
            accepted: 0,
        });
        stalled.deadline.as_mut().poll(cx).map(|()| {
            let what = format!(
                "the client accepted less than {MIN_PROGRESS} bytes of its response in {response:?}"
            );
            io::Error::new(io::ErrorKind::TimedOut, what)
        })
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.sent(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TimedStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        this.inner.set_limit((this.read_limit.0)());
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer);
        match (&read, &mut this.preface) {
            (Poll::Ready(_), _) => this.received(buffer.filled().len() - before),
            (Poll::Pending, Some(preface)) => {
                let ended = preface.deadline.as_mut().poll(cx);
                return ended.map(|()| Err(io::ErrorKind::TimedOut.into()));
            }
            (Poll::Pending, None) => {}
        }
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(this.inner.get_mut()).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(this.inner.get_mut()).poll_write_vectored(cx, slices);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(this.inner.get_mut()).poll_flush(cx) {
            Poll::Pending => this.poll_stalled(cx).map(Err),
            // The client has accepted everything.
            flushed @ Poll::Ready(_) => {
                this.stalled = None;
                flushed
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(this.inner.get_mut()).poll_shutdown(cx) {
            Poll::Pending => this.poll_stalled(cx).map(Err),
            ended @ Poll::Ready(_) => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    /// How many bytes the pipe holds.
    const CAPACITY: usize = 8 * 1024;

    fn pair() -> (TimedStream<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(CAPACITY);
        (
            TimedStream::new(ours, Timeouts::default(), ReadLimit::default()),
            theirs,
        )
    }

    /// Reads `length` bytes after each pause.
    fn reader(mut theirs: DuplexStream, pause: Duration, length: usize) {
        tokio::spawn(async move {
            let mut buffer = vec![0; length];
            loop {
                sleep(pause).await;
                theirs.read_exact(&mut buffer).await.unwrap();
            }
        });
    }

    async fn check(pause: Duration, length: usize, expected: Result<(), io::ErrorKind>) {
        let (mut stream, theirs) = pair();
        reader(theirs, pause, length);
        let sent = async {
            stream.write_all(&vec![7; 400_000]).await?;
            stream.flush().await
        };
        assert_eq!(sent.await.map_err(|error| error.kind()), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_its_response_and_a_stalled_one_is_cut_off() {
        let minute = Duration::from_mins(1);
        check(minute / 2, 20_000, Ok(())).await;
        check(minute, 5000, Err(io::ErrorKind::TimedOut)).await;
        check(minute * 60, 400_000, Err(io::ErrorKind::TimedOut)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn small_responses_with_long_pauses_between_them_are_no_stall() {
        let (mut stream, theirs) = pair();
        reader(theirs, Duration::from_secs(1), CAPACITY);
        for _ in 0..10 {
            stream.write_all(&[7; 2 * CAPACITY]).await.unwrap();
            stream.flush().await.unwrap();
            sleep(Duration::from_mins(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_to_send_its_first_bytes_in_time() {
        let (mut stream, mut theirs) = pair();
        let began = Instant::now();
        theirs.write_all(b"GET").await.unwrap();
        let mut all = Vec::new();
        let ended = stream.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), Timeouts::default().head);

        let (mut stream, mut theirs) = pair();
        theirs.write_all(&[b'x'; PREFACE]).await.unwrap();
        stream.read_exact(&mut [0; PREFACE]).await.unwrap();
        let later = sleep(Duration::from_hours(1));
        tokio::select! {
            biased;
            read = stream.read_u8() => panic!("{read:?}"),
            () = later => {}
        }
    }
}
