//! Notices when nothing moves any more.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};

use crate::blob_stream::BlobStream;
use crate::error::Error;

/// Counts the chunks of a request's body that have been taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<AtomicU64>);

/// Where the error that ended a request's body is left for whoever sent it.
pub(super) type SourceError = Arc<Mutex<Option<Error>>>;

impl Activity {
    /// Passes a body on, counted. Its error goes to `slot`; the request sees only that it ended.
    pub(super) fn watch(
        &self,
        body: BlobStream,
        slot: SourceError,
    ) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
        let counter = Arc::clone(&self.0);
        body.map(move |item| {
            counter.fetch_add(1, Ordering::Relaxed);
            item.map_err(|error| {
                if let Ok(mut slot) = slot.lock() {
                    *slot = Some(error);
                }
                std::io::Error::other("the source of the upload failed")
            })
        })
    }

    /// Waits for `future`; `None` when nothing has moved for `limit`.
    pub(super) async fn guard<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            if let Ok(output) = tokio::time::timeout(limit, future.as_mut()).await {
                return Some(output);
            }
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return None;
            }
            seen = now;
        }
    }
}
