//! The settings of a registry.

use std::sync::Arc;
use std::time::Duration;

use coral_image::{Host, RepositoryPath};
use coral_token::PublicKeys;

use crate::access::Access;
use crate::store::{ReadOnlySource, SpaceBounds};

/// The settings of a registry; can be replaced while it serves.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who may read and write.
    pub access: Access,
    /// The keys whose signed tokens are accepted. If set, the user `token` logs in with a token; if
    /// not, tokens are ignored.
    pub token_keys: Option<PublicKeys>,
    /// Whether anything can be written at all.
    pub writes: Writes,
    /// Limits for clients.
    pub limits: Limits,
    /// When unused content is deleted.
    pub collection: CollectionSettings,
    /// When content is verified.
    pub scrub: ScrubSettings,
    /// How much the store accepts.
    pub space: SpaceBounds,
    /// Sources that are served instead of what the store has at their paths.
    pub read_only_sources: Arc<[ReadOnlySource]>,
    /// The registry's own names. Requests with one of these as `ns=` are for its own repositories,
    /// and an open registry on loopback answers requests for these names too.
    pub names: Vec<Host>,
}

impl Settings {
    /// Whether the repository takes no writes because it is served from elsewhere.
    pub(crate) fn is_read_only(&self, path: &RepositoryPath) -> bool {
        let mut all = self.read_only_sources.iter();
        all.any(|one| one.repository == *path)
    }
}

/// When unused content is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionSettings {
    /// Whether the registry collects at all.
    pub is_on: bool,
    /// Time from the end of one collection to the beginning of the next one.
    pub interval: Duration,
    /// How long unreferenced blobs are kept after a client was last told that they exist.
    pub grace: Duration,
    /// How long manifests are kept that no tag, index or referrer reaches; `None` is forever.
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

/// When content is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Time from the start of one round to the start of the next, unless a round takes longer.
    pub interval: Duration,
    /// Most bytes per second that are read; 0 turns scrubbing off.
    pub bandwidth: u64,
    /// Whether damaged content is only reported and not moved.
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
    /// By clients that may write.
    #[default]
    Allowed,
    /// Only by the embedding program; all others may only read.
    Refused,
}

/// Limits for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest blob, in bytes; `None` is no limit.
    pub blob_bytes: Option<u64>,
    /// How many uploads may be open at once.
    pub open_uploads: u64,
    /// How long an upload is kept after the last bytes were added.
    pub upload_expiry: Duration,
    /// How long a client may take for the least number of bytes of a body; only progress counts,
    /// not the time for all of it.
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
