//! The digest of an upload, computed in parallel with writing.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use coral_image::{Algorithm, Digest, Hasher};
use tokio::task::JoinHandle;

/// Batches up to this size, in bytes, are hashed at once, which is faster than waking another
/// thread.
const HASHED_AT_ONCE: usize = 32 * 1024;
const REHASH_PIECE: usize = 256 * 1024;

/// The state of the digest of an upload. It is computed in parallel with writing, one batch behind.
#[derive(Debug)]
pub(super) enum Hashing {
    /// It has to be computed from the file.
    Unknown,
    /// It covers everything received.
    Ready(Hasher),
    /// The last batch is being hashed.
    Running(JoinHandle<Hasher>),
}

impl Hashing {
    /// Waits until everything received is hashed.
    pub(super) async fn settle(&mut self) {
        if let Self::Running(task) = self {
            // The hash of a task that ended early cannot be relied on.
            *self = task.await.map_or(Self::Unknown, Self::Ready);
        }
    }

    /// Hashes a batch, on another thread if that is worth it. Everything before it must be hashed.
    pub(super) fn begin(&mut self, batch: Vec<Bytes>) {
        let size: usize = batch.iter().map(Bytes::len).sum();
        *self = match std::mem::replace(self, Self::Unknown) {
            Self::Ready(mut hasher) if size <= HASHED_AT_ONCE => {
                for piece in &batch {
                    hasher.update(piece);
                }
                Self::Ready(hasher)
            }
            Self::Ready(mut hasher) => Self::Running(tokio::task::spawn_blocking(move || {
                for piece in &batch {
                    hasher.update(piece);
                }
                hasher
            })),
            Self::Unknown | Self::Running(_) => Self::Unknown,
        };
    }

    /// The digest of everything received, if it is known.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Ready(hasher) => Some(hasher.clone().finish()),
            Self::Unknown | Self::Running(_) => None,
        }
    }
}

/// The digest of a file on disk.
pub(super) fn hash_file(path: &Path, algorithm: Algorithm) -> io::Result<Digest> {
    hash(File::open(path)?, algorithm)
}

/// The digest of an open file.
pub(super) fn hash(mut file: File, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = algorithm.hasher();
    let mut piece = vec![0; REHASH_PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
