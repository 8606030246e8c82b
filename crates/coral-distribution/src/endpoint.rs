//! Sources and destinations of images: one set of operations for registries and layouts.

use std::fmt;

use coral_image::{Descriptor, Digest, Hasher, Manifest, RepositoryPath, Tag, Version};

use crate::blob_stream::{BlobStream, Promise};
use crate::error::Error;
use crate::layout::Layout;
use crate::repository::{PutManifest, RepositoryClient};
use crate::upload::BlobPush;

/// A repository of a registry, or a layout directory.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A repository of a registry.
    Registry(RepositoryClient),
    /// A layout directory or archive.
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

impl fmt::Display for Endpoint {
    /// The form that the command line uses: `host/path`, or `oci:DIR`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(repository) => repository.repository().fmt(f),
            Self::Layout(layout) => write!(f, "oci:{}", layout.dir().display()),
        }
    }
}

impl Endpoint {
    /// The descriptor that a tag or digest points at, by `HEAD`; `None` if it does not exist.
    pub async fn head(&self, version: &Version) -> Result<Option<Descriptor>, Error> {
        match self {
            Self::Registry(repository) => repository.head(version).await,
            Self::Layout(layout) => layout.head(version).await,
        }
    }

    /// The manifest, verified. A missing manifest is an error of category
    /// [`Category::NotFound`](crate::Category::NotFound).
    pub async fn manifest(&self, version: &Version) -> Result<Manifest, Error> {
        match self {
            Self::Registry(repository) => repository.manifest(version).await,
            Self::Layout(layout) => layout.manifest(version).await,
        }
    }

    /// Writes a manifest under a tag or its digest.
    pub async fn put_manifest(
        &self,
        version: &Version,
        manifest: &Manifest,
    ) -> Result<PutManifest, Error> {
        match self {
            Self::Registry(repository) => repository.put_manifest(version, manifest).await,
            Self::Layout(layout) => layout.put_manifest(version, manifest).await,
        }
    }

    /// The length of a blob in bytes; `None` if the blob does not exist.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        match self {
            Self::Registry(repository) => repository.blob_size(digest).await,
            Self::Layout(layout) => layout.blob_size(digest).await,
        }
    }

    /// The blob from `offset` (in bytes) on. From 0 the digest is verified; from any other offset
    /// only the length is, see [`Self::blob_from`].
    pub async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobStream, Error> {
        match self {
            Self::Registry(repository) => repository.blob(blob, offset).await,
            Self::Layout(layout) => layout.blob(blob, offset).await,
        }
    }

    /// The blob from `offset` on, verified: `hasher` must have hashed all bytes before it.
    pub async fn blob_from(
        &self,
        blob: &Descriptor,
        offset: u64,
        hasher: Hasher,
    ) -> Result<BlobStream, Error> {
        match self {
            Self::Registry(repository) => repository.blob_from(blob, offset, hasher).await,
            Self::Layout(layout) => layout.blob_from(blob, offset, hasher).await,
        }
    }

    /// Opens the promised bytes as a stream.
    pub(crate) async fn open_blob(&self, promise: Promise) -> Result<BlobStream, Error> {
        match self {
            Self::Registry(repository) => repository.open(promise).await,
            Self::Layout(layout) => layout.open(promise).await,
        }
    }

    /// The registry and repository, or the directory, for messages.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Registry(repository) => repository.repository().host().to_string(),
            Self::Layout(layout) => layout.dir().display().to_string(),
        }
    }

    /// Starts to push a blob, or mounts it from a repository of the same registry (`from` may be
    /// this repository, if it has the blob already). Without a repository to mount from, the blob
    /// is sent even if the registry claims to have it.
    pub async fn begin_blob(
        &self,
        digest: &Digest,
        mount_from: Option<&RepositoryPath>,
    ) -> Result<BlobPush, Error> {
        match self {
            Self::Registry(repository) => repository.begin_blob(digest, mount_from).await,
            Self::Layout(layout) => layout.begin_blob(digest).await,
        }
    }

    /// All tags, in the order of the other side. A missing repository is an error.
    pub async fn tags(&self) -> Result<Vec<Tag>, Error> {
        match self {
            Self::Registry(repository) => repository.tags().await,
            Self::Layout(layout) => layout.tags().await,
        }
    }

    /// The manifests that refer to this one. A manifest without referrers gives an empty list.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        match self {
            Self::Registry(repository) => repository.referrers(subject).await,
            Self::Layout(layout) => layout.referrers(subject).await,
        }
    }

    /// Deletes a tag, or a manifest with all its tags.
    pub async fn delete(&self, version: &Version) -> Result<(), Error> {
        match self {
            Self::Registry(repository) => repository.delete(version).await,
            Self::Layout(layout) => layout.delete(version).await,
        }
    }
}
