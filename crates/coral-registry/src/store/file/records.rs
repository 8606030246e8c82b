//! The small files of a repository.

use std::fs;
use std::io;
use std::path::Path;

use coral_image::{Digest, Manifest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::{ManifestRecord, StoreError};

/// `_manifests/<alg>/<hex>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestEntry {
    pub(super) media_type: String,
    pub(super) size: u64,
    /// Where its referrer record lies, so that both can be deleted without reading the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Digest>,
}

impl ManifestEntry {
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            media_type: manifest.media_type().to_owned(),
            size: manifest.size(),
            subject: manifest.subject().map(|subject| subject.digest),
        }
    }

    pub(super) fn record(self, digest: Digest) -> ManifestRecord {
        ManifestRecord {
            digest,
            media_type: self.media_type,
            size: self.size,
        }
    }
}

/// `_tags/<tag>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TagEntry {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) size: u64,
}

impl TagEntry {
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            digest: manifest.digest(),
            media_type: manifest.media_type().to_owned(),
            size: manifest.size(),
        }
    }

    pub(super) fn record(self) -> ManifestRecord {
        ManifestRecord {
            digest: self.digest,
            media_type: self.media_type,
            size: self.size,
        }
    }
}

/// Reads a record; `None` if there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path, error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| StoreError::damaged(path, error.to_string()))
}

/// The same, and a damaged one is as good as none: the next push rewrites it.
pub(super) fn read_usable<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match read(path) {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!("{error}; push what it is a record of again");
            Ok(None)
        }
        other => other,
    }
}

/// The bytes of a record.
pub(super) fn write(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have only text keys")
}

/// Nothing there: also when a parent is missing, or is a file.
pub(super) fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
