//! Saves the ledger, and restores it in another process.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use coral_api::conditions::cut;
use coral_api::metadata::time;
use coral_api::mirrored_images::{MirroredImage, MirroredState};
use coral_api::{MirroredRepository, PruningStatus, RepositorySettings};
use coral_image::{Digest, ImageRef, Repository as Name};
use jiff::Timestamp;

use super::{Image, Ledger, Phase, Repository, verification_phase};
use crate::expand::wanted;
use crate::progress::Key;
use crate::snapshot::Snapshot;
use crate::state::{Absence, ImageProgress, ImageState, RetryPolicy, pinned};
use crate::status::count;

/// Longest message that is reported, in bytes.
const MAX_MESSAGE: usize = 1024;

/// How much of a snapshot is valid for the mirror that starts from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sync) enum Trust {
    /// All of it: the settings are those of the snapshot.
    Everything,
    /// Only the content of the destination. Failures and waits belong to the previous settings.
    Contents,
}

impl Ledger {
    /// Everything known, for a later [`Self::restore`]; `settings` are those of the repositories
    /// that it was made for.
    pub(in crate::sync) fn snapshot(&self, settings: &[RepositorySettings]) -> Snapshot {
        Snapshot {
            next_pass: None,
            moved: self.moved,
            pruned: self.pruned as u64,
            pruning: PruningStatus::default(),
            held_back: BTreeMap::new(),
            is_memory: false,
            repositories: self.repositories(settings),
            images: self
                .images
                .iter()
                .map(|(key, image)| image.record(key))
                .collect(),
        }
    }

    /// The repositories, each once, sorted by name; `settings` are those that the ledger was made
    /// for.
    pub(super) fn repositories(&self, settings: &[RepositorySettings]) -> Vec<MirroredRepository> {
        let mut images = vec![0; self.repositories.len()];
        for image in self.images.values() {
            images[image.repository] += 1;
        }
        let mut all: BTreeMap<String, MirroredRepository> = BTreeMap::new();
        let known = self.repositories.iter().zip(settings).zip(images);
        for ((repository, settings), images) in known {
            let record = repository.record(settings, images);
            match all.entry(record.name.clone()) {
                Entry::Vacant(new) => {
                    new.insert(record);
                }
                Entry::Occupied(mut there) => join(there.get_mut(), record),
            }
        }
        all.into_values().collect()
    }

    /// Restores what an earlier process knew. `places` are the repositories at the destination, in
    /// the order of `settings`. Entries that the settings no longer name, or that cannot be read,
    /// are dropped; repositories about which nothing is known are due at once.
    pub(in crate::sync) fn restore(
        &mut self,
        snapshot: &Snapshot,
        settings: &[RepositorySettings],
        places: &[Name],
        trust: Trust,
        now: Timestamp,
    ) {
        self.moved = snapshot.moved;
        self.pruned = usize::try_from(snapshot.pruned).unwrap_or(usize::MAX);
        let limit = self.policy.limit;
        let records: HashMap<&str, &MirroredRepository> = snapshot
            .repositories
            .iter()
            .map(|record| (record.name.as_str(), record))
            .collect();
        for (repository, settings) in self.repositories.iter_mut().zip(settings) {
            let record = records.get(settings.repository.to_string().as_str());
            *repository = match record.filter(|_| trust == Trust::Everything) {
                Some(record) => Repository::restored(record, limit, now),
                None => Repository::in_phase(Phase::Due, false),
            };
        }
        // If entries have the same name, the first one gets the images until they are listed again.
        let mut numbers: HashMap<&Name, usize> = HashMap::new();
        for (number, place) in places.iter().enumerate() {
            numbers.entry(place).or_insert(number);
        }
        for record in &snapshot.images {
            let Ok(destination) = ImageRef::parse(&record.destination) else {
                continue;
            };
            let key = Key::from_reference(&destination);
            let Some(&number) = numbers.get(&key.repository) else {
                continue;
            };
            let wanted = wanted(&settings[number], &key.repository, key.version.clone());
            let mut image = Image::new(wanted, number);
            image.take_in(record, now);
            // Whether it is still wanted is known only once its repository is listed.
            if snapshot.is_memory {
                image.remembered = image.digest.take();
                image.status = ImageProgress::default();
                image.phase = Phase::Resting;
            } else if trust == Trust::Contents && !image.status.is_mirrored() {
                // What the destination has stays known until then.
                if image.digest.is_none() {
                    continue;
                }
                image.status = ImageProgress::default();
                image.phase = Phase::Resting;
            }
            image.verify_at = self.restored_verification(&key, &image, now);
            if let Some(before) = self.images.remove(&key) {
                self.agenda.remove(&key, &before);
            }
            self.agenda.add(&key, &image);
            self.images.insert(key, image);
        }
    }

    fn restored_verification(&self, key: &Key, image: &Image, now: Timestamp) -> Option<Timestamp> {
        let verify = self.verify?;
        if !image.status.is_mirrored() {
            return None;
        }
        let (from, wait) = match image.verified {
            _ if verify.at_once => (now, Duration::ZERO),
            Some(verified) => (verified.min(now), verify.every),
            None => (now, verify.every.mul_f64(verification_phase(key))),
        };
        from.checked_add(wait).ok()
    }
}

