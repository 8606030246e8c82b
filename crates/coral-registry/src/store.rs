//! What the front needs of a store: a trait for reading and a trait for writing.

mod chain;
mod collection;
mod error;
mod file;
mod fill;
mod referrers;
mod scrub;
mod space;

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coral_image::{Algorithm, Digest, Manifest, RepositoryPath, Tag, Version};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use chain::Chain;
pub use chain::ReadOnlySource;
pub use collection::{Collected, CollectionRules, Pace};
pub use error::{OpenError, PutManifestError, StoreError, UploadError};
pub use file::{FileStore, Transfer};
pub(crate) use file::{TakeError, Transferred};
pub(crate) use fill::Fill;
pub use fill::GrowingFile;
pub use referrers::{ReferrersPage, ReferrersQuery};
pub use scrub::{Damage, RoundEnd, ScrubRules, ScrubState, ScrubWatch, Scrubbed, first_names};
pub use space::{Bound, Disk, MinFree, NoRoom, RepositoryBytes, Space, SpaceBounds};

/// Opens the storage at a path and creates it if it is missing. Blocks on the file system.
pub fn open_store(place: &Path) -> Result<Arc<dyn Store>, OpenError> {
    Ok(FileStore::open(place)?.into())
}

/// What a repository records about a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRecord {
    /// The digest of the bytes, in the algorithm that it was pushed with.
    pub digest: Digest,
    /// The media type that it was pushed with.
    pub media_type: String,
    /// Length in bytes.
    pub size: u64,
}

/// A manifest with its bytes, verified against the digest.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Its record.
    pub record: ManifestRecord,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
}

/// Which page of a sorted list of names is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageQuery {
    /// Only names after this one, which need not exist.
    pub after: Option<String>,
    /// The maximum number of names.
    pub most: usize,
}

/// A page of a sorted list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page<T> {
    /// Sorted bytewise.
    pub entries: Vec<T>,
    /// Whether more entries follow.
    pub more: bool,
}

/// Where the bytes of a blob come from.
#[derive(Debug, Clone)]
pub enum BlobContent {
    /// A file, whose ranges can be read at any offset. Its content never changes.
    File(Arc<File>),
    /// A file that another program may write to: its bytes are copied, never mapped.
    Foreign(Arc<File>),
    /// A file that a download appends to while it is read.
    Growing(GrowingFile),
    /// Not a local file, such as an object elsewhere.
    Stream(Arc<dyn BlobReader>),
}

/// Reads the content of a blob that is not a local file.
pub trait BlobReader: fmt::Debug + Send + Sync + 'static {
    /// The bytes of a range inside the blob, in order, in pieces of any size. The stream is polled
    /// only as fast as the receiver accepts pieces, and dropped if the receiver goes away. An
    /// error, an end before the last byte, or two minutes without a piece cut off the answer. A
    /// reader that gives up sooner can report what did not answer.
    fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, StoreError>>;
}

/// A blob opened for reading.
#[derive(Debug, Clone)]
pub struct BlobHandle {
    /// Length in bytes.
    pub size: u64,
    /// The bytes.
    pub content: BlobContent,
}

/// The name of an upload, chosen by the store; it cannot be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId(Uuid);

impl UploadId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Parses a name; `None` if it is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        // Only the canonical form: a uuid can be written in several ways, but a file name cannot.
        Uuid::try_parse(text)
            .ok()
            .filter(|id| id.to_string() == text)
            .map(Self)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long uploads are kept after bytes were last added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Any upload.
    pub any: Duration,
    /// One without a byte.
    pub empty: Duration,
}

