//! Uploads that a process left open, remembered in a folder for the next one.
//!
//! There is one file for each upload, named after the blob and the repository it is pushed to. The
//! URL of an upload may contain a secret of the registry, so only the user may read the files. A
//! lost file costs the bytes that were sent; a stale one costs a request.

use std::collections::HashSet;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coral_image::{Digest, Host, Repository};
use serde::{Deserialize, Serialize};

/// Largest file that is read: a URL, and a little more.
const MAX_FILE: u64 = 64 * 1024;

/// A folder with the URLs of open uploads; clones share it. Only one process at a time may use a
/// folder.
#[derive(Debug, Clone)]
pub struct OpenUploads {
    folder: Arc<PathBuf>,
    /// A registry whose address may change between restarts, and the name that stands for it in the
    /// folder.
    alias: Option<(Host, &'static str)>,
    /// Names of the uploads that this process has begun or resumed.
    taken: Arc<Mutex<HashSet<String>>>,
}

impl PartialEq for OpenUploads {
    fn eq(&self, other: &Self) -> bool {
        self.folder == other.folder && self.alias == other.alias
    }
}

impl Eq for OpenUploads {}

/// What is stored about an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedUpload {
    /// The URL of the upload, without scheme and host if these are the registry's own.
    pub(crate) location: String,
    /// Whether the registry verifies digests. If it does, the bytes that it already has need not be
    /// read again.
    pub(crate) verifies: bool,
}

/// The stored state of one upload. When this value is dropped, the file stays for the next process.
#[derive(Debug)]
pub(crate) struct UploadRecord {
    uploads: OpenUploads,
    name: String,
}

impl OpenUploads {
    /// Stores uploads in this folder, which is created when the first upload begins.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder: Arc::new(folder),
            alias: None,
            taken: Arc::default(),
        }
    }

    /// Stores the uploads to this registry under an alias instead of its host, so that they are
    /// found again when its address has changed.
    #[must_use]
    pub fn with_alias(self, host: Host, alias: &'static str) -> Self {
        Self {
            alias: Some((host, alias)),
            ..self
        }
    }

    /// Takes the stored state of the upload of a blob to a repository, with what an earlier process
    /// left; `None` if another upload of the same blob is in progress.
    pub(crate) fn take(
        &self,
        repository: &Repository,
        blob: &Digest,
    ) -> Option<(UploadRecord, Option<RecordedUpload>)> {
        let host = repository.host();
        let alias = self.alias.as_ref().filter(|(aliased, _)| aliased == host);
        let host = alias.map_or(host.as_str(), |(_, alias)| alias);
        let upload = format!("{host}/{} {blob}", repository.path());
        let name = format!("{}.json", Digest::sha256(upload.as_bytes()).hex());
        if !self.taken().insert(name.clone()) {
            return None;
        }
        let remembered = read(&self.folder.join(&name));
        let uploads = self.clone();
        Some((UploadRecord { uploads, name }, remembered))
    }

    fn taken(&self) -> MutexGuard<'_, HashSet<String>> {
        // Every change is a single step, so a panic elsewhere does no harm.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadRecord {
    /// Stores the URL of the upload. Failures to write are only logged.
    pub(crate) fn remember(&self, upload: &RecordedUpload) {
        let folder = &self.uploads.folder;
        if let Err(error) = write(folder, &self.name, upload) {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "cannot record an open upload: it starts over after a restart");
        }
    }

    /// Removes the stored state, because the upload has ended.
    pub(crate) fn forget(&self) {
        // If the file is missing, the upload is already forgotten.
        let _ = std::fs::remove_file(self.uploads.folder.join(&self.name));
    }
}

impl Drop for UploadRecord {
    fn drop(&mut self) {
        self.uploads.taken().remove(&self.name);
    }
}

/// The content of a file; `None` if it cannot be read.
fn read(file: &Path) -> Option<RecordedUpload> {
    let size = std::fs::metadata(file).ok()?.len();
    let bytes = (size <= MAX_FILE).then(|| std::fs::read(file).ok())??;
    serde_json::from_slice(&bytes).ok()
}

fn write(folder: &Path, name: &str, upload: &RecordedUpload) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let unfinished = folder.join(format!("{name}.new"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(&serde_json::to_vec(upload)?)?;
    std::fs::rename(unfinished, folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_remembered_until_it_has_ended_and_taken_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = || OpenUploads::new(folder.path().join("uploads"));
        let repository = Repository::parse("localhost:5000/a").unwrap();
        let blob = Digest::sha256(b"x");
        let upload = RecordedUpload {
            location: "http://localhost:5000/v2/a/blobs/uploads/1?state=x".to_owned(),
            verifies: true,
        };
        let first = uploads();
        let (record, nothing) = first.take(&repository, &blob).unwrap();
        assert_eq!(nothing, None);
        record.remember(&upload);
        assert!(first.clone().take(&repository, &blob).is_none());
        drop(record);
        let next = uploads();
        let (record, remembered) = next.take(&repository, &blob).unwrap();
        assert_eq!(remembered, Some(upload));
        record.forget();
        drop(record);
        assert_eq!(next.take(&repository, &blob).unwrap().1, None);
    }

    #[test]
    fn a_file_that_is_cut_off_remembers_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.json");
        std::fs::write(&file, b"{\"location\": \"http://loc").unwrap();
        assert_eq!(read(&file), None);
        assert_eq!(read(&folder.path().join("y.json")), None);
    }
}
