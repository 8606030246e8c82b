//! What a mirror knows, in a form that survives its process.
//!
//! Everything is keyed by name: a list of repositories that was reordered meanwhile does no harm.

use std::collections::BTreeMap;

use coral_api::mirrored_images::{MirroredImage, MirroredState, MissingPart};
use coral_api::{MirroredRepository, PruningStatus};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a mirror knows of its repositories and images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// When everything is compared again. A mirror that is started from a snapshot without it
    /// compares everything at once.
    pub next_pass: Option<Timestamp>,
    /// Bytes moved over the network so far.
    pub moved: u64,
    /// Tags deleted at the destination so far.
    pub pruned: u64,
    /// Whether tags are deleted at present.
    pub pruning: PruningStatus,
    /// Repositories of which no tag is deleted, each with the mirror that cannot say what it wants of
    /// the same repository.
    pub held_back: BTreeMap<String, String>,
    /// The repositories, each once, in the order of their names. `images` is absent while the
    /// repository was never listed, and `visibility` and `loaded` are not known here. A repository
    /// that is missing, or was neither listed nor failed, is listed at once.
    pub repositories: Vec<MirroredRepository>,
    /// Whether `images` says only what was mirrored: a mirror that is started from it counts none of
    /// them as mirrored, compares all of them once their repositories are listed, and sees which
    /// tags were moved meanwhile, and where.
    pub is_memory: bool,
    /// The images.
    pub images: Vec<MirroredImage>,
}

impl Snapshot {
    /// Only what no comparison finds out: at which digests images were mirrored, and which of them
    /// lack referrers or foreign layers; see [`Self::is_memory`].
    #[must_use]
    pub fn into_memory(self) -> Self {
        let known = self
            .images
            .into_iter()
            .filter(|image| image.digest.is_some());
        let images = known.map(|image| MirroredImage {
            digest: image.digest,
            missing: image
                .missing
                .into_iter()
                .filter(|part| *part != MissingPart::Platforms)
                .collect(),
            ..MirroredImage::new(&image.reference, &image.destination, MirroredState::Pending)
        });
        Self {
            is_memory: true,
            images: images.collect(),
            ..Self::default()
        }
    }
}
