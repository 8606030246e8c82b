//! What has to be done from time to time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Registry;
use crate::kernel;
use crate::store::Idle;

/// How long an upload is kept that has nothing to go on with.
const EMPTY: Duration = Duration::from_mins(10);
const AT_LEAST_EVERY: Duration = Duration::from_secs(150);
const AT_MOST_EVERY: Duration = Duration::from_millis(200);
const MEMORY_EVERY: Duration = Duration::from_secs(10);

impl Registry {
    /// Ends uploads that were abandoned, until `stop`.
    pub async fn keep_clean(self, stop: CancellationToken) {
        loop {
            let expiry = self.context.settings().limits.upload_expiry;
            let idle = Idle {
                any: expiry,
                empty: expiry.min(EMPTY),
            };
            match self.context.store.end_abandoned(idle).await {
                Ok(ended) if ended.is_empty() => {}
                Ok(ended) => {
                    tracing::info!(count = ended.len(), "ended abandoned uploads");
                    for upload in ended {
                        self.context.places.free(upload);
                    }
                }
                Err(error) => tracing::warn!(%error, "abandoned uploads cannot be looked for"),
            }
            let open = self.context.store.open_uploads();
            self.context.metrics.open_uploads(open);
            let pause = (expiry / 4).clamp(AT_MOST_EVERY, AT_LEAST_EVERY);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Gives back the memory that requests have left behind, until `stop`. One that has nothing to
    /// do does nothing.
    pub async fn keep_small(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(MEMORY_EVERY) => {}
            }
            if self.context.was_asked.swap(false, Ordering::Relaxed) {
                let _ = tokio::task::spawn_blocking(kernel::give_back_memory).await;
            }
        }
    }
}
