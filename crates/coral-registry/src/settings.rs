//! How a registry treats its clients.

use std::sync::Arc;
use std::time::Duration;

use coral_image::{Host, RepositoryPath};
use coral_token::PublicKeys;

use crate::access::Access;
use crate::store::{ReadOnlySource, SpaceBounds};

/// How a registry treats its clients; can be replaced while it serves.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who may read and write.
    pub access: Access,
    /// The keys whose signed tokens are taken; without them no token is looked at. With them, the
    /// user `token` is whom a token is for.
    pub token_keys: Option<PublicKeys>,
    /// Whether anything can be written at all.
    pub writes: Writes,
    /// Bounds for what clients do.
    pub limits: Limits,
    /// When what nothing holds is taken away.
    pub collection: CollectionSettings,
    /// When content is read to see whether it is whole.
    pub scrub: ScrubSettings,
    /// How much the store takes.
    pub space: SpaceBounds,
    /// What is served in place of what the store has there.
    pub read_only_sources: Arc<[ReadOnlySource]>,
    /// The registry's own names: requests with `ns=` one of these are for its own repositories, and
    /// one that only its own machine reaches answers to these names too.
    pub names: Vec<Host>,
}

impl Settings {
    /// Whether the repository takes no writes because it is served from elsewhere.
    pub(crate) fn is_read_only(&self, path: &RepositoryPath) -> bool {
        let mut all = self.read_only_sources.iter();
        all.any(|one| one.repository == *path)
    }
}

/// When what nothing holds is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionSettings {
    /// Whether the registry collects at all.
    pub is_on: bool,
    /// Time from the end of one collection to the beginning of the next one.
    pub interval: Duration,
    /// How long blobs stay that no manifest names, from the last answer that they are there.
    pub grace: Duration,
    /// How long manifests stay that no tag, index or referrer reaches; none: for ever.
    pub untagged: Option<Duration>,
}

impl Default for CollectionSettings {
    fn default() -> Self {
        Self {
            is_on: true,
            interval: Duration::from_hours(1),
            grace: Duration::from_hours(24),
            untagged: None,
        }
    }
}

/// When content is read to see whether it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Time from the beginning of one round to the beginning of the next one, where a round does
    /// not take longer.
    pub interval: Duration,
    /// Bytes per second that are read at most; 0: nothing is read.
    pub bandwidth: u64,
    /// Whether damaged content is only reported, and stays where it is.
    pub report_only: bool,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_hours(7 * 24),
            bandwidth: 10 << 20,
            report_only: false,
        }
    }
}

/// Whether anything can be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writes {
    /// By those who may.
    #[default]
    Allowed,
    /// By the program itself alone: all others read.
    Refused,
}

/// Bounds for what clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest blob, in bytes; none: as large as the storage.
    pub blob_bytes: Option<u64>,
    /// How many uploads may be open at once.
    pub open_uploads: u64,
    /// How long an upload is kept to which nothing is added.
    pub upload_expiry: Duration,
    /// How long a client may take for the least part of a body; what counts is that it goes on, not
    /// how long it takes in all.
    pub body_progress: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob_bytes: None,
            open_uploads: 10_000,
            upload_expiry: Duration::from_hours(24),
            body_progress: Duration::from_mins(2),
        }
    }
}
