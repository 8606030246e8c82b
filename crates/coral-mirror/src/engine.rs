//! Wires queue, workers, copier and mirrors together, for all mirrors of a process.
//!
//! No module below imports this one: workers and mirrors know only the traits [`Queue`],
//! [`Results`] and [`AccessSource`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coral_image::{Repository, RepositoryPath};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::{AccessSource, MirrorAccess, MirrorAccessError};
use crate::clock::{Clock, Logged, SystemClock};
use crate::copy::{Copier, CopyLimits};
use crate::inspect::{self, Confirmation, ImagePage, ImageQuery, MirrorRequest};
use crate::mirror::Mirror;
use crate::progress::Observer;
use crate::prune::Destination;
use crate::queue::{InProcess, PER_HOST, Queue, Results};
use crate::snapshot::Snapshot;
use crate::state::Until;
use crate::sync::{self, Ended, Subscriptions, Summary, Wiring};
use crate::worker::Worker;

/// Limits on what a process does at once.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// Images copied at the same time.
    pub images: usize,
    /// Limits of one copy, and of all copies together.
    pub copy: CopyLimits,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            // One source host gets at most half of them.
            images: 2 * PER_HOST,
            copy: CopyLimits::default(),
        }
    }
}

/// Whether every mirror that exists has been announced to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// All of them.
    Complete,
    /// There are others about which nothing is known.
    Partial,
}

/// Queue, workers and copier of a process. Stopping or dropping it ends the workers, even during a
/// copy: what they have put at the destination stays and is found again.
pub struct Engine<Q: Queue + Results = InProcess> {
    wiring: Arc<Wiring<Q>>,
    running: Arc<RunningMirrors>,
    workers: AsyncMutex<JoinSet<()>>,
}

impl<Q: Queue + Results> Engine<Q> {
    /// Starts the workers.
    pub fn start(queue: Q, limits: EngineLimits, observer: Arc<dyn Observer>) -> Self {
        Self::start_with_clock(queue, limits, observer, Arc::new(SystemClock))
    }

    /// Starts the workers; the mirrors take their time from `clock`.
    pub fn start_with_clock(
        queue: Q,
        limits: EngineLimits,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let queue = Arc::new(queue);
        let running = Arc::new(RunningMirrors::default());
        let worker = Worker {
            queue: queue.clone(),
            access: running.clone(),
            copier: Arc::new(Copier::new(limits.copy)),
            observer: observer.clone(),
        };
        let mut workers = JoinSet::new();
        for _ in 0..limits.images.max(1) {
            workers.spawn(worker.clone().run());
        }
        let wiring = Wiring {
            queue,
            observer,
            claims: watch::Sender::default(),
            clock,
            logged: Logged::default(),
        };
        Self {
            wiring: Arc::new(wiring),
            running,
            workers: AsyncMutex::new(workers),
        }
    }

    /// Keeps a mirror in sync until `until` or `stop`, and calls `summary` after each change.
    pub async fn run(
        &self,
        mirror: Mirror,
        until: Until,
        stop: CancellationToken,
        summary: impl Fn(&Summary) + Send,
    ) -> Ended {
        self.announce(&mirror);
        let (requests, received) = inspect::channel();
        // Removed again when this returns, or when the task is aborted.
        let _registration = self
            .running
            .register(&mirror.name, mirror.access.clone(), requests);
        let subscriptions = Subscriptions {
            results: self.wiring.queue.subscribe(),
            requests: received,
        };
        let wiring = self.wiring.clone();
        sync::run(mirror, wiring, subscriptions, until, stop, summary).await
    }

    /// Ends the workers. When it returns, no copy runs any more, and interrupted uploads are being
    /// cancelled: [`Client::settle`](coral_distribution::Client::settle) waits for that.
    pub async fn stop(&self) {
        self.workers.lock().await.shutdown().await;
    }

    /// Announces that a mirror exists, before any runs, so that no other mirror deletes what it
    /// wants.
    pub fn announce(&self, mirror: &Mirror) {
        let (place, places) = (mirror.destination(), mirror.places());
        self.wiring
            .claims
            .send_modify(|claims| claims.announce(&mirror.name, place, places));
    }

    /// Announces a mirror whose images in these repositories of the destination are unknown:
    /// nothing is deleted there.
    pub fn announce_unknown(
        &self,
        mirror: &str,
        destination: Destination,
        places: Vec<Repository>,
    ) {
        self.wiring.claims.send_modify(|claims| {
            let count = places.len();
            claims.announce(mirror, destination, places);
            (0..count).for_each(|place| claims.unknown(mirror, place));
        });
    }

    /// How the running mirror with this name reaches its registries; `None` if there is none.
    pub fn access(&self, mirror: &str) -> Option<MirrorAccess> {
        let mirrors = self.running.mirrors();
        Some(mirrors.get(mirror)?.access.clone())
    }

