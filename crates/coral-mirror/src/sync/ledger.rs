//! What a mirror knows of its images: pure, `now` and jitter are arguments.

mod page;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use coral_image::Digest;
use jiff::Timestamp;

use crate::engine::Failure;
use crate::expand::Wanted;
use crate::progress::Key;
use crate::state::{Cause, ImageState, ImageStatus, RetryPolicy};
use crate::sync::Until;

/// What is being done about an image or a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// To be looked at as soon as possible.
    Due,
    /// Being looked at.
    Looking,
    /// In the queue, or being copied.
    Copying,
    /// Nothing, until its next try or the next pass.
    Resting,
}

#[derive(Debug)]
struct Image {
    wanted: Wanted,
    repository: usize,
    status: ImageStatus,
    phase: Phase,
    sparse: bool,
    /// When it last succeeded or failed.
    looked: Option<Timestamp>,
}

#[derive(Debug)]
struct Repository {
    status: ImageStatus,
    phase: Phase,
}

/// All images of one mirror.
#[derive(Debug)]
pub(super) struct Ledger {
    policy: RetryPolicy,
    until: Until,
    repositories: Vec<Repository>,
    images: BTreeMap<Key, Image>,
    moved: u64,
}

/// Counts of a mirror's images, and what comes next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Images wanted.
    pub desired: usize,
    /// Complete at the destination.
    pub mirrored: usize,
    /// Of these, those whose index names platforms that were left out.
    pub sparse: usize,
    /// Not looked at yet, or being copied.
    pub pending: usize,
    /// Failed, and tried again; repositories that could not be listed are counted here too.
    pub failing: usize,
    /// Failed as often as the limit says.
    pub errors: usize,
    /// Bytes moved over the network.
    pub moved: u64,
    /// When the next failed image is tried again.
    pub next_try: Option<Timestamp>,
    /// When everything is looked at again.
    pub next_pass: Option<Timestamp>,
    /// Whether nothing is being looked at or copied.
    pub quiet: bool,
}

