//! What a collection takes away, and what came of it.

use std::time::Duration;

/// What a collection takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionRules {
    /// How long blobs stay that no manifest names, from the last answer that they are there.
    pub grace: Duration,
    /// How long manifests stay that no tag, index or referrer reaches; none: for ever.
    pub untagged: Option<Duration>,
    /// Only counts what would go.
    pub dry_run: bool,
    /// How much of the machine it takes.
    pub pace: Pace,
}

/// How much of the machine a collection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It rests as long as it works, in short turns: others are served meanwhile.
    Beside,
    /// As fast as it goes.
    Alone,
}

/// What a collection took away, or would have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests that nothing reached.
    pub manifests: u64,
    /// Blobs taken out of a repository.
    pub links: u64,
    /// Blobs and manifests whose content was deleted.
    pub contents: u64,
    /// Bytes of that content.
    pub bytes: u64,
    /// Blobs and manifests that stay.
    pub kept_contents: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Repositories with a manifest that cannot be read. What it names is not known, so their
    /// blobs stay.
    pub unreadable: u64,
    /// Whether it came to its end.
    pub is_complete: bool,
}

impl Collected {
    /// Whether nothing went.
    pub fn is_nothing(&self) -> bool {
        self.manifests == 0 && self.links == 0 && self.contents == 0
    }
}
