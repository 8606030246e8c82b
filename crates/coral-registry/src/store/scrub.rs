//! What a scrub looks for, and what came of it.

use std::fmt::Display;
use std::time::SystemTime;

use coral_image::{Digest, RepositoryPath};

/// Images and repositories that a line names.
const MOST_NAMED: usize = 10;

/// How a scrub reads the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubRules {
    /// Bytes per second that are read at most; none: as fast as it goes.
    pub bandwidth: Option<u64>,
    /// Only reports what is damaged: nothing is moved and nothing is written.
    pub report_only: bool,
}

/// What a round of a scrub did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Blobs and manifests that were read.
    pub contents: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blobs and manifests that are damaged.
    pub damaged: u64,
    /// Blobs and manifests that may be damaged: they could not be read, or two readings differed.
    /// They stay where they are.
    pub unsure: u64,
    /// Blobs and manifests that were moved aside, were read again and found whole, and are back.
    pub back: u64,
    /// How it ended.
    pub end: RoundEnd,
}

/// How a round of a scrub ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RoundEnd {
    /// It was told to stop; the next one goes on where it was.
    #[default]
    Stopped,
    /// All content was read.
    Complete,
    /// So much could not be read or was damaged that the disk or the memory is suspected. The
    /// next round reads what this one did not get to.
    Doubtful,
}

/// Content that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What it should hash to.
    pub digest: Digest,
    /// Length of the file, in bytes.
    pub size: u64,
    /// What is wrong with it.
    pub reason: String,
    /// The repositories that have it.
    pub repositories: Vec<RepositoryPath>,
    /// Images that need it, as `repository:tag`: the first few that were found.
    pub images: Vec<String>,
    /// Whether it was moved aside, so that it is served no more.
    pub is_aside: bool,
}

/// The first ten of these names, and how many more there are.
pub fn first_names(names: &[impl Display]) -> String {
    if names.is_empty() {
        return "(none)".to_owned();
    }
    let first = names.iter().take(MOST_NAMED).map(ToString::to_string);
    let text = first.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Hears what a scrub does, while it does it.
pub trait ScrubWatch: Send + Sync + 'static {
    /// So many bytes were read.
    fn read(&self, bytes: u64);

    /// Content is damaged.
    fn damaged(&self, damage: Damage);

    /// Content that was found damaged earlier is still missing: told when a round begins or goes
    /// on, of the first few.
    fn missing(&self, digest: &Digest, repositories: &[RepositoryPath]);
}

/// When rounds of the scrub began and ended, as the store remembers it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubState {
    /// When the last round began; none: there was none.
    pub began: Option<SystemTime>,
    /// Whether that round is to be gone on with.
    pub is_open: bool,
    /// When a round last came to its end with all content read.
    pub completed: Option<SystemTime>,
    /// How much of the content the open round has read, in percent, some time ago; 0 if none is
    /// open.
    pub percent: u8,
    /// Blobs and manifests that were moved aside and are not back.
    pub missing: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_some_and_counts_the_others() {
        assert_eq!(first_names(&["a"; 0]), "(none)");
        assert_eq!(first_names(&["a", "b"]), "a, b");
        assert!(first_names(&["a"; 10]).ends_with(", a"));
        assert!(first_names(&["a"; 12]).ends_with(", a and 2 more"));
    }
}
