//! A worker: takes a job from the queue, copies, and publishes the outcome.
//!
//! A worker knows the queue, the source of access and the copier, but nothing about mirrors. It
//! runs until its task is aborted; its current job then goes back to the queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tracing::Instrument;

use crate::access::{AccessSource, MirrorAccess, MirrorAccessError};
use crate::copy::{Copied, Copier, CopyError, CopyOptions, CopyRequest, Report};
use crate::job::Job;
use crate::outcome::{Done, Failure, Outcome};
use crate::progress::{Event, Observer, Subject};
use crate::queue::{Delivery, Queue};
use crate::state::RetryPolicy;
use coral_image::error_chain;

/// How often the lease of a job is renewed while it is copied.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Attempts to copy the referrers of an image that is already tagged.
const MISSED_TRIES: u32 = 4;
/// Longest wait before a failed queue is asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Takes jobs and copies them. Cheap to clone; clones share the copier.
pub(crate) struct Worker<Q, A> {
    pub(crate) queue: Arc<Q>,
    pub(crate) access: Arc<A>,
    pub(crate) copier: Arc<Copier>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl<Q, A> Clone for Worker<Q, A> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            access: self.access.clone(),
            copier: self.copier.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<Q: Queue, A: AccessSource> Worker<Q, A> {
    /// Works until the task is aborted.
    pub(crate) async fn run(self) {
        let policy = RetryPolicy {
            max_backoff: LONGEST_WAIT,
            ..RetryPolicy::default()
        };
        let mut failures = 0;
        loop {
            match self.queue.take().await {
                Ok(delivery) => {
                    failures = 0;
                    self.work(delivery).await;
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "no job could be taken from the queue");
                    tokio::time::sleep(policy.backoff(failures, rand::random())).await;
                }
            }
        }
    }

    async fn work(&self, mut delivery: Q::Delivery) {
        let job = delivery.job().clone();
        let result = {
            // A worker survives a job that panics, and the job counts as failed.
            let copy = AssertUnwindSafe(self.logged_copy(&job)).catch_unwind();
            let mut copy = std::pin::pin!(copy);
            loop {
                tokio::select! {
                    result = &mut copy => break result,
                    () = tokio::time::sleep(PROGRESS_EVERY) => {
                        if let Err(error) = delivery.progress().await {
                            tracing::warn!(%error, key = %job.key, "the lease of a job was not renewed");
                        }
                    }
                }
            }
        };
        let result =
            result.unwrap_or_else(|_| Err(Failure::transient("the copy panicked", "panic")));
        let key = job.key.clone();
        if let Err(error) = delivery.finish(Outcome { job, result }).await {
            tracing::warn!(%error, %key, "the outcome of a job was not published");
        }
    }

    /// Copies a job; every log line inside names the mirror and the image.
    async fn logged_copy(&self, job: &Job) -> Result<Done, Failure> {
        let (mirror, image, to) = (&job.mirror, &job.source, &job.key);
        let span = tracing::error_span!("copy", %mirror, %image, %to);
        async {
            tracing::debug!("begins");
            let result = match self.access.access(&job.mirror).await {
                Ok(access) => self.copy(job, &access).await,
                Err(error) => Err(Failure::from(error)),
            };
            match &result {
                Ok(done) => {
                    let (digest, bytes, took) = (done.digest, done.moved, done.elapsed);
                    tracing::info!(%digest, bytes, ?took, "copied");
                }
                Err(Failure {
                    error, category, ..
                }) => tracing::info!(error, %category, "not copied"),
            }
            result
        }
        .instrument(span)
        .await
    }

    async fn copy(&self, job: &Job, access: &MirrorAccess) -> Result<Done, Failure> {
        let (observer, own) = (self.observer.clone(), job.clone());
        let source = job.source.to_string();
        let report: Report = Arc::new(move |event: &Event<'_>| {
            let subject = Subject {
                mirror: Some(&own.mirror),
                source: &source,
                key: Some(&own.key),
            };
            observer.observe(&subject, event);
        });
        let _running = Running::begin(report.clone());
        let request = CopyRequest {
            source: access.source(job.source.repository()),
            source_version: job.source.version(),
            destination: access.destination(&job.key.repository),
            destination_version: job.key.version.clone(),
            options: CopyOptions {
                platforms: job.platforms.clone(),
                foreign_layers: job.foreign_layers,
                without_referrers: !job.referrers,
                broken: job.broken.clone(),
                look_first: job.completes.is_some(),
                ..CopyOptions::default()
            },
            report,
        };
        let copied = self.copier.copy(&request).await;
        let copied = copied.map_err(|error| copy_failure(&error))?;
        let copied = if job.completes.is_none() {
            self.with_what_was_missed(request, copied).await
        } else {
            // One more attempt in each pass is enough, and the first failures were already
            // reported.
            copied
        };
        let (digest, moved, sparse) = (copied.digest, copied.moved, copied.sparse);
        Ok(Done {
            digest,
            moved,
            sparse,
            missed: copied.missed.count,
            up_to_date: copied.up_to_date,
            elapsed: copied.elapsed,
        })
    }
}

impl<Q: Queue, A: AccessSource> Worker<Q, A> {
    /// Retries referrers whose failure was transient; the image itself is already tagged. If the
    /// registry wants fewer requests, they are retried in the next pass: images come first.
    async fn with_what_was_missed(&self, mut request: CopyRequest, mut copied: Copied) -> Copied {
        let policy = RetryPolicy::default();
        request.options.look_first = true;
        request.options.broken.clear();
        for attempt in 1..MISSED_TRIES {
            if !copied.missed.may_pass_soon() {
                break;
            }
            tokio::time::sleep(policy.backoff(attempt, rand::random())).await;
            match self.copier.copy(&request).await {
                Ok(again) => {
                    copied.moved += again.moved;
                    copied.missed = again.missed;
                }
                Err(error) => tracing::debug!(%error, "the copy of its referrers was abandoned"),
            }
        }
        if let Some(error) = &copied.missed.first {
            let missed = copied.missed.count;
            tracing::warn!(missed, error, "mirrored without some of its referrers");
        }
        copied
    }
}

/// A copy that has begun. An event reports its end even if its task is aborted, when no other event
/// is sent.
struct Running(Report);

impl Running {
    fn begin(report: Report) -> Self {
        report(&Event::Started);
        Self(report)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        (self.0)(&Event::Ended);
    }
}

fn copy_failure(error: &CopyError) -> Failure {
    Failure {
        error: error_chain(error),
        category: error.category().into(),
        cause: error.cause(),
    }
}

impl From<MirrorAccessError> for Failure {
    fn from(error: MirrorAccessError) -> Self {
        let category = match error {
            MirrorAccessError::Unknown => "removed",
            MirrorAccessError::Unavailable(_) => "access",
        };
        Self::transient(error.to_string(), category)
    }
}
