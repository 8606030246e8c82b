//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use coral_image::Digest;

use super::NoRoom;

/// Why a store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system said no.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No space, or no quota.
    #[error("no space left to {action} {path}; nothing was lost, free some space and try again", path = path.display())]
    Full {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
    },
    /// A bound that was set is reached.
    #[error("the storage is full: {0}")]
    NoRoom(Box<NoRoom>),
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
    /// The folder is not the one that was opened.
    #[error("storage folder {path} is not the one that this registry opened: it was removed or replaced, or its disk is not mounted any more; nothing is written until it is back; start the registry again to use what is there now", path = path.display())]
    Replaced {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of repositories is not the one that the content belongs to.
    #[error("{path} is missing, so the folder that it belongs to may be empty by mistake: nothing is collected; bring the contents of the folder back, or, if they are not wanted any more, make the file (it is empty)", path = path.display())]
    Unmarked {
        /// The mark that is missing.
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
    /// A record or content is not what it must be.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A task of the store ended early; only during shutdown.
    #[error("the store is shutting down")]
    Closed,
}

impl StoreError {
    /// Gives an input or output error its place, and sees whether it means a full disk.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path }
            }
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// A bounded word for metrics and logs.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Full { .. } => "full",
            Self::NoRoom(_) => "no_room",
            Self::NotWritable { .. } => "not_writable",
            Self::NotEmpty { .. } => "not_empty",
            Self::InUse { .. } => "in_use",
            Self::Replaced { .. } => "replaced",
            Self::Unmarked { .. } => "unmarked",
            Self::Newer { .. } => "newer",
            Self::Damaged { .. } => "damaged",
            Self::Closed => "closed",
        }
    }
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
