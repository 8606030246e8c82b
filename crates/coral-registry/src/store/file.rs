//! The store on a file system.
//!
//! Recently read values are answered from memory. Every other operation is one closure on the
//! blocking pool, which runs to its end even if the client goes away. So a dropped connection never
//! leaves an operation half done.

mod collect;
mod durable;
mod group;
mod hashing;
mod layout;
mod leases;
mod locks;
mod lookup;
mod names;
mod open;
mod publish;
mod recent;
mod records;
mod scrub;
mod take;
#[cfg(test)]
mod turns;
mod uploads;
mod usage;
mod verdicts;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coral_image::{Algorithm, Digest, Manifest, RepositoryPath, Tag, Version};
use futures::future::{BoxFuture, ready};
use tokio_util::sync::CancellationToken;

use self::collect::NothingToCollect;
use self::durable::Durable;
use self::layout::Layout;
use self::leases::Leases;
use self::locks::{KeyLocks, SharedLocks};
use self::names::Names;
use self::recent::Recent;
pub use self::take::Transfer;
pub(crate) use self::take::{TakeError, Transferred};
use self::uploads::Uploads;
use self::usage::Usage;
use self::verdicts::Verdicts;
use super::{
    BlobHandle, Collected, CollectionRules, Deleted, Idle, ManifestRecord, Mounted, OpenError,
    Page, PageQuery, PutManifestError, ReferrersPage, ReferrersQuery, RepositoryBytes, ScrubRules,
    ScrubState, ScrubWatch, Scrubbed, Source, Space, SpaceBounds, Store, StoreError,
    StoredManifest, UploadError, UploadId, UploadWriter,
};

/// A store in a folder, used by one process at a time.
#[derive(Debug, Clone)]
pub struct FileStore {
    files: Arc<Files>,
    uploads: Arc<Uploads>,
}

/// The synchronous part: paths, locks, and the rules of writing.
#[derive(Debug)]
struct Files {
    layout: Layout,
    durable: Durable,
    leases: Leases,
    /// Whether the folder of repositories is trusted although it has no mark.
    repositories_believed: bool,
    /// Locked by the running collection. `Some` if the last one had nothing to do.
    collecting: Mutex<Option<NothingToCollect>>,
    /// Locked by the running scrub.
    scrubbing: Mutex<()>,
    /// What the running scrub has moved aside.
    moved: Mutex<HashSet<Digest>>,
    /// Repositories with an unreadable manifest that was already reported.
    unreadable: Mutex<HashSet<RepositoryPath>>,
    /// By repository: shared by operations that add to it, exclusive for the removal of a manifest.
    repositories: SharedLocks,
    /// By digest: taken to publish content.
    contents: KeyLocks,
    /// By repository and digest or tag: taken to publish a record.
    records: KeyLocks,
    /// Tags by repository.
    tags: Names,
    /// The one list of repositories with a manifest.
    catalog: Names,
    /// The manifests that tags and digests name, by repository.
    resolved: Recent<(RepositoryPath, Version), ManifestRecord>,
    /// Bytes of manifests, verified against their digests.
    manifests: Recent<Digest, Bytes>,
    /// Which content was verified.
    verdicts: Verdicts,
    usage: Usage,
    /// Held as long as the store is open.
    lock: std::fs::File,
}

impl FileStore {
    /// Opens the store in `dir`, or creates it.
    ///
    /// Temporary files of an earlier run are deleted; its open uploads stay.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let files = Arc::new(open::open(dir)?);
        let uploads = Arc::new(Uploads::open(&files)?);
        Ok(Self { files, uploads })
    }

    /// Whether a folder holds a store, opened or not.
    pub fn is_store(dir: &Path) -> bool {
        Layout::new(dir).mark().is_file()
    }

    /// As [`Self::run`], but only if the folder is still the one that was opened: another process
    /// may hold the lock of a folder that has replaced it.
    fn write<T, E>(
        &self,
        operation: impl FnOnce(&Files) -> Result<T, E> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.run(move |files| {
            files.check_folder()?;
            operation(files)
        })
    }

    fn run<T, E>(
        &self,
        operation: impl FnOnce(&Files) -> Result<T, E> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let files = Arc::clone(&self.files);
        let task = tokio::task::spawn_blocking(move || operation(&files));
        Box::pin(async move { task.await.map_err(|_| StoreError::Closed)? })
    }
}

impl From<FileStore> for Arc<dyn Store> {
    fn from(store: FileStore) -> Self {
        Arc::new(store)
    }
}

impl Source for FileStore {
    fn resolve<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<ManifestRecord>, StoreError>> {
        let wanted = (repository.clone(), version.clone());
        self.run(move |files| files.resolve(&wanted))
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<StoredManifest>, StoreError>> {
        let wanted = (repository.clone(), version.clone());
        match self.files.remembered_manifest(&wanted) {
            Some(manifest) => Box::pin(ready(Ok(Some(manifest)))),
            None => self.run(move |files| files.manifest(&wanted)),
        }
    }

    fn stat_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        let (repository, digest) = (repository.clone(), *digest);
        self.run(move |files| files.stat_blob(&repository, &digest))
    }

