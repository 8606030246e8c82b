//! Damaged content, moved out of the way into `damaged/`, where nothing is served from.
//!
//! A file stays there until its content is back and was read sound, or until no repository wants
//! it any more. All of them together have bounds, beyond which the oldest go first.

use std::fs;
use std::time::SystemTime;

use coral_image::Digest;

use crate::stamp::Stamp;
use crate::store::StoreError;
use crate::store::file::Files;
use crate::store::file::lookup::names_in;

const MOST_FILES: usize = 1000;
const MOST_BYTES: u64 = 16 << 30;

/// A file that was moved aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    digest: Digest,
    size: u64,
    /// When it was moved.
    moved: SystemTime,
}

impl Files {
    /// Moves content aside if it is still the file that was judged: a push may have replaced it,
    /// or a collection deleted it. Whether it was moved.
    pub(super) fn set_aside(&self, digest: &Digest, judged: Stamp) -> Result<bool, StoreError> {
        let (path, aside) = (self.layout.blob(digest), self.layout.damaged(digest));
        {
            let _turn = self.contents.lock(digest);
            if !judged.is_of(&path) {
                return Ok(false);
            }
            let change = self.usage.content(digest, &path);
            self.durable.publish(&path, &aside)?;
            change.end(0);
            self.durable.settle(&path)?;
        }
        // A manifest is answered from memory, too.
        self.manifests.forget(digest);
        for old in beyond(self.kept_aside()?, MOST_FILES, MOST_BYTES) {
            self.durable.remove(&self.layout.damaged(&old))?;
        }
        Ok(true)
    }

    /// The content was read sound: what was moved aside of it is needed no more.
    pub(super) fn is_replaced(&self, digest: &Digest) -> Result<(), StoreError> {
        let removed = self.durable.remove(&self.layout.damaged(digest))?;
        if removed {
            tracing::info!(%digest, "content that was damaged is back, and was read whole");
        }
        Ok(())
    }

    /// Removes what was moved aside of content that no repository wants any more.
    pub(super) fn sweep_aside(&self) -> Result<(), StoreError> {
        for kept in self.kept_aside()? {
            self.check_repositories()?;
            if self.holders(&kept.digest)?.is_empty() {
                self.durable.remove(&self.layout.damaged(&kept.digest))?;
            }
        }
        Ok(())
    }

    /// Content that was moved aside and is not back.
    pub(super) fn missing(&self) -> Result<u64, StoreError> {
        let kept = self.kept_aside()?.into_iter();
        let missing = kept.filter(|kept| !self.layout.blob(&kept.digest).exists());
        Ok(missing.count() as u64)
    }

    fn kept_aside(&self) -> Result<Vec<Kept>, StoreError> {
        let folder = self.layout.damaged_folder();
        let mut kept = Vec::new();
        for name in names_in(&folder)? {
            let Ok(digest) = Digest::parse(&name.replacen('-', ":", 1)) else {
                continue;
            };
            // One that is gone again is not kept.
            if let Ok(metadata) = fs::metadata(folder.join(&name)) {
                let moved = std::os::unix::fs::MetadataExt::ctime(&metadata);
                let moved = std::time::Duration::from_secs(u64::try_from(moved).unwrap_or(0));
                kept.push(Kept {
                    digest,
                    size: metadata.len(),
                    moved: SystemTime::UNIX_EPOCH + moved,
                });
            }
        }
        Ok(kept)
    }
}

/// Which files are beyond the bounds, the oldest first. The newest one always stays.
fn beyond(mut kept: Vec<Kept>, most_files: usize, most_bytes: u64) -> Vec<Digest> {
    kept.sort_by_key(|kept| kept.moved);
    let mut files = kept.len();
    let mut bytes: u64 = kept.iter().map(|kept| kept.size).sum();
    let mut gone = Vec::new();
    for kept in &kept {
        if files <= 1 || (files <= most_files && bytes <= most_bytes) {
            break;
        }
        files -= 1;
        bytes -= kept.size;
        gone.push(kept.digest);
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn kept(number: u8, size: u64) -> Kept {
        Kept {
            digest: Digest::sha256(&[number]),
            size,
            moved: SystemTime::UNIX_EPOCH + Duration::from_secs(number.into()),
        }
    }

    #[test]
    fn the_oldest_files_go_first_and_the_newest_stays_however_large_it_is() {
        let all = vec![kept(3, 10), kept(1, 10), kept(2, 10)];
        let names = |numbers: &[u8]| -> Vec<Digest> {
            numbers.iter().map(|it| Digest::sha256(&[*it])).collect()
        };
        assert_eq!(beyond(all.clone(), 3, 30), names(&[]));
        assert_eq!(beyond(all.clone(), 2, 30), names(&[1]));
        assert_eq!(beyond(all.clone(), 3, 15), names(&[1, 2]));
        assert_eq!(beyond(all, 3, 1), names(&[1, 2]));
        assert_eq!(beyond(vec![], 3, 1), names(&[]));
    }
}