    /// Makes the running mirror with this name retry at once everything that failed and waits for
    /// its next attempt.
    pub fn retry(&self, mirror: &str) {
        let mirrors = self.running.mirrors();
        if let Some(running) = mirrors.get(mirror) {
            // A mirror whose channel is full will retry by itself.
            let _ = running.requests.try_send(MirrorRequest::Retry);
        }
    }

    /// Makes every mirror verify its images in these repositories of a destination at once, because
    /// content was damaged there.
    pub fn damaged(&self, repositories: &[RepositoryPath]) {
        let repositories: Arc<[RepositoryPath]> = repositories.into();
        for running in self.running.mirrors().values() {
            // A mirror whose channel is full finds the damage at its next verification.
            let _ = running
                .requests
                .try_send(MirrorRequest::Damaged(repositories.clone()));
        }
    }

    /// Tells the running mirror with this name that a person has reviewed the images that vanished
    /// at their sources. Returns whether a mirror received it.
    pub fn confirm_prune(&self, mirror: &str, confirmation: Confirmation) -> bool {
        let mirrors = self.running.mirrors();
        let request = MirrorRequest::ConfirmPrune(confirmation);
        let running = mirrors.get(mirror);
        running.is_some_and(|running| running.requests.try_send(request).is_ok())
    }

    /// Withdraws a mirror that no longer exists and wants nothing any more.
    pub fn withdraw(&self, mirror: &str) {
        self.wiring
            .claims
            .send_modify(|claims| claims.withdraw(mirror));
    }

    /// Sets whether all existing mirrors have been announced. While some are unknown, nothing is
    /// deleted.
    pub fn set_completeness(&self, completeness: Completeness) {
        let incomplete = completeness == Completeness::Partial;
        self.wiring
            .claims
            .send_modify(|claims| claims.set_incomplete(incomplete));
    }

    /// Sets the mirrors that have never held an image, so that other mirrors do not wait for their
    /// claims. Name only mirrors for which that is certain: images that such a mirror does hold may
    /// be deleted.
    pub fn set_empty(&self, mirrors: BTreeSet<String>) {
        self.wiring
            .claims
            .send_if_modified(|claims| claims.set_empty(mirrors));
    }

    /// A page of what the running mirror with this name knows about its images; `None` if there is
    /// none.
    pub async fn image_page(&self, mirror: &str, query: ImageQuery) -> Option<ImagePage> {
        let requests = self.running.mirrors().get(mirror)?.requests.clone();
        inspect::ask(&requests, query).await
    }

    /// Everything that the running mirror with this name knows; `None` if there is none.
    pub async fn snapshot(&self, mirror: &str) -> Option<Snapshot> {
        let requests = self.running.mirrors().get(mirror)?.requests.clone();
        inspect::ask_for_snapshot(&requests).await
    }
}

/// The mirrors that run in this process, by name.
#[derive(Debug, Default)]
struct RunningMirrors {
    mirrors: Mutex<HashMap<String, Registered>>,
}

#[derive(Debug)]
struct Registered {
    access: MirrorAccess,
    requests: mpsc::Sender<MirrorRequest>,
    /// Distinguishes the registration of a mirror from that of its successor with the same name.
    identity: Arc<()>,
}

/// Holds a mirror's registration; dropping it removes the mirror.
struct Registration {
    running: Arc<RunningMirrors>,
    name: String,
    identity: Arc<()>,
}

impl RunningMirrors {
    fn mirrors(&self) -> MutexGuard<'_, HashMap<String, Registered>> {
        // Ignores poisoning: insertions and removals are single steps, so a panic elsewhere does no
        // harm.
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, jobs of the mirror are copied with `access`.
    fn register(
        self: &Arc<Self>,
        mirror: &str,
        access: MirrorAccess,
        requests: mpsc::Sender<MirrorRequest>,
    ) -> Registration {
        let identity = Arc::new(());
        let registered = Registered {
            access,
            requests,
            identity: identity.clone(),
        };
        self.mirrors().insert(mirror.to_owned(), registered);
        Registration {
            running: self.clone(),
            name: mirror.to_owned(),
            identity,
        }
    }
}

impl AccessSource for RunningMirrors {
    async fn access(&self, mirror: &str) -> Result<MirrorAccess, MirrorAccessError> {
        let mirrors = self.mirrors();
        let registered = mirrors.get(mirror).ok_or(MirrorAccessError::Unknown)?;
        Ok(registered.access.clone())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut mirrors = self.running.mirrors();
        let is_own = |there: &Registered| Arc::ptr_eq(&there.identity, &self.identity);
        if mirrors.get(&self.name).is_some_and(is_own) {
            mirrors.remove(&self.name);
        }
    }
}
