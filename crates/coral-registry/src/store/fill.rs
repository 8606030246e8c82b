//! A store that fetches what is missing from other registries.
//!
//! A tag is looked up at its source, at most once a minute. If the source fails or no longer has
//! the tag, the stored one is served. A blob is fetched once however many clients ask for it: all
//! of them read the file that the download grows (`download.rs`, `fetch.rs`).
//!
//! A manifest that was fetched waits in memory (`pending.rs`) until the image is complete. The
//! first request for a blob of the image completes it (`completion.rs`): the other blobs are
//! fetched, too. Then the manifest is stored, then the indexes that list it, each with its tags. So
//! a stored tag always leads to an image that can be pulled without the source, and a tag that has
//! moved there moves here only when the new image is complete.
//!
//! Only the content of the store survives a restart. What was held in memory is fetched again.

mod completion;
mod download;
mod fetch;
mod flights;
mod lookups;
mod passed_through;
mod pending;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coral_distribution::{Category, RepositoryClient};
use coral_image::{Descriptor, Digest, Host, Manifest, RepositoryPath, Tag, Version};
use coral_rt::RepeatedEvent;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::download::Download;
pub use self::download::GrowingFile;
use self::flights::Flights;
use self::lookups::{Lookups, RateLimits, Remembered, TagLists};
use self::passed_through::passed_through;
use self::pending::Pending;
use super::{
    BlobContent, BlobHandle, ManifestRecord, Page, PageQuery, ReferrersPage, ReferrersQuery,
    Source, Store, StoreError, StoredManifest, UploadError,
};
use crate::pull_through::{PullThrough, UpstreamError};

/// How many blobs are fetched at once from one source; further ones wait.
const MOST_DOWNLOADS: usize = 64;
/// How many images of one source are completed at once.
const MOST_COMPLETIONS: usize = 4;
/// How long a tag that is stored waits for its source.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long stored tags are served without asking a source that does not answer.
const OUTAGE: Duration = Duration::from_secs(15);
/// How long the end of the process waits until running downloads have ended.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a download failed; shared by all that wait for it.
#[derive(Debug, Clone)]
enum FetchFailure {
    /// The source failed.
    Upstream(UpstreamError),
    /// The storage is full.
    NoRoom,
    /// The storage failed otherwise.
    Store(String),
    /// The process is stopping.
    Stopped,
}

impl From<FetchFailure> for StoreError {
    fn from(failure: FetchFailure) -> Self {
        let action = || "store a blob that was fetched".to_owned();
        match failure {
            FetchFailure::Upstream(error) => Self::Upstream(error.into()),
            FetchFailure::NoRoom => Self::Full { action: action() },
            FetchFailure::Store(error) => Self::Other {
                action: action(),
                source: error.into(),
            },
            FetchFailure::Stopped => Self::Closed,
        }
    }
}

impl From<StoreError> for FetchFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { .. } | StoreError::NoRoom(_) => Self::NoRoom,
            StoreError::Upstream(error) => Self::Upstream(*error),
            StoreError::Closed => Self::Stopped,
            error => Self::Store(coral_image::error_chain(&error)),
        }
    }
}

impl From<UploadError> for FetchFailure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Store(error) => error.into(),
            error => Self::Store(coral_image::error_chain(&error)),
        }
    }
}

type Found<T> = Result<T, UpstreamError>;

/// What is known of one source. A slow one takes no slots of another.
struct SourceState {
    downloads: Semaphore,
    completions: Semaphore,
    /// When it was last found not to answer.
    down: Mutex<Option<Instant>>,
    /// The failures of each kind.
    failures: Mutex<HashMap<&'static str, RepeatedEvent>>,
}

impl Default for SourceState {
    fn default() -> Self {
        Self {
            downloads: Semaphore::new(MOST_DOWNLOADS),
            completions: Semaphore::new(MOST_COMPLETIONS),
            down: Mutex::default(),
            failures: Mutex::default(),
        }
    }
}

impl SourceState {
    fn failed(&self, category: Category, now: Instant) {
        use Category::{Connect, Dns, Timeout, Tls};
        if matches!(category, Connect | Dns | Timeout | Tls) {
            *lock(&self.down) = Some(now);
        }
    }

