//! OCI image layouts, served read-only as repositories (OCI image-spec, `image-layout.md`).
//!
//! A layout belongs to another program: it is never written to, changes in it are visible at the
//! next request, and nothing in it is trusted. A manifest is compared with its digest each time it
//! is read. A blob is compared the first time, and again whenever its file has changed. No symbolic
//! link in the folder is followed.

mod catalog;
mod files;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coral_distribution::LayoutFiles;
use coral_image::{Digest, RepositoryPath, Tag, Version};
use futures::future::BoxFuture;

use self::catalog::Catalog;
use crate::stamp::Stamp;
use crate::store::{
    BlobContent, BlobHandle, ManifestRecord, Page, PageQuery, ReadOnlySource, ReferrersPage,
    ReferrersQuery, Source, StoreError, StoredManifest,
};

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// It is not a layout, or has another version.
    #[error("{path} is not an OCI image layout: {reason}", path = path.display())]
    Form {
        /// The file that shows this.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The folder of a layout, served as one repository. Clones share their state.
#[derive(Debug, Clone)]
pub struct LayoutFolder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    repository: RepositoryPath,
    files: LayoutFiles,
    /// The content, at the time when `index.json` had this stamp.
    catalog: Mutex<Option<(Stamp, Arc<Catalog>)>>,
    /// Verified blobs, with the stamps of their files at that time; at most those in the catalog.
    verified: Mutex<HashMap<Digest, Stamp>>,
}

impl LayoutFolder {
    /// Opens the layout of these files as `repository`. It is read once, so that a wrong folder is
    /// noticed at once. This blocks on the disk.
    pub fn open(repository: RepositoryPath, files: LayoutFiles) -> Result<Self, LayoutError> {
        let shared = Shared {
            repository,
            files,
            catalog: Mutex::default(),
            verified: Mutex::default(),
        };
        shared.catalog()?;
        Ok(Self(Arc::new(shared)))
    }

    /// The repository that it is served as.
    pub fn repository(&self) -> &RepositoryPath {
        &self.0.repository
    }

    /// Looks something up on the blocking pool.
    fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Shared, &Catalog) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let shared = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            let catalog = shared.catalog().map_err(StoreError::from)?;
            look(&shared, &catalog)
        });
        Box::pin(async move { task.await.map_err(|_| StoreError::Closed)? })
    }
}

impl From<LayoutFolder> for ReadOnlySource {
    fn from(layout: LayoutFolder) -> Self {
        Self {
            repository: layout.repository().clone(),
            source: Arc::new(layout),
        }
    }
}

impl Shared {
    /// The current content of the layout.
    fn catalog(&self) -> Result<Arc<Catalog>, LayoutError> {
        let stamp = files::stamp(&self.files)?;
        let mut slot = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, catalog)) = slot.as_ref().filter(|(seen, _)| *seen == stamp) {
            return Ok(Arc::clone(catalog));
        }
        let catalog = Arc::new(Catalog::read(&self.files)?);
        *slot = Some((stamp, Arc::clone(&catalog)));
        drop(slot);
        self.verified().retain(|digest, _| catalog.has_blob(digest));
        Ok(catalog)
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Stamp>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a manifest, verified against its digest.
    fn manifest(&self, record: &ManifestRecord) -> Result<StoredManifest, StoreError> {
        let bytes = files::read_blob(&self.files, &record.digest)?;
        if !record.digest.matches(&bytes) {
            return Err(files::damaged(&self.files, &record.digest));
        }
        Ok(StoredManifest {
            record: record.clone(),
            bytes: Bytes::from(bytes),
        })
    }

    /// Opens a blob that the layout has; `None` if its file is missing, as in a sparse layout.
    fn open(&self, digest: &Digest) -> Result<Option<BlobHandle>, StoreError> {
        let Some((file, stamp)) = files::open_blob(&self.files, digest)? else {
            return Ok(None);
        };
        if self.verified().get(digest) != Some(&stamp) {
            files::verify(&self.files, &file, digest)?;
            self.verified().insert(*digest, stamp);
        }
        Ok(Some(BlobHandle {
            size: stamp.size(),
            content: BlobContent::Foreign(Arc::new(file)),
        }))
    }
}

impl From<LayoutError> for StoreError {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::Read { path, source } => Self::io("read", &path, source),
            LayoutError::Form { path, reason } => Self::damaged(&path, reason),
        }
    }
}

impl Source for LayoutFolder {
    fn resolve<'a>(
        &'a self,
        _: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<ManifestRecord>, StoreError>> {
        let version = version.clone();
        self.look(move |_, catalog| Ok(catalog.resolve(&version).cloned()))
    }

    fn manifest<'a>(
        &'a self,
        _: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<StoredManifest>, StoreError>> {
        let version = version.clone();
        self.look(move |shared, catalog| {
            let record = catalog.resolve(&version);
            record.map(|record| shared.manifest(record)).transpose()
        })
    }

    fn stat_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        Box::pin(async move {
            let opened = self.open_blob(repository, digest).await?;
            Ok(opened.map(|blob| blob.size))
        })
    }

    fn open_blob<'a>(
        &'a self,
        _: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<BlobHandle>, StoreError>> {
        let digest = *digest;
        self.look(move |shared, catalog| {
            if catalog.has_blob(&digest) {
                shared.open(&digest)
            } else {
                Ok(None)
            }
        })
    }

    fn tags<'a>(
        &'a self,
        _: &'a RepositoryPath,
        page: PageQuery,
    ) -> BoxFuture<'a, Result<Option<Page<Tag>>, StoreError>> {
        self.look(move |_, catalog| Ok(Some(catalog.tags(&page))))
    }

    fn referrers<'a>(
        &'a self,
        _: &'a RepositoryPath,
        subject: &'a Digest,
        page: ReferrersQuery,
    ) -> BoxFuture<'a, Result<ReferrersPage, StoreError>> {
        let subject = *subject;
        self.look(move |_, catalog| {
            let known = catalog.referrers(&subject).iter();
            let known: HashMap<_, _> = known.map(|one| (one.digest, one)).collect();
            page.fill(known.keys().copied(), |digest| {
                Ok(known.get(digest).copied().cloned())
            })
        })
    }

    fn repositories(
        &self,
        page: PageQuery,
    ) -> BoxFuture<'_, Result<Page<RepositoryPath>, StoreError>> {
        let own = self.0.repository.clone();
        let is_behind = page.after.is_none_or(|after| own.as_str() > after.as_str());
        let entries = Vec::from_iter((is_behind && page.most > 0).then_some(own));
        let more = false;
        Box::pin(async move { Ok(Page { entries, more }) })
    }
}