impl Ledger {
    pub(super) fn new(repositories: usize, policy: RetryPolicy, until: Until) -> Self {
        let resting = || Repository {
            status: ImageStatus::default(),
            phase: Phase::Resting,
        };
        let repositories = std::iter::repeat_with(resting).take(repositories).collect();
        Self {
            policy,
            until,
            repositories,
            images: BTreeMap::new(),
            moved: 0,
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

    /// Repositories to expand now; from here on they are being looked at.
    pub(super) fn repositories_due(&mut self, now: Timestamp) -> Vec<usize> {
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
    pub(super) fn images_due(&mut self, now: Timestamp) -> Vec<Wanted> {
        let mut due = vec![];
        for image in self.images.values_mut() {
            let again = image.phase == Phase::Resting && image.status.is_due(now);
            if again || image.phase == Phase::Due {
                image.phase = Phase::Looking;
                due.push(image.wanted.clone());
            }
        }
        due
    }

    /// A repository's images are known: new ones join, those no longer wanted leave, all are due
    /// but for those that failed and have their next try later.
    pub(super) fn expanded(&mut self, repository: usize, wanted: Vec<Wanted>, now: Timestamp) {
        self.repositories[repository] = Repository {
            status: ImageStatus::default(),
            phase: Phase::Resting,
        };
        let mut known: BTreeMap<Key, Image> = std::mem::take(&mut self.images);
        for wanted in wanted {
            let mut image = known.remove(&wanted.key).unwrap_or_else(|| Image {
                wanted: wanted.clone(),
                repository,
                status: ImageStatus::default(),
                phase: Phase::Due,
                sparse: false,
                looked: None,
            });
            if image.phase == Phase::Resting && !image.status.waits(now) {
                image.phase = Phase::Due;
            }
            self.images
                .insert(wanted.key.clone(), Image { wanted, ..image });
        }
        known.retain(|_, image| image.repository != repository);
        self.images.extend(known);
    }

    /// The image is to be copied; gives what is wanted, unless it is wanted no more.
    pub(super) fn copying(&mut self, key: &Key) -> Option<Wanted> {
        let image = self.images.get_mut(key)?;
        image.phase = Phase::Copying;
        Some(image.wanted.clone())
    }

    /// What is wanted of an image that is being copied; `None` if it is not.
    pub(super) fn being_copied(&self, key: &Key) -> Option<Wanted> {
        let image = self.images.get(key)?;
        (image.phase == Phase::Copying).then(|| image.wanted.clone())
    }

    pub(super) fn succeeded(
        &mut self,
        key: &Key,
        digest: Digest,
        moved: u64,
        sparse: bool,
        now: Timestamp,
    ) -> Option<Wanted> {
        self.moved = self.moved.saturating_add(moved);
        let image = self.images.get_mut(key)?;
        image.phase = Phase::Resting;
        image.sparse = sparse;
        image.looked = Some(now);
        image.status.succeeded(digest);
        Some(image.wanted.clone())
    }

    pub(super) fn image_failed(
        &mut self,
        key: &Key,
        failure: Failure,
        now: Timestamp,
        jitter: f64,
    ) -> Option<(Wanted, ImageStatus)> {
        let policy = self.policy_for(failure.cause);
        let image = self.images.get_mut(key)?;
        image.phase = Phase::Resting;
        image.looked = Some(now);
        image
            .status
            .failed(failure.error, failure.cause, policy, now, jitter);
        Some((image.wanted.clone(), image.status.clone()))
    }

    pub(super) fn repository_failed(
        &mut self,
        repository: usize,
        failure: Failure,
        now: Timestamp,
        jitter: f64,
    ) -> ImageStatus {
        let policy = self.policy_for(failure.cause);
        let repository = &mut self.repositories[repository];
        repository.phase = Phase::Resting;
        repository
            .status
            .failed(failure.error, failure.cause, policy, now, jitter);
        repository.status.clone()
    }

    /// A single pass does not wait for somebody to mend what was refused.
    fn policy_for(&self, cause: Cause) -> RetryPolicy {
        match (self.until, cause) {
            (Until::OnePass, Cause::Refusal) => RetryPolicy {
                limit: 1,
                ..self.policy
            },
            _ => self.policy,
        }
    }

    fn statuses(&self) -> impl Iterator<Item = &ImageStatus> {
        let repositories = self
            .repositories
            .iter()
            .map(|repository| &repository.status);
        repositories.chain(self.images.values().map(|image| &image.status))
    }

    /// The earliest next try of anything that rests.
    pub(super) fn next_try(&self) -> Option<Timestamp> {
        let repositories = self
            .repositories
            .iter()
            .map(|r| (r.phase, r.status.next_try));
        let images = self
            .images
            .values()
            .map(|image| (image.phase, image.status.next_try));
        let resting = repositories
            .chain(images)
            .filter(|(phase, _)| *phase == Phase::Resting);
        resting.filter_map(|(_, at)| at).min()
    }

    /// Whether nothing is being looked at or copied.
    fn is_quiet(&self) -> bool {
        self.repositories.iter().all(|r| r.phase == Phase::Resting)
            && self
                .images
                .values()
                .all(|image| image.phase == Phase::Resting)
    }

    /// Whether nothing more will happen in this pass: everything rests, and what failed did so as
    /// often as the limit says.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_quiet()
            && !self
                .statuses()
                .any(|s| matches!(s.state, ImageState::Failing(_)))
    }

    pub(super) fn summary(&self, next_pass: Option<Timestamp>) -> Summary {
        let mut summary = Summary {
            desired: self.images.len(),
            sparse: self.images.values().filter(|image| image.sparse).count(),
            moved: self.moved,
            next_try: self.next_try(),
            next_pass,
            quiet: self.is_quiet(),
            ..Summary::default()
        };
        for image in self.images.values() {
            match image.status.state {
                ImageState::Pending => summary.pending += 1,
                ImageState::Mirrored(_) => summary.mirrored += 1,
                ImageState::Failing(_) => summary.failing += 1,
                ImageState::Error(_) => summary.errors += 1,
            }
        }
        for repository in &self.repositories {
            match repository.status.state {
                ImageState::Failing(_) => summary.failing += 1,
                ImageState::Error(_) => summary.errors += 1,
                ImageState::Pending | ImageState::Mirrored(_) => {}
            }
        }
        summary
    }
}
