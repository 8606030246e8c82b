//! The state of a mirror, in counts.

use coral_api::PruningStatus;
use jiff::Timestamp;

use crate::snapshot::Snapshot;

/// Counts of a mirror's images, and what comes next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Images wanted.
    pub desired: usize,
    /// Complete at the destination, even while a later comparison fails.
    pub mirrored: usize,
    /// Images whose index names platforms that were left out.
    pub sparse: usize,
    /// Of those mirrored: some of their referrers could not be copied and are retried in each pass.
    pub missed: usize,
    /// Neither at the destination nor failed: about to be compared, or being copied.
    pub pending: usize,
    /// Failed and retried; repositories that could not be listed are counted here too.
    pub failing: usize,
    /// Failed as often as the limit.
    pub errors: usize,
    /// Waiting for space at the destination, which is full.
    pub waiting: usize,
    /// Of those failing or in error: repositories whose tags could not be listed, or deleted.
    pub repositories: Repositories,
    /// Of those mirrored: gone at their source.
    pub source_gone: usize,
    /// Whether deletions are paused.
    pub pruning: PruningStatus,
    /// Bytes moved over the network.
    pub moved: u64,
    /// Tags deleted at the destination so far.
    pub pruned: usize,
    /// When the next failed image is retried.
    pub next_try: Option<Timestamp>,
    /// When the last pass over everything ended.
    pub last_pass: Option<Timestamp>,
    /// When everything is compared again.
    pub next_pass: Option<Timestamp>,
    /// Whether nothing is being compared or copied.
    pub quiet: bool,
}

impl Summary {
    /// The counts of several mirrors together.
    pub fn total<'a>(summaries: impl IntoIterator<Item = &'a Self>) -> Self {
        let start = Self {
            quiet: true,
            ..Self::default()
        };
        summaries.into_iter().fold(start, |sum, one| Self {
            desired: sum.desired + one.desired,
            mirrored: sum.mirrored + one.mirrored,
            sparse: sum.sparse + one.sparse,
            missed: sum.missed + one.missed,
            pending: sum.pending + one.pending,
            failing: sum.failing + one.failing,
            errors: sum.errors + one.errors,
            waiting: sum.waiting + one.waiting,
            repositories: Repositories {
                failing: sum.repositories.failing + one.repositories.failing,
                errors: sum.repositories.errors + one.repositories.errors,
            },
            source_gone: sum.source_gone + one.source_gone,
            pruning: PruningStatus {
                paused: sum.pruning.paused || one.pruning.paused,
                accepted: sum.pruning.accepted.saturating_add(one.pruning.accepted),
                counted: sum.pruning.counted.saturating_add(one.pruning.counted),
                confirmed: None,
            },
            moved: sum.moved.saturating_add(one.moved),
            pruned: sum.pruned + one.pruned,
            next_try: sum.next_try.into_iter().chain(one.next_try).min(),
            last_pass: sum.last_pass.max(one.last_pass),
            next_pass: sum.next_pass.into_iter().chain(one.next_pass).min(),
            quiet: sum.quiet && one.quiet,
        })
    }
}

/// A mirror that has ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ended {
    /// Its counts at the end.
    pub summary: Summary,
    /// What it knew about its repositories and images.
    pub snapshot: Snapshot,
}

/// Counts of repositories that failed as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repositories {
    /// Failed and retried.
    pub failing: usize,
    /// Failed as often as the limit.
    pub errors: usize,
}
