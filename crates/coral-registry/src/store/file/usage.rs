//! How many bytes a store holds, in total and by repository.
//!
//! Everything is counted once at the start, folder by folder, concurrently with everything else.
//! Each change of a file then adjusts the sums. The collection recounts the contents that it
//! visits, which corrects manual changes. No request walks through the store.

use std::collections::HashMap;
use std::fs;
use std::hash::Hash;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coral_image::{Algorithm, Digest, RepositoryPath};
use rustix::fs::statvfs;
use tokio_util::sync::CancellationToken;

use super::Files;
use super::collect::{ALGORITHMS, digest_from_name};
use super::lookup::names_in;
use crate::store::{Bound, Disk, NoRoom, RepositoryBytes, Space, SpaceBounds, StoreError};

/// How long the disk's figures are used for uploads, while much space is free.
const FIGURES_HOLD: Duration = Duration::from_secs(1);
/// The longest pause between two folders that are counted.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// What a store holds and may hold.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// By shelf: the first byte of the digest.
    contents: Tally<(Algorithm, u8)>,
    /// Links and manifests, with the sizes of their content.
    repositories: Tally<RepositoryPath>,
    /// Bytes of open uploads.
    uploads: AtomicU64,
    /// Bytes of damaged content that was moved aside, at the last check.
    damaged: AtomicU64,
    is_counted: AtomicBool,
    bounds: Mutex<SpaceBounds>,
    disk: Mutex<Option<DiskFigures>>,
}

/// The last figures of the disk.
#[derive(Debug, Clone, Copy)]
struct DiskFigures {
    disk: Disk,
    at: Instant,
    /// Bytes that uploads have reserved since then.
    taken: u64,
}

impl DiskFigures {
    /// Whether `more` bytes may be written without asking the disk again: a network file system
    /// takes milliseconds to answer, and batches of an upload are small.
    fn covers(&self, more: u64, min_free: u64, now: Instant) -> bool {
        let left = self
            .disk
            .free
            .saturating_sub(self.taken.saturating_add(more));
        let is_recent = now.saturating_duration_since(self.at) < FIGURES_HOLD;
        is_recent && left > min_free.saturating_mul(2)
    }
}

