//! What the front needs of a store: a side to read and a side to write.

mod chain;
mod collection;
mod error;
mod file;
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
pub use referrers::{Referrers, ReferrersPage};
pub use scrub::{Damage, RoundEnd, ScrubRules, ScrubState, ScrubWatch, Scrubbed, first_names};
pub use space::{Bound, Disk, MinFree, NoRoom, RepositoryBytes, Space, SpaceBounds};

/// Opens the storage at a place, and makes it if there is none. Waits for the file system.
pub fn open_store(place: &Path) -> Result<Arc<dyn Store>, OpenError> {
    Ok(FileStore::open(place)?.into())
}

/// What a repository says of one manifest without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRecord {
    /// What the bytes hash to, in the algorithm it was pushed with.
    pub digest: Digest,
    /// The media type it was pushed as.
    pub media_type: String,
    /// Length in bytes.
    pub size: u64,
}

/// A manifest with its bytes, which were compared with the digest.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// What it is.
    pub record: ManifestRecord,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
}

/// Which names of a sorted list are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Only those behind this one, which need not exist.
    pub after: Option<String>,
    /// How many at most.
    pub most: usize,
}

/// What is on a page of a sorted list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretch<T> {
    /// In the order of their bytes.
    pub entries: Vec<T>,
    /// Whether others come behind them.
    pub more: bool,
}

/// Where the bytes of a blob come from.
#[derive(Debug, Clone)]
pub enum BlobContent {
    /// A file, whose ranges can be read at any offset. Its content never changes.
    File(Arc<File>),
    /// A file that another program may write to: its bytes are copied, never mapped.
    Foreign(Arc<File>),
    /// No file of this machine: an object elsewhere, or content that still arrives.
    Stream(Arc<dyn BlobReader>),
}

/// Reads the content of a blob that is in no file.
pub trait BlobReader: fmt::Debug + Send + Sync + 'static {
    /// The bytes of a range inside the blob, in their order, in pieces of any size. The stream is
    /// polled only as fast as its receiver takes the pieces, and dropped where the receiver goes
    /// away. An error, an end before the last byte, or two minutes in which a piece is waited for, cut
    /// the answer off. A reader that gives up sooner can say what did not answer.
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

/// The name of an upload, given out by the store and not to be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId(Uuid);

impl UploadId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads one back; `None` if this cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        // Only the form that is given out: a uuid can be written in several ways, a file name not.
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

/// How long uploads are kept to which nothing is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Any upload.
    pub any: Duration,
    /// One without a byte.
    pub empty: Duration,
}

/// What can be read. Absence is `None`, never an error.
pub trait Source: Send + Sync + 'static {
    /// What a tag or digest stands for in a repository.
    fn resolve<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<ManifestRecord>, StoreError>>;

    /// The same with the bytes.
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

    /// A page of the tags; `None` for a repository that was never pushed to.
    fn tags<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        page: Page,
    ) -> BoxFuture<'a, Result<Option<Stretch<Tag>>, StoreError>>;

    /// A page of the manifests that name `subject`.
    fn referrers<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        subject: &'a Digest,
        page: ReferrersPage,
    ) -> BoxFuture<'a, Result<Referrers, StoreError>>;

    /// A page of the repositories with at least one manifest.
    fn repositories(
        &self,
        page: Page,
    ) -> BoxFuture<'_, Result<Stretch<RepositoryPath>, StoreError>>;
}