    fn is_down(&self, now: Instant) -> bool {
        lock(&self.down).is_some_and(|at| now.saturating_duration_since(at) < OUTAGE)
    }

    /// Counts a failure. Returns how many of this kind to log now, if any.
    fn to_log(&self, category: Category, now: Instant) -> Option<u64> {
        let mut failures = lock(&self.failures);
        failures.entry(category.as_str()).or_default().count(now)
    }
}

/// A store, and the registries that it is filled from.
#[derive(Clone)]
pub(crate) struct Fill(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    pull_through: PullThrough,
    /// Bytes that were fetched.
    fetched: Counter,
    lookups: Mutex<Lookups>,
    pending: Mutex<Pending>,
    downloads: Mutex<HashMap<(RepositoryPath, Digest), Arc<Download>>>,
    limits: Mutex<RateLimits>,
    listed: Mutex<TagLists>,
    tags: Flights<(RepositoryPath, Tag), Found<Option<ManifestRecord>>>,
    manifests: Flights<(RepositoryPath, Digest), Found<Option<Manifest>>>,
    sizes: Flights<(RepositoryPath, Digest), Found<Option<u64>>>,
    lists: Flights<RepositoryPath, Found<Arc<Vec<Tag>>>>,
    referrers: Flights<(RepositoryPath, Digest), Found<Arc<Vec<Descriptor>>>>,
    sources: HashMap<Host, SourceState>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Ignores poisoning: every change is a single step, so a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fill({})", self.0.pull_through)
    }
}

