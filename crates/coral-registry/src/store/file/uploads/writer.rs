//! Writes to an upload, and commits it as a blob.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coral_image::{Algorithm, Digest, RepositoryPath};
use futures::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;

use super::data::{cut_to, open_at, reserve, start_writing, write_all};
use super::{Session, Upload};
use crate::store::file::hashing::{Hashing, hash_file};
use crate::store::file::publish::Content;
use crate::store::file::{FileStore, Files, durable};
use crate::store::{StoreError, UploadError, UploadId, UploadWriter};

/// How long a request waits while another one writes to the same upload.
const PATIENCE: Duration = Duration::from_secs(15);

/// Uploads in memory are found without access to the disk.
async fn find(
    store: &FileStore,
    repository: &RepositoryPath,
    id: UploadId,
) -> Result<Option<Arc<Upload>>, StoreError> {
    if let Some(upload) = store.uploads.known(id) {
        return Ok(Some(upload).filter(|upload| upload.repository == *repository));
    }
    let (uploads, repository) = (Arc::clone(&store.uploads), repository.clone());
    let find = move |files: &Files| uploads.find(files, &repository, id);
    store.run(find).await
}

/// Waits for the upload and locks it.
pub(in crate::store::file) async fn write(
    store: &FileStore,
    repository: &RepositoryPath,
    id: UploadId,
) -> Result<FileUpload, UploadError> {
    let upload = find(store, repository, id)
        .await?
        .ok_or(UploadError::Unknown)?;
    let session = Arc::clone(&upload.session).lock_owned();
    let held = tokio::time::timeout(PATIENCE, session)
        .await
        .map_err(|_| UploadError::Busy)?;
    if held.ended {
        return Err(UploadError::Unknown);
    }
    let held = LockedUpload {
        store: store.clone(),
        id,
        upload,
        acknowledged: held.offset,
        session: held,
        file: None,
    };
    Ok(FileUpload { held: Some(held) })
}

/// An upload that is locked for writing.
///
/// While a closure runs on the blocking pool, the closure owns the lock. So if the client goes
/// away, the next one waits until the operation has ended.
pub(in crate::store::file) struct FileUpload {
    held: Option<LockedUpload>,
}

struct LockedUpload {
    store: FileStore,
    id: UploadId,
    upload: Arc<Upload>,
    session: OwnedMutexGuard<Session>,
    /// The size at the beginning: the client was told that it need not send these bytes again.
    acknowledged: u64,
    file: Option<File>,
}

impl FileUpload {
    /// Waits for the digest of everything received before.
    async fn hashed(&mut self) -> Result<&mut Hashing, UploadError> {
        let held = self.held.as_mut().ok_or(StoreError::Closed)?;
        held.session.hashing.settle().await;
        Ok(&mut held.session.hashing)
    }

    /// Starts hashing a batch.
    async fn hash(&mut self, batch: Vec<Bytes>) -> Result<(), UploadError> {
        self.hashed().await?.begin(batch);
        Ok(())
    }

    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut LockedUpload) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let mut held = self.held.take().ok_or(StoreError::Closed)?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&mut held);
            (held, result)
        });
        let (held, result) = task.await.map_err(|_| StoreError::Closed)?;
        self.held = Some(held);
        result
    }
}

impl UploadWriter for FileUpload {
    fn offset(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.session.offset)
    }

    fn expect(&mut self, algorithm: Algorithm) {
        if let Some(held) = &mut self.held
            && held.session.offset == 0
        {
            held.session.hashing = Hashing::Ready(algorithm.hasher());
        }
    }

    fn append(&mut self, batch: Vec<Bytes>) -> BoxFuture<'_, Result<(), UploadError>> {
        Box::pin(async move {
            self.hash(batch.clone()).await?;
            self.work(move |held| held.append(&batch)).await
        })
    }

    fn reserve(&mut self, size: u64) -> BoxFuture<'_, Result<(), UploadError>> {
        Box::pin(self.work(move |held| held.reserve(size)))
    }

    fn reader(&mut self) -> BoxFuture<'_, Result<Arc<File>, UploadError>> {
        let open = |held: &mut LockedUpload| {
            let path = &held.session.data;
            let file = File::open(path).map_err(|error| StoreError::io("open", path, error))?;
            Ok(Arc::new(file))
        };
        Box::pin(self.work(open))
    }

    fn commit(mut self: Box<Self>, digest: Digest) -> BoxFuture<'static, Result<u64, UploadError>> {
        Box::pin(async move {
            self.hashed().await?;
            self.work(move |held| held.commit(&digest)).await
        })
    }

    fn cancel(mut self: Box<Self>) -> BoxFuture<'static, Result<(), UploadError>> {
        let end = |held: &mut LockedUpload| {
            held.end();
            Ok(())
        };
        Box::pin(async move { self.work(end).await })
    }
}

