//! OCI image layouts, directories and tars (OCI image-spec, `image-layout.md`), and archives in
//! Docker's format as such.
//!
//! Blobs are written to a temporary file, synced and renamed. `index.json` is rewritten in the same
//! way, by one writer at a time. A partial file is never visible.
//!
//! A layout is untrusted: reads and writes stay beneath its folder, and no symbolic link in it is
//! followed.

mod archive;
mod beneath;
mod docker;
mod files;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod index;
mod names;
mod spool;
mod tar_files;
mod tree;
mod upload;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use coral_image::{Descriptor, Digest, Hasher, MAX_MANIFEST_SIZE, Manifest, Tag, Version};

use crate::blob_stream::{BlobStream, Checked, Promise};
use crate::error::{Error, Problem};
use crate::repository::PutManifest;
use crate::upload::{BlobPush, Upload};

pub use archive::NewArchive;
pub use beneath::{FolderEntry, LayoutFiles};
use files::blob_file;
use tree::Tree;
pub(crate) use upload::LayoutUpload;

/// An OCI image layout: a directory, which is created on the first write, or a read-only tar. Cheap
/// to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    tree: Tree,
}

impl Layout {
    /// The layout in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        LayoutFiles::new(dir).into()
    }

    /// The path of the directory or of the tar.
    pub fn dir(&self) -> &Path {
        self.tree.path()
    }

    /// The descriptor that a tag or digest points at; `None` if it does not exist.
    pub async fn head(&self, version: &Version) -> Result<Option<Descriptor>, Error> {
        let asked = format!("looking up {version}");
        let found = index::read(&self.tree)
            .await
            .map_err(|p| self.error(&asked, p))?;
        let found = found.find(version).map_err(|p| self.error(&asked, p))?;
        match (found, version) {
            (Some(descriptor), _) => Ok(self
                .blob_size(&descriptor.digest)
                .await?
                .map(|_| descriptor)),
            // A child of an index has no entry of its own in `index.json`.
            (None, Version::Digest(digest)) => {
                let there = self.blob_size(digest).await?;
                if there.is_none_or(|size| size > MAX_MANIFEST_SIZE as u64) {
                    return Ok(None);
                }
                let manifest = self.read_manifest(&asked, digest, None).await?;
                Ok(Some(manifest.descriptor()))
            }
            (None, Version::Tag(_)) => Ok(None),
        }
    }

    /// The manifest, verified. A missing manifest is an error of category
    /// [`Category::NotFound`](crate::Category::NotFound).
    pub async fn manifest(&self, version: &Version) -> Result<Manifest, Error> {
        let asked = format!("reading manifest {version}");
        let found = index::read(&self.tree)
            .await
            .map_err(|p| self.error(&asked, p))?;
        let found = found.find(version).map_err(|p| self.error(&asked, p))?;
        match (found, version) {
            (Some(descriptor), _) => {
                let media_type = Some(descriptor.media_type.as_str());
                self.read_manifest(&asked, &descriptor.digest, media_type)
                    .await
            }
            (None, Version::Digest(digest)) => self.read_manifest(&asked, digest, None).await,
            (None, Version::Tag(_)) => Err(self.error(&asked, Problem::Missing)),
        }
    }

    async fn read_manifest(
        &self,
        asked: &str,
        digest: &Digest,
        media_type: Option<&str>,
    ) -> Result<Manifest, Error> {
        let bytes = self
            .tree
            .read_bounded(&blob_file(digest), MAX_MANIFEST_SIZE)
            .await;
        let bytes: Bytes = bytes.map_err(|problem| self.error(asked, problem))?;
        let media_type = media_type.filter(|media_type| !media_type.is_empty());
        Manifest::parse_pinned(bytes, media_type, digest).map_err(|e| self.error(asked, e))
    }

    /// Writes a manifest and its entry in `index.json`: under the tag, or without a name if it is
    /// put by its digest. Unnamed entries are removed when an index that contains them is put.
    pub async fn put_manifest(
        &self,
        version: &Version,
        manifest: &Manifest,
    ) -> Result<PutManifest, Error> {
        let asked = format!("writing manifest {version}");
        index::put(&self.tree, version, manifest)
            .await
            .map_err(|p| self.error(&asked, p))?;
        Ok(PutManifest {
            subject_recorded: true,
        })
    }

    /// The length of a blob in bytes; `None` if the blob does not exist.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let size = self.tree.size(&blob_file(digest)).await;
        size.map_err(|problem| self.error(format_args!("looking up blob {digest}"), problem))
    }

    /// The blob from `offset` (in bytes) on. From 0 the digest is verified; from any other offset
    /// only the length is, see [`Self::blob_from`].
    pub async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobStream, Error> {
        let hasher = (offset == 0).then(|| blob.digest.algorithm().hasher());
        self.open(Promise::new(blob, offset, hasher)).await
    }

    /// The blob from `offset` on, verified: `hasher` must have hashed all bytes before it.
    pub async fn blob_from(
        &self,
        blob: &Descriptor,
        offset: u64,
        hasher: Hasher,
    ) -> Result<BlobStream, Error> {
        self.open(Promise::new(blob, offset, Some(hasher))).await
    }

    pub(crate) async fn open(&self, promise: Promise) -> Result<BlobStream, Error> {
        let asked = format!("reading blob {}", promise.digest);
        let file = self.tree.open_blob(&promise).await;
        let file = file.map_err(|problem| self.error(&asked, problem))?;
        let place = self.dir().display().to_string();
        let path = self.dir().join(blob_file(&promise.digest));
        let bytes = files::stream(file, path, place.clone(), asked.clone());
        Ok(BlobStream::new(Checked::new(
            bytes, promise, 0, place, asked,
        )))
    }

    /// Starts to write a blob. A layout stores each blob once, so a blob that exists needs no
    /// upload.
    pub async fn begin_blob(&self, digest: &Digest) -> Result<BlobPush, Error> {
        if self.blob_size(digest).await?.is_some() {
            return Ok(BlobPush::Mounted);
        }
        let dir = self.tree.writable();
        let dir =
            dir.map_err(|problem| self.error(format_args!("writing blob {digest}"), problem))?;
        let upload = LayoutUpload::new(dir.clone(), *digest);
        Ok(BlobPush::Upload(Upload::from(upload)))
    }

    /// The entries of `index.json` as they are. A tag is the annotation
    /// `org.opencontainers.image.ref.name`. A layout that does not exist has no entries.
    pub async fn entries(&self) -> Result<Vec<Descriptor>, Error> {
        let found = index::read(&self.tree).await;
        Ok(found
            .map_err(|problem| self.error("listing the manifests", problem))?
            .entries()
            .collect())
    }

    /// The entry of the image with this name, such as `docker.io/library/debian:12`, whichever
    /// annotation holds the name; `debian:12` names the same image. A name that several images have
    /// is an error.
    pub async fn named(&self, name: &str) -> Result<Option<Descriptor>, Error> {
        let found = index::read(&self.tree).await;
        let found = found.and_then(|index| index.named(name));
        found.map_err(|problem| self.error("looking up a name", problem))
    }

    /// All tags.
    pub async fn tags(&self) -> Result<Vec<Tag>, Error> {
        let found = index::read(&self.tree).await;
        Ok(found
            .map_err(|problem| self.error("listing the tags", problem))?
            .tags())
    }

    /// The manifests that refer to this one. A manifest without referrers gives an empty list.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        let asked = format!("listing the referrers of {subject}");
        let found = index::referrers(&self.tree, subject).await;
        found.map_err(|problem| self.error(asked, problem))
    }

    /// Removes a tag, or a manifest with all its tags, from `index.json`. Blobs stay.
    pub async fn delete(&self, version: &Version) -> Result<(), Error> {
        let asked = format!("deleting {version}");
        index::remove(&self.tree, version)
            .await
            .map_err(|problem| self.error(asked, problem))
    }

    fn error(&self, asked: impl std::fmt::Display, problem: impl Into<Problem>) -> Error {
        Error::new(self.dir().display(), asked, problem)
    }
}

impl From<LayoutFiles> for Layout {
    /// The layout in a folder, whose blobs may be stored in another folder.
    fn from(files: LayoutFiles) -> Self {
        Self {
            tree: Tree::Dir(files),
        }
    }
}
