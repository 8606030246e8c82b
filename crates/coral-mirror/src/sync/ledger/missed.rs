//! Images that are at the destination without some of their referrers or foreign layers.

use coral_image::Digest;

use super::{Image, Ledger};
use crate::copy::{Layers, Sparse};
use crate::progress::Key;

/// What a record says of an image without some of its referrers. A restored ledger knows it by that,
/// and the others by the messages below.
const MISSED: &str = "some of its referrers could not be copied: they are tried again in each pass";
const LEFT_OUT: &str =
    "its foreign layers were left out, and stay at the URLs that its manifest names";
const LEFT_OUT_SO_FAR: &str =
    "some of its foreign layers could not be copied: they are tried again in each pass";
const NOT_AT_SOURCE: &str = "its source does not have some of its foreign layers, which stay at the URLs that its manifest names";

/// Whether a record's message says what of a mirrored image is missing, which no comparison finds
/// out.
pub(crate) fn says_what_is_missing(message: &str) -> bool {
    [MISSED, LEFT_OUT, LEFT_OUT_SO_FAR, NOT_AT_SOURCE].contains(&message)
}

impl Ledger {
    /// An image is at the destination at this digest, and is seen to lack this. Whether a copy is
    /// to bring referrers that were missed, or foreign layers that were left out.
    pub(in crate::sync) fn begins_to_complete(
        &mut self,
        key: &Key,
        digest: Digest,
        sparse: Sparse,
    ) -> bool {
        let begins = self.change(key, |image| {
            // Kept, so that the status says it while they are not there.
            image.sparse = sparse.or_known(image.sparse);
            let lacks_layers = image.sparse.layers == Layers::LeftOut;
            let begins = (image.missed && image.wanted.referrers)
                || (lacks_layers && image.wanted.foreign_layers);
            image.completes = begins.then_some(digest);
            begins
        });
        begins.unwrap_or(false)
    }

    /// The digest at which an image is there, if the copy that is due brings only what was missed.
    pub(in crate::sync) fn completes(&self, key: &Key) -> Option<Digest> {
        self.images.get(key)?.completes
    }

    /// What is known of an image's foreign layers at the destination.
    pub(in crate::sync) fn layers(&self, key: &Key) -> Layers {
        let image = self.images.get(key);
        image.map_or(Layers::Complete, |image| image.sparse.layers)
    }
}

impl Image {
    /// What a record says is missing of a mirrored image.
    pub(super) fn missing(&self) -> Option<&'static str> {
        match self.sparse.layers {
            _ if self.missed => Some(MISSED),
            Layers::LeftOut if self.wanted.foreign_layers => Some(LEFT_OUT_SO_FAR),
            Layers::LeftOut => Some(LEFT_OUT),
            Layers::NotAtSource => Some(NOT_AT_SOURCE),
            Layers::Complete => None,
        }
    }

    /// Reads that again.
    pub(super) fn take_in_missing(&mut self, message: Option<&str>, is_sparse: bool) {
        self.missed = message == Some(MISSED);
        let layers = match message {
            Some(LEFT_OUT | LEFT_OUT_SO_FAR) => Layers::LeftOut,
            Some(NOT_AT_SOURCE) => Layers::NotAtSource,
            _ => Layers::Complete,
        };
        let platforms = is_sparse && layers == Layers::Complete;
        self.sparse = Sparse { platforms, layers };
    }
}