impl Fill {
    /// Fetches what `store` lacks; counts the bytes in `fetched`.
    pub(crate) fn new(store: Arc<dyn Store>, pull_through: PullThrough, fetched: Counter) -> Self {
        let sources = pull_through.hosts().cloned();
        let sources = sources.map(|host| (host, SourceState::default())).collect();
        Self(Arc::new(Inner {
            store,
            pull_through,
            fetched,
            lookups: Mutex::default(),
            pending: Mutex::default(),
            downloads: Mutex::default(),
            limits: Mutex::default(),
            listed: Mutex::default(),
            tags: Flights::default(),
            manifests: Flights::default(),
            sizes: Flights::default(),
            lists: Flights::default(),
            referrers: Flights::default(),
            sources,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Whether the repository is filled from another registry.
    pub(crate) fn covers(&self, repository: &RepositoryPath) -> bool {
        self.0.pull_through.host_of(repository).is_some()
    }

    /// Ends running downloads and removes what they have written.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        let _ = tokio::time::timeout(STOP_TIMEOUT, self.0.tasks.wait()).await;
    }

    fn upstream(&self, repository: &RepositoryPath) -> Option<RepositoryClient> {
        self.0.pull_through.upstream_of(repository)
    }

    /// What a tag names: as its source says, or as it is stored if the source fails or has no such
    /// tag.
    async fn resolve_tag(
        &self,
        repository: &RepositoryPath,
        tag: &Tag,
        upstream: RepositoryClient,
    ) -> Result<Option<ManifestRecord>, StoreError> {
        let version = Version::Tag(tag.clone());
        let recent = lock(&self.0.lookups).recent(repository, tag, Instant::now());
        match recent {
            Some(Remembered::Named(named)) => return Ok(named),
            Some(Remembered::Failed) => {
                let stored = self.0.store.resolve(repository, &version).await?;
                if stored.is_some() {
                    return Ok(stored);
                }
            }
            None => {}
        }
        let before = self.0.store.resolve(repository, &version).await?;
        let source = self.0.source_of(repository);
        if before.is_some() && source.is_some_and(|source| source.is_down(Instant::now())) {
            return Ok(before);
        }
        let key = (repository.clone(), tag.clone());
        let (inner, (of, asked)) = (Arc::clone(&self.0), key.clone());
        let look_up = || async move { inner.look_up(&of, &asked, upstream).await };
        let answer = self.0.tags.join(key, look_up);
        let answer = if before.is_some() {
            let Ok(answer) = tokio::time::timeout(LOOKUP_TIMEOUT, answer).await else {
                // The lookup goes on. A source that hangs is not waited for again.
                source.inspect(|source| source.failed(Category::Timeout, Instant::now()));
                return Ok(before);
            };
            answer
        } else {
            answer.await
        };
        let stored = match answer.ok_or(StoreError::Closed)? {
            Ok(Some(named)) => return Ok(Some(named)),
            Ok(None) => before,
            Err(error) => {
                self.0.warn(repository, &error);
                if before.is_none() {
                    return Err(StoreError::Upstream(error.into()));
                }
                before
            }
        };
        lock(&self.0.lookups).record(repository, tag, stored.clone(), Instant::now());
        Ok(stored)
    }

    /// A manifest by digest: as it is stored or was fetched before, or from its source.
    async fn manifest_by_digest(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        upstream: RepositoryClient,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let version = Version::Digest(*digest);
        if let Some(stored) = self.0.store.manifest(repository, &version).await? {
            // A client that wants this image of an index has all of it already.
            self.0.publish_parents(repository, digest);
            return Ok(Some(stored));
        }
        let pending = lock(&self.0.pending).get(repository, digest);
        if let Some(manifest) = pending {
            return Ok(Some(stored(&manifest)));
        }
        match self.0.fetch_manifest(repository, digest, upstream).await {
            Ok(manifest) => Ok(manifest.as_ref().map(stored)),
            Err(error) => {
                self.0.warn(repository, &error);
                lock(&self.0.lookups).failed(repository, Instant::now());
                Err(StoreError::Upstream(error.into()))
            }
        }
    }

    async fn manifest_by_tag(
        &self,
        repository: &RepositoryPath,
        tag: &Tag,
        upstream: RepositoryClient,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let named = self.resolve_tag(repository, tag, upstream.clone()).await?;
        let Some(named) = named else { return Ok(None) };
        let fetched = self.manifest_by_digest(repository, &named.digest, upstream);
        match fetched.await {
            Ok(Some(manifest)) => Ok(Some(manifest)),
            // The source named it and does not send it: the stored one is better than none.
            unusable => {
                let version = Version::Tag(tag.clone());
                let stored = self.0.store.manifest(repository, &version).await?;
                if stored.is_some() {
                    return Ok(stored);
                }
                unusable
            }
        }
    }

    /// The size of a blob: as it is stored, as a manifest says, or as its source says.
    async fn size_of_blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        upstream: RepositoryClient,
    ) -> Result<Option<u64>, StoreError> {
        if let Some(size) = self.0.store.stat_blob(repository, digest).await? {
            return Ok(Some(size));
        }
        let described = lock(&self.0.pending).blob(repository, digest);
        if let Some(described) = described {
            return Ok(Some(described.size));
        }
        let (key, wanted) = ((repository.clone(), *digest), *digest);
        let ask = || async move {
            upstream
                .blob_size(&wanted)
                .await
                .map_err(UpstreamError::from)
        };
        let size = self.0.sizes.join(key, ask).await;
        size.ok_or(StoreError::Closed)?.map_err(|error| {
            self.0.warn(repository, &error);
            StoreError::Upstream(error.into())
        })
    }

    async fn blob(
        &self,
        repository: &RepositoryPath,
        digest: &Digest,
        upstream: RepositoryClient,
    ) -> Result<Option<BlobHandle>, StoreError> {
        if let Some(blob) = self.0.store.open_blob(repository, digest).await? {
            self.0.complete_images_with(repository, digest);
            return Ok(Some(blob));
        }
        let size = self.size_of_blob(repository, digest, upstream.clone());
        let Some(size) = size.await? else {
            return Ok(None);
        };
        let blob = Descriptor::new("", *digest, size);
        // If there is no room for it, the download fails before its first byte.
        let download = self.0.download(repository, blob.clone(), upstream.clone());
        self.0.complete_images_with(repository, digest);
        match download.begun().await {
            Ok(growing) => Ok(Some(BlobHandle {
                size,
                content: BlobContent::Growing(growing),
            })),
            Err(FetchFailure::NoRoom) => Ok(Some(passed_through(upstream, blob))),
            Err(FetchFailure::Upstream(error)) if error.is_absence() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// A page of the tags at the source and of those that are stored; of the stored ones alone if
    /// the source fails.
    async fn page_of_tags(
        &self,
        repository: &RepositoryPath,
        page: PageQuery,
        upstream: RepositoryClient,
    ) -> Result<Option<Page<Tag>>, StoreError> {
        let listed = match self.0.list_tags(repository, upstream).await {
            Ok(tags) => tags,
            Err(error) if error.is_absence() => return self.0.store.tags(repository, page).await,
            Err(error) => {
                self.0.warn(repository, &error);
                let stored = self.0.store.tags(repository, page).await?;
                return match stored {
                    Some(stored) => Ok(Some(stored)),
                    None => Err(StoreError::Upstream(error.into())),
                };
            }
        };
        let stored = self.0.store.tags(repository, page.clone()).await?;
        let stored = stored.map_or((vec![], false), |stored| (stored.entries, stored.more));
        Ok(Some(merged(&listed, stored, &page)))
    }

    /// A page of the referrers at the source; of the stored ones if the source has none or fails.
    async fn page_of_referrers(
        &self,
        repository: &RepositoryPath,
        subject: &Digest,
        page: ReferrersQuery,
        upstream: RepositoryClient,
    ) -> Result<ReferrersPage, StoreError> {
        let (key, of) = ((repository.clone(), *subject), *subject);
        let list = || async move {
            let listed = upstream.referrers(&of).await.map(Arc::new);
            listed.map_err(UpstreamError::from)
        };
        let listed = self.0.referrers.join(key, list).await;
        let listed = match listed.ok_or(StoreError::Closed)? {
            Ok(listed) if !listed.is_empty() => listed,
            Ok(_) => return self.0.store.referrers(repository, subject, page).await,
            Err(error) => {
                self.0.warn(repository, &error);
                return self.0.store.referrers(repository, subject, page).await;
            }
        };
        let listed: HashMap<Digest, &Descriptor> =
            listed.iter().map(|it| (it.digest, it)).collect();
        page.fill(listed.keys().copied(), |digest| {
            Ok(listed.get(digest).copied().cloned())
        })
    }
}

impl Inner {
    fn source_of(&self, repository: &RepositoryPath) -> Option<&SourceState> {
        self.sources.get(self.pull_through.host_of(repository)?)
    }

    /// Logs a failure of a source, each kind once a minute.
    fn warn(&self, repository: &RepositoryPath, error: &UpstreamError) {
        let (category, now) = (error.category, Instant::now());
        let Some(source) = self.source_of(repository) else {
            return;
        };
        source.failed(category, now);
        if let Some(times) = source.to_log(category, now) {
            let category = category.as_str();
            tracing::warn!(%repository, category, times, "cannot pull through: {error}");
        }
    }

    /// Asks the source what a tag names. If that is stored, the tag is moved to it; otherwise its
    /// manifest is fetched, because an image that the source does not send must not be named.
    async fn look_up(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        tag: &Tag,
        upstream: RepositoryClient,
    ) -> Found<Option<ManifestRecord>> {
        let version = Version::Tag(tag.clone());
        let head = async { Ok(upstream.head(&version).await?) };
        let Some(named) = self.unless_limited(repository, head).await? else {
            return Ok(None);
        };
        let named = record(&named);
        // Known before the image is stored, which gives it its tags.
        lock(&self.lookups).record(repository, tag, Some(named.clone()), Instant::now());
        let tagged = self.stored(repository, &version).await;
        if tagged.is_some_and(|tagged| tagged.digest() == named.digest) {
            return Ok(Some(named));
        }
        let version = Version::Digest(named.digest);
        if let Some(manifest) = self.stored(repository, &version).await {
            self.put(repository, manifest, vec![tag.clone()]).await;
            return Ok(Some(named));
        }
        match self
            .fetch_manifest(repository, &named.digest, upstream)
            .await
        {
            Ok(Some(manifest)) => Ok(Some(stored(&manifest).record)),
            Ok(None) => Ok(None),
            Err(error) => {
                lock(&self.lookups).failed(repository, Instant::now());
                Err(error)
            }
        }
    }

    /// Asks the source, unless it asked to wait.
    async fn unless_limited<T>(
        &self,
        repository: &RepositoryPath,
        ask: impl Future<Output = Found<T>>,
    ) -> Found<T> {
        let limited = lock(&self.limits).get(repository, Instant::now());
        if let Some(error) = limited {
            return Err(error);
        }
        let answer = ask.await;
        if let Err(error) = &answer {
            lock(&self.limits).record(repository, error, Instant::now());
        }
        answer
    }

    /// A stored manifest; `None` also if it cannot be read, which shows when it is served.
    async fn stored(&self, repository: &RepositoryPath, version: &Version) -> Option<Manifest> {
        parsed(&self.store.manifest(repository, version).await.ok()??)
    }

    /// A manifest that is not stored: as it was fetched before, or from its source.
    async fn fetch_manifest(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        digest: &Digest,
        upstream: RepositoryClient,
    ) -> Found<Option<Manifest>> {
        let pending = lock(&self.pending).get(repository, digest);
        if pending.is_some() {
            return Ok(pending);
        }
        let (inner, of, version) = (Arc::clone(self), repository.clone(), (*digest).into());
        let fetch = || async move {
            let get = async { Ok(upstream.manifest(&version).await?) };
            match inner.unless_limited(&of, get).await {
                Ok(manifest) => {
                    inner.fetched.inc_by(manifest.size());
                    lock(&inner.pending).insert(&of, manifest.clone());
                    inner.publish_if_complete(&of, manifest.clone());
                    Ok(Some(manifest))
                }
                Err(error) if error.is_absence() => Ok(None),
                Err(error) => Err(error),
            }
        };
        let key = (repository.clone(), *digest);
        self.manifests.join(key, fetch).await.unwrap_or(Ok(None))
    }

    /// The tags at the source, as they were less than a minute ago.
    async fn list_tags(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        upstream: RepositoryClient,
    ) -> Found<Arc<Vec<Tag>>> {
        let listed = lock(&self.listed).get(repository, Instant::now());
        if let Some(listed) = listed {
            return Ok(listed);
        }
        let (inner, of) = (Arc::clone(self), repository.clone());
        let list = || async move {
            let mut tags = upstream.tags().await?;
            sort(&mut tags);
            let tags = Arc::new(tags);
            lock(&inner.listed).record(&of, Arc::clone(&tags), Instant::now());
            Ok(tags)
        };
        let listed = self.lists.join(repository.clone(), list).await;
        listed.unwrap_or_else(|| Ok(Arc::default()))
    }
}

impl Source for Fill {
    fn resolve<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<ManifestRecord>, StoreError>> {
        let Some(upstream) = self.upstream(repository) else {
            return self.0.store.resolve(repository, version);
        };
        async move {
            match version {
                Version::Tag(tag) => self.resolve_tag(repository, tag, upstream).await,
                Version::Digest(digest) => {
                    let found = self.manifest_by_digest(repository, digest, upstream);
                    Ok(found.await?.map(|found| found.record))
                }
            }
        }
        .boxed()
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        version: &'a Version,
    ) -> BoxFuture<'a, Result<Option<StoredManifest>, StoreError>> {
        let Some(upstream) = self.upstream(repository) else {
            return self.0.store.manifest(repository, version);
        };
        match version {
            Version::Tag(tag) => self.manifest_by_tag(repository, tag, upstream).boxed(),
            Version::Digest(digest) => {
                let found = self.manifest_by_digest(repository, digest, upstream);
                found.boxed()
            }
        }
    }

    fn stat_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        match self.upstream(repository) {
            Some(upstream) => self.size_of_blob(repository, digest, upstream).boxed(),
            None => self.0.store.stat_blob(repository, digest),
        }
    }

    fn open_blob<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<BlobHandle>, StoreError>> {
        match self.upstream(repository) {
            Some(upstream) => self.blob(repository, digest, upstream).boxed(),
            None => self.0.store.open_blob(repository, digest),
        }
    }

    fn tags<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        page: PageQuery,
    ) -> BoxFuture<'a, Result<Option<Page<Tag>>, StoreError>> {
        match self.upstream(repository) {
            Some(upstream) => self.page_of_tags(repository, page, upstream).boxed(),
            None => self.0.store.tags(repository, page),
        }
    }

