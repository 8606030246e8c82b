//! What a mirror knows, in a form that survives its process.
//!
//! Everything is keyed by name, so a list of repositories may be reordered meanwhile.

use std::collections::BTreeMap;

use coral_api::mirrored_images::{MirroredImage, MirroredState, MissingPart};
use coral_api::{MirroredRepository, PruningStatus};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a mirror knows about its repositories and images.
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
    /// Whether deletions are paused.
    pub pruning: PruningStatus,
    /// Repositories in which no tag is deleted, each with the mirror that does not know what it
    /// wants there.
    pub held_back: BTreeMap<String, String>,
    /// The repositories, each once, sorted by name. `images` is absent if the repository was never
    /// listed; `visibility` and `loaded` are unknown here. A repository that is missing, or was
    /// neither listed nor failed, is listed at once.
    pub repositories: Vec<MirroredRepository>,
    /// Whether `images` only records what was mirrored: a mirror that starts from it counts none of
    /// them as mirrored, compares all of them once their repositories are listed, and finds out
    /// which tags have moved meanwhile, and where.
    pub is_memory: bool,
    /// The images.
    pub images: Vec<MirroredImage>,
}

impl Snapshot {
    /// Keeps only what no comparison can find out: the digests of mirrored images, and which of
    /// them lack referrers or foreign layers; see [`Self::is_memory`].
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
