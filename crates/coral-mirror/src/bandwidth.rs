//! A limit on bytes per second, shared by all copies of a mirror.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coral_distribution::{BlobStream, Error};
use futures::Stream;
use tokio::time::Sleep;

/// How much may pass at once after a pause, as a fraction of a second's bytes: chunks arrive in
/// bursts.
const BURST: f64 = 0.25;

/// Bytes per second; clones share the limit.
#[derive(Debug, Clone)]
pub struct Bandwidth(Arc<Mutex<Meter>>);

impl Bandwidth {
    /// A limit of this many bytes per second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self(Arc::new(Mutex::new(Meter::new(
            bytes_per_second,
            Instant::now(),
        ))))
    }

    fn pass(&self, bytes: usize) -> Duration {
        let mut meter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        meter.pass(bytes, Instant::now())
    }

    /// The stream, slowed down to the limit.
    pub(crate) fn limit(&self, stream: BlobStream) -> BlobStream {
        let (bandwidth, pause) = (self.clone(), None);
        BlobStream::new(Limited {
            inner: stream,
            bandwidth,
            pause,
        })
    }
}

/// Computes how long to wait after a number of bytes. Pure.
#[derive(Debug)]
struct Meter {
    per_second: f64,
    /// Bytes passed in advance (negative: allowance for a burst).
    ahead: f64,
    at: Instant,
}

impl Meter {
    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
    fn new(per_second: u64, at: Instant) -> Self {
        Self {
            per_second: per_second.max(1) as f64,
            ahead: 0.0,
            at,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "chunks are small")]
    fn pass(&mut self, bytes: usize, now: Instant) -> Duration {
        let flowed = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.at = now;
        self.ahead = (self.ahead - flowed).max(-BURST * self.per_second) + bytes as f64;
        Duration::from_secs_f64((self.ahead / self.per_second).max(0.0))
    }
}

struct Limited {
    inner: BlobStream,
    bandwidth: Bandwidth,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream for Limited {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let next = ready!(Pin::new(&mut self.inner).poll_next(cx));
        if let Some(Ok(chunk)) = &next {
            let wait = self.bandwidth.pass(chunk.len());
            if !wait.is_zero() {
                self.pause = Some(Box::pin(tokio::time::sleep(wait)));
            }
        }
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_rate_after_a_burst() {
        let begin = Instant::now();
        let mut meter = Meter::new(1000, begin);
        assert_eq!(meter.pass(500, begin), Duration::from_millis(500));
        assert_eq!(meter.pass(500, begin), Duration::from_secs(1));
        let later = begin + Duration::from_secs(10);
        assert_eq!(meter.pass(250, later), Duration::ZERO);
        assert_eq!(meter.pass(100, later), Duration::from_millis(100));
    }
}
