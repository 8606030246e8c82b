//! Keeps one mirror in sync: list, compare, enqueue, fold in results, wait, repeat.
//!
//! Decisions are made by values without I/O: the [`Ledger`] decides what is due (as [`Action`]s),
//! [`CopySlots`] which image is copied next, and [`judge`] what an outcome means. The [`Driver`]
//! carries them out.

mod copy_slots;
mod found;
mod guard;
mod ledger;
mod report;
mod room;
mod summary;
mod timing;
mod upkeep;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coral_image::{Digest, Host, Tag, error_chain};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::clock::{Clock, Frame, Logged};
use crate::compare::{CompareError, Depth, Difference, compare};
use crate::copy::CopyError;
use crate::expand::{ExpandError, Expanded, Wanted, expand};
use crate::inspect::MirrorRequest;
use crate::job::Job;
use crate::mirror::{Mirror, Verify};
use crate::outcome::{Failure, Outcome};
use crate::progress::{Event, Key, Observer};
use crate::prune::{Claims, PruneError, Pruned};
use crate::queue::{Enqueued, Queue, Subscription};
use crate::snapshot::Snapshot;
use crate::state::{RetryPolicy, Until};
use copy_slots::CopySlots;
use guard::Guard;
pub(crate) use guard::would_pause;
use ledger::{Action, Ledger, Trust, Verification};
use room::SpaceWatch;
use timing::{first_pass, next_pass, sleep_until};
use verdict::{Verdict, judge};

pub use summary::{Ended, Repositories, Summary};

/// How many requests to one source host run at the same time, so that a host that does not answer
/// delays only its own images.
const PER_HOST: usize = 8;
/// Most images of a mirror. A source decides how many tags match a pattern, and each image takes
/// memory in every program that reads what is mirrored.
const MOST_IMAGES: usize = 20_000;
/// The interval if there is only one pass.
const FOR_EVER: Duration = Duration::from_hours(100 * 365 * 24);

/// What all mirrors of an engine share.
pub(crate) struct Wiring<Q> {
    pub(crate) queue: Arc<Q>,
    pub(crate) observer: Arc<dyn Observer>,
    /// The claims of all mirrors, for those that delete what no mirror wants.
    pub(crate) claims: watch::Sender<Claims>,
    /// Their clock.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) logged: Logged,
}

/// What a mirror receives from outside.
pub(crate) struct Subscriptions {
    /// Outcomes of all jobs, since two mirrors may want the same image.
    pub(crate) results: Subscription,
    /// Requests about its images.
    pub(crate) requests: mpsc::Receiver<MirrorRequest>,
}

/// Keeps a mirror in sync, and calls `summary` after each change.
pub(crate) async fn run<Q: Queue>(
    mirror: Mirror,
    wiring: Arc<Wiring<Q>>,
    subscriptions: Subscriptions,
    until: Until,
    stop: CancellationToken,
    summary: impl Fn(&Summary) + Send,
) -> Ended {
    // Every log line inside names the mirror.
    let span = tracing::error_span!("mirror", mirror = %mirror.name);
    let mut driver = Driver::new(mirror, until, wiring, subscriptions);
    let summary = driver.drive(until, stop, summary).instrument(span).await;
    let snapshot = driver.snapshot();
    Ended { summary, snapshot }
}

fn verification(mirror: &Mirror, until: Until) -> Option<Verification> {
    let at_once = mirror.verify == Verify::Now;
    let settings = mirror.settings.verify.as_ref();
    let every = settings.map_or(FOR_EVER, |verify| verify.every);
    let wanted = at_once || (settings.is_some() && until == Until::Stopped);
    wanted.then_some(Verification { every, at_once })
}

/// The result of a background task.
enum BackgroundResult {
    Expanded(usize, Result<Expanded, ExpandError>),
    Compared(Key, Result<Difference, CompareError>),
    Verified(Key, Result<BTreeSet<Digest>, CopyError>),
    Pruned(usize, Result<Pruned, PruneError>),
    /// Free bytes at the destination, if it reports them.
    Room(Result<Option<u64>, coral_distribution::Error>),
}