impl LockedUpload {
    /// Opens the file to append to it, unless it is open.
    fn open(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open_at(&self.session.data, self.session.offset)?,
        };
        Ok(self.file.insert(file))
    }

    /// Opening the file again would give the reserved space back, so it stays open.
    fn reserve(&mut self, size: u64) -> Result<(), UploadError> {
        let reserved = self.open().and_then(|file| reserve(file, size));
        let path = &self.session.data;
        Ok(reserved.map_err(|error| StoreError::io("reserve space for", path, error))?)
    }

    fn append(&mut self, batch: &[Bytes]) -> Result<(), UploadError> {
        let path = self.session.data.clone();
        let failed = |error| StoreError::io("write", &path, error);
        let offset = self.session.offset;
        let written: u64 = batch.iter().map(|piece| piece.len() as u64).sum();
        self.open().map_err(failed)?;
        if let Err(error) = self.store.files.take_room(written) {
            self.truncate_to(self.acknowledged);
            return Err(error.into());
        }
        let file = self.file.as_mut().ok_or(StoreError::Closed)?;
        if let Err(error) = write_all(file, batch) {
            self.store.files.usage.uploads_shrank(written);
            let error = failed(error);
            let kept = match error {
                StoreError::Full { .. } => self.acknowledged,
                _ => offset,
            };
            self.truncate_to(kept);
            return Err(error.into());
        }
        self.session.offset = offset + written;
        self.session.counted += written;
        start_writing(file, offset, self.session.offset);
        self.upload
            .offset
            .store(self.session.offset, Ordering::Release);
        Ok(())
    }

    /// Truncates the upload to `offset`. Its digest has to be computed again, since hashed bytes
    /// cannot be removed from it.
    fn truncate_to(&mut self, offset: u64) {
        let path = self.session.data.clone();
        // If this fails, the next writer truncates the file.
        let _ = open_at(&path, offset);
        self.file = None;
        self.session.hashing = Hashing::Unknown;
        let given_back = self.session.offset.saturating_sub(offset);
        let given_back = given_back.min(self.session.counted);
        self.store.files.usage.uploads_shrank(given_back);
        self.session.counted -= given_back;
        self.session.offset = offset;
        self.upload.offset.store(offset, Ordering::Release);
    }

    /// Commits the upload. On a full disk, bytes that the client has to send again are removed. A
    /// file that already has its final name stays: only the rest of the commit has to be repeated.
    fn commit(&mut self, expected: &Digest) -> Result<u64, UploadError> {
        let committed = self.commit_all(expected);
        let full = matches!(committed, Err(UploadError::Store(StoreError::Full { .. })));
        if full && !self.session.ended && self.session.data.exists() {
            self.truncate_to(self.acknowledged);
        }
        committed
    }

    fn commit_all(&mut self, expected: &Digest) -> Result<u64, UploadError> {
        let path = self.session.data.clone();
        let size = self.session.offset;
        cut_to(&path, size).map_err(|error| StoreError::io("cut", &path, error))?;
        let actual = match self.session.hashing.digest() {
            Some(digest) if digest.algorithm() == expected.algorithm() => digest,
            _ => hash_file(&path, expected.algorithm())
                .map_err(|error| StoreError::io("read", &path, error))?,
        };
        if actual != *expected {
            self.end();
            return Err(UploadError::Digest { actual });
        }
        let mut content = Content::Unsynced;
        if !self.store.files.has_content(expected, size) {
            if let Err(error) = self.sync(&path) {
                // After a failed sync the system drops the data, and a second sync would succeed.
                self.end();
                return Err(error.into());
            }
            content = Content::Synced;
        }
        self.publish(expected, &path, content)?;
        self.end();
        Ok(size)
    }

    fn publish(
        &mut self,
        digest: &Digest,
        path: &Path,
        content: Content,
    ) -> Result<(), StoreError> {
        let files = &self.store.files;
        let _hold = files.leases.hold(digest);
        let session = &mut *self.session;
        let size = session.offset;
        let published = files
            .adopt_content(digest, path, size, content, &mut session.counted)
            .and_then(|()| files.link(&self.upload.repository, digest));
        if published.is_err() && !path.exists() {
            session.broke = Some(Instant::now());
        }
        published
    }

    /// Syncs through the descriptor that wrote, if there is one, because it receives every error.
    fn sync(&self, path: &Path) -> Result<(), StoreError> {
        match &self.file {
            Some(file) => file
                .sync_data()
                .map_err(|error| StoreError::io("sync", path, error)),
            None => durable::sync_content(path),
        }
    }

    fn end(&mut self) {
        self.file = None;
        self.store
            .uploads
            .end(&self.store.files, self.id, &mut self.session);
    }
}
