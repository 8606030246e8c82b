//! What a mirror knows, in a form that survives its process.
//!
//! Everything is keyed by name: a list of repositories that was reordered meanwhile does no harm.

use coral_api::mirrored_images::MirroredImage;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest message of a snapshot, in characters.
pub(crate) const MAX_MESSAGE: usize = 1024;

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
    /// The repositories that were listed, or whose listing failed. A repository that is missing
    /// here is listed at once.
    pub repositories: Vec<RepositoryRecord>,
    /// The images.
    pub images: Vec<MirroredImage>,
}

/// What a mirror knows of one repository as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RepositoryRecord {
    /// The source: `quay.io/org/app`.
    pub name: String,
    /// Why its tags could not be listed or deleted; absent while they could.
    pub failure: Option<RepositoryFailure>,
    /// How many tags it has, where `select` fits none of them.
    pub unmatched: Option<usize>,
}

/// Why a repository as a whole failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RepositoryFailure {
    /// What is wrong, in words.
    pub message: String,
    /// Failures in a row.
    pub attempts: u32,
    /// When it is tried again; absent while it waits for the next pass or a change.
    pub next_attempt: Option<Timestamp>,
    /// Whether it failed as often as the limit says.
    pub in_error: bool,
}

/// The beginning of a message, no longer than a snapshot takes.
pub(crate) fn bounded(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}