struct Driver<Q: Queue> {
    mirror: Mirror,
    wiring: Arc<Wiring<Q>>,
    subscriptions: Subscriptions,
    frame: Frame,
    ledger: Ledger,
    questions: FuturesUnordered<BoxFuture<'static, BackgroundResult>>,
    hosts: HashMap<Host, Arc<Semaphore>>,
    /// How many repositories are being listed.
    expanding: usize,
    /// When the last pass ended, whether one is running, and when the next one begins.
    last_pass: Option<Timestamp>,
    is_passing: bool,
    next_pass: Option<Timestamp>,
    passes: u64,
    claims: watch::Receiver<Claims>,
    /// Repositories to prune as soon as all claims on them are known.
    to_prune: BTreeSet<usize>,
    pruning: BTreeSet<usize>,
    /// Repositories in which no tag is deleted, with the mirror that does not know what it wants
    /// there.
    held_back: BTreeMap<usize, String>,
    /// Tags whose deletion was postponed because they are more than half of the repository.
    doubted: HashMap<usize, Vec<Tag>>,
    /// Whether deletions are paused.
    guard: Guard,
    room: SpaceWatch,
    until: Until,
    copy_slots: CopySlots,
}

impl<Q: Queue> Driver<Q> {
    fn new(
        mirror: Mirror,
        until: Until,
        wiring: Arc<Wiring<Q>>,
        subscriptions: Subscriptions,
    ) -> Self {
        let retry = mirror.settings.retry;
        let policy = RetryPolicy {
            limit: retry.limit,
            max_backoff: retry.max_backoff,
        };
        let verification = verification(&mirror, until);
        let repositories = mirror.settings.repositories.len();
        let mut ledger = Ledger::new(repositories, policy, until, verification);
        let claims = wiring.claims.subscribe();
        let frame = Frame::new(wiring.clock.clone());
        let now = frame.now();
        if let Some(snapshot) = &mirror.restored {
            restore(&mut ledger, &mirror, snapshot, now);
            for (wanted, digest) in ledger.held_images() {
                let (key, source) = (&wanted.key, wanted.source.repository().host());
                mirror.access.catalogue.compared(key, source, Some(digest));
            }
        }
        let next_pass = (!mirror.settings.suspend).then_some(first_pass(&mirror, now));
        let before = mirror.restored.as_ref().map(|snapshot| snapshot.pruning);
        let guard = Guard::restored(before);
        let (questions, hosts) = (FuturesUnordered::new(), HashMap::new());
        let copy_slots = CopySlots::new(mirror.settings.limits.copies.unwrap_or(usize::MAX));
        Self {
            mirror,
            wiring,
            subscriptions,
            frame,
            ledger,
            questions,
            hosts,
            expanding: 0,
            last_pass: None,
            is_passing: false,
            next_pass,
            passes: 0,
            claims,
            to_prune: BTreeSet::new(),
            pruning: BTreeSet::new(),
            held_back: BTreeMap::new(),
            doubted: HashMap::new(),
            guard,
            room: SpaceWatch::default(),
            until,
            copy_slots,
        }
    }

    async fn drive(
        &mut self,
        until: Until,
        stop: CancellationToken,
        summary: impl Fn(&Summary) + Send,
    ) -> Summary {
        if self.mirror.settings.suspend {
            self.claim_nothing_known();
        }
        loop {
            self.look_at_clock();
            let now = self.now();
            self.ask_what_is_due(now);
            let state = self.summary(now);
            summary(&state);
            let rests =
                self.ledger.is_at_rest() && self.to_prune.is_empty() && self.pruning.is_empty();
            if until == Until::OnePass && (rests || self.mirror.settings.suspend) {
                return state;
            }
            let wake_at = self.wake_at(until);
            tokio::select! {
                () = stop.cancelled() => return state,
                Some(found) = self.questions.next() => self.fold_in(found).await,
                Some(outcome) = self.subscriptions.results.next() => self.fold_in_outcome(&outcome).await,
                Some(request) = self.subscriptions.requests.recv() => self.answer(request),
                Ok(()) = self.claims.changed(), if !self.to_prune.is_empty() => {}
                () = sleep_until(wake_at, now) => {}
            }
        }
    }

