//! What a mirror knows of its images: pure, `now` and jitter are arguments.

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
use crate::state::{Cause, ImageProgress, ImageState, Lack, RetryPolicy, Until};
use agenda::Agenda;
pub(super) use image::Arrival;
use image::{Image, Phase, turn_of};
pub(super) use record::Trust;

/// Attempts in a row at what is at a host whose name does not exist. The next one is in the next
/// pass: the answer was sure, and the second one is for a host that is just being started.
const TRIES_OF_UNKNOWN_HOST: u32 = 2;
/// Time until the second of them.
const WAIT_FOR_UNKNOWN_HOST: Duration = Duration::from_secs(10);

/// Puts off the next try in this pass, if there is one.
fn wait_for_host(status: &mut ImageProgress, now: Timestamp) {
    if status.next_try.is_some() {
        status.next_try = now.checked_add(WAIT_FOR_UNKNOWN_HOST).ok();
    }
}

#[derive(Debug)]
struct Repository {
    status: ImageProgress,
    phase: Phase,
    /// How many tags it has, where `select` matches none of them.
    unmatched: Option<usize>,
    /// Whether it was ever listed: until then it is not known which images it has.
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

/// Something that a mirror does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// List what is wanted of the repository of this number.
    Expand(usize),
    /// Compare an image at the source with the one at the destination.
    Compare(Wanted),
    /// Look at the blobs of an image at the destination, mirrored at this digest.
    Verify(Wanted, Digest),
}