impl Usage {
    /// Call it before the content of `digest` is changed, under its lock.
    pub(super) fn content(&self, digest: &Digest, path: &Path) -> Change<'_, (Algorithm, u8)> {
        self.contents
            .change(&shelf(digest), digest, file_size(path))
    }

    /// Call it before a link to, or the record of, `digest` is created or removed.
    pub(super) fn held(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        before: u64,
    ) -> Change<'_, RepositoryPath> {
        self.repositories.change(repository, digest, before)
    }

    /// Bytes of all content of a repository.
    pub(super) fn repository_bytes(&self, repository: &RepositoryPath) -> u64 {
        self.repositories.get(repository)
    }

    /// Bytes of all content of each repository that has any.
    pub(super) fn by_repository(&self) -> RepositoryBytes {
        let (all, counted) = self.repositories.all();
        RepositoryBytes { all, counted }
    }

    pub(super) fn set_bounds(&self, bounds: SpaceBounds) {
        *locked(&self.bounds) = bounds;
    }

    pub(super) fn set_damaged(&self, bytes: u64) {
        self.damaged.store(bytes, Ordering::Release);
    }

    pub(super) fn uploads_grew(&self, bytes: u64) {
        self.uploads.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn uploads_shrank(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self
            .uploads
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// With the last figures of the disk.
    pub(super) fn space(&self) -> Space {
        let bounds = *locked(&self.bounds);
        let space = Space {
            stored: self.contents.total(),
            uploads: self.uploads.load(Ordering::Acquire),
            damaged: self.damaged.load(Ordering::Acquire),
            counted: self.is_counted.load(Ordering::Acquire),
            limit: bounds.limit,
            ..Space::default()
        };
        match *locked(&self.disk) {
            Some(look) => space.on(look.disk, &bounds),
            None => space,
        }
    }

    /// Whether the last figures of the disk allow `more` bytes of an upload; if so, they are
    /// reserved.
    fn covers(&self, more: u64) -> bool {
        let min_free = locked(&self.bounds).min_free;
        let mut look = locked(&self.disk);
        let Some(look) = &mut *look else {
            return false;
        };
        let min_free = min_free.on(look.disk.size);
        let covers = look.covers(more, min_free, Instant::now());
        if covers {
            look.taken += more;
        }
        covers
    }
}

impl Files {
    /// With current figures of the disk.
    pub(super) fn space(&self) -> Result<Space, StoreError> {
        let root = self.layout.root();
        let found = statvfs(root).map_err(|error| StoreError::io("look at", root, error.into()))?;
        *locked(&self.usage.disk) = Some(DiskFigures {
            disk: Disk {
                size: found.f_blocks.saturating_mul(found.f_frsize),
                free: found.f_bavail.saturating_mul(found.f_frsize),
            },
            at: Instant::now(),
            taken: 0,
        });
        Ok(self.usage.space())
    }

    /// Checks that there is space for `more` bytes.
    pub(super) fn check_room(&self, more: u64) -> Result<(), StoreError> {
        // If the size of the disk cannot be read, writing to it will fail with the reason.
        let space = self.space().unwrap_or_else(|_| self.usage.space());
        match space.lack(more) {
            Some(no_room) if !self.makes_room(&no_room, more) => {
                Err(StoreError::NoRoom(Box::new(no_room)))
            }
            _ => Ok(()),
        }
    }

    /// Whether deleting damaged content that was moved aside freed enough space.
    fn makes_room(&self, no_room: &NoRoom, more: u64) -> bool {
        let Bound::MinFree(min_free) = no_room.bound else {
            return false;
        };
        let free = no_room.space.free.unwrap_or(0);
        let wanted = min_free.saturating_add(more).saturating_sub(free);
        no_room.space.damaged > 0 && self.free_aside(wanted)
    }

    /// Reserves space for `more` bytes of an upload, so that several uploads together stay within
    /// the bounds.
    pub(super) fn take_room(&self, more: u64) -> Result<(), StoreError> {
        self.usage.uploads_grew(more);
        // They are already counted, but not yet on the disk.
        let looked = if self.usage.covers(more) {
            None
        } else {
            self.space().ok()
        };
        let space = looked.unwrap_or_else(|| self.usage.space());
        let before = Space {
            uploads: space.uploads.saturating_sub(more),
            ..space
        };
        match before.lack(more) {
            Some(no_room) if !self.makes_room(&no_room, more) => {
                self.usage.uploads_shrank(more);
                Err(StoreError::NoRoom(Box::new(no_room)))
            }
            _ => Ok(()),
        }
    }

    /// Counts everything that is not yet counted; changes made meanwhile are not lost. A folder
    /// that cannot be read does not keep others from being counted, and is the error at the end.
    pub(super) fn count(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut failed = Ok(());
        for (algorithm, byte) in ALGORITHMS.into_iter().flat_map(shelves) {
            if !self.usage.contents.is_counted(&(algorithm, byte)) {
                failed = failed.and(self.count_shelf(algorithm, byte));
            }
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        if failed.is_ok() {
            self.usage.contents.is_whole();
            self.usage.is_counted.store(true, Ordering::Release);
        }
        let root = self.layout.repositories();
        failed = failed.and(self.count_repositories(&root, "", stop));
        // Repositories that were created behind the walk.
        loop {
            let rest = self.usage.repositories.uncounted();
            for repository in &rest {
                failed = failed.and(self.count_repository(repository));
            }
            if rest.is_empty() || failed.is_err() {
                return failed;
            }
        }
    }

    /// Recounts the contents of a shelf; files with other names are ignored.
    pub(super) fn count_shelf(&self, algorithm: Algorithm, byte: u8) -> Result<(), StoreError> {
        let folder = self.layout.contents(algorithm).join(format!("{byte:02x}"));
        rested(|| {
            self.usage.contents.count(&(algorithm, byte), || {
                let digests = names_in(&folder)?.into_iter();
                let digests = digests.filter_map(|name| digest_from_name(algorithm, &name));
                Ok(digests
                    .map(|digest| (digest, file_size(&self.layout.blob(&digest))))
                    .collect())
            })
        })
    }

    fn count_repositories(
        &self,
        folder: &Path,
        prefix: &str,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut failed = Ok(());
        for name in names_in(folder)? {
            let path = format!("{prefix}{name}");
            // The folders inside a repository begin with an underscore; no name does.
            let Ok(repository) = RepositoryPath::parse(&path) else {
                continue;
            };
            if stop.is_cancelled() {
                return Ok(());
            }
            if !self.usage.repositories.is_counted(&repository) {
                failed = failed.and(self.count_repository(&repository));
            }
            let below = self.count_repositories(&folder.join(&name), &format!("{path}/"), stop);
            failed = failed.and(below);
        }
        failed
    }

    /// Recounts the content of a repository.
    pub(super) fn count_repository(&self, repository: &RepositoryPath) -> Result<(), StoreError> {
        rested(|| {
            self.usage.repositories.count(repository, || {
                let mut found = HashMap::new();
                for algorithm in ALGORITHMS {
                    let links = names_in(&self.layout.blob_links(repository, algorithm))?;
                    let manifests = names_in(&self.layout.manifests(repository, algorithm))?;
                    let digests = links.into_iter().chain(manifests);
                    let digests = digests.filter_map(|name| digest_from_name(algorithm, &name));
                    found.extend(digests.map(|it| (it, file_size(&self.layout.blob(&it)))));
                }
                Ok(found)
            })
        })
    }
}

/// Works, then rests for the same time, so that other work is done meanwhile.
fn rested<T>(work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    std::thread::sleep(began.elapsed().min(LONGEST_REST));
    done
}

fn shelves(algorithm: Algorithm) -> impl Iterator<Item = (Algorithm, u8)> {
    (0..=u8::MAX).map(move |byte| (algorithm, byte))
}

fn shelf(digest: &Digest) -> (Algorithm, u8) {
    let byte = u8::from_str_radix(&digest.hex()[..2], 16);
    (digest.algorithm(), byte.unwrap_or_default())
}

/// Bytes of a file; 0 if it does not exist.
pub(super) fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sums of sizes by folder; the second lock is held while a folder is counted.
#[derive(Debug)]
struct Tally<K>(Mutex<Sums<K>>, Mutex<()>);

#[derive(Debug)]
struct Sums<K> {
    folders: HashMap<K, Sum>,
    total: u64,
    /// Whether unknown folders are known to be empty.
    is_whole: bool,
}

#[derive(Debug, Default)]
struct Sum {
    bytes: u64,
    is_counted: bool,
    /// Unfinished changes, with the sizes before.
    pending: HashMap<Digest, u64>,
    /// While the folder is counted: what has changed since, with the current sizes.
    changed: Option<HashMap<Digest, u64>>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        let sums = Sums {
            folders: HashMap::new(),
            total: 0,
            is_whole: false,
        };
        Self(Mutex::new(sums), Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Tally<K> {
    fn total(&self) -> u64 {
        locked(&self.0).total
    }

    fn get(&self, key: &K) -> u64 {
        locked(&self.0).folders.get(key).map_or(0, |sum| sum.bytes)
    }

    /// The sums of all folders with content, and whether all are counted.
    fn all(&self) -> (Vec<(K, u64)>, bool) {
        let all = locked(&self.0);
        let folders = all.folders.iter().filter(|(_, sum)| sum.bytes > 0);
        let sums = folders.map(|(key, sum)| (key.clone(), sum.bytes));
        (sums.collect(), all.is_whole)
    }

    fn is_whole(&self) {
        locked(&self.0).is_whole = true;
    }

    fn is_counted(&self, key: &K) -> bool {
        let all = locked(&self.0);
        all.folders
            .get(key)
            .map_or(all.is_whole, |sum| sum.is_counted)
    }

    /// Folders that are known only from changes. If there are none, every further folder is new.
    fn uncounted(&self) -> Vec<K> {
        let mut all = locked(&self.0);
        let uncounted = all.folders.iter().filter(|(_, sum)| !sum.is_counted);
        let found: Vec<K> = uncounted.map(|(key, _)| key.clone()).collect();
        all.is_whole = found.is_empty();
        found
    }

    /// Begins a change of one file; each file has at most one change at a time.
    fn change(&self, key: &K, digest: &Digest, before: u64) -> Change<'_, K> {
        let mut all = locked(&self.0);
        let is_whole = all.is_whole;
        let sum = all.folders.entry(key.clone()).or_default();
        sum.is_counted |= is_whole;
        sum.pending.insert(*digest, before);
        Change {
            tally: self,
            key: key.clone(),
            digest: *digest,
            before,
            now: before,
        }
    }

    /// Replaces the sum of a folder by what `read` finds. A file that changes meanwhile counts with
    /// its final size, whether or not `read` saw it.
    fn count(
        &self,
        key: &K,
        read: impl FnOnce() -> Result<HashMap<Digest, u64>, StoreError>,
    ) -> Result<(), StoreError> {
        // Two concurrent counts of one folder would each see only some of the changes.
        let _counting = locked(&self.1);
        locked(&self.0)
            .folders
            .entry(key.clone())
            .or_default()
            .changed = Some(HashMap::new());
        let found = read();
        let mut all = locked(&self.0);
        let all = &mut *all;
        let sum = all.folders.entry(key.clone()).or_default();
        let changed = sum.changed.take().unwrap_or_default();
        let mut found = found?;
        found.extend(changed);
        found.extend(&sum.pending);
        let bytes = found.values().sum();
        all.total = all.total.saturating_add(bytes).saturating_sub(sum.bytes);
        sum.bytes = bytes;
        sum.is_counted = true;
        all.forget_empty(key);
        Ok(())
    }
}

impl<K: Eq + Hash> Sums<K> {
    fn forget_empty(&mut self, key: &K) {
        let is_empty = |sum: &Sum| {
            sum.is_counted && sum.bytes == 0 && sum.pending.is_empty() && sum.changed.is_none()
        };
        if self.is_whole && self.folders.get(key).is_some_and(is_empty) {
            self.folders.remove(key);
        }
    }
}

/// An unfinished change of one file. If it is dropped without [`Self::end`], nothing has changed.
#[derive(Debug)]
#[must_use]
pub(super) struct Change<'a, K: Eq + Hash> {
    tally: &'a Tally<K>,
    key: K,
    digest: Digest,
    before: u64,
    now: u64,
}

impl<K: Eq + Hash> Change<'_, K> {
    /// Ends the change: the file has `now` bytes; 0 if it was deleted.
    pub(super) fn end(mut self, now: u64) {
        self.now = now;
    }
}

impl<K: Eq + Hash> Drop for Change<'_, K> {
    fn drop(&mut self) {
        let mut all = locked(&self.tally.0);
        let all = &mut *all;
        let Some(sum) = all.folders.get_mut(&self.key) else {
            return;
        };
        sum.pending.remove(&self.digest);
        if let Some(changed) = &mut sum.changed {
            changed.insert(self.digest, self.now);
        }
        // A folder that is not yet counted is counted later, as it is then.
        if sum.is_counted {
            let adjust = |it: u64| it.saturating_add(self.now).saturating_sub(self.before);
            all.total = adjust(all.total);
            sum.bytes = adjust(sum.bytes);
        }
        all.forget_empty(&self.key);
    }
}

#[cfg(test)]
mod tests;
