//! Remembers whether content matches its digest. A check reads the complete file, so it is made
//! only once while the file does not change, and only one check runs at a time: clients cannot keep
//! the disk busy by repeating requests.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, TryLockError};

use coral_image::Digest;
use quick_cache::sync::Cache;

use super::hashing::hash;
use crate::stamp::Stamp;

/// How many files are remembered as sound.
const MOST: usize = 10_000;

/// The results of earlier checks.
#[derive(Debug)]
pub(super) struct Verdicts {
    sound: Cache<Digest, Stamp>,
    /// Held while a file is read.
    pub(super) turn: Mutex<()>,
}

/// What is known about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It matches its digest.
    Sound,
    /// It does not match, as long as it has this stamp.
    Damaged(Stamp),
    /// Another file is being checked.
    Busy,
}

impl Verdicts {
    /// Compares the file at `path` with its digest, unless that was already done or cannot be done
    /// now.
    pub(super) fn check(&self, path: &Path, digest: &Digest) -> io::Result<Verdict> {
        let file = File::open(path)?;
        let stamp = Stamp::from_metadata(&file.metadata()?);
        if self.sound.get(digest) == Some(stamp) {
            return Ok(Verdict::Sound);
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(Verdict::Busy),
        };
        if hash(file, digest.algorithm())? != *digest {
            return Ok(Verdict::Damaged(stamp));
        }
        self.sound.insert(*digest, stamp);
        Ok(Verdict::Sound)
    }
}

impl Default for Verdicts {
    fn default() -> Self {
        Self {
            sound: Cache::new(MOST),
            turn: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_until_it_changes_and_one_file_at_a_time() {
        let folder = tempfile::TempDir::new().unwrap();
        let (path, digest) = (folder.path().join("file"), Digest::sha256(b"content"));
        std::fs::write(&path, b"content").unwrap();
        let verdicts = Verdicts::default();
        let look = || verdicts.check(&path, &digest).unwrap();
        let turn = verdicts.turn.lock().unwrap();
        assert_eq!(look(), Verdict::Busy);
        drop(turn);
        assert_eq!(look(), Verdict::Sound);
        let turn = verdicts.turn.lock().unwrap();
        assert_eq!(look(), Verdict::Sound);
        std::fs::write(&path, b"other").unwrap();
        assert_eq!(look(), Verdict::Busy);
        drop(turn);
        let Verdict::Damaged(stamp) = look() else {
            panic!("other content is damage");
        };
        assert!(stamp.matches(&path));
        std::fs::write(&path, b"content").unwrap();
        assert!(!stamp.matches(&path));
        assert_eq!(look(), Verdict::Sound);
    }
}
