//! The digest of an upload, made beside the writing.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use coral_image::{Algorithm, Digest, Hasher};
use tokio::task::JoinHandle;

/// Bytes that are hashed sooner than another thread is woken.
const HASHED_AT_ONCE: usize = 32 * 1024;
const REHASH_PIECE: usize = 256 * 1024;

/// How far the digest of an upload is. It is made beside the writing, one batch behind.
#[derive(Debug)]
pub(super) enum Hashing {
    /// To be made from the data.
    Unknown,
    /// Of all that came.
    Ready(Hasher),
    /// The last batch is being taken in.
    Running(JoinHandle<Hasher>),
}

impl Hashing {
    /// Waits until all that came is taken in.
    pub(super) async fn settle(&mut self) {
        if let Self::Running(task) = self {
            // A task that ended early has hashed nothing that could be relied on.
            *self = task.await.map_or(Self::Unknown, Self::Ready);
        }
    }

    /// Takes in a batch, on another thread if that is worth it. Everything before it was taken in.
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

    /// The digest of all that came, if it is known.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Ready(hasher) => Some(hasher.clone().finish()),
            Self::Unknown | Self::Running(_) => None,
        }
    }
}

/// Of what is on disk.
pub(super) fn hash_file(path: &Path, algorithm: Algorithm) -> io::Result<Digest> {
    hash(File::open(path)?, algorithm)
}

/// Of an open file.
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
