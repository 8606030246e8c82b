//! Garbage collection, concurrent with all other operations of the store.
//!
//! 1. **Repositories**, one after the other: read what the manifests reference; remove untagged
//!    manifests if the settings say so; remove links to blobs that no manifest references and that
//!    have no lease (`leases.rs`). Mark what stays.
//! 2. **Contents**, shelf by shelf: delete what is neither marked nor held.
//!
//! Why concurrent pushes lose nothing:
//! - A manifest that was stored before its repository is read is seen, because the repository's
//!   lock is taken once in between. A later one has renewed the leases of its blobs after that
//!   moment. A lease that has not expired when the repository is read is honoured; it is checked
//!   again right before the unlink, under the lock that renewals take.
//! - A link or record that is made after its repository was read belongs to content that was held
//!   meanwhile. That is checked under the content's lock, right before the unlink.
//! - Links are gone from the disk before content is touched, so no crash leaves a link without
//!   content.
//! - A folder of repositories that is missing or empty by mistake has no mark (`open.rs`), without
//!   which nothing is collected.
//! - An error ends the collection before it touches content, because not everything is marked then.
//!
//! If a collection finds nothing to delete now or later, the next one is skipped until a file of
//! the store is created, renamed or removed.
//!
//! It needs about 16 bytes of memory for each blob of the store (hashes of digests; two digests
//! with the same hash are kept together) and for each link of the current repository. No lock is
//! held for longer than one file takes, and [`WorkTurns`] yields to other work.

mod contents;
mod graph;
mod repository;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use coral_image::{Algorithm, Digest, RepositoryPath};
use tokio_util::sync::CancellationToken;

use super::Files;
use super::lookup::names_in;
use crate::store::{Collected, CollectionRules, Pace, StoreError};

pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
/// Files that are examined in one turn, which takes a few milliseconds.
const TURN: u32 = 32;
const LONGEST_REST: Duration = Duration::from_millis(50);
/// A settled store is collected again after this time, in case a person changed its files.
const SETTLED_FOR: Duration = Duration::from_hours(6);

/// Why a collection ended early.
#[derive(Debug)]
enum Ended {
    Stopped,
    Failed(StoreError),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// One collection.
struct Pass<'a> {
    files: &'a Files,
    rules: &'a CollectionRules,
    turns: WorkTurns<'a>,
    /// Content that a link or a record refers to.
    marked: HashSet<u64>,
    collected: Collected,
    /// Whether something is kept only until it is old enough, or until it is no longer held or
    /// damaged.
    is_waiting: bool,
}

/// The state of the store when a collection found nothing to do, now or later.
#[derive(Debug)]
pub(super) struct NothingToCollect {
    /// [`Durable::changes`](super::durable::Durable::changes) when it began.
    changes: u64,
    /// When, by the store's clock.
    at: SystemTime,
    grace: Duration,
    collected: Collected,
}

impl NothingToCollect {
    /// Whether a collection would still find nothing to do.
    fn still(&self, changes: u64, now: SystemTime, rules: &CollectionRules) -> Option<Collected> {
        let is_recent = now.duration_since(self.at).is_ok_and(|it| it < SETTLED_FOR);
        // A new grace time has to be written into the clock, and untagged manifests get older.
        let is_same = self.changes == changes && self.grace == rules.grace;
        (is_same && is_recent && rules.untagged.is_none()).then_some(self.collected)
    }
}

impl Files {
    /// Collects once. Does nothing if a collection is already running.
    pub(super) fn collect(
        &self,
        rules: &CollectionRules,
        stop: &CancellationToken,
    ) -> Result<Collected, StoreError> {
        let mut settled = match self.collecting.try_lock() {
            Ok(settled) => settled,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return Ok(Collected::default()),
        };
        let changes = self.durable.changes();
        let now = self.leases.now();
        let still = settled
            .as_ref()
            .and_then(|it| it.still(changes, now, rules));
        if let Some(collected) = still {
            // Problems are reported all the same.
            self.check_repositories()?;
            return Ok(collected);
        }
        *settled = None;
        let _collecting = self.leases.begin(rules.grace);
        // On a full disk, the collection is what frees space, so it goes ahead: a clock that does
        // not advance only makes leases longer.
        if let Err(error) = self.leases.save() {
            tracing::warn!(%error, "the store's clock cannot be written");
        }
        let mut pass = Pass {
            files: self,
            rules,
            turns: WorkTurns::new(rules.pace, stop),
            marked: HashSet::new(),
            collected: Collected::default(),
            is_waiting: false,
        };
        match pass.run() {
            Ok(()) => pass.collected.is_complete = true,
            Err(Ended::Stopped) => {}
            Err(Ended::Failed(error)) => return Err(error),
        }
        let collected = pass.collected;
        if collected.is_complete && collected.is_nothing() && !pass.is_waiting {
            *settled = Some(NothingToCollect {
                changes,
                at: now,
                grace: rules.grace,
                collected,
            });
        }
        Ok(collected)
    }
}

impl Pass<'_> {
    fn run(&mut self) -> Result<(), Ended> {
        // Checked before and after, so that the marks come from the folder that the content belongs
        // to.
        self.files.check_repositories()?;
        self.repositories(&self.files.layout.repositories(), "")?;
        self.files.check_repositories()?;
        self.contents()?;
        self.damaged()
    }

    /// Visits every folder that may be a repository, since one without manifests may still have
    /// links.
    fn repositories(&mut self, folder: &Path, prefix: &str) -> Result<(), Ended> {
        for name in names_in(folder)? {
            let path = format!("{prefix}{name}");
            // Folders inside a repository begin with an underscore; the name of a repository never
            // does.
            let Ok(repository) = RepositoryPath::parse(&path) else {
                continue;
            };
            self.files.check_folder()?;
            self.repository(&repository)?;
            self.repositories(&folder.join(&name), &format!("{path}/"))?;
        }
        Ok(())
    }

    fn mark(&mut self, digest: &Digest) {
        self.marked.insert(self.files.leases.key(digest));
    }
}

/// The digest that a file is named after.
pub(super) fn digest_from_name(algorithm: Algorithm, name: &str) -> Option<Digest> {
    Digest::parse(&format!("{algorithm}:{name}")).ok()
}

/// Yields to other work between two turns.
struct WorkTurns<'a> {
    pace: Pace,
    stop: &'a CancellationToken,
    steps: u32,
    since: Instant,
}

impl<'a> WorkTurns<'a> {
    fn new(pace: Pace, stop: &'a CancellationToken) -> Self {
        Self {
            pace,
            stop,
            steps: 0,
            since: Instant::now(),
        }
    }

    /// Call it for each file, without holding a lock.
    fn step(&mut self) -> Result<(), Ended> {
        if self.stop.is_cancelled() {
            return Err(Ended::Stopped);
        }
        self.steps += 1;
        if self.steps >= TURN {
            if self.pace == Pace::Beside {
                std::thread::sleep(self.since.elapsed().min(LONGEST_REST));
            }
            self.steps = 0;
            self.since = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
