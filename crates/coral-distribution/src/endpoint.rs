//! Where images come from and go to: one set of verbs for registries and layouts.

use coral_image::{Descriptor, Digest, Hasher, Manifest, RepositoryPath, Tag, Version};

use crate::blob_stream::BlobStream;
use crate::error::Error;
use crate::layout::Layout;
use crate::repository::{PutManifest, RepositoryClient};
use crate::upload::BlobPush;

/// A repository of a registry, or a layout directory.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A repository of a registry.
    Registry(RepositoryClient),
    /// A directory.
    Layout(Layout),
}

impl From<RepositoryClient> for Endpoint {
    fn from(repository: RepositoryClient) -> Self {
        Self::Registry(repository)
    }
}

impl From<Layout> for Endpoint {
    fn from(layout: Layout) -> Self {
        Self::Layout(layout)
    }
}

impl Endpoint {
    /// What a tag or digest points at, by `HEAD`; `None` if it is not there.
    pub async fn head(&self, version: &Version) -> Result<Option<Descriptor>, Error> {
        todo!("{version}")
    }

    /// The manifest, verified; one that is not there is an error of category `not_found`.
    pub async fn manifest(&self, version: &Version) -> Result<Manifest, Error> {
        todo!("{version}")
    }

    /// Writes a manifest under a tag or its digest.
    pub async fn put_manifest(
        &self,
        version: &Version,
        manifest: &Manifest,
    ) -> Result<PutManifest, Error> {
        todo!("{version} {manifest:?}")
    }

    /// The length of a blob; `None` if it is not there.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        todo!("{digest}")
    }

    /// The blob from `offset` on. From 0 the digest is verified; from elsewhere only the length,
    /// see [`Self::blob_from`].
    pub async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobStream, Error> {
        todo!("{blob:?} {offset}")
    }

    /// The blob from `offset` on, verified: `hasher` has taken in everything before it.
    pub async fn blob_from(
        &self,
        blob: &Descriptor,
        offset: u64,
        hasher: Hasher,
    ) -> Result<BlobStream, Error> {
        todo!("{blob:?} {offset} {hasher:?}")
    }

    /// Starts to push a blob, or has it mounted from another repository of the same registry.
    pub async fn begin_blob(
        &self,
        digest: &Digest,
        mount_from: Option<&RepositoryPath>,
    ) -> Result<BlobPush, Error> {
        todo!("{digest} {mount_from:?}")
    }

    /// All tags, sorted by the other side; a repository that is not there is an error.
    pub async fn tags(&self) -> Result<Vec<Tag>, Error> {
        todo!()
    }

    /// The manifests that refer to this one; none is an empty list.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        todo!("{subject}")
    }

    /// Deletes a tag, or a manifest with all its tags.
    pub async fn delete(&self, version: &Version) -> Result<(), Error> {
        todo!("{version}")
    }
}
