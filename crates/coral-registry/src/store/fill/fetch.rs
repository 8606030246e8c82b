//! Fetches one blob into the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coral_distribution::{BlobSource, BlobStream, Category, Disposition, Error, RepositoryClient};
use coral_image::{Descriptor, RepositoryPath};
use futures::StreamExt as _;

use super::download::Download;
use super::{FetchFailure, Inner, lock};
use crate::store::{BlobContent, UploadWriter};

/// How many pieces that have arrived are written at once.
const MOST_PIECES: usize = 64;
/// The waits before a source that fails is asked again. A reader is cut off after two minutes
/// without a byte.
const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    MAX_RETRY_DELAY,
];
/// How many bytes are reserved on the disk before they arrive.
const MOST_RESERVED: u64 = 64 << 20;
/// Clients give up before a longer wait is over.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);
/// Bytes of progress after which a source gets all waits again.
const RETRY_RESET_BYTES: u64 = 1 << 20;

impl Inner {
    /// The running download of a blob, or a new one.
    pub(super) fn download(
        self: &Arc<Self>,
        repository: &RepositoryPath,
        blob: Descriptor,
        upstream: RepositoryClient,
    ) -> Arc<Download> {
        let download = {
            let mut downloads = lock(&self.downloads);
            let key = (repository.clone(), blob.digest);
            if let Some(running) = downloads.get(&key) {
                return Arc::clone(running);
            }
            let download = Arc::new(Download::new(repository.clone(), blob));
            downloads.insert(key, Arc::clone(&download));
            download
        };
        let (inner, running) = (Arc::clone(self), Arc::clone(&download));
        self.tasks.spawn(async move {
            // If this panics, readers are cut off and the next request begins another download.
            let mut ending = Ending {
                inner: Arc::clone(&inner),
                download: Arc::clone(&running),
                end: Err(FetchFailure::Stopped),
            };
            let end = inner.fetch(&running, upstream).await;
            if let Err(FetchFailure::Upstream(error)) = &end {
                inner.warn(&running.repository, error);
                // What is stored may be complete: the next lookup finds it.
                lock(&inner.lookups).failed(&running.repository, Instant::now());
            }
            ending.end = end;
        });
        download
    }

    async fn fetch(
        &self,
        download: &Download,
        upstream: RepositoryClient,
    ) -> Result<(), FetchFailure> {
        let source = self.source_of(&download.repository);
        let source = source.ok_or(FetchFailure::Stopped)?;
        let slot = tokio::select! {
            slot = source.downloads.acquire() => slot,
            () = self.stop.cancelled() => return Err(FetchFailure::Stopped),
        };
        let _slot = slot.map_err(|_| FetchFailure::Stopped)?;
        let (repository, blob) = (&download.repository, &download.blob);
        // It may have been stored between the caller's look and the start of this download.
        if let Some(stored) = self.store.open_blob(repository, &blob.digest).await?
            && let BlobContent::File(file) = stored.content
        {
            download.writes_to(file);
            download.verified();
            return Ok(());
        }
        self.store.check_room(blob.size).await?;
        let algorithm = blob.digest.algorithm();
        let upload = self.store.begin_upload(repository, algorithm).await?;
        let mut writer = self.store.write_upload(repository, upload).await?;
        let appended = self.append_all(download, writer.as_mut(), upstream).await;
        match appended {
            Ok(()) => {
                // Every byte was compared with the digest as it arrived. The commit only makes the
                // content durable, for which readers need not wait.
                download.verified();
                writer.commit(blob.digest).await?;
                Ok(())
            }
            Err(failure) => {
                // What is left behind is removed as an abandoned upload.
                let _ = writer.cancel().await;
                Err(failure)
            }
        }
    }

