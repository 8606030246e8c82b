//! Rules and results of a collection.

use std::time::Duration;

/// What a collection deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionRules {
    /// How long unreferenced blobs are kept after a client was last told that they exist.
    pub grace: Duration,
    /// How long manifests are kept that no tag, index or referrer reaches; `None` is forever.
    pub untagged: Option<Duration>,
    /// Only counts what would be deleted.
    pub dry_run: bool,
    /// How fast it runs.
    pub pace: Pace,
}

/// How fast a collection runs, and how much it disturbs other work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// In short turns with an equal rest after each, so that clients are served meanwhile.
    Beside,
    /// As fast as possible, because nothing else runs.
    Alone,
}

/// What a collection deleted, or would have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Untagged manifests.
    pub manifests: u64,
    /// Blobs removed from a repository.
    pub links: u64,
    /// Blobs and manifests whose content was deleted.
    pub contents: u64,
    /// Bytes of that content.
    pub bytes: u64,
    /// Blobs and manifests that stay.
    pub kept_contents: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Repositories with an unreadable manifest. What it references is unknown, so all blobs of the
    /// repository stay.
    pub unreadable: u64,
    /// Whether the collection ran to its end.
    pub is_complete: bool,
}

impl Collected {
    /// Whether nothing was deleted.
    pub fn is_nothing(&self) -> bool {
        self.manifests == 0 && self.links == 0 && self.contents == 0
    }
}
