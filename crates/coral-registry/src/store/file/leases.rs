//! Leases: the promise in a positive answer.
//!
//! A client that was told "this blob exists" (HEAD 200, mount 201, upload 201, an accepted
//! manifest) does not send the blob again, and names it in a manifest later. So every such answer
//! is a lease: during the grace time, no collection deletes the content that the answer was about.
//! This module grants the leases; `collect.rs` honours them.
//!
//! **A lease is the modification time of a file**: of the repository's link to the blob, or of the
//! record of a manifest. It costs no memory, disappears with the file, and survives a restart. It
//! is renewed only if it is older than an eighth of the grace time (`renewal`), and a collection
//! deletes only what is older than both together, so every answer holds for the whole grace time. A
//! renewal takes the same lock as the collection does to check and unlink.
//!
//! **Times are the store's own** (`clock.rs`): a clock that never goes back and advances only while
//! the store is served, so neither a jump of the wall clock nor a long stop ends a lease. After a
//! power cut, when renewals may be lost, every lease starts over.
//!
//! **A time that cannot be written** (the file belongs to another user, the disk is full or
//! read-only) does not fail the answer: the lease is kept in memory, and the next process starts
//! all leases over.
//!
//! **Content** (`blobs/`) has no lease: a link or a record keeps it. A writer has a [`Hold`] from
//! the moment when it finds or publishes the content until the link or record is on disk. While a
//! collection runs, everything that was held since it began stays held until its end. So the
//! collection may compare content with links and records that it read a while ago.

mod clock;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use coral_image::Digest;

use self::clock::Clock;
pub(super) use self::clock::LeaseTrust;
use super::records::absent;
use crate::store::StoreError;

/// How many leases are kept in memory: a few megabytes.
const MOST_UNWRITTEN: usize = 100_000;

/// The leases of a store.
#[derive(Debug)]
pub(super) struct Leases {
    clock: Clock,
    hasher: RandomState,
    /// The age at which a lease is renewed, in nanoseconds. Until the first collection sets the
    /// length of a lease, this is the longest of earlier processes, which every collection allows
    /// for.
    renewal: AtomicU64,
    /// Leases that could not be written to their files, by the hash of the path.
    unwritten: Mutex<HashMap<u64, SystemTime>>,
    /// Whether a lease was granted since the clock was written.
    is_used: AtomicBool,
    held: Mutex<HeldContent>,
}

/// Held content, by the hash of its digest. Two digests with the same hash are kept together, which
/// is safe.
#[derive(Debug, Default)]
struct HeldContent {
    now: HashMap<u64, u32>,
    /// What was held at any time since the running collection began; `None` if none runs.
    since: Option<HashSet<u64>>,
}

/// Content that is not deleted as long as this exists.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    leases: &'a Leases,
    key: u64,
}

/// While this exists, content that was held stays held.
#[derive(Debug)]
pub(super) struct Collecting<'a>(&'a Leases);

