//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use coral_image::Digest;

use super::NoRoom;

/// Why a store could not be read or written. What was tried and on what is text, for the log: a
/// store of files names the path in it, another one its object.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space, or no quota.
    #[error("no space left to {action}; nothing was lost, free some space and try again")]
    Full {
        /// What was tried, and on what.
        action: String,
    },
    /// A bound that was set is reached.
    #[error("the storage is full: {0}")]
    NoRoom(Box<NoRoom>),
    /// The storage, or a part of it, is not there, or is not the one that was opened. The text says
    /// what to do.
    #[error("{0}")]
    Unavailable(String),
    /// A record or content is not what it must be.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which one.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A task of the store ended early; only during shutdown.
    #[error("the store is shutting down")]
    Closed,
    /// Anything else.
    #[error("cannot {action}")]
    Other {
        /// What was tried, and on what.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Gives an input or output error its place, and sees whether it means a full disk.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let action = format!("{action} {}", path.display());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action },
            _ => Self::Other {
                action,
                source: source.into(),
            },
        }
    }

    /// The content of a file is not what it must be.
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            what: path.display().to_string(),
            reason: reason.into(),
        }
    }

    /// A bounded word for metrics and logs.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::NoRoom(_) => "no_room",
            Self::Unavailable(_) => "unavailable",
            Self::Damaged { .. } => "damaged",
            Self::Closed => "closed",
            Self::Other { .. } => "other",
        }
    }
}

/// Why the storage at a place could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be written.
    #[error("storage folder {path} is not writable by this user; choose another folder or change its owner", path = path.display())]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder has other content, and is no store.
    #[error("{path} is not empty and no registry storage (it has {name:?}); choose an empty folder, or one that does not exist yet", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// Something that is in it.
        name: String,
    },
    /// Another process has the folder.
    #[error("storage folder {path} is in use by another registry process; stop that one or choose another folder", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer Coral wrote it.
    #[error("storage folder {path} has layout version {found}, this release knows up to {known}; use the release that wrote it, or a newer one", path = path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The version in its mark.
        found: u64,
        /// The newest version known here.
        known: u64,
    },
    /// It could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a manifest was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum PutManifestError {
    /// Blobs that it names are not in the repository.
    #[error("{} of the blobs that the manifest names are not in the repository", .0.len())]
    MissingBlobs(Vec<Digest>),
    /// A blob that it names has another size, and is what its digest says.
    #[error("the manifest gives blob {digest} {named} bytes, it has {stored}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// Its size in the manifest, in bytes.
        named: u64,
        /// Its size in the store, in bytes.
        stored: u64,
    },
    /// A blob that it names has another size, and whether that blob is damaged cannot be looked at
    /// now.
    #[error("a blob has another size than the manifest says, and others are being looked at")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an upload could not go on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// There is none of that name in the repository, or it has ended.
    #[error("there is no such upload")]
    Unknown,
    /// Another request has held it for longer than one waits.
    #[error("another request is writing to this upload")]
    Busy,
    /// The content is not what was announced; the upload is gone.
    #[error("the content hashes to {actual}")]
    Digest {
        /// What came.
        actual: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