/// When images are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verification {
    /// How often each has its turn.
    pub(super) every: Duration,
    /// Whether those that were there before are looked at at once.
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

    /// Everything that rests is to be looked at again, but for what failed and has its next try
    /// later: a pass does not shorten a wait that grew, or that the other side asked for.
    pub(super) fn begin_pass(&mut self, now: Timestamp) {
        let resting = self
            .repositories
            .iter_mut()
            .filter(|r| r.phase == Phase::Resting && !r.status.waits(now));
        resting.for_each(|repository| repository.phase = Phase::Due);
    }

    /// What failed is to be looked at again, whatever it waits for.
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

    /// Content of these repositories at the destination was damaged: their images are verified now.
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

    /// What is to be done now; from here on all of it is being looked at.
    pub(super) fn actions(&mut self, now: Timestamp) -> Vec<Action> {
        let expand = self.repositories_due(now).into_iter().map(Action::Expand);
        let mut actions: Vec<Action> = expand.collect();
        actions.extend(self.images_due(now).into_iter().map(Action::Compare));
        let verify = self.verifications_due(now).into_iter();
        actions.extend(verify.map(|(wanted, digest)| Action::Verify(wanted, digest)));
        actions
    }

    /// Repositories to expand now; from here on they are being looked at.
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

    /// Images to compare now; from here on they are being looked at.
    fn images_due(&mut self, now: Timestamp) -> Vec<Wanted> {
        let due = self.agenda.to_compare(now).into_iter();
        due.filter_map(|key| self.looking(&key)).collect()
    }

    /// Images whose blobs are to be looked at now, with the digest that they are mirrored at; from
    /// here on they are being looked at.
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
        self.agenda.leaves(key, image);
        let result = change(image);
        self.agenda.joins(key, image);
        Some(result)
    }

    /// A repository's images are known: new ones join, those no longer wanted leave, all are due
    /// but for those that failed and have their next try later.
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
                self.agenda.leaves(&key, &image);
            }
        }
        self.joined(repository, wanted, now);
    }

    /// These images of a repository are due, as in [`Self::expanded`]; of its others nothing is
    /// known, and they stay as they are.
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
                self.agenda.joins(&key, &image);
                self.images.insert(key, image);
            }
        }
    }

    /// Whether `select` matches none of a repository's tags, and how many it has then.
    pub(super) fn unmatched(&mut self, repository: usize, tags: Option<usize>) {
        self.repositories[repository].unmatched = tags;
    }

    /// The image is to be copied; gives what is wanted, unless it is wanted no more.
    pub(super) fn copying(&mut self, key: &Key) -> Option<Wanted> {
        self.change(key, |image| {
            image.phase = Phase::Copying;
            image.wanted.clone()
        })
    }

    /// What is known to be broken of an image at the destination.
    pub(super) fn broken(&self, key: &Key) -> BTreeSet<Digest> {
        self.images
            .get(key)
            .map(|image| image.broken.clone())
            .unwrap_or_default()
    }

    /// An image's blobs were looked at at the destination. How often in a row something was
    /// broken; 0 if nothing is.
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

    /// So many tags were deleted.
    pub(super) fn pruned(&mut self, tags: usize) {
        self.pruned += tags;
    }

    /// What is wanted of an image that is being copied; `None` if it is not.
    pub(super) fn being_copied(&self, key: &Key) -> Option<Wanted> {
        let image = self.images.get(key)?;
        (image.phase == Phase::Copying).then(|| image.wanted.clone())
    }

    /// The image is at the destination: it was there, or it has been copied now.
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
                // What was repaired is looked at at once: some registries keep what they have.
                Arrival::Copied { .. } if image.repairs > 0 => Some(Duration::ZERO),
                Arrival::Copied { .. } => Some(verify.every),
                Arrival::Found { .. } if first && verify.at_once => Some(Duration::ZERO),
                Arrival::Found { .. } if first => Some(verify.every.mul_f64(turn_of(key))),
                Arrival::Found { .. } => None,
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
                Arrival::Found { sparse } => image.sparse = sparse.or_known(image.sparse),
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
        let is_of_unknown_host = failure.is_of_unknown_host();
        self.change(key, |image| {
            image.phase = Phase::Resting;
            image.looked = Some(now);
            match (failure.cause, until) {
                (Cause::NoRoom { needed }, Until::Stopped) => {
                    image
                        .status
                        .waits_for_room(Lack { needed, free: None }, now);
                }
                (cause, _) => image
                    .status
                    .failed(failure.error, cause, policy, now, jitter),
            }
            if is_of_unknown_host {
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
        let is_of_unknown_host = failure.is_of_unknown_host();
        let repository = &mut self.repositories[repository];
        repository.phase = Phase::Resting;
        repository
            .status
            .failed(failure.error, failure.cause, policy, now, jitter);
        if is_of_unknown_host {
            wait_for_host(&mut repository.status, now);
        }
        self.until.bounds(&mut repository.status);
        repository.status.clone()
    }

    fn policy_for(&self, failure: &Failure) -> RetryPolicy {
        let limit = match self.until {
            Until::OnePass if failure.cause.ends_at_once() => 1,
            _ if failure.is_of_unknown_host() => self.policy.limit.min(TRIES_OF_UNKNOWN_HOST),
            _ => self.policy.limit,
        };
        RetryPolicy {
            limit,
            ..self.policy
        }
    }

    /// The earliest next try of anything that rests, or the next look at blobs.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.next_try()
            .into_iter()
            .chain(self.agenda.next_check())
            .min()
    }

    /// The earliest next try of anything that rests.
    pub(super) fn next_try(&self) -> Option<Timestamp> {
        let resting = self
            .repositories
            .iter()
            .filter(|r| r.phase == Phase::Resting);
        let repositories = resting.filter_map(|r| r.status.next_try).min();
        repositories.into_iter().chain(self.agenda.next_try()).min()
    }

    /// Whether nothing is being looked at or copied.
    pub(super) fn is_quiet(&self) -> bool {
        self.agenda.counts.busy == 0 && self.repositories.iter().all(|r| r.phase == Phase::Resting)
    }

    /// Whether nothing more will happen in this pass: everything rests, and what failed did so as
    /// often as the limit says.
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
    /// A single pass ends with what failed as often as the limit says.
    fn bounds(self, status: &mut ImageProgress) {
        if self == Self::OnePass && matches!(status.state, ImageState::Error(_)) {
            status.next_try = None;
        }
    }
}
