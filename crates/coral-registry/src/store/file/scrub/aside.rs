//! Damaged content that was moved to `damaged/`, from where nothing is served.
//!
//! A file there is read again when a round begins, and when the round that moved it has read
//! everything; if it is sound, it goes back. It stays until its content was restored and read
//! without an error, or until a collection finds that no repository needs it any more.
//!
//! Together these files are bounded, and pushes take precedence over them. Beyond the bounds, files
//! are emptied, the oldest first; an empty file records that its content is missing. Files that the
//! running round has moved are never emptied.

use std::collections::HashSet;
use std::fs::{self, File};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use coral_image::Digest;

use crate::stamp::Stamp;
use crate::store::StoreError;
use crate::store::file::Files;
use crate::store::file::lookup::names_in;

const MOST_FILES: usize = 4096;
const MOST_BYTES: u64 = 16 << 30;
/// Files that were moved aside may use one tenth of the disk.
const MOST_PART: u64 = 10;

/// A file that was moved aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::file) struct AsideFile {
    pub(in crate::store::file) digest: Digest,
    size: u64,
    /// When it was moved, or emptied.
    moved: SystemTime,
}

impl Files {
    /// Moves content aside if it is still the same file: a push may have replaced it, or a
    /// collection deleted it. Returns whether it was moved.
    pub(super) fn set_aside(&self, digest: &Digest, judged: Stamp) -> Result<bool, StoreError> {
        let (path, aside) = (self.layout.blob(digest), self.layout.damaged(digest));
        {
            let _turn = self.contents.lock(digest);
            if !judged.matches(&path) {
                return Ok(false);
            }
            let mut moved = self.moved_aside();
            let change = self.usage.content(digest, &path);
            self.durable.publish(&path, &aside)?;
            change.end(0);
            moved.insert(*digest);
            self.durable.settle(&path)?;
        }
        // Manifests are also answered from memory.
        self.manifests.forget(digest);
        self.bound_aside()?;
        Ok(true)
    }

    /// Puts a sound file back, unless it was replaced meanwhile. Returns whether it was put back.
    pub(super) fn put_back(&self, digest: &Digest, judged: Stamp) -> Result<bool, StoreError> {
        let (path, aside) = (self.layout.blob(digest), self.layout.damaged(digest));
        let _turn = self.contents.lock(digest);
        let mut moved = self.moved_aside();
        if path.exists() || !judged.matches(&aside) {
            return Ok(false);
        }
        let change = self.usage.content(digest, &path);
        self.durable.publish(&aside, &path)?;
        change.end(judged.size());
        moved.remove(digest);
        self.durable.settle(&aside)?;
        Ok(true)
    }

    /// Records that the content was read without an error, so that its damaged copy is no longer
    /// needed.
    pub(super) fn is_replaced(&self, digest: &Digest) -> Result<(), StoreError> {
        let removed = self.durable.remove(&self.layout.damaged(digest))?;
        if removed {
            tracing::info!(%digest, "content that was damaged has been restored, and was read \
                                     without an error");
        }
        Ok(())
    }

    /// Removes damaged copies of content that no repository needs any more.
    pub(in crate::store::file) fn sweep_aside(
        &self,
        is_wanted: impl Fn(&Digest) -> bool,
    ) -> Result<(), StoreError> {
        let unwanted = self.kept_aside()?.into_iter();
        for kept in unwanted.filter(|kept| !is_wanted(&kept.digest)) {
            self.durable.remove(&self.layout.damaged(&kept.digest))?;
        }
        self.kept_aside().map(drop)
    }

    /// Empties files beyond the bounds.
    pub(super) fn bound_aside(&self) -> Result<(), StoreError> {
        let disk = self.space().ok().and_then(|space| space.disk);
        let most_bytes = disk.map_or(MOST_BYTES, |disk| MOST_BYTES.min(disk / MOST_PART));
        let kept = self.kept_aside()?;
        let moved = self.moved_aside();
        let (emptied, removed) = beyond(kept, MOST_FILES, most_bytes, &moved);
        for digest in &emptied {
            self.empty(digest)?;
        }
        for digest in &removed {
            self.durable.remove(&self.layout.damaged(digest))?;
        }
        drop(moved);
        self.kept_aside().map(drop)
    }

    /// Empties files that were moved aside, the oldest first, to free `bytes` on the disk; none if
    /// all of them together are smaller. Returns whether the space was freed.
    pub(in crate::store::file) fn free_aside(&self, bytes: u64) -> bool {
        let Ok(mut kept) = self.kept_aside() else {
            return false;
        };
        let moved = self.moved_aside();
        kept.retain(|kept| !moved.contains(&kept.digest));
        if bytes == 0 || kept.iter().map(|kept| kept.size).sum::<u64>() < bytes {
            return false;
        }
        kept.sort_by_key(|kept| kept.moved);
        let mut freed = 0;
        for kept in kept.iter().filter(|kept| kept.size > 0) {
            if freed >= bytes || self.empty(&kept.digest).is_err() {
                break;
            }
            freed += kept.size;
        }
        drop(moved);
        tracing::info!(
            bytes = freed,
            "damaged content that had been moved aside was deleted to make space for a push"
        );
        // To compute the sum of the rest.
        let _ = self.kept_aside();
        freed >= bytes
    }

