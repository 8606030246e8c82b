//! What happens while images are mirrored, as values for an observer.

use std::fmt;
use std::time::Duration;

use coral_image::{Digest, ImageRef, Repository, Version};
use serde::{Deserialize, Serialize};

use crate::copy::Sparse;
use crate::state::{FailureLevel, NextTry};

/// One image at its destination: the identity of a job, a state and a progress bar. Two sources for
/// one key are a conflict; one source in two mirrors is shared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Registry and path at the destination.
    pub repository: Repository,
    /// Tag, or digest.
    pub version: Version,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

impl Key {
    /// The key of an image at its destination; if the reference has a digest, the key uses it.
    pub fn from_reference(image: &ImageRef) -> Self {
        Self {
            repository: image.repository().clone(),
            version: image.version(),
        }
    }
}

/// Something that happened to an image.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A worker began; the sizes are not yet known.
    Started,
    /// The manifests were read: this many bytes of blobs belong to the image.
    Sized {
        /// Bytes of all distinct blobs.
        bytes: u64,
    },
    /// This many bytes were moved over the network.
    Moved {
        /// Bytes since the last event.
        bytes: u64,
    },
    /// This many bytes need not be moved: the destination has them.
    Spared {
        /// Bytes since the last event.
        bytes: u64,
    },
    /// The worker has ended. Another event reports the outcome, unless the copy was cancelled.
    Ended,
    /// The image is complete at the destination.
    Mirrored {
        /// What the key resolves to now.
        digest: Digest,
        /// What it resolved to before, if it was another image.
        replaced: Option<Digest>,
        /// Bytes moved over the network.
        moved: u64,
        /// What was left out on purpose.
        sparse: Sparse,
        /// Time since the worker began.
        elapsed: Duration,
    },
    /// It was already there.
    UpToDate {
        /// What the key resolves to.
        digest: Digest,
    },
    /// Parts of it are missing or damaged at the destination; it is copied again.
    Damaged {
        /// How many manifests and blobs.
        parts: usize,
    },
    /// It is gone at its source, but the destination has it. Reported once.
    SourceGone,
    /// The tag was found to name another image than before.
    TagMoved {
        /// Where it moved, and what follows.
        at: MovedAt,
        /// What was mirrored.
        from: Digest,
        /// What the tag is now.
        to: Digest,
    },
    /// About a mirror: too many of its images vanished at their sources in one pass, and no tag is
    /// deleted until a person has confirmed it.
    PruningPaused {
        /// How many vanished in this pass.
        new: usize,
        /// How many have vanished in all.
        vanished: usize,
        /// How many images the mirror has.
        images: usize,
    },
    /// About a mirror: deletions have been paused since an earlier pass, and more images have
    /// vanished since.
    PruningStaysPaused {
        /// How many have vanished in all.
        vanished: usize,
        /// How many images the mirror has.
        images: usize,
    },
    /// About a mirror: its destination is full, and images wait for space there. Reported once.
    WaitsForRoom {
        /// The error of the destination.
        error: &'a str,
    },
    /// About a mirror: no image waits for space any more.
    RoomAgain,
    /// Its tag was deleted at the destination.
    Pruned {
        /// Whether it is gone at its source; otherwise no mirror selects it any more.
        gone: bool,
    },
    /// Its tag would be deleted at the destination if this were not a dry run.
    WouldPrune {
        /// Whether it is gone at its source; otherwise no mirror selects it any more.
        gone: bool,
    },
    /// About a repository: `select` matches none of its tags.
    Unmatched {
        /// How many it has.
        tags: usize,
    },
    /// It failed.
    Failed {
        /// The whole chain of causes, in one line.
        error: &'a str,
        /// A bounded label: `not_found`, `dns`, `rate_limited` and so on.
        category: &'a str,
        /// How many failures in a row this was.
        attempts: u32,
        /// Whether that has reached the limit.
        level: FailureLevel,
        /// When it is retried.
        next: NextTry,
    },
}

/// Where a tag moved, and what the mirror does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MovedAt {
    /// At the source: the mirror follows.
    Source,
    /// At the source: the mirror keeps what it has.
    SourceAndKept,
    /// At the destination: the mirror puts it back.
    Destination,
}

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The mirror, as `namespace/name`; none for a copy that no mirror asked for.
    pub mirror: Option<&'a str>,
    /// What is copied: an image or a repository.
    pub source: &'a str,
    /// The destination. Without it, the event is about a whole repository, for example if its tags
    /// could not be listed.
    pub key: Option<&'a Key>,
}

/// Shows or records events. Called from many tasks at once; must not block.
pub trait Observer: Send + Sync {
    /// Called once for each event.
    fn observe(&self, subject: &Subject<'_>, event: &Event<'_>);
}
