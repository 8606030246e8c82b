//! What a mirror knows about its images. Pure: `now` and jitter are arguments.

mod agenda;
mod gone;
mod image;
mod missed;
mod page;
mod record;
mod room;
mod shift;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coral_api::PruningStatus;
use coral_image::{Digest, RepositoryPath};
use jiff::Timestamp;

use super::summary::{Repositories, Summary};
use crate::expand::Wanted;
use crate::outcome::Failure;
use crate::progress::Key;
use crate::state::{Cause, ImageProgress, ImageState, MissingSpace, RetryPolicy, Until};
use agenda::Agenda;
pub(super) use image::Arrival;
use image::{Image, Phase, verification_phase};
pub(super) use record::Trust;

/// Attempts in a row at a host whose name does not exist; the next one is in the next pass. The
/// answer is certain, so the second attempt is only for a host that is just being started.
const TRIES_OF_UNKNOWN_HOST: u32 = 2;
/// Time until the second of them.
const WAIT_FOR_UNKNOWN_HOST: Duration = Duration::from_secs(10);

/// Postpones the next attempt of this pass, if there is one.
fn wait_for_host(status: &mut ImageProgress, now: Timestamp) {
    if status.next_try.is_some() {
        status.next_try = now.checked_add(WAIT_FOR_UNKNOWN_HOST).ok();
    }
}

#[derive(Debug)]
struct Repository {
    status: ImageProgress,
    phase: Phase,
    /// How many tags it has, if `select` matches none of them.
    unmatched: Option<usize>,
    /// Whether it was ever listed; until then its images are unknown.
    is_listed: bool,
}

impl Repository {
    fn in_phase(phase: Phase, is_listed: bool) -> Self {
        Self {
            status: ImageProgress::default(),
            phase,
            unmatched: None,
            is_listed,
        }
    }
}

/// All images of one mirror.
#[derive(Debug)]
pub(super) struct Ledger {
    policy: RetryPolicy,
    until: Until,
    repositories: Vec<Repository>,
    images: BTreeMap<Key, Image>,
    agenda: Agenda,
    verify: Option<Verification>,
    moved: u64,
    pruned: usize,
}

/// An action that a mirror should take now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// List the wanted images of the repository with this index.
    Expand(usize),
    /// Compare an image at the source with the one at the destination.
    Compare(Wanted),
    /// Check the blobs of an image at the destination, mirrored at this digest.
    Verify(Wanted, Digest),
}

/// When images are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verification {
    /// How often each image is verified.
    pub(super) every: Duration,
    /// Whether existing images are verified at once.
    pub(super) at_once: bool,
}

impl Ledger {
    pub(super) fn new(
        repositories: usize,
        policy: RetryPolicy,
        until: Until,
        verify: Option<Verification>,
    ) -> Self {
        let resting = || Repository::in_phase(Phase::Resting, false);
        let repositories = std::iter::repeat_with(resting).take(repositories).collect();
        Self {
            policy,
            until,
            repositories,
            images: BTreeMap::new(),
            agenda: Agenda::default(),
            verify,
            moved: 0,
            pruned: 0,
        }
    }

    /// Makes everything that rests due again, except failures with a later retry: a pass does not
    /// shorten a backoff, or a wait that the other side asked for.
    pub(super) fn begin_pass(&mut self, now: Timestamp) {
        let resting = self
            .repositories
            .iter_mut()
            .filter(|r| r.phase == Phase::Resting && !r.status.waits(now));
        resting.for_each(|repository| repository.phase = Phase::Due);
    }

    /// Makes everything that failed due again, whatever it waits for.
    pub(super) fn retry(&mut self) {
        let failed = |phase: Phase, status: &ImageProgress| {
            let has_failed = matches!(
                status.state,
                ImageState::Failing(_) | ImageState::Error(_) | ImageState::Waiting(_)
            );
            phase == Phase::Resting && has_failed
        };
        for repository in &mut self.repositories {
            if failed(repository.phase, &repository.status) {
                repository.phase = Phase::Due;
            }
        }
        let images = self.images.iter();
        let again = images.filter(|(_, image)| failed(image.phase, &image.status));
        let again: Vec<Key> = again.map(|(key, _)| key.clone()).collect();
        for key in again {
            self.change(&key, |image| image.phase = Phase::Due);
        }
    }

