//! Whether content is what its name says. A look costs a reading of the whole file, so it is made
//! once for as long as the file stays as it is, and one at a time: no client keeps the disk busy by
//! asking for it again and again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use coral_image::Digest;

use super::hashing::hash;
use crate::stamp::Stamp;

/// Most files that are remembered as sound.
const MOST: usize = 10_000;

/// What was seen of files.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    sound: Mutex<HashMap<Digest, Stamp>>,
    /// Held by who reads a file.
    pub(super) turn: Mutex<()>,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It hashes to its name.
    Sound,
    /// It does not, as long as it looks like this.
    Damaged(Stamp),
    /// Another file is being looked at.
    Busy,
}

impl Verdicts {
    /// Holds the file at `path` against its digest, unless that was done or cannot be done now.
    pub(super) fn of(&self, path: &Path, digest: &Digest) -> io::Result<Verdict> {
        let file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        if self.is_sound(digest, stamp) {
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
        let mut sound = self.sound();
        if sound.len() >= MOST {
            sound.clear();
        }
        sound.insert(*digest, stamp);
        Ok(Verdict::Sound)
    }

    fn is_sound(&self, digest: &Digest, stamp: Stamp) -> bool {
        self.sound().get(digest) == Some(&stamp)
    }

    fn sound(&self) -> MutexGuard<'_, HashMap<Digest, Stamp>> {
        self.sound.lock().unwrap_or_else(PoisonError::into_inner)
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
        let look = || verdicts.of(&path, &digest).unwrap();
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
        assert!(stamp.is_of(&path));
        std::fs::write(&path, b"content").unwrap();
        assert!(!stamp.is_of(&path));
        assert_eq!(look(), Verdict::Sound);
    }
}
