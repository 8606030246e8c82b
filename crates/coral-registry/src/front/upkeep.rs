//! Periodic maintenance of a registry.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Registry;
use crate::kernel;
use crate::settings::CollectionSettings;
use crate::store::{Collected, CollectionRules, Idle, Pace};

/// How long an empty upload is kept.
const EMPTY: Duration = Duration::from_mins(10);
const AT_LEAST_EVERY: Duration = Duration::from_secs(150);
const AT_MOST_EVERY: Duration = Duration::from_millis(200);
/// The first collection runs early, because some registries are restarted often.
const FIRST_COLLECTION: Duration = Duration::from_mins(5);
const MEMORY_EVERY: Duration = Duration::from_secs(10);

impl Registry {
    /// Ends abandoned uploads, until `stop`.
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
                Err(error) => tracing::warn!(%error, "cannot look for abandoned uploads"),
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

    /// Collects unused content, again and again until `stop`.
    pub async fn keep_collected(self, stop: CancellationToken) {
        let mut pause = self.context.settings().collection.interval;
        pause = pause.min(FIRST_COLLECTION);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.collect(&stop).await;
            pause = self.context.settings().collection.interval;
        }
    }

    async fn collect(&self, stop: &CancellationToken) {
        let Some(rules) = rules(&self.context.settings().collection) else {
            return;
        };
        match self.context.store.collect(rules, stop.clone()).await {
            Ok(collected) => {
                self.context.metrics.collections().collected(&collected);
                log_result(&collected);
            }
            Err(error) => {
                self.context.metrics.collections().failed();
                tracing::warn!(%error, "the garbage collection failed and will be retried");
            }
        }
    }

    /// Closes the store. Call it once nothing is served any more, so that the next start can rely
    /// on the recorded leases.
    pub async fn close(self) {
        if let Some(fill) = self.context.fill() {
            fill.stop().await;
        }
        if let Err(error) = self.context.store.close().await {
            tracing::warn!(%error, "the store was not closed cleanly: unused content is kept \
                                    longer");
        }
    }

    /// Returns memory that requests have left behind to the system, until `stop`. While the
    /// registry is idle, this does nothing.
    pub async fn keep_small(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(MEMORY_EVERY) => {}
            }
            if self.context.was_asked.swap(false, Ordering::Relaxed) {
                let _ = tokio::task::spawn_blocking(kernel::release_memory).await;
            }
        }
    }
}

fn rules(settings: &CollectionSettings) -> Option<CollectionRules> {
    settings.is_on.then_some(CollectionRules {
        grace: settings.grace,
        untagged: settings.untagged,
        dry_run: false,
        pace: Pace::Beside,
    })
}

fn log_result(collected: &Collected) {
    if collected.is_nothing() {
        tracing::debug!(kept_bytes = collected.kept_bytes, "nothing to collect");
        return;
    }
    tracing::info!(
        freed_bytes = collected.bytes,
        contents = collected.contents,
        links = collected.links,
        manifests = collected.manifests,
        kept_bytes = collected.kept_bytes,
        "deleted unused content"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_collects_only_if_that_is_on() {
        let mut settings = CollectionSettings::default();
        let grace = rules(&settings).map(|rules| rules.grace);
        assert_eq!(grace, Some(settings.grace));
        settings.is_on = false;
        assert_eq!(rules(&settings), None);
    }
}
