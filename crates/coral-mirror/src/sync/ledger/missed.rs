//! Images at the destination that lack some of their referrers or foreign layers.

use std::time::Duration;

use coral_api::mirrored_images::MissingPart;
use coral_image::Digest;
use jiff::{SignedDuration, Timestamp};

use super::{Image, Ledger, verification_phase};
use crate::copy::{Layers, Sparse};
use crate::progress::Key;

/// How long to trust a source that it does not have a foreign layer.
const ASK_AGAIN: Duration = Duration::from_hours(24);

impl Ledger {
    /// Records that an image is at the destination with this digest and lacks `sparse`. Returns
    /// whether a copy should add missed referrers or omitted foreign layers.
    pub(in crate::sync) fn begins_to_complete(
        &mut self,
        key: &Key,
        digest: Digest,
        sparse: Sparse,
        now: Timestamp,
    ) -> bool {
        let begins = self.change(key, |image| {
            // Kept, so that the status shows it while they are missing.
            image.sparse = sparse.or_known(image.sparse);
            let begins = (image.missed && image.wanted.referrers) || image.may_get_layers(now);
            image.completes = begins.then_some(digest);
            begins
        });
        begins.unwrap_or(false)
    }

    /// Records the end of a copy that should have added what an image lacks: its source is asked
    /// again for missing foreign layers in a day.
    pub(in crate::sync) fn asked_for_layers(&mut self, key: &Key, now: Timestamp) {
        self.change(key, |image| image.layers_asked = Some(now));
    }

    /// Records that what an image lacks could not be copied. Returns whether wanted foreign layers
    /// are part of it and that is new since the last copy.
    pub(in crate::sync) fn could_not_complete(&mut self, key: &Key) -> bool {
        let is_new = self.change(key, |image| {
            let lacks_layers = match image.sparse.layers {
                Layers::Complete => false,
                Layers::LeftOut => image.wanted.foreign_layers,
                Layers::NotAtSource => true,
            };
            let is_new = lacks_layers && !image.layers_failed;
            image.layers_failed |= is_new;
            is_new
        });
        is_new.unwrap_or(false)
    }

    /// The digest at which an image is there, if the pending copy only adds what was missed.
    pub(in crate::sync) fn completes(&self, key: &Key) -> Option<Digest> {
        self.images.get(key)?.completes
    }

    /// What is known about an image's foreign layers at the destination.
    pub(in crate::sync) fn layers(&self, key: &Key) -> Layers {
        let image = self.images.get(key);
        image.map_or(Layers::Complete, |image| image.sparse.layers)
    }
}

impl Image {
    /// Whether a copy may add foreign layers that are missing at the destination. A source that
    /// does not have them may get them later.
    fn may_get_layers(&self, now: Timestamp) -> bool {
        match self.sparse.layers {
            Layers::Complete => false,
            Layers::LeftOut => self.wanted.foreign_layers,
            Layers::NotAtSource => {
                let again = self.layers_asked.map(|asked| asked.checked_add(ASK_AGAIN));
                again.is_none_or(|at| at.is_ok_and(|at| at <= now))
            }
        }
    }

    /// Its parts that are missing at the destination.
    pub(super) fn missing(&self) -> Vec<MissingPart> {
        let mut parts = self.sparse.parts();
        parts.extend(self.missed.then_some(MissingPart::Referrers));
        parts
    }

    /// Restores that from a record. Its source is asked for foreign layers once within a day, each
    /// image at a different time.
    pub(super) fn take_in_missing(&mut self, parts: &[MissingPart], now: Timestamp) {
        self.missed = parts.contains(&MissingPart::Referrers);
        self.sparse = Sparse::from_parts(parts);
        self.layers_asked = last_turn(verification_phase(&self.wanted.key), now);
    }

    /// Messages about its missing parts, except platforms, which the mirror's settings exclude.
    pub(super) fn missing_messages(&self) -> Vec<&'static str> {
        let layers = match self.sparse.layers {
            Layers::LeftOut if self.wanted.foreign_layers => Some(
                "some of its foreign layers could not be copied; they are retried in each pass",
            ),
            Layers::LeftOut => Some(
                "its foreign layers were left out and stay at the URLs that its manifest names",
            ),
            Layers::NotAtSource => Some(
                "its source does not have some of its foreign layers, which stay at the URLs that its \
                 manifest names; it is asked again once a day",
            ),
            Layers::Complete => None,
        };
        let referrers = self
            .missed
            .then_some("some of its referrers could not be copied; they are retried in each pass");
        referrers.into_iter().chain(layers).collect()
    }
}

/// The last time that an image's turn of the day came; it is the same after each restart. `turn` is
/// a fraction of the day, from 0 to 1.
pub(super) fn last_turn(turn: f64, now: Timestamp) -> Option<Timestamp> {
    let day = SignedDuration::try_from(ASK_AGAIN).ok()?.as_secs();
    let turn = SignedDuration::try_from(ASK_AGAIN.mul_f64(turn)).ok()?;
    let ago = (now.as_second() - turn.as_secs()).rem_euclid(day);
    now.checked_sub(SignedDuration::from_secs(ago)).ok()
}
