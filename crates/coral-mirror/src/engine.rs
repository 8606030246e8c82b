//! Workers that take jobs from the queue and copy, for all mirrors of a process.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_image::Digest;
use futures::FutureExt;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::access::Access;
use crate::copy::{Copier, CopyOptions, CopyRequest, Limits};
use crate::inspect::{self, ImagePage, ImageQuery, Look};
use crate::progress::{Event, Observer, chain};
use crate::prune::Claims;
use crate::queue::{InProcess, Job, PER_HOST, Queue};
use crate::state::Cause;
use crate::sync::Mirror;

/// How much a process does at once.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// Images copied at the same time.
    pub images: usize,
    /// Bounds of one copy, and of all together.
    pub copy: Limits,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            // One source host gets no more than half of them.
            images: 2 * PER_HOST,
            copy: Limits::default(),
        }
    }
}

/// How many of the mirrors that there are an engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// All of them.
    All,
    /// There are others, of which nothing is known.
    Some,
}

/// What came of a job.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) job: Job,
    pub(crate) result: Result<Done, Failure>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) digest: Digest,
    pub(crate) moved: u64,
    pub(crate) sparse: bool,
    pub(crate) elapsed: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: String,
    pub(crate) category: &'static str,
    pub(crate) cause: Cause,
}

/// Queue, workers and copier of a process. Stopping or dropping it ends the workers, in the middle
/// of a copy if need be: what they put at the destination so far stays and is found again.
pub struct Engine<Q: Queue = InProcess> {
    shared: Arc<Shared<Q>>,
    workers: AsyncMutex<JoinSet<()>>,
}

pub(crate) struct Shared<Q> {
    pub(crate) queue: Q,
    pub(crate) observer: Arc<dyn Observer>,
    copier: Copier,
    mirrors: Mutex<HashMap<String, Registered>>,
    /// What every mirror wants, for those that delete what nobody wants.
    pub(crate) claims: watch::Sender<Claims>,
}

struct Registered {
    access: Access,
    results: mpsc::UnboundedSender<Arc<Finished>>,
    looks: mpsc::Sender<Look>,
}

/// What a mirror hears from the engine.
pub(crate) struct Ears {
    /// Results of all jobs, since two mirrors may want the same image.
    pub(crate) results: mpsc::UnboundedReceiver<Arc<Finished>>,
    /// Questions about its images.
    pub(crate) looks: mpsc::Receiver<Look>,
}

impl Failure {
    fn transient(error: &str, category: &'static str) -> Self {
        Self {
            error: error.to_owned(),
            category,
            cause: Cause::Transient,
        }
    }
}

