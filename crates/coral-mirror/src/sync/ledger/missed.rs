//! Images that are at the destination without some of their referrers.

use coral_image::Digest;

use super::Ledger;
use crate::progress::Key;

/// What a record says of such an image; a restored ledger knows it by that.
pub(crate) const MISSED: &str =
    "some of its referrers could not be copied: they are tried again in each pass";

impl Ledger {
    /// An image is at the destination at this digest. Whether a copy is to bring referrers that were
    /// missed.
    pub(in crate::sync) fn begins_to_complete(&mut self, key: &Key, digest: Digest) -> bool {
        let begins = self.change(key, |image| {
            let begins = image.missed && image.wanted.referrers;
            image.completes = begins.then_some(digest);
            begins
        });
        begins.unwrap_or(false)
    }

    /// The digest at which an image is there, if the copy that is due brings only what was missed.
    pub(in crate::sync) fn completes(&self, key: &Key) -> Option<Digest> {
        self.images.get(key)?.completes
    }
}
