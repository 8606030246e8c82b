//! The ledger written down, and read again by another process.

use std::collections::HashMap;
use std::time::Duration;

use coral_api::RepositorySettings;
use coral_api::mirrored_images::{MirroredImage, MirroredState};
use coral_image::{Digest, ImageRef, Repository as Name};
use jiff::Timestamp;

use super::{Image, Ledger, Phase, Repository, turn_of};
use crate::expand::wanted;
use crate::progress::Key;
use crate::snapshot::{RepositoryFailure, RepositoryRecord, Snapshot, bounded};
use crate::state::{ImageState, ImageStatus};

/// How much of a snapshot holds for the mirror that is started from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sync) enum Trust {
    /// All of it: its settings are those of the snapshot.
    Everything,
    /// What is at the destination. Failures and waits belong to the settings before.
    Contents,
}

impl Ledger {
    /// What is known, for a later [`Self::restore`]; `settings` are those of the repositories it
    /// was made for.
    pub(in crate::sync) fn snapshot(&self, settings: &[RepositorySettings]) -> Snapshot {
        let known = self.repositories.iter().zip(settings);
        let known = known.filter(|(repository, _)| repository.is_known);
        Snapshot {
            next_pass: None,
            moved: self.moved,
            pruned: self.pruned as u64,
            repositories: known.map(|(repository, s)| repository.record(s)).collect(),
            images: self
                .images
                .iter()
                .map(|(key, image)| image.record(key))
                .collect(),
        }
    }

    /// Takes in what an earlier process knew. `places` are the repositories at the destination, in
    /// the order of `settings`. What the settings do not name any more is left out, and so is what
    /// cannot be read; repositories of which nothing is known are due at once.
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
        let records: HashMap<&str, &RepositoryRecord> = snapshot
            .repositories
            .iter()
            .map(|record| (record.name.as_str(), record))
            .collect();
        for (repository, settings) in self.repositories.iter_mut().zip(settings) {
            let record = records.get(settings.repository.to_string().as_str());
            *repository = match record.filter(|_| trust == Trust::Everything) {
                Some(record) => Repository::restored(record),
                None => Repository::in_phase(Phase::Due, false),
            };
        }
        // Of entries with the same name the first has the images, until they are listed again.
        let mut numbers: HashMap<&Name, usize> = HashMap::new();
        for (number, place) in places.iter().enumerate() {
            numbers.entry(place).or_insert(number);
        }
        for record in &snapshot.images {
            let Ok(destination) = ImageRef::parse(&record.destination) else {
                continue;
            };
            let key = Key::of(&destination);
            let Some(&number) = numbers.get(&key.repository) else {
                continue;
            };
            let wanted = wanted(&settings[number], &key.repository, key.version.clone());
            let mut image = Image::new(wanted, number);
            image.take_in(record);
            if trust == Trust::Contents && !image.status.is_mirrored() {
                // Whether it is still wanted is known once its repository is listed. What the
                // destination holds stays known until then.
                if image.digest.is_none() {
                    continue;
                }
                image.status = ImageStatus::default();
                image.phase = Phase::Resting;
            }
            image.verify_at = self.restored_verification(&key, &image, now);
            if let Some(before) = self.images.remove(&key) {
                self.agenda.leaves(&key, &before);
            }
            self.agenda.joins(&key, &image);
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
            Some(verified) => (verified, verify.every),
            None => (now, verify.every.mul_f64(turn_of(key))),
        };
        from.checked_add(wait).ok()
    }
}

impl Repository {
    fn record(&self, settings: &RepositorySettings) -> RepositoryRecord {
        let (message, in_error) = match &self.status.state {
            ImageState::Failing(message) => (Some(message), false),
            ImageState::Error(message) => (Some(message), true),
            ImageState::Pending | ImageState::Mirrored(_) => (None, false),
        };
        RepositoryRecord {
            name: settings.repository.to_string(),
            failure: message.map(|message| RepositoryFailure {
                message: bounded(message),
                attempts: self.status.attempts,
                next_attempt: self.status.next_try,
                in_error,
            }),
            unmatched: self.unmatched,
        }
    }

    fn restored(record: &RepositoryRecord) -> Self {
        let mut repository = Self::in_phase(Phase::Resting, true);
        repository.unmatched = record.unmatched;
        if let Some(failure) = &record.failure {
            repository.status = ImageStatus {
                state: if failure.in_error {
                    ImageState::Error(failure.message.clone())
                } else {
                    ImageState::Failing(failure.message.clone())
                },
                attempts: failure.attempts,
                next_try: failure.next_attempt,
            };
        }
        repository
    }
}

impl Image {
    fn record(&self, key: &Key) -> MirroredImage {
        let (state, message) = match &self.status.state {
            ImageState::Pending => (MirroredState::Pending, None),
            ImageState::Mirrored(_) => (MirroredState::Mirrored, None),
            ImageState::Failing(message) => (MirroredState::Failing, Some(message)),
            ImageState::Error(message) => (MirroredState::Error, Some(message)),
        };
        MirroredImage {
            reference: self.wanted.source.to_string(),
            destination: key.to_string(),
            state,
            digest: self.digest.map(|digest| digest.to_string()),
            sparse: self.sparse,
            message: message.map(|message| bounded(message)),
            attempts: (self.status.attempts > 0).then_some(self.status.attempts),
            next_attempt: self.status.next_try.map(|at| at.to_string()),
            verified: self.verified.map(|at| at.to_string()),
        }
    }

    /// An image that is not known to be mirrored, and did not fail, is due.
    fn take_in(&mut self, record: &MirroredImage) {
        let time = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        self.digest = record
            .digest
            .as_ref()
            .and_then(|text| Digest::parse(text).ok());
        self.sparse = record.sparse;
        self.verified = time(&record.verified);
        let message = || record.message.clone().unwrap_or_default();
        let state = match (record.state, self.digest) {
            (MirroredState::Mirrored, Some(digest)) => ImageState::Mirrored(digest),
            (MirroredState::Failing, _) => ImageState::Failing(message()),
            (MirroredState::Error, _) => ImageState::Error(message()),
            _ => return,
        };
        self.phase = Phase::Resting;
        self.status = match state {
            ImageState::Mirrored(_) => ImageStatus {
                state,
                ..ImageStatus::default()
            },
            _ => ImageStatus {
                state,
                attempts: record.attempts.unwrap_or(1),
                next_try: time(&record.next_attempt),
            },
        };
    }
}
