//! Errors of a store.

use std::io;
use std::path::{Path, PathBuf};

use coral_image::Digest;

use super::NoRoom;
use crate::pull_through::UpstreamError;

/// Why a store could not be read or written. The operation and its target are text for the log: a
/// file store names the path, another store its object.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space, or no quota.
    #[error("no space left to {action}; nothing was lost, free some space and try again")]
    Full {
        /// The operation and its target.
        action: String,
    },
    /// A configured limit is reached.
    #[error("the storage is full: {0}")]
    NoRoom(Box<NoRoom>),
    /// The storage, or a part of it, is missing or is not the one that was opened. The text says
    /// what to do.
    #[error("{0}")]
    Unavailable(String),
    /// A record or content is damaged.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which one.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A registry that is pulled through failed.
    #[error(transparent)]
    Upstream(Box<UpstreamError>),
    /// A task of the store ended early; only during shutdown.
    #[error("the store is shutting down")]
    Closed,
    /// Anything else.
    #[error("cannot {action}")]
    Other {
        /// The operation and its target.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Wraps an I/O error with its path, and recognises a full disk.
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

    /// The content of a file is damaged.
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
            Self::Upstream(_) => "upstream",
            Self::Closed => "closed",
            Self::Other { .. } => "other",
        }
    }
}

/// Why the storage at a path could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be written.
    #[error("storage folder {path} is not writable by this user; choose another folder or change its owner", path = path.display())]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The folder has other content and is not a store.
    #[error("{path} is neither empty nor registry storage (it contains {name:?}); choose an empty \
             folder, or one that does not exist yet", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// Something that is in it.
        name: String,
    },
    /// Another process uses the folder.
    #[error("storage folder {path} is in use by another registry process; stop that one or choose another folder", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer Coral wrote it.
    #[error("storage folder {path} has layout version {found}, but this release supports only up \
             to {known}; use the release that wrote it, or a newer one", path = path.display())]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The version in its mark.
        found: u64,
        /// The newest version known here.
        known: u64,
    },
    /// The folder could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a manifest was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutManifestError {
    /// Blobs that it names are not in the repository.
    #[error("{} of the blobs that the manifest names are not in the repository", .0.len())]
    MissingBlobs(Vec<Digest>),
    /// A blob that it names is intact but has another size.
    #[error("the manifest states {named} bytes for blob {digest}, which has {stored}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// Its size in the manifest, in bytes.
        named: u64,
        /// Its size in the store, in bytes.
        stored: u64,
    },
    /// A blob that it names has another size, and cannot be verified now.
    #[error(
        "the size of a blob differs from that in the manifest, and it cannot be verified now \
             because others are being verified"
    )]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an upload could not continue.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// There is no such upload in the repository, or it has ended.
    #[error("there is no such upload")]
    Unknown,
    /// Another request has been writing to it for longer than requests wait.
    #[error("another request is writing to this upload")]
    Busy,
    /// The content has another digest than announced; the upload was deleted.
    #[error("the content hashes to {actual}")]
    Digest {
        /// The digest of the content.
        actual: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
