//! What is due next, and how many images are in each state. Both are updated with each change, so
//! that a mirror of ten thousand images does not scan all of them at every step.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Image, Phase};
use crate::progress::Key;
use crate::state::{Absence, ImageState};

#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// Images to compare as soon as possible.
    due: BTreeSet<Key>,
    /// Failed images, by the time of their retry.
    tries: BTreeSet<(Timestamp, Key)>,
    /// Mirrored images, by the time of their verification.
    checks: BTreeSet<(Timestamp, Key)>,
    pub(super) counts: Counts,
}

/// How many images are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) pending: usize,
    pub(super) mirrored: usize,
    pub(super) failing: usize,
    pub(super) errors: usize,
    /// Waiting for space at the destination.
    pub(super) waiting: usize,
    pub(super) sparse: usize,
    /// Of those mirrored: lacking some of their referrers.
    pub(super) missed: usize,
    /// Of those mirrored: gone at their source.
    pub(super) gone: usize,
    /// Of those: the source answers that it does not have them.
    pub(super) vanished: usize,
    /// Being compared or copied, or about to be.
    pub(super) busy: usize,
}

impl Counts {
    fn counters_for(&mut self, image: &Image) -> [Option<&mut usize>; 7] {
        let is_held = image.digest.is_some();
        let held = is_held.then_some(&mut self.mirrored);
        let state = match image.status.state {
            ImageState::Failing(_) => Some(&mut self.failing),
            ImageState::Error(_) => Some(&mut self.errors),
            ImageState::Waiting(_) => Some(&mut self.waiting),
            ImageState::Pending | ImageState::Mirrored(_) | ImageState::SourceGone(_) => {
                (!is_held).then_some(&mut self.pending)
            }
        };
        let absence = match image.status.state {
            ImageState::SourceGone(absence) => Some(absence),
            _ => None,
        };
        let gone = absence.map(|_| &mut self.gone);
        let has_vanished = absence == Some(Absence::Tag);
        let vanished = has_vanished.then_some(&mut self.vanished);
        let sparse = image.sparse.is_sparse().then_some(&mut self.sparse);
        let missed = (is_held && image.missed).then_some(&mut self.missed);
        let busy = (image.phase != Phase::Resting).then_some(&mut self.busy);
        [held, state, sparse, missed, gone, vanished, busy]
    }
}

impl Agenda {
    /// Adds an image in its current state.
    pub(super) fn add(&mut self, key: &Key, image: &Image) {
        self.counts
            .counters_for(image)
            .into_iter()
            .flatten()
            .for_each(|count| *count += 1);
        if image.phase == Phase::Due {
            self.due.insert(key.clone());
        }
        if let Some(at) = image.try_at() {
            self.tries.insert((at, key.clone()));
        }
        if let Some(at) = image.check_at() {
            self.checks.insert((at, key.clone()));
        }
    }

    /// Removes an image before it changes or leaves.
    pub(super) fn remove(&mut self, key: &Key, image: &Image) {
        self.counts
            .counters_for(image)
            .into_iter()
            .flatten()
            .for_each(|count| *count -= 1);
        if image.phase == Phase::Due {
            self.due.remove(key);
        }
        if let Some(at) = image.try_at() {
            self.tries.remove(&(at, key.clone()));
        }
        if let Some(at) = image.check_at() {
            self.checks.remove(&(at, key.clone()));
        }
    }

    /// Images to compare now.
    pub(super) fn to_compare(&self, now: Timestamp) -> Vec<Key> {
        let again = self.tries.iter().take_while(|(at, _)| *at <= now);
        let again = again.map(|(_, key)| key.clone());
        self.due.iter().cloned().chain(again).collect()
    }

    /// Images to verify now.
    pub(super) fn to_verify(&self, now: Timestamp) -> Vec<Key> {
        let due = self.checks.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, key)| key.clone()).collect()
    }

    pub(super) fn next_try(&self) -> Option<Timestamp> {
        self.tries.first().map(|(at, _)| *at)
    }

    pub(super) fn next_check(&self) -> Option<Timestamp> {
        self.checks.first().map(|(at, _)| *at)
    }
}

impl Image {
    fn try_at(&self) -> Option<Timestamp> {
        self.status
            .next_try
            .filter(|_| self.phase == Phase::Resting)
    }

    fn check_at(&self) -> Option<Timestamp> {
        let rests = self.phase == Phase::Resting && self.status.is_mirrored();
        self.verify_at.filter(|_| rests)
    }
}
