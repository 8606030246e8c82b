//! Completes images: fetches what is missing of them, and stores their manifests, indexes and tags.

use std::sync::Arc;
use std::time::Instant;

use coral_image::{Descriptor, Digest, Manifest, ManifestKind, RepositoryPath, Tag, Version};
use futures::stream;
use futures::{StreamExt as _, TryStreamExt as _};

use tokio::sync::SemaphorePermit;

use super::pending::is_attestation;
use super::{FetchFailure, Inner, lock};
use crate::store::StoreError;

/// How many blobs of an image are fetched at once.
const MOST_BLOBS: usize = 3;

impl Inner {
    /// Fetches the remaining blobs of the images with this blob, so that they can be stored.
    pub(super) fn complete_images_with(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        digest: &Digest,
    ) {
        let images = lock(&self.pending).begin_completing(repository, digest);
        for image in images {
            let (inner, repository) = (Arc::clone(self), repository.clone());
            self.tasks.spawn(async move {
                if let Err(failure) = inner.complete(&repository, &image).await {
                    let (digest, error) = (image.digest(), StoreError::from(failure));
                    let error = coral_image::error_chain(&error);
                    tracing::warn!(%repository, %digest, "an image was not stored: {error}");
                    lock(&inner.pending).failed(&repository, &digest);
                }
            });
        }
    }

    async fn complete(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        image: &Manifest,
    ) -> Result<(), FetchFailure> {
        // An image whose blobs are all here does not wait for slow ones.
        if !self.missing_blobs(repository, image).await?.is_empty() {
            let _slot = self.completion_slot(repository).await?;
            self.ensure_blobs(repository, image).await?;
        }
        self.publish(repository, image.clone()).await;
        Ok(())
    }