/// The reading side of a store. Absence is `None`, never an error.
pub trait Source: Send + Sync + 'static {
    /// The manifest that a tag or digest names in a repository.
    fn resolve<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<ManifestRecord>, StoreError>>;

    /// The same, with the bytes.
    fn manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<StoredManifest>, StoreError>>;

    /// Length of a blob that the repository has.
    fn stat_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<u64>, StoreError>>;

    /// Opens a blob that the repository has.
    fn open_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<BlobHandle>, StoreError>>;

    /// A page of the tags; `None` if nothing was ever pushed to the repository.
    fn tags<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        page: PageQuery,
    ) -> BoxFuture<'a, Result<Option<Page<Tag>>, StoreError>>;

    /// A page of the manifests whose subject is `subject`.
    fn referrers<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        subject: &'a Digest,
        page: ReferrersQuery,
    ) -> BoxFuture<'a, Result<ReferrersPage, StoreError>>;

    /// A page of the repositories with at least one manifest.
    fn repositories(
        &self,
        page: PageQuery,
    ) -> BoxFuture<'_, Result<Page<RepositoryPath>, StoreError>>;
}

/// The writing side of a store. An implementation follows three rules:
///
/// - A write is durable when its future resolves with `Ok`, except for the bytes of an upload that
///   is not yet committed.
/// - A blob is visible only under the digest that its bytes hash to.
/// - A positive answer about a blob (`stat_blob`, `open_blob`, `mount`, a commit) is a lease:
///   [`Self::collect`] keeps the blob for the grace time after it.
///
/// A blob is uploaded, then committed under its digest:
///
/// ```
/// use bytes::Bytes;
/// use coral_image::{Algorithm, Digest, RepositoryPath};
/// use coral_registry::{FileStore, Source, Store};
///
/// # let runtime = tokio::runtime::Runtime::new()?;
/// # runtime.block_on(async {
/// let folder = tempfile::tempdir()?;
/// let store = FileStore::open(folder.path())?;
/// let repository = RepositoryPath::parse("team-a/shop")?;
/// let digest = Digest::sha256(b"a layer");
///
/// let upload = store.begin_upload(&repository, Algorithm::Sha256).await?;
/// let mut writer = store.write_upload(&repository, upload).await?;
/// writer.append(vec![Bytes::from_static(b"a layer")]).await?;
/// // Bytes that do not hash to the digest are refused here.
/// writer.commit(digest).await?;
///
/// assert_eq!(store.stat_blob(&repository, &digest).await?, Some(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Store: Source {
    /// Starts an upload. `algorithm` is a hint: the algorithm of the digest that it will be
    /// committed under.
    fn begin_upload<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<UploadId, StoreError>>;

    /// How many bytes an upload has; `None` if there is no such upload in the repository.
    fn upload_offset<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        id: UploadId,
    ) -> BoxFuture<'a, Result<Option<u64>, StoreError>>;

    /// Opens an upload for writing. Only one writer at a time has it.
    fn write_upload<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        id: UploadId,
    ) -> BoxFuture<'a, Result<Box<dyn UploadWriter>, UploadError>>;

    /// The number of uploads that are neither committed nor cancelled.
    fn open_uploads(&self) -> u64;

    /// Checks that the storage is still the one that was opened: neither removed nor replaced, and
    /// its disk still mounted. Blocks on the file system.
    fn check(&self) -> Result<(), StoreError>;

    /// Sets the bounds for further writes. Existing content stays, and can be read, tagged, mounted
    /// and deleted.
    fn bound(&self, bounds: SpaceBounds);

    /// Stored and free bytes, without asking the disk.
    fn space(&self) -> Space;

    /// The same, with current figures of the disk.
    fn look_at_space(&self) -> BoxFuture<'_, Result<Space, StoreError>>;

    /// Fails with [`StoreError::NoRoom`] if there is no space for `more` bytes; with 0, if there is
    /// no space for a single byte.
    fn check_room(&self, more: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Bytes of all content of a repository, including what other repositories share; 0 until it is
    /// counted.
    fn repository_bytes(&self, repository: &RepositoryPath) -> u64;

    /// The same for every repository with content.
    fn bytes_by_repository(&self) -> RepositoryBytes;

    /// Counts the existing content, concurrently with everything else. From then on the sums are
    /// kept current.
    fn count(&self, stop: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends uploads that have been idle for this long, except those being written to. Returns which
    /// ones.
    fn end_abandoned(&self, idle: Idle) -> BoxFuture<'_, Result<Vec<UploadId>, StoreError>>;

    /// Deletes unused content, concurrently with everything else. The result includes what was
    /// deleted before `stop`.
    fn collect(
        &self,
        rules: CollectionRules,
        stop: CancellationToken,
    ) -> BoxFuture<'_, Result<Collected, StoreError>>;

    /// Reads all content once, or the rest of an interrupted round, and moves damaged content
    /// aside. `watch` is notified meanwhile.
    fn scrub(
        &self,
        rules: ScrubRules,
        stop: CancellationToken,
        watch: Arc<dyn ScrubWatch>,
    ) -> BoxFuture<'_, Result<Scrubbed, StoreError>>;

    /// When rounds of the scrub began and ended, and how much is missing.
    fn scrub_state(&self) -> BoxFuture<'_, Result<ScrubState, StoreError>>;

    /// Closes the store. Call it once no request is answered any more, so that the next start can
    /// rely on the recorded leases.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Makes a blob visible in a repository without copying it: the blob of the repository `from`
    /// or, without `from`, of any repository.
    fn mount<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
        from: Option<&'a RepositoryPath>,
    ) -> BoxFuture<'a, Result<Mounted, StoreError>>;

    /// Stores a manifest, makes it a referrer of its subject, and then points `tags` to it. Returns
    /// the tags that pointed to another manifest before, and to which.
    fn put_manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        manifest: Manifest,
        tags: Vec<Tag>,
    ) -> BoxFuture<'a, Result<Vec<(Tag, Digest)>, PutManifestError>>;

    /// Deletes a tag, or a manifest together with the tags that point to it. `None` if there was
    /// none.
    fn delete_manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<Deleted>, StoreError>>;

    /// Removes a blob from a repository. `false` if it was not there.
    fn delete_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;
}