    fn answer(&mut self, request: MirrorRequest) {
        let settings = &self.mirror.settings.repositories;
        // The requester may have gone away.
        match request {
            MirrorRequest::ConfirmPrune(confirmation) => self.confirm_prune(confirmation),
            MirrorRequest::Page(query, answer) => {
                drop(answer.send(self.ledger.page(&query, settings)));
            }
            MirrorRequest::Retry => self.ledger.retry(),
            MirrorRequest::Damaged(paths) => self.ledger.damaged(&paths, self.frame.now()),
            MirrorRequest::Snapshot(answer) => drop(answer.send(self.snapshot())),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            next_pass: self.next_pass,
            pruning: self.guard.status(),
            held_back: self.held_back(),
            ..self.ledger.snapshot(&self.mirror.settings.repositories)
        }
    }

    fn held_back(&self) -> BTreeMap<String, String> {
        let settings = &self.mirror.settings.repositories;
        let held_back = self.held_back.iter();
        held_back
            .map(|(repository, by)| (settings[*repository].repository.to_string(), by.clone()))
            .collect()
    }

    fn summary(&mut self, now: Timestamp) -> Summary {
        if self.is_passing && self.ledger.is_quiet() {
            self.is_passing = false;
            self.last_pass = Some(now);
        }
        Summary {
            last_pass: self.last_pass,
            pruning: self.guard.status(),
            ..self.ledger.summary(self.next_pass)
        }
    }

    fn wake_at(&self, until: Until) -> Option<Timestamp> {
        if self.mirror.settings.suspend {
            return None;
        }
        let pass = self.next_pass.filter(|_| until == Until::Stopped);
        let room = self.room.next_look(self.ledger.waiting());
        let next = self.ledger.wake_at().into_iter();
        next.chain(pass).chain(room).min()
    }

    fn ask_what_is_due(&mut self, now: Timestamp) {
        if self.mirror.settings.suspend {
            // Restored images may be due; they wait too.
            return;
        }
        if self.next_pass.is_some_and(|at| at <= now) {
            self.passes += 1;
            self.is_passing = true;
            self.mirror.access.catalogue.begin_pass();
            self.next_pass = next_pass(&self.mirror.settings.cadence, now);
            self.ledger.begin_pass(now);
        }
        for action in self.ledger.actions(now) {
            self.act(action, now);
        }
        // Later passes know what the first one found, and restored images are known from the start.
        let is_first = self.passes <= 1 && self.mirror.restored.is_none();
        let is_listing = is_first && self.expanding > 0;
        self.mirror.access.catalogue.set_listing(is_listing);
        self.ask_for_room(now);
        self.ask_to_prune();
    }

