//! What a mirror knows, in a form that survives its process.
//!
//! Everything is keyed by name: a list of repositories that was reordered meanwhile does no harm.

use coral_api::mirrored_images::MirroredImage;
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
    /// The repositories, each once, in the order of their names. `images` is absent while the
    /// repository was never listed, and `visibility` and `loaded` are not known here. A repository
    /// that is missing, or was neither listed nor failed, is listed at once.
    pub repositories: Vec<MirroredRepository>,
    /// The images.
    pub images: Vec<MirroredImage>,
}
