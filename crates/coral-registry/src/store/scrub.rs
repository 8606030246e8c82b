//! Rules and results of a scrub.

use std::fmt::Display;
use std::time::SystemTime;

use coral_image::{Digest, RepositoryPath};

/// How many images and repositories a message names.
const MOST_NAMED: usize = 10;

/// How a scrub reads the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubRules {
    /// Most bytes per second that are read; `None` is no limit.
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
    /// Blobs and manifests that had been moved aside, proved to be sound, and were put back.
    pub back: u64,
    /// How it ended.
    pub end: RoundEnd,
}

/// How a round of a scrub ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RoundEnd {
    /// It was stopped; the next round continues where it was.
    #[default]
    Stopped,
    /// All content was read.
    Complete,
    /// So much was unreadable or damaged that the disk or the memory is suspected. The next round
    /// reads what this one did not reach.
    Doubtful,
}

/// Content that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The digest that it should have.
    pub digest: Digest,
    /// Length of the file, in bytes.
    pub size: u64,
    /// What is wrong with it.
    pub reason: String,
    /// The repositories that have it.
    pub repositories: Vec<RepositoryPath>,
    /// Images that need it, as `repository:tag`: the first few that were found.
    pub images: Vec<String>,
    /// Whether it was moved aside and is no longer served.
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

/// Is notified while a scrub runs.
pub trait ScrubWatch: Send + Sync + 'static {
    /// This many bytes were read.
    fn read(&self, bytes: u64);

    /// Content is damaged.
    fn damaged(&self, damage: Damage);

    /// Content that was found damaged earlier is still missing. Called when a round begins or
    /// continues, for the first few.
    fn missing(&self, digest: &Digest, repositories: &[RepositoryPath]);
}

/// When rounds of the scrub began and ended, as recorded by the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubState {
    /// When the last round began; `None` if there was none.
    pub began: Option<SystemTime>,
    /// Whether that round is unfinished.
    pub is_open: bool,
    /// When a round last read all content to its end.
    pub completed: Option<SystemTime>,
    /// How much of the content the open round had read at the last save, in percent; 0 if none is
    /// open.
    pub percent: u8,
    /// Blobs and manifests that were moved aside and have not been restored.
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
