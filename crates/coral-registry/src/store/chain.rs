//! Several sources as one.

use std::fmt;
use std::sync::Arc;

use coral_image::{Digest, RepositoryPath, Tag, Version};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{
    BlobHandle, ManifestRecord, Page, PageQuery, ReferrersPage, ReferrersQuery, Source, StoreError,
    StoredManifest,
};

/// A source that is served as one read-only repository, such as an OCI layout.
#[derive(Clone)]
pub struct ReadOnlySource {
    /// The repository that it is served as.
    pub repository: RepositoryPath,
    /// The source that it is read from.
    pub source: Arc<dyn Source>,
}

impl fmt::Debug for ReadOnlySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlySource")
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

/// Sources of one repository each, in front of one that serves all other repositories. A front
/// source hides the repository of the same name behind it: what the front source lacks is absent.
pub(crate) struct Chain {
    front: Arc<[ReadOnlySource]>,
    rest: Arc<dyn Source>,
}

impl Chain {
    pub(crate) fn new(front: Arc<[ReadOnlySource]>, rest: Arc<dyn Source>) -> Self {
        Self { front, rest }
    }

    /// The one source that serves the repository.
    fn serving(&self, repository: &RepositoryPath) -> &dyn Source {
        let found = self.front.iter().find(|one| one.repository == *repository);
        found.map_or(self.rest.as_ref(), |one| one.source.as_ref())
    }

    async fn page_of_repositories(
        &self,
        page: PageQuery,
    ) -> Result<Page<RepositoryPath>, StoreError> {
        let (after, most) = (page.after.clone(), page.most);
        let mut found = self.rest.repositories(page).await?;
        let end = found.entries.last().filter(|_| found.more).cloned();
        let mut here: Vec<RepositoryPath> = self
            .front
            .iter()
            .map(|one| &one.repository)
            .filter(|path| after.as_deref().is_none_or(|after| path.as_str() > after))
            .filter(|path| end.as_ref().is_none_or(|end| path.as_str() <= end.as_str()))
            .cloned()
            .collect();
        if here.is_empty() {
            return Ok(found);
        }
        found.entries.append(&mut here);
        found.entries.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        found.entries.dedup();
        found.more |= found.entries.len() > most;
        found.entries.truncate(most);
        Ok(found)
    }
}

impl Source for Chain {
    fn resolve<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<ManifestRecord>, StoreError>> {
        self.serving(repository).resolve(repository, version)
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<StoredManifest>, StoreError>> {
        self.serving(repository).manifest(repository, version)
    }

    fn stat_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        self.serving(repository).stat_blob(repository, digest)
    }

    fn open_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<BlobHandle>, StoreError>> {
        self.serving(repository).open_blob(repository, digest)
    }

    fn tags<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        page: PageQuery,
    ) -> BoxFuture<'a, Result<Option<Page<Tag>>, StoreError>> {
        self.serving(repository).tags(repository, page)
    }

    fn referrers<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        subject: &'a Digest,
        page: ReferrersQuery,
    ) -> BoxFuture<'a, Result<ReferrersPage, StoreError>> {
        self.serving(repository)
            .referrers(repository, subject, page)
    }

    fn repositories(
        &self,
        page: PageQuery,
    ) -> BoxFuture<'_, Result<Page<RepositoryPath>, StoreError>> {
        self.page_of_repositories(page).boxed()
    }
}