impl<Q: Queue> Engine<Q> {
    /// Starts the workers.
    pub fn start(queue: Q, limits: EngineLimits, observer: Arc<dyn Observer>) -> Self {
        let copier = Copier::new(limits.copy);
        let mirrors = Mutex::default();
        let shared = Arc::new(Shared {
            queue,
            observer,
            copier,
            mirrors,
            claims: watch::Sender::default(),
        });
        let mut workers = JoinSet::new();
        for _ in 0..limits.images.max(1) {
            let shared = shared.clone();
            workers.spawn(async move {
                loop {
                    shared.work_once().await;
                }
            });
        }
        Self {
            shared,
            workers: AsyncMutex::new(workers),
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared<Q>> {
        self.shared.clone()
    }

    /// Ends the workers. When it returns no copy runs any more, and uploads that were cut are being
    /// given up: [`Client::settle`](coral_distribution::Client::settle) waits for that.
    pub async fn stop(&self) {
        self.workers.lock().await.shutdown().await;
    }

    /// Says that a mirror is there, before any runs: what it wants is not deleted by another one.
    pub fn announce(&self, mirror: &Mirror) {
        let places = mirror.places();
        self.shared
            .claims
            .send_modify(|claims| claims.announce(&mirror.name, places));
    }

    /// Says that a mirror is gone, and wants nothing any more.
    pub fn withdraw(&self, mirror: &str) {
        self.shared
            .claims
            .send_modify(|claims| claims.withdraw(mirror));
    }

    /// Says whether all mirrors that there are were announced. While some are not known, nothing
    /// is deleted.
    pub fn set_known(&self, known: Known) {
        let incomplete = known == Known::Some;
        self.shared
            .claims
            .send_modify(|claims| claims.set_incomplete(incomplete));
    }

    /// What the running mirror of this name knows of its images; `None` if there is none.
    pub async fn look(&self, mirror: &str, query: ImageQuery) -> Option<ImagePage> {
        let looks = self.shared.mirrors().get(mirror)?.looks.clone();
        inspect::ask(&looks, query).await
    }
}

impl<Q: Queue> Shared<Q> {
    fn mirrors(&self) -> MutexGuard<'_, HashMap<String, Registered>> {
        // Insertions and removals are single steps, so a panic elsewhere does not spoil the map.
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on jobs of `mirror` are copied with `access`, and it hears what concerns it.
    pub(crate) fn register(&self, mirror: &str, access: Access) -> Ears {
        let (results, results_out) = mpsc::unbounded_channel();
        let (looks, looks_out) = inspect::channel();
        let registered = Registered {
            access,
            results,
            looks,
        };
        self.mirrors().insert(mirror.to_owned(), registered);
        Ears {
            results: results_out,
            looks: looks_out,
        }
    }

    pub(crate) fn unregister(&self, mirror: &str) {
        let mut mirrors = self.mirrors();
        if mirrors.get(mirror).is_some_and(|m| m.results.is_closed()) {
            mirrors.remove(mirror);
        }
    }

    async fn work_once(&self) {
        let delivery = self.queue.take().await;
        let access = self
            .mirrors()
            .get(&delivery.job.mirror)
            .map(|m| m.access.clone());
        let result = match access {
            // A worker outlives a job that panics, and the job is known to have failed.
            Some(access) => AssertUnwindSafe(self.logged_copy(&delivery.job, &access))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(Failure::transient("the copy panicked", "panic"))),
            None => Err(Failure::transient("its mirror was removed", "removed")),
        };
        let job = delivery.job.clone();
        // The key is free again before anyone hears of the result and queues it anew.
        drop(delivery);
        let finished = Arc::new(Finished { job, result });
        self.mirrors()
            .retain(|_, mirror| mirror.results.send(finished.clone()).is_ok());
    }

    /// Every line that is logged on the way names the mirror and the image.
    async fn logged_copy(&self, job: &Job, access: &Access) -> Result<Done, Failure> {
        let (mirror, image, to) = (&job.mirror, &job.source, &job.key);
        let span = tracing::error_span!("copy", %mirror, %image, %to);
        async {
            tracing::debug!("begins");
            let result = self.copy(job, access).await;
            match &result {
                Ok(done) => {
                    let (digest, bytes, took) = (done.digest, done.moved, done.elapsed);
                    tracing::info!(%digest, bytes, ?took, "copied");
                }
                Err(Failure {
                    error, category, ..
                }) => tracing::info!(error, category, "not copied"),
            }
            result
        }
        .instrument(span)
        .await
    }

    async fn copy(&self, job: &Job, access: &Access) -> Result<Done, Failure> {
        let (observer, source, key) = (
            self.observer.clone(),
            job.source.to_string(),
            job.key.clone(),
        );
        observer.observe(&source, Some(&key), &Event::Started);
        let request = CopyRequest {
            source: access.source(job.source.repository()),
            source_version: job.source.version(),
            destination: access.destination(&job.key.repository),
            destination_version: job.key.version.clone(),
            options: CopyOptions {
                platforms: job.platforms.clone(),
                without_referrers: !job.referrers,
                broken: job.broken.clone(),
            },
            report: Arc::new(move |event| observer.observe(&source, Some(&key), event)),
        };
        match self.copier.copy(&request).await {
            Ok(copied) => {
                let (digest, moved, sparse) = (copied.digest, copied.moved, copied.sparse);
                Ok(Done {
                    digest,
                    moved,
                    sparse,
                    elapsed: copied.elapsed,
                })
            }
            Err(error) => Err(Failure {
                error: chain(&error),
                category: error.category(),
                cause: error.cause(),
            }),
        }
    }
}