    fn referrers<'a>(
        &'a self,
        repository: &'a RepositoryPath,
        subject: &'a Digest,
        page: ReferrersQuery,
    ) -> BoxFuture<'a, Result<ReferrersPage, StoreError>> {
        match self.upstream(repository) {
            Some(upstream) => {
                let found = self.page_of_referrers(repository, subject, page, upstream);
                found.boxed()
            }
            None => self.0.store.referrers(repository, subject, page),
        }
    }

    fn repositories(
        &self,
        page: PageQuery,
    ) -> BoxFuture<'_, Result<Page<RepositoryPath>, StoreError>> {
        self.0.store.repositories(page)
    }
}

fn record(described: &Descriptor) -> ManifestRecord {
    ManifestRecord {
        digest: described.digest,
        media_type: described.media_type.clone(),
        size: described.size,
    }
}

fn stored(manifest: &Manifest) -> StoredManifest {
    StoredManifest {
        record: ManifestRecord {
            digest: manifest.digest(),
            media_type: manifest.media_type().to_owned(),
            size: manifest.size(),
        },
        bytes: manifest.bytes().clone(),
    }
}

fn parsed(stored: &StoredManifest) -> Option<Manifest> {
    let (bytes, record) = (stored.bytes.clone(), &stored.record);
    Manifest::parse_pinned(bytes, Some(&record.media_type), &record.digest).ok()
}