    /// The caller holds [`Self::moved_aside`], so that a file that is being put back is not
    /// emptied.
    fn empty(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layout.damaged(digest);
        let emptied = File::options().write(true).open(&path);
        let emptied = emptied.and_then(|file| file.set_len(0));
        emptied.map_err(|error| StoreError::io("empty", &path, error))
    }

    /// Ends the round: files that it moved are treated like older files from now on.
    pub(super) fn round_ended(&self) {
        self.moved_aside().clear();
    }

    /// The files that the running round has moved. Only the holder of this lock moves files out of
    /// `damaged/` or empties them.
    pub(super) fn moved_aside(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Content that was moved aside and has not been restored.
    pub(super) fn missing(&self) -> Result<Vec<Digest>, StoreError> {
        let kept = self.kept_aside()?.into_iter().map(|kept| kept.digest);
        Ok(kept.filter(|it| !self.layout.blob(it).exists()).collect())
    }

    pub(in crate::store::file) fn kept_aside(&self) -> Result<Vec<AsideFile>, StoreError> {
        let folder = self.layout.damaged_folder();
        let mut kept = Vec::new();
        for name in names_in(&folder)? {
            let Ok(digest) = Digest::parse(&name.replacen('-', ":", 1)) else {
                continue;
            };
            // If the content is missing again, the copy is not kept.
            if let Ok(metadata) = fs::metadata(folder.join(&name)) {
                let moved = std::os::unix::fs::MetadataExt::ctime(&metadata);
                let moved = Duration::from_secs(u64::try_from(moved).unwrap_or(0));
                kept.push(AsideFile {
                    digest,
                    size: metadata.len(),
                    moved: SystemTime::UNIX_EPOCH + moved,
                });
            }
        }
        let bytes = kept.iter().map(|kept| kept.size).sum();
        self.usage.set_damaged(bytes);
        Ok(kept)
    }
}

/// Which files are to be emptied and which are to be removed, the oldest first; those of `moved`
/// stay as they are.
fn beyond(
    mut kept: Vec<AsideFile>,
    most_files: usize,
    most_bytes: u64,
    moved: &HashSet<Digest>,
) -> (Vec<Digest>, Vec<Digest>) {
    kept.sort_by_key(|kept| kept.moved);
    let mut files = kept.len();
    let mut bytes: u64 = kept.iter().map(|kept| kept.size).sum();
    let (mut emptied, mut removed) = (Vec::new(), Vec::new());
    for kept in kept.iter().filter(|kept| !moved.contains(&kept.digest)) {
        if files > most_files {
            files -= 1;
            removed.push(kept.digest);
        } else if bytes > most_bytes && kept.size > 0 {
            emptied.push(kept.digest);
        } else {
            continue;
        }
        bytes -= kept.size;
    }
    (emptied, removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(number: u8, size: u64) -> AsideFile {
        AsideFile {
            digest: Digest::sha256(&[number]),
            size,
            moved: SystemTime::UNIX_EPOCH + Duration::from_secs(number.into()),
        }
    }

    #[test]
    fn the_oldest_files_are_emptied_first_and_those_of_the_running_round_stay() {
        let all = vec![kept(3, 10), kept(1, 10), kept(2, 10), kept(0, 0)];
        let names = |numbers: &[u8]| -> Vec<Digest> {
            numbers.iter().map(|it| Digest::sha256(&[*it])).collect()
        };
        let none = HashSet::new();
        let emptied = |most, moved: &[u8]| {
            let moved = names(moved).into_iter().collect();
            let (emptied, removed) = beyond(all.clone(), 10, most, &moved);
            assert_eq!(removed, names(&[]));
            emptied
        };
        assert_eq!(emptied(30, &[]), names(&[]));
        assert_eq!(emptied(15, &[]), names(&[1, 2]));
        assert_eq!(emptied(15, &[1]), names(&[2, 3]));
        assert_eq!(emptied(1, &[]), names(&[1, 2, 3]));
        assert_eq!(emptied(1, &[1, 2, 3]), names(&[]));
        assert_eq!(beyond(all.clone(), 3, 30, &none), (names(&[]), names(&[0])));
        assert_eq!(beyond(all, 2, 10, &none), (names(&[2]), names(&[0, 1])));
        assert_eq!(beyond(vec![], 3, 1, &none), (names(&[]), names(&[])));
    }
}