impl Leases {
    /// Reads the clock in the store's root and starts it.
    pub(super) fn open(root: &Path, trust: LeaseTrust) -> Result<Self, StoreError> {
        let clock = Clock::open(root, trust)?;
        let renewal = u64::try_from(clock.longest_renewal().as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            clock,
            hasher: RandomState::new(),
            renewal: AtomicU64::new(renewal),
            unwritten: Mutex::default(),
            is_used: AtomicBool::new(false),
            held: Mutex::default(),
        })
    }

    /// Grants or renews the lease of a file; `false` if there is no such file. The caller holds the
    /// lock of the file's name, unless [`Self::is_fresh`] returned that nothing has to be done.
    #[cfg_attr(
        not(test),
        expect(
            clippy::unnecessary_wraps,
            reason = "in tests the process may end here"
        )
    )]
    pub(super) fn renew(&self, path: &Path) -> Result<bool, StoreError> {
        #[cfg(test)]
        super::durable::fuse::burn(path)?;
        self.is_used.store(true, Ordering::Relaxed);
        let set = || {
            let file = File::options().write(true).open(path)?;
            file.set_modified(self.clock.now())
        };
        match set() {
            Ok(()) => {
                self.unwritten().remove(&self.hasher.hash_one(path));
                Ok(true)
            }
            Err(error) if absent(&error) => Ok(false),
            Err(error) => {
                self.remember(path, error);
                Ok(true)
            }
        }
    }

    /// Grants a lease in memory. If they become too many, all leases start over instead.
    fn remember(&self, path: &Path, error: io::Error) {
        let mut unwritten = self.unwritten();
        if unwritten.is_empty() {
            let error = StoreError::io("renew the lease of", path, error);
            tracing::warn!(%error, "leases are kept in memory, so unused content is kept longer: \
                                    change the owner of the storage's files to the user that the \
                                    registry runs as");
        }
        if unwritten.len() >= MOST_UNWRITTEN {
            unwritten.clear();
            self.clock.raise_floor();
        }
        unwritten.insert(self.hasher.hash_one(path), self.clock.now());
        drop(unwritten);
        if let Err(error) = self.clock.is_unwritten() {
            tracing::warn!(%error, "the store's clock cannot be written");
        }
    }

    fn unwritten(&self) -> MutexGuard<'_, HashMap<u64, SystemTime>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// When the lease of a file was granted or renewed.
    fn given(&self, path: &Path) -> Result<Option<SystemTime>, StoreError> {
        let Some(given) = given(path)? else {
            return Ok(None);
        };
        // A lease in memory is always the later one: it is dropped as soon as one can be written.
        let unwritten = self.unwritten().get(&self.hasher.hash_one(path)).copied();
        Ok(Some(unwritten.unwrap_or(given)))
    }

    /// Whether a file's lease is young enough to answer without renewing it; `None` if there is no
    /// such file.
    pub(super) fn is_fresh(&self, path: &Path) -> Result<Option<bool>, StoreError> {
        let Some(given) = self.given(path)? else {
            return Ok(None);
        };
        let renewal = Duration::from_nanos(self.renewal.load(Ordering::Relaxed));
        Ok(Some(self.age(given, self.clock.now()) < renewal))
    }

    /// Whether the lease of a file had ended before `began`, the beginning of a collection's look
    /// at the repository; `false` if there is no such file.
    pub(super) fn is_over(
        &self,
        path: &Path,
        began: SystemTime,
        length: Duration,
    ) -> Result<bool, StoreError> {
        let Some(given) = self.given(path)? else {
            return Ok(false);
        };
        if given > self.clock.now() {
            // The file was copied, or made under another clock: its lease begins now.
            self.renew(path)?;
            return Ok(false);
        }
        Ok(self.age(given, began) > length + self.clock.longest_renewal())
    }

    fn age(&self, given: SystemTime, now: SystemTime) -> Duration {
        let given = given.max(self.clock.floor());
        now.duration_since(given).unwrap_or_default()
    }

    /// The store's time.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    #[cfg(test)]
    pub(super) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Saves the clock, so that a killed process loses little of its time.
    pub(super) fn save(&self) -> Result<(), StoreError> {
        self.clock.save()
    }

    /// The same, if a lease was granted since; otherwise the lost time only makes leases longer.
    pub(super) fn save_if_used(&self) -> Result<(), StoreError> {
        if !self.is_used.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let saved = self.save();
        self.is_used.fetch_or(saved.is_err(), Ordering::Relaxed);
        saved
    }

    /// Records that the process ends and that everything is on disk.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        self.clock.close()
    }

    /// The key of content in a collection.
    pub(super) fn key(&self, digest: &Digest) -> u64 {
        self.hasher.hash_one(digest)
    }

    /// Take it before looking for or publishing content, and keep it until a link or record is on
    /// disk.
    pub(super) fn hold(&self, digest: &Digest) -> Hold<'_> {
        let key = self.key(digest);
        *self.held().now.entry(key).or_default() += 1;
        Hold { leases: self, key }
    }

    /// Whether content is held, or was since the collection began. The caller holds the content's
    /// lock, and unlinks before releasing it.
    pub(super) fn is_held(&self, key: u64) -> bool {
        let held = self.held();
        held.now.contains_key(&key) || held.since.as_ref().is_some_and(|set| set.contains(&key))
    }

    /// Begins a collection with leases of this length; only one runs at a time.
    pub(super) fn begin(&self, grace: Duration) -> Collecting<'_> {
        let renewal = u64::try_from((grace / 8).as_nanos()).unwrap_or(u64::MAX);
        // In this order, so that no lease goes without renewal for longer than the collection
        // allows for.
        self.clock.renews_after(grace / 8);
        self.renewal.store(renewal, Ordering::SeqCst);
        self.held().since = Some(HashSet::new());
        Collecting(self)
    }

    fn held(&self) -> MutexGuard<'_, HeldContent> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut held = self.leases.held();
        if let Some(since) = &mut held.since {
            since.insert(self.key);
        }
        if let Some(count) = held.now.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.now.remove(&self.key);
            }
        }
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        self.0.held().since = None;
    }
}