/// A page of a sorted list of tags together with the same page of the stored ones.
fn merged(listed: &[Tag], (stored, more_stored): (Vec<Tag>, bool), page: &PageQuery) -> Page<Tag> {
    let after = page.after.as_deref();
    let start = listed.partition_point(|tag| after.is_some_and(|after| tag.as_str() <= after));
    let most = page.most.saturating_add(1);
    let mut entries: Vec<Tag> = listed[start..].iter().take(most).cloned().collect();
    entries.extend(stored);
    sort(&mut entries);
    let more = more_stored || entries.len() > page.most;
    entries.truncate(page.most);
    Page { entries, more }
}

fn sort(tags: &mut Vec<Tag>) {
    tags.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    tags.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(names: &str) -> Vec<Tag> {
        let names = names.split_whitespace();
        names.map(|name| Tag::parse(name).unwrap()).collect()
    }

    #[test]
    fn tags_of_both_sides_are_one_sorted_list() {
        let listed = tags("a b d");
        let names = |after: Option<&str>, most, stored: &str, stored_more| {
            let after = after.map(str::to_owned);
            let stored = (tags(stored), stored_more);
            let page = merged(&listed, stored, &PageQuery { after, most });
            let names: Vec<String> = page.entries.iter().map(ToString::to_string).collect();
            (names.join(" "), page.more)
        };
        assert_eq!(names(None, 10, "a c", false), ("a b c d".to_owned(), false));
        assert_eq!(names(None, 2, "a c", false), ("a b".to_owned(), true));
        assert_eq!(names(Some("a"), 2, "c", false), ("b c".to_owned(), true));
        assert_eq!(names(Some("c"), 2, "", false), ("d".to_owned(), false));
        assert_eq!(names(Some("d"), 2, "e f", true), ("e f".to_owned(), true));
    }

    #[test]
    fn a_source_that_does_not_answer_is_left_alone_and_a_failure_is_logged_once_a_minute() {
        let (source, now) = (SourceState::default(), Instant::now());
        source.failed(Category::Server, now);
        assert!(!source.is_down(now), "it answered");
        source.failed(Category::Timeout, now);
        assert!(source.is_down(now + OUTAGE / 2));
        assert!(!source.is_down(now + OUTAGE));
        assert_eq!(source.to_log(Category::Server, now), Some(1));
        assert_eq!(source.to_log(Category::Server, now), None);
        assert_eq!(source.to_log(Category::Timeout, now), Some(1));
        let later = now + Duration::from_mins(1);
        assert_eq!(source.to_log(Category::Server, later), Some(2));
    }
}