    async fn completion_slot(
        &self,
        repository: &RepositoryPath,
    ) -> Result<SemaphorePermit<'_>, FetchFailure> {
        let source = self.source_of(repository).ok_or(FetchFailure::Stopped)?;
        tokio::select! {
            slot = source.completions.acquire() => slot.map_err(|_| FetchFailure::Stopped),
            () = self.stop.cancelled() => Err(FetchFailure::Stopped),
        }
    }

    /// Fetches the missing blobs of an image, if there is room for all of them.
    async fn ensure_blobs(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        image: &Manifest,
    ) -> Result<(), FetchFailure> {
        let missing = self.missing_blobs(repository, image).await?;
        let sizes = missing.iter().map(|blob| blob.size);
        let bytes = sizes.fold(0, u64::saturating_add);
        self.store.check_room(bytes).await?;
        stream::iter(missing)
            .map(|blob| self.ensure_blob(repository, blob))
            .buffer_unordered(MOST_BLOBS)
            .try_collect()
            .await
    }

    async fn missing_blobs(
        &self,
        repository: &RepositoryPath,
        image: &Manifest,
    ) -> Result<Vec<Descriptor>, StoreError> {
        let mut missing = vec![];
        for blob in image.blobs().filter(|blob| !blob.is_foreign()) {
            if !self.has_blob(repository, &blob.digest).await? {
                missing.push(blob.clone());
            }
        }
        Ok(missing)
    }

    async fn ensure_blob(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        blob: Descriptor,
    ) -> Result<(), FetchFailure> {
        if self.has_blob(repository, &blob.digest).await? {
            return Ok(());
        }
        let upstream = self.pull_through.upstream_of(repository);
        let upstream = upstream.ok_or(FetchFailure::Stopped)?;
        self.download(repository, blob, upstream).stored().await
    }

    async fn has_blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        Ok(self.store.stat_blob(repository, digest).await?.is_some())
    }

    /// Stores an image that was fetched just now if all of its blobs are here, such as one that
    /// differs from another in its labels only.
    pub(super) fn publish_if_complete(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        image: Manifest,
    ) {
        if image.kind() != ManifestKind::Image {
            return;
        }
        let (inner, repository) = (Arc::clone(self), repository.clone());
        self.tasks.spawn(async move {
            for blob in image.blobs().filter(|blob| !blob.is_foreign()) {
                match inner.has_blob(&repository, &blob.digest).await {
                    Ok(true) => {}
                    // An error here is found again by the request for the blob.
                    Ok(false) | Err(_) => return,
                }
            }
            inner.publish(&repository, image).await;
        });
    }

    /// Stores the indexes that list a stored image.
    pub(super) fn publish_parents(self: &Arc<Self>, repository: &RepositoryPath, child: &Digest) {
        let parents = lock(&self.pending).begin_completing_parents(repository, child);
        for parent in parents {
            let (inner, repository) = (Arc::clone(self), repository.clone());
            self.tasks.spawn(async move {
                match inner.completion_slot(&repository).await {
                    Ok(_slot) => inner.publish(&repository, parent).await,
                    Err(_) => lock(&inner.pending).failed(&repository, &parent.digest()),
                }
            });
        }
    }

    /// Stores a manifest whose content is here, with its tags, and then the indexes that list it.
    async fn publish(self: &Arc<Self>, repository: &RepositoryPath, manifest: Manifest) {
        let mut next = vec![manifest];
        while let Some(manifest) = next.pop() {
            let digest = manifest.digest();
            let tags = lock(&self.lookups).tags_of(repository, &digest, Instant::now());
            let kept = self.keep_platforms(repository, &manifest, &tags).await;
            if let Err(failure) = kept {
                let error = coral_image::error_chain(&StoreError::from(failure));
                tracing::warn!(%repository, %digest, "an index was not stored: {error}");
            } else if self.put(repository, manifest, tags).await {
                let mut pending = lock(&self.pending);
                pending.remove(repository, &digest);
                next.extend(pending.parents(repository, &digest));
                continue;
            }
            lock(&self.pending).failed(repository, &digest);
        }
    }

    /// Before tags move to an index: fetches its images for the platforms that the stored index has
    /// images for, so that their clients can still pull when the source is away.
    async fn keep_platforms(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        index: &Manifest,
        tags: &[Tag],
    ) -> Result<(), FetchFailure> {
        let mut platforms = vec![];
        for tag in tags {
            let before = self.stored(repository, &Version::Tag(tag.clone())).await;
            for child in before.iter().flat_map(Manifest::children) {
                if self.is_stored(repository, child).await? && !is_attestation(child) {
                    platforms.extend(child.platform.clone());
                }
            }
        }
        for child in index.children() {
            let is_wanted = child
                .platform
                .as_ref()
                .is_some_and(|it| platforms.contains(it));
            if is_wanted && !self.is_stored(repository, child).await? {
                self.store_child(repository, &child.digest).await?;
            }
        }
        Ok(())
    }

    async fn is_stored(
        &self,
        repository: &RepositoryPath,
        manifest: &Descriptor,
    ) -> Result<bool, StoreError> {
        let version = Version::Digest(manifest.digest);
        Ok(self.store.resolve(repository, &version).await?.is_some())
    }

    async fn store_child(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        digest: &Digest,
    ) -> Result<(), FetchFailure> {
        let upstream = self.pull_through.upstream_of(repository);
        let upstream = upstream.ok_or(FetchFailure::Stopped)?;
        let image = self.fetch_manifest(repository, digest, upstream).await;
        // An index may list what its registry does not have.
        if let Some(image) = image.map_err(FetchFailure::Upstream)? {
            self.ensure_blobs(repository, &image).await?;
            if self.put(repository, image, vec![]).await {
                lock(&self.pending).remove(repository, digest);
            }
        }
        Ok(())
    }

    /// Returns whether the manifest is stored.
    pub(super) async fn put(
        &self,
        repository: &RepositoryPath,
        manifest: Manifest,
        tags: Vec<Tag>,
    ) -> bool {
        let digest = manifest.digest();
        let names: Vec<String> = tags.iter().map(ToString::to_string).collect();
        match self.store.put_manifest(repository, manifest, tags).await {
            Ok(_) => {
                tracing::info!(%repository, %digest, tags = names.join(","), "pulled through");
                true
            }
            Err(error) => {
                let error = coral_image::error_chain(&error);
                tracing::warn!(%repository, %digest, "an image was not stored: {error}");
                false
            }
        }
    }
}