    /// Makes the images of these repositories due for verification, because content was damaged at
    /// the destination.
    pub(super) fn damaged(&mut self, paths: &[RepositoryPath], now: Timestamp) {
        let images = self.images.iter();
        let hit = images.filter(|(key, _)| paths.contains(key.repository.path()));
        let hit: Vec<Key> = hit.map(|(key, _)| key.clone()).collect();
        for key in hit {
            self.change(&key, |image| image.verify_at = Some(now));
        }
    }

    /// How many images there would be if these were all of the repository.
    pub(super) fn would_hold(&self, repository: usize, wanted: &[Wanted]) -> usize {
        let images = self.images.values();
        let others = images.filter(|image| image.repository != repository);
        others.count() + wanted.len()
    }

    /// The actions that are due now; they count as in progress from here on.
    pub(super) fn actions(&mut self, now: Timestamp) -> Vec<Action> {
        let expand = self.repositories_due(now).into_iter().map(Action::Expand);
        let mut actions: Vec<Action> = expand.collect();
        actions.extend(self.images_due(now).into_iter().map(Action::Compare));
        let verify = self.verifications_due(now).into_iter();
        actions.extend(verify.map(|(wanted, digest)| Action::Verify(wanted, digest)));
        actions
    }

    /// Repositories to expand now; they count as in progress from here on.
    fn repositories_due(&mut self, now: Timestamp) -> Vec<usize> {
        let mut due = vec![];
        for (i, repository) in self.repositories.iter_mut().enumerate() {
            let again = repository.phase == Phase::Resting && repository.status.is_due(now);
            if again || repository.phase == Phase::Due {
                repository.phase = Phase::Looking;
                due.push(i);
            }
        }
        due
    }

    /// Images to compare now; they count as in progress from here on.
    fn images_due(&mut self, now: Timestamp) -> Vec<Wanted> {
        let due = self.agenda.to_compare(now).into_iter();
        due.filter_map(|key| self.looking(&key)).collect()
    }

    /// Images whose blobs are to be checked now, with the digest that they are mirrored at; they
    /// count as in progress from here on.
    fn verifications_due(&mut self, now: Timestamp) -> Vec<(Wanted, Digest)> {
        let due = self.agenda.to_verify(now).into_iter();
        let due = due.filter_map(|key| {
            let ImageState::Mirrored(digest) = self.images.get(&key)?.status.state else {
                return None;
            };
            Some((self.looking(&key)?, digest))
        });
        due.collect()
    }

    fn looking(&mut self, key: &Key) -> Option<Wanted> {
        self.change(key, |image| {
            image.phase = Phase::Looking;
            image.wanted.clone()
        })
    }

    /// Every change of an image goes through here, so that the agenda follows.
    fn change<R>(&mut self, key: &Key, change: impl FnOnce(&mut Image) -> R) -> Option<R> {
        let image = self.images.get_mut(key)?;
        self.agenda.remove(key, image);
        let result = change(image);
        self.agenda.add(key, image);
        Some(result)
    }

