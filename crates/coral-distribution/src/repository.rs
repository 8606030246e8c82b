//! The verbs on one repository of a registry.

use coral_image::{Descriptor, Digest, Hasher, Manifest, Repository, RepositoryPath, Tag, Version};

use crate::blob_stream::BlobStream;
use crate::error::Error;
use crate::upload::BlobPush;

/// What became of a manifest that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutManifest {
    /// Whether the registry said that it recorded the subject (`OCI-Subject`); where it did not,
    /// the client has written the referrers tag.
    pub subject_recorded: bool,
}

/// One repository of a registry; cheap to clone.
#[derive(Debug, Clone)]
pub struct RepositoryClient {}

impl RepositoryClient {
    /// Which repository it is.
    pub fn repository(&self) -> &Repository {
        todo!()
    }

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