impl Repository {
    /// The record of a repository, with the number of its images.
    fn record(&self, settings: &RepositorySettings, images: usize) -> MirroredRepository {
        let message = match &self.status.state {
            ImageState::Failing(message) | ImageState::Error(message) => Some(message),
            ImageState::Pending
            | ImageState::Mirrored(_)
            | ImageState::Waiting(_)
            | ImageState::SourceGone(_) => None,
        };
        let has_failed = message.is_some();
        MirroredRepository {
            name: settings.repository.to_string(),
            images: self.is_listed.then(|| count(images)),
            unmatched_tags: self.unmatched.map(count),
            message: message.map(|message| cut(message, MAX_MESSAGE)),
            attempts: has_failed.then(|| self.status.attempts.into()),
            next_attempt: self.status.next_try.map(time),
            ..MirroredRepository::default()
        }
    }

    /// `limit` is the number of failures in a row after which it is in error.
    fn restored(record: &MirroredRepository, limit: u32, now: Timestamp) -> Self {
        let is_listed = record.images.is_some();
        let Some(message) = &record.message else {
            let phase = if is_listed {
                Phase::Resting
            } else {
                Phase::Due
            };
            let unmatched = record.unmatched_tags.and_then(|n| usize::try_from(n).ok());
            return Self {
                unmatched,
                ..Self::in_phase(phase, is_listed)
            };
        };
        let attempts = record.attempts.and_then(|n| u32::try_from(n).ok());
        let attempts = attempts.unwrap_or(1);
        let state = if attempts >= limit.max(1) {
            ImageState::Error(message.clone())
        } else {
            ImageState::Failing(message.clone())
        };
        let next_try = record.next_attempt.as_ref().map(|time| time.0);
        Self {
            status: ImageProgress {
                state,
                attempts,
                next_try: next_try.map(|at| RetryPolicy::bounded(at, now)),
            },
            ..Self::in_phase(Phase::Resting, is_listed)
        }
    }
}

/// Merges two entries of one repository, which counts as listed when both are.
fn join(there: &mut MirroredRepository, other: MirroredRepository) {
    there.images = there.images.zip(other.images).map(|(a, b)| a + b);
    there.unmatched_tags = there.unmatched_tags.or(other.unmatched_tags);
    if there.message.is_none() {
        there.message = other.message;
        there.attempts = other.attempts;
        there.next_attempt = other.next_attempt;
    }
}

impl Image {
    pub(super) fn record(&self, key: &Key) -> MirroredImage {
        let (state, message) = match &self.status.state {
            ImageState::Pending => (MirroredState::Pending, None),
            // It was found damaged and is about to be copied again.
            ImageState::Mirrored(_) if self.digest.is_none() => (MirroredState::Pending, None),
            ImageState::Mirrored(_) => {
                let mut said = self.missing_messages().join("; ");
                if let Some(drift) = self.drift() {
                    let and = if said.is_empty() { "" } else { "; " };
                    said = format!("{drift}{and}{said}");
                }
                (
                    MirroredState::Mirrored,
                    Some(said).filter(|it| !it.is_empty()),
                )
            }
            ImageState::Failing(message) => (MirroredState::Failing, Some(message.clone())),
            ImageState::Error(message) => (MirroredState::Error, Some(message.clone())),
            ImageState::Waiting(lack) => (MirroredState::Waiting, Some(lack.to_string())),
            ImageState::SourceGone(absence) => {
                (MirroredState::SourceGone, Some(absence.to_string()))
            }
        };
        MirroredImage {
            reference: self.wanted.source.to_string(),
            destination: key.to_string(),
            state,
            digest: self.digest.or(self.remembered).map(|d| d.to_string()),
            sparse: self.sparse.is_sparse(),
            missing: self.missing(),
            message: message.map(|message| cut(&message, MAX_MESSAGE)),
            attempts: (self.status.attempts > 0).then_some(self.status.attempts),
            next_attempt: self.status.next_try.map(|at| at.to_string()),
            verified: self.verified.map(|at| at.to_string()),
        }
    }

    fn drift(&self) -> Option<String> {
        Some(pinned(&self.drifted?))
    }

    /// Restores an image. It is due unless it is known to be mirrored or has failed.
    fn take_in(&mut self, record: &MirroredImage, now: Timestamp) {
        let time = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        self.digest = record
            .digest
            .as_ref()
            .and_then(|text| Digest::parse(text).ok());
        self.take_in_missing(&record.missing, now);
        self.verified = time(&record.verified);
        let message = || record.message.clone().unwrap_or_default();
        let state = match (record.state, self.digest) {
            (MirroredState::Mirrored, Some(digest)) => ImageState::Mirrored(digest),
            (MirroredState::Failing, _) => ImageState::Failing(message()),
            (MirroredState::Error, _) => ImageState::Error(message()),
            (MirroredState::SourceGone, Some(_)) => {
                // Attempts mark a host that no longer resolves: see `ImageProgress::source_gone`.
                let is_host = record.attempts.is_some();
                ImageState::SourceGone(if is_host { Absence::Host } else { Absence::Tag })
            }
            _ => return,
        };
        self.phase = Phase::Resting;
        self.status = match state {
            ImageState::Mirrored(_) | ImageState::SourceGone(Absence::Tag) => ImageProgress {
                state,
                ..ImageProgress::default()
            },
            _ => ImageProgress {
                state,
                attempts: record.attempts.unwrap_or(1),
                next_try: time(&record.next_attempt).map(|at| RetryPolicy::bounded(at, now)),
            },
        };
    }
}