    fn act(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::Expand(repository) => self.ask_to_expand(repository, now),
            Action::Compare(wanted) => {
                let held = self.ledger.held(&wanted.key);
                let catalogue = &self.mirror.access.catalogue;
                let source = wanted.source.repository().host();
                catalogue.being_compared(&wanted.key, source, held);
                let depth = self.depth_for(&wanted);
                self.ask_to_compare(wanted, depth);
            }
            Action::Verify(wanted, digest) => self.ask_to_verify(wanted, digest),
        }
    }

    fn ask_to_expand(&mut self, repository: usize, now: Timestamp) {
        let access = self.mirror.access.clone();
        let settings = self.mirror.settings.repositories[repository].clone();
        let host = self.host(settings.repository.host());
        self.expanding += 1;
        self.questions.push(
            async move {
                let _turn = host.acquire().await;
                // Created when its turn comes: thousands may wait, and each future is large.
                let expanded = expand(&access, &settings, now).boxed().await;
                BackgroundResult::Expanded(repository, expanded)
            }
            .boxed(),
        );
    }

    /// If the settings have changed, equal digests do not prove that every child is there.
    fn depth_for(&self, wanted: &Wanted) -> Depth {
        let first_look = self.mirror.changed && self.passes <= 1;
        if first_look {
            Depth::Children
        } else {
            Depth::for_image(wanted)
        }
    }

    fn ask_to_compare(&mut self, wanted: Wanted, depth: Depth) {
        let access = self.mirror.access.clone();
        let host = self.host(wanted.source.repository().host());
        self.questions.push(
            async move {
                let _turn = host.acquire().await;
                let source = access.source(wanted.source.repository());
                let destination = access.destination(&wanted.key.repository);
                // Created when its turn comes: thousands may wait, and each future is large.
                let compared = compare(&source, &destination, &wanted, depth);
                let found = compared.boxed().await;
                BackgroundResult::Compared(wanted.key, found)
            }
            .boxed(),
        );
    }

    fn host(&mut self, host: &Host) -> Arc<Semaphore> {
        let new = || Arc::new(Semaphore::new(PER_HOST));
        self.hosts.entry(host.clone()).or_insert_with(new).clone()
    }

    async fn fold_in(&mut self, found: BackgroundResult) {
        match found {
            BackgroundResult::Expanded(repository, expanded) => {
                self.expanding -= 1;
                self.fold_in_expanded(repository, expanded);
            }
            BackgroundResult::Compared(key, compared) => {
                self.fold_in_compared(&key, compared).await;
            }
            BackgroundResult::Verified(key, found) => self.fold_in_verified(&key, found).await,
            BackgroundResult::Pruned(repository, pruned) => self.fold_in_pruned(repository, pruned),
            BackgroundResult::Room(room) => self.fold_in_room(room),
        }
    }

    /// Has an image copied, as soon as the limit on copies allows it.
    async fn enqueue(&mut self, key: &Key) {
        let Some(wanted) = self.ledger.copying(key) else {
            return;
        };
        if !self.copy_slots.ask(key) {
            return;
        }
        let job = Job {
            broken: self.ledger.broken(key),
            completes: self.ledger.completes(key),
            source: self.copy_source(&wanted),
            key: wanted.key,
            mirror: self.mirror.name.clone(),
            platforms: wanted.platforms,
            foreign_layers: wanted.foreign_layers,
            referrers: wanted.referrers,
        };
        match self.wiring.queue.enqueue(job).await {
            // If another mirror has the same image in flight, its outcome arrives here too.
            Ok(Enqueued::Queued | Enqueued::AlreadyInFlight) => {}
            Err(error) => {
                let failure = Failure::transient(error_chain(&error), "queue");
                for key in self.copy_slots.give_up(key) {
                    self.image_failed(&key, failure.clone());
                }
            }
        }
    }

    async fn fold_in_outcome(&mut self, outcome: &Outcome) {
        let job = &outcome.job;
        self.copy_slots.ended(&job.key);
        // An image that is no longer wanted passes its turn to the next one.
        while let Some(next) = self.copy_slots.next() {
            self.enqueue(&next).await;
        }
        let Some(wanted) = self.ledger.being_copied(&job.key) else {
            return;
        };
        match judge(outcome, &wanted, &self.mirror.name) {
            Verdict::Compare => self.ask_to_compare(wanted, Depth::Children),
            Verdict::Arrived {
                digest,
                arrival,
                elapsed,
                is_news,
            } => {
                let now = self.now();
                let replaced = self.ledger.replaced(&job.key);
                self.ledger.succeeded(&job.key, digest, arrival, now);
                let (moved, sparse) = arrival.counted();
                let event = if is_news {
                    Event::Mirrored {
                        digest,
                        replaced: replaced.filter(|replaced| *replaced != digest),
                        moved,
                        sparse,
                        elapsed,
                    }
                } else {
                    Event::UpToDate { digest }
                };
                self.observe(&wanted, &event);
            }
            Verdict::Incomplete {
                digest,
                sparse,
                failure,
            } => {
                if let Some(failure) = failure {
                    self.could_not_complete(&wanted, &failure);
                }
                self.ledger.asked_for_layers(&job.key, self.now());
                self.is_there(&job.key, digest, sparse);
            }
            Verdict::Failed(failure) => self.image_failed(&job.key, failure),
        }
    }
}

fn restore(ledger: &mut Ledger, mirror: &Mirror, snapshot: &Snapshot, now: Timestamp) {
    let trust = if mirror.changed {
        Trust::Contents
    } else {
        Trust::Everything
    };
    let settings = &mirror.settings.repositories;
    let places = mirror.places();
    ledger.restore(snapshot, settings, &places, trust, now);
}