/// What can be written. An implementation keeps three rules:
///
/// - Everything is durable when its future resolves with `Ok`, except the bytes of an upload that is
///   not committed yet.
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
    /// Starts an upload. `algorithm` is a hint which digest it will be committed under.
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

    /// Takes hold of an upload; one at a time has it.
    fn write_upload<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        id: UploadId,
    ) -> BoxFuture<'a, Result<Box<dyn UploadWriter>, UploadError>>;

    /// Number of uploads that were begun and neither committed nor cancelled.
    fn open_uploads(&self) -> u64;

    /// Whether the storage is still the one that was opened: neither removed nor replaced, its disk
    /// still mounted. Waits for the file system.
    fn check(&self) -> Result<(), StoreError>;

    /// From now on the store takes no more than that. What is there stays, and can be read, tagged,
    /// mounted and deleted.
    fn bound(&self, bounds: SpaceBounds);

    /// What is stored and free, without a look at the disk.
    fn space(&self) -> Space;

    /// The same with a look at the disk.
    fn look_at_space(&self) -> BoxFuture<'_, Result<Space, StoreError>>;

    /// [`StoreError::NoRoom`] if `more` bytes are too many; with 0, if not a single one may come.
    fn check_room(&self, more: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Bytes of all that a repository holds, also where others hold it too; 0 until it is counted.
    fn repository_bytes(&self, repository: &RepositoryPath) -> u64;

    /// The same of every repository that holds something.
    fn bytes_by_repository(&self) -> RepositoryBytes;

    /// Counts what is there, beside everything else. From then on the sums are kept up.
    fn count(&self, stop: CancellationToken) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends uploads to which nothing was added for so long, except those being written to.
    /// Which ones they were.
    fn end_abandoned(&self, idle: Idle) -> BoxFuture<'_, Result<Vec<UploadId>, StoreError>>;

    /// Takes away what nothing holds any more, beside everything else that goes on. What was taken
    /// away before `stop` is gone, and the answer tells of it.
    fn collect(
        &self,
        rules: CollectionRules,
        stop: CancellationToken,
    ) -> BoxFuture<'_, Result<Collected, StoreError>>;

    /// Reads all content once, or what is left of a round that was stopped, and moves aside what
    /// is damaged. `watch` hears of it meanwhile.
    fn scrub(
        &self,
        rules: ScrubRules,
        stop: CancellationToken,
        watch: Arc<dyn ScrubWatch>,
    ) -> BoxFuture<'_, Result<Scrubbed, StoreError>>;

    /// When rounds of the scrub began and ended, and what is missing since.
    fn scrub_state(&self) -> BoxFuture<'_, Result<ScrubState, StoreError>>;

    /// To be called once no request is answered any more: leases are measured better after it.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Makes a blob visible in a repository without copying: the one that `from` has, or, without
    /// `from`, the one that any repository has.
    fn mount<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
        from: Option<&'a RepositoryPath>,
    ) -> BoxFuture<'a, Result<Mounted, StoreError>>;

    /// Takes a manifest in, makes it a referrer of its subject, and then points `tags` at it. Which
    /// of them pointed at another manifest before, and at which.
    fn put_manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        manifest: Manifest,
        tags: Vec<Tag>,
    ) -> BoxFuture<'a, Result<Vec<(Tag, Digest)>, PutManifestError>>;

    /// Deletes a tag, or a manifest together with the tags that point at it. `None` if there was
    /// none.
    fn delete_manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<Deleted>, StoreError>>;

    /// Takes a blob out of a repository. `false` if it was not there.
    fn delete_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;
}

/// What a deletion of a tag or a manifest removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// The manifest that was deleted, or that the deleted tag named, if its record could be read.
    pub digest: Option<Digest>,
    /// The deleted tag, or those that named the deleted manifest.
    pub tags: Vec<Tag>,
}

/// What came of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// The repository has the blob now.
    Here,
    /// `from` has not got it, but it could be mounted from elsewhere.
    Elsewhere,
    /// No repository has it.
    Nowhere,
}

/// An upload that the holder may append to. Dropping it keeps what was appended.
pub trait UploadWriter: Send {
    /// How many bytes the upload has.
    fn offset(&self) -> u64;

    /// Hashes with `algorithm` from here on, if nothing was hashed yet.
    fn expect(&mut self, algorithm: Algorithm);

    /// Appends. On an error, what was appended before is kept; but where the storage is full, all
    /// that came since this writer got hold of the upload is given back.
    fn append(&mut self, batch: Vec<Bytes>) -> BoxFuture<'_, Result<(), UploadError>>;

    /// Publishes the upload as a blob of its repository. With a wrong digest, the upload is gone.
    fn commit(self: Box<Self>, digest: Digest) -> BoxFuture<'static, Result<u64, UploadError>>;

    /// Throws the upload away.
    fn cancel(self: Box<Self>) -> BoxFuture<'static, Result<(), UploadError>>;
}
