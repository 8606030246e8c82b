//! Syncs a folder once for all callers that wait for it.
//!
//! A sync covers every change that was made before it began, so callers that arrive while one is
//! running share the next one. However many clients push into a repository at once, its folders are
//! synced as often as the disk can, and not once per push.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The folders whose sync callers wait for.
#[derive(Debug, Default)]
pub(super) struct GroupSync {
    folders: Mutex<HashMap<PathBuf, Arc<Folder>>>,
}

#[derive(Debug, Default)]
struct Folder {
    progress: Mutex<Progress>,
    /// Held by the thread that syncs.
    turn: Mutex<()>,
}

/// Syncs are numbered from one.
#[derive(Debug, Default)]
struct Progress {
    begun: u64,
    /// The last one that ended, and how.
    ended: u64,
    failed: Option<io::ErrorKind>,
}

impl GroupSync {
    /// Returns when a sync of `folder` that began after this call has ended. `sync` runs it, for
    /// this caller and for others that wait.
    pub(super) fn sync(
        &self,
        folder: &Path,
        sync: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let shared = Arc::clone(lock(&self.folders).entry(folder.to_owned()).or_default());
        let done = shared.until(shared.next(), || sync(folder));
        let mut folders = lock(&self.folders);
        drop(shared);
        // Only the map refers to it, so no other thread waits.
        if folders
            .get(folder)
            .is_some_and(|left| Arc::strong_count(left) == 1)
        {
            folders.remove(folder);
        }
        done
    }
}

impl Folder {
    /// The number of the next sync. One that runs now may have begun before the caller's change.
    fn next(&self) -> u64 {
        lock(&self.progress).begun + 1
    }

    /// Returns when sync number `wanted` or a later one has ended, which `sync` does if no other
    /// thread did.
    fn until(&self, wanted: u64, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _turn = lock(&self.turn);
        let number = {
            let mut progress = lock(&self.progress);
            if progress.ended >= wanted {
                return progress.failed.map_or(Ok(()), |kind| Err(kind.into()));
            }
            progress.begun += 1;
            progress.begun
        };
        let done = sync();
        let mut progress = lock(&self.progress);
        progress.ended = number;
        progress.failed = done.as_ref().err().map(io::Error::kind);
        done
    }
}

/// Ignores poisoning: the guarded value is consistent at every moment, so a panic of a holder does
/// no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn not_again() -> io::Result<()> {
        panic!("another thread did it")
    }

    #[test]
    fn those_who_wait_at_the_same_time_share_one_sync() {
        let folder = Folder::default();
        let (first, second) = (folder.next(), folder.next());
        folder.until(first, || Ok(())).unwrap();
        folder.until(second, not_again).unwrap();
    }

    #[test]
    fn a_sync_that_runs_already_does_not_count() {
        let folder = Folder::default();
        let (mut during, mut ran) = (0, false);
        let running = || {
            during = folder.next();
            Ok(())
        };
        folder.until(folder.next(), running).unwrap();
        let mine = || {
            ran = true;
            Ok(())
        };
        folder.until(during, mine).unwrap();
        assert!(ran);
    }

    #[test]
    fn a_failure_is_told_to_all_who_waited_for_it() {
        let folder = Folder::default();
        let (first, second) = (folder.next(), folder.next());
        folder.until(first, full).unwrap_err();
        let told = folder.until(second, not_again).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::StorageFull);
        folder.until(folder.next(), || Ok(())).unwrap();
    }

    #[test]
    fn folders_without_waiting_threads_are_forgotten() {
        let group = GroupSync::default();
        let folder = Path::new("/a");
        group.sync(folder, |_| Ok(())).unwrap();
        group.sync(folder, |_| full()).unwrap_err();
        assert!(lock(&group.folders).is_empty());
    }
}