    /// Sets the images of a repository: new ones are added, those no longer wanted removed, and all
    /// are due except failures with a later retry.
    pub(super) fn expanded(&mut self, repository: usize, wanted: Vec<Wanted>, now: Timestamp) {
        self.repositories[repository] = Repository::in_phase(Phase::Resting, true);
        let keys: BTreeSet<Key> = wanted.iter().map(|w| w.key.clone()).collect();
        let gone =
            |(key, image): &(&Key, &Image)| image.repository == repository && !keys.contains(*key);
        let gone: Vec<Key> = self
            .images
            .iter()
            .filter(gone)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some(image) = self.images.remove(&key) {
                self.agenda.remove(&key, &image);
            }
        }
        self.joined(repository, wanted, now);
    }

    /// Makes these images of a repository due, as in [`Self::expanded`]; nothing is known about its
    /// other images, which stay as they are.
    pub(super) fn joined(&mut self, repository: usize, wanted: Vec<Wanted>, now: Timestamp) {
        for wanted in wanted {
            let key = wanted.key.clone();
            let again = self.change(&key, |image| {
                image.wanted = wanted.clone();
                if image.phase == Phase::Resting && !image.status.waits(now) {
                    image.phase = Phase::Due;
                }
            });
            if again.is_none() {
                let image = Image::new(wanted, repository);
                self.agenda.add(&key, &image);
                self.images.insert(key, image);
            }
        }
    }

    /// Records that `select` matches none of a repository's tags, and how many there are.
    pub(super) fn unmatched(&mut self, repository: usize, tags: Option<usize>) {
        self.repositories[repository].unmatched = tags;
    }

    /// Marks the image as being copied. Returns what is wanted, unless it is no longer wanted.
    pub(super) fn copying(&mut self, key: &Key) -> Option<Wanted> {
        self.change(key, |image| {
            image.phase = Phase::Copying;
            image.wanted.clone()
        })
    }

    /// Parts of an image that are known to be damaged at the destination.
    pub(super) fn broken(&self, key: &Key) -> BTreeSet<Digest> {
        self.images
            .get(key)
            .map(|image| image.broken.clone())
            .unwrap_or_default()
    }

    /// Records a verification of an image's blobs at the destination. Returns how many times in a
    /// row something was damaged; 0 if nothing is.
    pub(super) fn verified(&mut self, key: &Key, broken: BTreeSet<Digest>, now: Timestamp) -> u32 {
        let every = self.verify.map(|verify| verify.every);
        let repairs = self.change(key, |image| {
            image.phase = Phase::Resting;
            image.repairs = if broken.is_empty() {
                0
            } else {
                image.repairs + 1
            };
            if !broken.is_empty() {
                image.digest = None;
            }
            image.broken = broken;
            image.verified = Some(now);
            image.verify_at = every.and_then(|every| now.checked_add(every).ok());
            image.repairs
        });
        repairs.unwrap_or(0)
    }

    /// Counts deleted tags.
    pub(super) fn pruned(&mut self, tags: usize) {
        self.pruned += tags;
    }

    /// What is wanted of an image that is being copied; `None` if it is not.
    pub(super) fn being_copied(&self, key: &Key) -> Option<Wanted> {
        let image = self.images.get(key)?;
        (image.phase == Phase::Copying).then(|| image.wanted.clone())
    }

    /// Records that the image is at the destination: it was there, or has been copied now.
    pub(super) fn succeeded(
        &mut self,
        key: &Key,
        digest: Digest,
        arrival: Arrival,
        now: Timestamp,
    ) -> Option<Wanted> {
        let verify = self.verify;
        if let Arrival::Copied { moved, .. } = arrival {
            self.moved = self.moved.saturating_add(moved);
        }
        self.change(key, |image| {
            image.phase = Phase::Resting;
            image.looked = Some(now);
            image.status.succeeded(digest);
            image.digest = Some(digest);
            image.remembered = None;
            image.replaces = None;
            image.completes = None;
            let first = image.verify_at.is_none();
            let wait = verify.and_then(|verify| match arrival {
                // A repaired image is verified at once: some registries keep the damaged content.
                Arrival::Copied { .. } if image.repairs > 0 => Some(Duration::ZERO),
                Arrival::Copied { .. } => Some(verify.every),
                Arrival::Present { .. } if first && verify.at_once => Some(Duration::ZERO),
                Arrival::Present { .. } if first => {
                    Some(verify.every.mul_f64(verification_phase(key)))
                }
                Arrival::Present { .. } => None,
            });
            if let Some(wait) = wait {
                image.verify_at = now.checked_add(wait).ok();
            }
            match arrival {
                Arrival::Copied { sparse, missed, .. } => {
                    image.broken.clear();
                    (image.sparse, image.missed) = (sparse, missed);
                    (image.layers_asked, image.layers_failed) = (Some(now), false);
                }
                Arrival::Present { sparse } => image.sparse = sparse.or_known(image.sparse),
            }
            image.wanted.clone()
        })
    }

    pub(super) fn image_failed(
        &mut self,
        key: &Key,
        failure: Failure,
        now: Timestamp,
        jitter: f64,
    ) -> Option<(Wanted, ImageProgress)> {
        let (policy, until) = (self.policy_for(&failure), self.until);
        let is_unknown_host = failure.is_unknown_host();
        self.change(key, |image| {
            image.phase = Phase::Resting;
            image.looked = Some(now);
            match (failure.cause, until) {
                (Cause::NoRoom { needed }, Until::Stopped) => {
                    image
                        .status
                        .wait_for_space(MissingSpace { needed, free: None }, now);
                }
                (cause, _) => image
                    .status
                    .failed(failure.error, cause, policy, now, jitter),
            }
            if is_unknown_host {
                wait_for_host(&mut image.status, now);
            }
            until.bounds(&mut image.status);
            (image.wanted.clone(), image.status.clone())
        })
    }

    pub(super) fn repository_failed(
        &mut self,
        repository: usize,
        failure: Failure,
        now: Timestamp,
        jitter: f64,
    ) -> ImageProgress {
        let policy = self.policy_for(&failure);
        let is_unknown_host = failure.is_unknown_host();
        let repository = &mut self.repositories[repository];
        repository.phase = Phase::Resting;
        repository
            .status
            .failed(failure.error, failure.cause, policy, now, jitter);
        if is_unknown_host {
            wait_for_host(&mut repository.status, now);
        }
        self.until.bounds(&mut repository.status);
        repository.status.clone()
    }

    fn policy_for(&self, failure: &Failure) -> RetryPolicy {
        let limit = match self.until {
            Until::OnePass if failure.cause.ends_at_once() => 1,
            _ if failure.is_unknown_host() => self.policy.limit.min(TRIES_OF_UNKNOWN_HOST),
            _ => self.policy.limit,
        };
        RetryPolicy {
            limit,
            ..self.policy
        }
    }

    /// The earliest retry of anything that rests, or the next verification.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.next_try()
            .into_iter()
            .chain(self.agenda.next_check())
            .min()
    }

    /// The earliest retry of anything that rests.
    pub(super) fn next_try(&self) -> Option<Timestamp> {
        let resting = self
            .repositories
            .iter()
            .filter(|r| r.phase == Phase::Resting);
        let repositories = resting.filter_map(|r| r.status.next_try).min();
        repositories.into_iter().chain(self.agenda.next_try()).min()
    }

    /// Whether nothing is being compared or copied.
    pub(super) fn is_quiet(&self) -> bool {
        self.agenda.counts.busy == 0 && self.repositories.iter().all(|r| r.phase == Phase::Resting)
    }

    /// Whether nothing more will happen in this pass: everything rests, and failures have reached
    /// the limit.
    pub(super) fn is_at_rest(&self) -> bool {
        let failing = |r: &Repository| matches!(r.status.state, ImageState::Failing(_));
        self.is_quiet() && self.agenda.counts.failing == 0 && !self.repositories.iter().any(failing)
    }

    pub(super) fn summary(&self, next_pass: Option<Timestamp>) -> Summary {
        let counts = self.agenda.counts;
        let mut summary = Summary {
            desired: self.images.len(),
            mirrored: counts.mirrored,
            sparse: counts.sparse,
            missed: counts.missed,
            pending: counts.pending,
            failing: counts.failing,
            errors: counts.errors,
            waiting: counts.waiting,
            repositories: Repositories::default(),
            source_gone: counts.gone,
            pruning: PruningStatus::default(),
            moved: self.moved,
            pruned: self.pruned,
            next_try: self.next_try(),
            last_pass: None,
            next_pass,
            quiet: self.is_quiet(),
        };
        for repository in &self.repositories {
            match repository.status.state {
                ImageState::Failing(_) => summary.repositories.failing += 1,
                ImageState::Error(_) => summary.repositories.errors += 1,
                ImageState::Pending
                | ImageState::Mirrored(_)
                | ImageState::Waiting(_)
                | ImageState::SourceGone(_) => {}
            }
        }
        summary.failing += summary.repositories.failing;
        summary.errors += summary.repositories.errors;
        summary
    }
}

impl Until {
    /// Ends the retries of failures that have reached the limit, in a single pass.
    fn bounds(self, status: &mut ImageProgress) {
        if self == Self::OnePass && matches!(status.state, ImageState::Error(_)) {
            status.next_try = None;
        }
    }
}
