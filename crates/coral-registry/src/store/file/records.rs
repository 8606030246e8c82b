//! The records of a repository: small JSON files.

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
    /// The subject, which locates its referrer record, so that both can be deleted without reading
    /// the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Digest>,
}

impl ManifestEntry {
    pub(super) fn from_manifest(manifest: &Manifest) -> Self {
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
    pub(super) fn from_manifest(manifest: &Manifest) -> Self {
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

/// The same, but a damaged record counts as missing: the next push rewrites it.
pub(super) fn read_usable<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match read(path) {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!("{error}; push the image or blob of this record again");
            Ok(None)
        }
        other => other,
    }
}

/// The bytes of a record.
pub(super) fn write(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have only text keys")
}

/// Whether the error means that nothing is there, including a parent that is missing or a file.
pub(super) fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
