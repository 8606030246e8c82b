//! A connection as the protocol reads and writes it, watched over: a client that says nothing, or
//! does not take its answer, is cut off; and no more is read at once than there is memory for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::time::{Sleep, sleep};

use super::Timeouts;
use crate::front::most_read_at_once;

/// By so many bytes it is known which protocol is spoken, which has its own time from then on: the
/// preface of HTTP/2 (RFC 9113, section 3.4).
const OPENING: usize = 24;
/// What a client has to take of its answer within the time.
const LEAST_TAKEN: usize = 32 * 1024;

/// A connection.
pub(super) struct Watched<T> {
    inner: Take<T>,
    /// Until it is known what is spoken.
    opening: Option<Opening>,
    answer: Duration,
    /// While the client does not take what is sent.
    stalled: Option<Stalled>,
}

struct Opening {
    end: Pin<Box<Sleep>>,
    came: usize,
}

struct Stalled {
    end: Pin<Box<Sleep>>,
    taken: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Watched<T> {
    pub(super) fn new(inner: T, timeouts: Timeouts) -> Self {
        Self {
            inner: inner.take(0),
            opening: Some(Opening {
                end: Box::pin(sleep(timeouts.head)),
                came: 0,
            }),
            answer: timeouts.answer,
            stalled: None,
        }
    }

    fn came(&mut self, bytes: usize) {
        if let Some(opening) = &mut self.opening {
            opening.came += bytes;
            if opening.came >= OPENING {
                self.opening = None;
            }
        }
    }

    /// Whoever gets an answer has said what is spoken.
    fn took(&mut self, bytes: usize) {
        self.opening = None;
        if let Some(stalled) = &mut self.stalled {
            stalled.taken += bytes;
            if stalled.taken >= LEAST_TAKEN {
                self.stalled = None;
            }
        }
    }

    /// The client takes no more for now. The time runs until it took enough, or all there is.
    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let answer = self.answer;
        let stalled = self.stalled.get_or_insert_with(|| Stalled {
            end: Box::pin(sleep(answer)),
            taken: 0,
        });
        stalled.end.as_mut().poll(cx).map(|()| {
            let what = format!(
                "the client took less than {LEAST_TAKEN} bytes of its answer in {answer:?}"
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
                self.took(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.waits(cx).map(Err),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        this.inner.set_limit(most_read_at_once());
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer);
        match (&read, &mut this.opening) {
            (Poll::Ready(_), _) => this.came(buffer.filled().len() - before),
            (Poll::Pending, Some(opening)) => {
                let ended = opening.end.as_mut().poll(cx);
                return ended.map(|()| Err(io::ErrorKind::TimedOut.into()));
            }
            (Poll::Pending, None) => {}
        }
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
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
            Poll::Pending => this.waits(cx).map(Err),
            // All that was to be sent is on its way.
            flushed @ Poll::Ready(_) => {
                this.stalled = None;
                flushed
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(this.inner.get_mut()).poll_shutdown(cx) {
            Poll::Pending => this.waits(cx).map(Err),
            ended @ Poll::Ready(_) => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    /// What is on its way between the two ends.
    const ROOM: usize = 8 * 1024;

    fn pair() -> (Watched<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        (Watched::new(ours, Timeouts::default()), theirs)
    }

    /// Reads so much, each time after a pause.
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
        let (mut watched, theirs) = pair();
        reader(theirs, pause, length);
        let sent = async {
            watched.write_all(&vec![7; 400_000]).await?;
            watched.flush().await
        };
        assert_eq!(sent.await.map_err(|error| error.kind()), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_the_answer_slowly_gets_it_and_who_hardly_takes_it_does_not() {
        let minute = Duration::from_mins(1);
        check(minute / 2, 20_000, Ok(())).await;
        check(minute, 5000, Err(io::ErrorKind::TimedOut)).await;
        check(minute * 60, 400_000, Err(io::ErrorKind::TimedOut)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn small_answers_with_long_pauses_between_them_are_not_held_against_a_client() {
        let (mut watched, theirs) = pair();
        reader(theirs, Duration::from_secs(1), ROOM);
        for _ in 0..10 {
            watched.write_all(&[7; 2 * ROOM]).await.unwrap();
            watched.flush().await.unwrap();
            sleep(Duration::from_mins(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_to_say_something_once() {
        let (mut watched, mut theirs) = pair();
        let began = Instant::now();
        theirs.write_all(b"GET").await.unwrap();
        let mut all = Vec::new();
        let ended = watched.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), Timeouts::default().head);

        let (mut watched, mut theirs) = pair();
        theirs.write_all(&[b'x'; OPENING]).await.unwrap();
        watched.read_exact(&mut [0; OPENING]).await.unwrap();
        let later = sleep(Duration::from_hours(1));
        tokio::select! {
            biased;
            read = watched.read_u8() => panic!("{read:?}"),
            () = later => {}
        }
    }
}