    fn open_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<BlobHandle>, StoreError>> {
        let (repository, digest) = (repository.clone(), *digest);
        self.run(move |files| files.open_blob(&repository, &digest))
    }

    fn tags<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        page: PageQuery,
    ) -> BoxFuture<'a, Result<Option<Page<Tag>>, StoreError>> {
        let repository = repository.clone();
        self.run(move |files| files.tags(&repository, &page))
    }

    fn referrers<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        subject: &'a Digest,
        page: ReferrersQuery,
    ) -> BoxFuture<'a, Result<ReferrersPage, StoreError>> {
        let (repository, subject) = (repository.clone(), *subject);
        self.run(move |files| files.referrers(&repository, &subject, &page))
    }

    fn repositories(
        &self,
        page: PageQuery,
    ) -> BoxFuture<'_, Result<Page<RepositoryPath>, StoreError>> {
        self.run(move |files| files.repositories(&page))
    }
}

impl Store for FileStore {
    fn begin_upload<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<UploadId, StoreError>> {
        let (repository, uploads) = (repository.clone(), Arc::clone(&self.uploads));
        self.write(move |files| uploads.begin(files, &repository, algorithm))
    }

    fn upload_offset<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        id: UploadId,
    ) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        let (repository, uploads) = (repository.clone(), Arc::clone(&self.uploads));
        self.run(move |files| {
            Ok(uploads
                .find(files, &repository, id)?
                .map(|upload| upload.offset()))
        })
    }

    fn write_upload<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        id: UploadId,
    ) -> BoxFuture<'a, Result<Box<dyn UploadWriter>, UploadError>> {
        Box::pin(async move {
            let writer = uploads::write(self, repository, id).await?;
            Ok(Box::new(writer) as Box<dyn UploadWriter>)
        })
    }

    fn open_uploads(&self) -> u64 {
        self.uploads.count()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.files.check_folder()
    }

    fn bound(&self, bounds: SpaceBounds) {
        self.files.usage.set_bounds(bounds);
    }

    fn space(&self) -> Space {
        self.files.usage.space()
    }

    fn look_at_space(&self) -> BoxFuture<'_, Result<Space, StoreError>> {
        self.run(Files::space)
    }

    fn check_room(&self, more: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(move |files| files.check_room(more))
    }

    fn repository_bytes(&self, repository: &RepositoryPath) -> u64 {
        self.files.usage.repository_bytes(repository)
    }

    fn bytes_by_repository(&self) -> RepositoryBytes {
        self.files.usage.by_repository()
    }

    fn count(&self, stop: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(move |files| files.count(&stop))
    }

    fn end_abandoned(&self, idle: Idle) -> BoxFuture<'_, Result<Vec<UploadId>, StoreError>> {
        let uploads = Arc::clone(&self.uploads);
        self.run(move |files| {
            // This is called every few minutes, so it also saves the clock in case the process is
            // killed.
            let saved = files.check_folder();
            let saved = saved.and_then(|()| files.leases.save_if_used());
            if let Err(error) = saved {
                tracing::warn!(%error, "the store's clock cannot be written");
            }
            uploads.end_abandoned(files, idle)
        })
    }

    fn collect(
        &self,
        rules: CollectionRules,
        stop: CancellationToken,
    ) -> BoxFuture<'_, Result<Collected, StoreError>> {
        self.write(move |files| files.collect(&rules, &stop))
    }

    fn scrub(
        &self,
        rules: ScrubRules,
        stop: CancellationToken,
        watch: Arc<dyn ScrubWatch>,
    ) -> BoxFuture<'_, Result<Scrubbed, StoreError>> {
        self.write(move |files| files.scrub(&rules, &stop, watch.as_ref()))
    }

    fn scrub_state(&self) -> BoxFuture<'_, Result<ScrubState, StoreError>> {
        self.run(Files::scrub_state)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(|files| files.leases.close())
    }

    fn mount<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
        from: Option<&'a RepositoryPath>,
    ) -> BoxFuture<'a, Result<Mounted, StoreError>> {
        let (repository, digest, from) = (repository.clone(), *digest, from.cloned());
        self.write(move |files| files.mount(&repository, &digest, from.as_ref()))
    }

    fn put_manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        manifest: Manifest,
        tags: Vec<Tag>,
    ) -> BoxFuture<'a, Result<Vec<(Tag, Digest)>, PutManifestError>> {
        let repository = repository.clone();
        self.write(move |files| files.put_manifest(&repository, &manifest, &tags))
    }

    fn delete_manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<Deleted>, StoreError>> {
        let (repository, version) = (repository.clone(), version.clone());
        self.write(move |files| match &version {
            Version::Tag(tag) => files.delete_tag(&repository, tag),
            Version::Digest(digest) => files.delete_manifest(&repository, digest),
        })
    }

    fn delete_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let (repository, digest) = (repository.clone(), *digest);
        self.write(move |files| files.delete_blob(&repository, &digest))
    }
}