    /// Appends the whole blob. After a failure of the source it resumes at the current offset.
    async fn append_all(
        &self,
        download: &Download,
        writer: &mut dyn UploadWriter,
        upstream: RepositoryClient,
    ) -> Result<(), FetchFailure> {
        download.writes_to(writer.reader().await?);
        let source = BlobSource::new(upstream.into(), download.blob.clone());
        let mut waits = RETRY_DELAYS.iter();
        let mut before = writer.offset();
        loop {
            let error = match self.append_once(download, writer, &source).await {
                Ok(()) => return Ok(()),
                Err(Interrupted::Source(error)) => error,
                Err(Interrupted::Here(failure)) => return Err(failure),
            };
            if writer.offset() - before >= RETRY_RESET_BYTES {
                waits = RETRY_DELAYS.iter();
                before = writer.offset();
            }
            let wait = match error.disposition() {
                // The file has wrong bytes in it, or the source does not keep to the protocol.
                _ if !is_passing(error.category()) => None,
                Disposition::Retry => waits.next().copied(),
                Disposition::RetryAfter(wait) => waits.next().map(|least| wait.max(*least)),
                Disposition::WaitForRoom | Disposition::WaitForChange => None,
            };
            let Some(wait) = wait.filter(|wait| *wait <= MAX_RETRY_DELAY) else {
                return Err(FetchFailure::Upstream(error.into()));
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return Err(FetchFailure::Stopped),
            }
        }
    }

    async fn append_once(
        &self,
        download: &Download,
        writer: &mut dyn UploadWriter,
        source: &BlobSource,
    ) -> Result<(), Interrupted> {
        let offset = writer.offset();
        let open = async {
            match offset {
                0 => source.read().await,
                offset => source.read_on(offset).await,
            }
        };
        let opened: Result<BlobStream, Error> = tokio::select! {
            opened = open => opened,
            () = self.stop.cancelled() => return Err(FetchFailure::Stopped.into()),
        };
        let mut pieces = opened?.ready_chunks(MOST_PIECES);
        if offset == 0 {
            // The source has the blob. If the disk is full, that shows before a reader has its first
            // byte, and the blob is passed through. A manifest may state any size, so little is
            // reserved for what has not arrived.
            let reserved = writer.reserve(download.blob.size.min(MOST_RESERVED)).await;
            reserved.map_err(FetchFailure::from)?;
        }
        loop {
            let next = tokio::select! {
                next = pieces.next() => next,
                () = self.stop.cancelled() => return Err(FetchFailure::Stopped.into()),
            };
            let Some(next) = next else { return Ok(()) };
            let (mut batch, mut failed) = (vec![], None);
            for piece in next {
                match piece {
                    Ok(bytes) => batch.push(bytes),
                    Err(error) => failed = Some(error),
                }
            }
            let length: usize = batch.iter().map(bytes::Bytes::len).sum();
            writer.append(batch).await.map_err(FetchFailure::from)?;
            self.fetched.inc_by(length as u64);
            download.has(writer.offset());
            if let Some(error) = failed {
                return Err(Interrupted::Source(error));
            }
        }
    }
}

/// Whether a source that failed in this way may send the rest a little later.
fn is_passing(category: Category) -> bool {
    use Category::{Connect, Cut, Dns, RateLimited, Server, Timeout};
    matches!(
        category,
        Connect | Cut | Dns | RateLimited | Server | Timeout
    )
}

/// Why appending ended early.
enum Interrupted {
    Source(Error),
    Here(FetchFailure),
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Self::Source(error)
    }
}

impl From<FetchFailure> for Interrupted {
    fn from(failure: FetchFailure) -> Self {
        Self::Here(failure)
    }
}

/// Ends a download, also after a panic.
struct Ending {
    inner: Arc<Inner>,
    download: Arc<Download>,
    end: Result<(), FetchFailure>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Removed first: a reader that learns of the end finds the stored blob, or begins anew.
        lock(&self.inner.downloads).remove(&self.download.key());
        self.download.ended(self.end.clone());
    }
}