/// When the lease of a file was granted or renewed.
fn given(path: &Path) -> Result<Option<SystemTime>, StoreError> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(given) => Ok(Some(given)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn leases() -> (tempfile::TempDir, Leases, std::path::PathBuf) {
        let folder = tempfile::TempDir::new().unwrap();
        let leases = Leases::open(folder.path(), LeaseTrust::OnLast).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        (folder, leases, file)
    }

    fn set(path: &Path, time: SystemTime) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }

    #[test]
    fn a_lease_is_over_only_after_its_length_and_the_time_for_which_it_is_not_renewed() {
        let (_folder, leases, file) = leases();
        drop(leases.begin(8 * HOUR));
        let given = leases.now();
        set(&file, given);
        let is_over = |hours: u32| {
            let began = given + HOUR * hours;
            leases.is_over(&file, began, 8 * HOUR).unwrap()
        };
        assert!(!is_over(8) && !is_over(9));
        assert!(is_over(10));
    }

    #[test]
    fn a_lease_from_the_future_begins_now() {
        let (_folder, leases, file) = leases();
        let future = leases.now() + 100 * HOUR;
        set(&file, future);
        assert!(
            !leases
                .is_over(&file, future + HOUR, Duration::ZERO)
                .unwrap()
        );
        assert!(given(&file).unwrap().unwrap() < future);
    }

    #[test]
    fn every_lease_of_a_store_without_a_clock_begins_when_it_is_opened() {
        let (_folder, leases, file) = leases();
        let now = leases.now();
        set(&file, now - 1000 * HOUR);
        assert!(!leases.is_over(&file, now, HOUR).unwrap());
        assert!(leases.is_over(&file, now + 2 * HOUR, HOUR).unwrap());
    }

    #[test]
    fn a_lease_that_an_earlier_process_gave_lately_is_not_renewed_by_the_next_one() {
        let (folder, leases, file) = leases();
        drop(leases.begin(8 * HOUR));
        assert!(leases.renew(&file).unwrap());
        leases.close().unwrap();
        let next = Leases::open(folder.path(), LeaseTrust::OnLast).unwrap();
        assert_eq!(next.is_fresh(&file).unwrap(), Some(true));
        next.advance(2 * HOUR);
        assert_eq!(next.is_fresh(&file).unwrap(), Some(false));
    }

    #[test]
    fn only_an_old_lease_is_renewed() {
        let (_folder, leases, file) = leases();
        assert_eq!(leases.is_fresh(&file).unwrap(), Some(false));
        drop(leases.begin(8 * HOUR));
        assert!(leases.renew(&file).unwrap());
        assert_eq!(leases.is_fresh(&file).unwrap(), Some(true));
        fs::remove_file(&file).unwrap();
        assert_eq!(leases.is_fresh(&file).unwrap(), None);
        assert!(!leases.renew(&file).unwrap());
    }

    #[test]
    fn a_lease_that_cannot_be_written_holds_in_memory_and_the_next_process_begins_all_anew() {
        let (folder, leases, other) = leases();
        drop(leases.begin(8 * HOUR));
        // No file of this user's: a folder cannot be opened to set its time either.
        let path = folder.path().join("link");
        fs::create_dir(&path).unwrap();
        leases.advance(100 * HOUR);
        let given = leases.now();
        assert!(leases.is_over(&path, given, 8 * HOUR).unwrap());
        assert!(leases.renew(&path).unwrap());
        assert_eq!(leases.is_fresh(&path).unwrap(), Some(true));
        let is_over = |hours| leases.is_over(&path, given + HOUR * hours, 8 * HOUR);
        assert!(!is_over(9).unwrap() && is_over(10).unwrap());
        assert!(leases.is_over(&other, given, 8 * HOUR).unwrap());
        leases.close().unwrap();
        let next = Leases::open(folder.path(), LeaseTrust::OnLast).unwrap();
        assert!(!next.is_over(&path, next.now(), 8 * HOUR).unwrap());
    }

    #[test]
    fn leases_that_were_not_renewed_for_long_hold_under_a_shorter_grace_time_after_a_restart() {
        let (folder, leases, file) = leases();
        drop(leases.begin(80 * HOUR));
        let given = leases.now();
        set(&file, given);
        leases.close().unwrap();
        let next = Leases::open(folder.path(), LeaseTrust::OnLast).unwrap();
        drop(next.begin(8 * HOUR));
        let is_over = |hours| next.is_over(&file, given + HOUR * hours, 8 * HOUR);
        assert!(!is_over(17).unwrap() && is_over(20).unwrap());
    }

    #[test]
    fn the_clock_is_written_only_if_a_lease_was_given_since() {
        let (folder, leases, file) = leases();
        let clock = folder.path().join("coral-clock.json");
        fs::remove_file(&clock).unwrap();
        leases.save_if_used().unwrap();
        assert!(!clock.exists());
        assert!(leases.renew(&file).unwrap());
        leases.save_if_used().unwrap();
        assert!(clock.exists());
    }

    #[test]
    fn what_was_held_while_a_collection_ran_stays_held_until_its_end() {
        let (_folder, leases, _) = leases();
        let (before, within) = (Digest::sha256(b"before"), Digest::sha256(b"within"));
        let held = |digest| leases.is_held(leases.key(digest));
        let early = leases.hold(&before);
        let again = leases.hold(&before);
        drop(again);
        assert!(held(&before));
        let collecting = leases.begin(HOUR);
        drop(early);
        drop(leases.hold(&within));
        assert!(held(&before) && held(&within));
        drop(collecting);
        assert!(!held(&before) && !held(&within));
    }
}
