//! Moved tags, and images that are gone at their source.

use coral_image::Digest;
use jiff::Timestamp;

use super::{Image, Ledger, Phase};
use crate::expand::Wanted;
use crate::progress::Key;
use crate::state::{Absence, ImageState};

/// How many attempts beyond the limit make a host whose name does not resolve count as gone: with
/// ten minutes between them about an hour, longer than most failures of a resolver. If the resolver
/// answers that there is no such name, each pass is one attempt.
const ATTEMPTS_BEYOND: u32 = 6;

/// The image, if something happened to it for the first time.
pub(in crate::sync) type NewlyChanged = Option<Wanted>;

impl Ledger {
    /// Records that an image is gone at its source while the destination has it. Returns the image
    /// if that is new.
    pub(in crate::sync) fn source_gone(
        &mut self,
        key: &Key,
        digest: Digest,
        now: Timestamp,
    ) -> NewlyChanged {
        self.change(key, |image| {
            image.phase = Phase::Resting;
            image.looked = Some(now);
            image.digest = Some(digest);
            image.gone(Absence::Tag)
        })?
    }

    /// Records that the image failed because the host name of its source does not resolve. After
    /// about an hour the host counts as gone.
    pub(in crate::sync) fn host_unknown(&mut self, key: &Key) -> NewlyChanged {
        let enough = self.policy.limit.saturating_add(ATTEMPTS_BEYOND);
        self.change(key, |image| {
            let is_enough = image.status.attempts >= enough && image.digest.is_some();
            is_enough.then(|| image.gone(Absence::Host)).flatten()
        })?
    }

    /// The same, if the tags of a repository could not be listed for that reason. Returns the
    /// images for which it is new.
    pub(in crate::sync) fn repository_unknown(&mut self, repository: usize) -> Vec<Wanted> {
        let enough = self.policy.limit.saturating_add(ATTEMPTS_BEYOND);
        if self.repositories[repository].status.attempts < enough {
            return vec![];
        }
        let is_held = |image: &Image| {
            image.repository == repository
                && image.digest.is_some()
                && image.phase == Phase::Resting
        };
        let images = self.images.iter().filter(|(_, image)| is_held(image));
        let keys: Vec<Key> = images.map(|(key, _)| key.clone()).collect();
        let gone = |key| {
            self.change(&key, |image| image.gone(Absence::Host))
                .flatten()
        };
        keys.into_iter().filter_map(gone).collect()
    }

    /// The images of a repository that are gone at its source.
    pub(in crate::sync) fn gone_images(&self, repository: usize) -> Vec<Wanted> {
        let is_gone = |image: &&Image| {
            let is_gone = matches!(image.status.state, ImageState::SourceGone(_));
            image.repository == repository && is_gone
        };
        let images = self.images.values().filter(is_gone);
        images.map(|image| image.wanted.clone()).collect()
    }

    /// The images of a repository, without those that its source reports as gone if these are to be
    /// deleted.
    pub(in crate::sync) fn remaining_images(
        &self,
        repository: usize,
        delete_gone: bool,
    ) -> Vec<Wanted> {
        let vanished = ImageState::SourceGone(Absence::Tag);
        let stays = |image: &&Image| {
            let is_deleted = delete_gone && image.status.state == vanished;
            image.repository == repository && !is_deleted
        };
        let images = self.images.values().filter(stays);
        images.map(|image| image.wanted.clone()).collect()
    }

    /// How many images their sources report as gone, and how many images there are.
    pub(in crate::sync) fn vanished(&self) -> (usize, usize) {
        (self.agenda.counts.vanished, self.images.len())
    }

    /// Records that the tag of an image was deleted at the destination.
    pub(in crate::sync) fn deleted(&mut self, key: &Key) {
        if let Some(image) = self.images.remove(key) {
            self.agenda.remove(key, &image);
        }
    }

    /// What is wanted for an image.
    pub(in crate::sync) fn wanted(&self, key: &Key) -> Option<&Wanted> {
        Some(&self.images.get(key)?.wanted)
    }

    /// The digest at which an image is mirrored, if that is known.
    pub(in crate::sync) fn held(&self, key: &Key) -> Option<Digest> {
        let image = self.images.get(key)?;
        match image.status.state {
            // Parts of it are damaged and about to be copied again.
            ImageState::Mirrored(digest) => Some(digest),
            _ => image.digest.or(image.remembered),
        }
    }

    /// The images that the destination is known to have, with their digests.
    pub(in crate::sync) fn held_images(&self) -> impl Iterator<Item = (&Wanted, Digest)> {
        let images = self.images.iter();
        images.filter_map(|(key, image)| Some((&image.wanted, self.held(key)?)))
    }

    /// Records that the mirror keeps an image whose tag has moved at its source. Returns the image
    /// if that is new.
    pub(in crate::sync) fn pinned(&mut self, key: &Key, at_source: Digest) -> NewlyChanged {
        self.change(key, |image| {
            let is_new = image.drifted != Some(at_source);
            image.drifted = Some(at_source);
            is_new.then(|| image.wanted.clone())
        })?
    }

    /// Records that the tag is the same on both sides.
    pub(in crate::sync) fn clear_drift(&mut self, key: &Key) {
        self.change(key, |image| image.drifted = None);
    }

    /// Whether an image is gone at its source.
    pub(in crate::sync) fn is_gone(&self, key: &Key) -> bool {
        let image = self.images.get(key);
        image.is_some_and(|image| matches!(image.status.state, ImageState::SourceGone(_)))
    }

    /// Records what the pending copy replaces at the destination.
    pub(in crate::sync) fn replaces(&mut self, key: &Key, digest: Option<Digest>) {
        self.change(key, |image| {
            image.replaces = digest;
            image.completes = None;
        });
    }

    /// What the copy of an image replaces at the destination.
    pub(in crate::sync) fn replaced(&self, key: &Key) -> Option<Digest> {
        self.images.get(key)?.replaces
    }
}

impl Image {
    /// Marks the image as gone. Returns what is wanted, if it was not gone before.
    fn gone(&mut self, absence: Absence) -> NewlyChanged {
        let is_new = !matches!(self.status.state, ImageState::SourceGone(_));
        self.status.source_gone(absence);
        is_new.then(|| self.wanted.clone())
    }
}