/// What a deletion of a tag or a manifest removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// The manifest that was deleted, or to which the deleted tag pointed, if its record could be
    /// read.
    pub digest: Option<Digest>,
    /// The deleted tag, or the tags that pointed to the deleted manifest.
    pub tags: Vec<Tag>,
}

/// The result of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// The repository has the blob now.
    Here,
    /// `from` does not have it, but it could be mounted from another repository.
    Elsewhere,
    /// No repository has it.
    Nowhere,
}

/// An upload that the holder may append to. Dropping it keeps what was appended.
pub trait UploadWriter: Send {
    /// How many bytes the upload has.
    fn offset(&self) -> u64;

    /// Uses `algorithm` from here on, if nothing was hashed yet.
    fn expect(&mut self, algorithm: Algorithm);

    /// Appends a batch. On an error, what was appended before is kept; but if the storage is full,
    /// everything that this writer appended is removed.
    fn append(&mut self, batch: Vec<Bytes>) -> BoxFuture<'_, Result<(), UploadError>>;

    /// Reserves space on the disk for the upload to grow to `size` bytes, so that a full disk shows
    /// before they are appended. Does nothing on file systems that cannot.
    fn reserve(&mut self, size: u64) -> BoxFuture<'_, Result<(), UploadError>>;

    /// Opens the file that bytes are appended to, so that they can be read while more arrive. What
    /// was appended is in it when [`Self::append`] returns. It stays readable after the commit.
    fn reader(&mut self) -> BoxFuture<'_, Result<Arc<File>, UploadError>>;

    /// Publishes the upload as a blob of its repository. If the digest is wrong, the upload is
    /// deleted.
    fn commit(self: Box<Self>, digest: Digest) -> BoxFuture<'static, Result<u64, UploadError>>;

    /// Deletes the upload.
    fn cancel(self: Box<Self>) -> BoxFuture<'static, Result<(), UploadError>>;
}
