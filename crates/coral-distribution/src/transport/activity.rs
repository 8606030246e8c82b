//! Detects uploads that stall.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::MinRate;
use crate::blob_stream::BlobStream;
use crate::error::Error;

/// Bytes per second at which a registry is assumed to process a received upload: hashing, moving
/// and syncing a large blob takes time before the answer comes.
const TAKING_IN: u64 = 20 * 1024 * 1024;

/// The progress of a request's body.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes that the connection has accepted.
    taken: AtomicU64,
    /// Whether the connection waits for more of the body. Then the source is slow, which has limits
    /// of its own.
    hungry: AtomicBool,
    ended: AtomicBool,
}

/// Where the error that ended a request's body is stored for the sender of the request.
pub(super) type SourceError = Arc<Mutex<Option<Error>>>;

impl Activity {
    /// Wraps a body so that its progress is recorded. Its error goes to `slot`; the request sees
    /// only that the body ended.
    pub(super) fn watch(
        &self,
        mut body: BlobStream,
        slot: SourceError,
    ) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
        let state = Arc::clone(&self.0);
        futures::stream::poll_fn(move |cx| {
            let item = body.poll_next_unpin(cx);
            state.hungry.store(item.is_pending(), Ordering::Relaxed);
            match item {
                Poll::Ready(Some(Ok(chunk))) => {
                    state.taken.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    Poll::Ready(Some(Ok(chunk)))
                }
                Poll::Ready(Some(Err(error))) => {
                    if let Ok(mut slot) = slot.lock() {
                        *slot = Some(error);
                    }
                    let text = "the source of the upload failed";
                    Poll::Ready(Some(Err(std::io::Error::other(text))))
                }
                Poll::Ready(None) => {
                    state.ended.store(true, Ordering::Relaxed);
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            }
        })
    }

    /// Waits for `future`. `None` if too few bytes moved within `limit`, or if no answer came
    /// within the time that the registry may need to process the body.
    pub(super) async fn guard<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut seen = self.taken();
        let mut after_end = Duration::ZERO;
        loop {
            if let Ok(output) = tokio::time::timeout(limit, future.as_mut()).await {
                return Some(output);
            }
            let taken = self.taken();
            if self.0.ended.load(Ordering::Relaxed) {
                after_end += limit;
                if after_end > Duration::from_secs(taken / TAKING_IN) {
                    return None;
                }
            } else if taken - seen < MinRate::least(limit) && !self.0.hungry.load(Ordering::Relaxed)
            {
                return None;
            }
            seen = taken;
        }
    }

    fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    /// The number of seconds after which a request is aborted whose connection accepts a chunk of
    /// this size every 10 s from a source that always has more; 0 if it is not aborted.
    async fn given_up(size: usize) -> u64 {
        let activity = Activity::default();
        let chunks = futures::stream::repeat_with(move || Ok(Bytes::from(vec![0; size])));
        let mut body = Box::pin(activity.watch(BlobStream::new(chunks), SourceError::default()));
        let taking = async move {
            for _ in 0..1000 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                let _ = body.next().await;
            }
        };
        let began = tokio::time::Instant::now();
        match activity.guard(LIMIT, taking).await {
            Some(()) => 0,
            None => began.elapsed().as_secs(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_that_drips_is_given_up_and_a_slow_one_is_not() {
        assert_eq!(given_up(1).await, 60);
        assert_eq!(given_up(20 * 1024).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_source_is_not_the_destinations_fault() {
        let activity = Activity::default();
        let source = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_mins(5)).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        });
        let body = activity.watch(BlobStream::new(source.take(3)), SourceError::default());
        let taking = body.count();
        assert_eq!(activity.guard(LIMIT, taking).await, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_large_upload_may_take_longer() {
        for (bytes, patience) in [(0, 60), (20 * 1024 * 1024 * 600, 660)] {
            let activity = Activity::default();
            activity.0.taken.store(bytes, Ordering::Relaxed);
            activity.0.ended.store(true, Ordering::Relaxed);
            let began = tokio::time::Instant::now();
            assert_eq!(activity.guard(LIMIT, pending::<()>()).await, None);
            assert_eq!(began.elapsed().as_secs(), patience, "{bytes}");
        }
    }
}
