//! The download of one blob into the store, and the file that it grows.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use coral_image::{Descriptor, Digest, RepositoryPath};
use tokio::sync::watch;

use super::FetchFailure;
use crate::store::StoreError;

/// How far a download is.
#[derive(Debug, Clone, Default)]
struct DownloadState {
    /// The file with the bytes; absent until the download has begun.
    file: Option<Arc<File>>,
    /// How many of the bytes are in the file.
    arrived: u64,
    /// Whether the bytes hash to the digest.
    is_verified: bool,
    /// How the download ended.
    end: Option<Result<(), FetchFailure>>,
}

impl DownloadState {
    /// How many bytes may be sent. The last one waits for the digest, so bytes that are not those
    /// of the blob never make a complete answer.
    fn readable(&self) -> u64 {
        if self.is_verified {
            self.arrived
        } else {
            self.arrived.saturating_sub(1)
        }
    }

    fn failure(&self) -> Option<&FetchFailure> {
        self.end.as_ref()?.as_ref().err()
    }
}

/// A blob that is being fetched.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) repository: RepositoryPath,
    pub(super) blob: Descriptor,
    progress: watch::Sender<DownloadState>,
}

impl Download {
    pub(super) fn new(repository: RepositoryPath, blob: Descriptor) -> Self {
        Self {
            repository,
            blob,
            progress: watch::Sender::default(),
        }
    }

    pub(super) fn key(&self) -> (RepositoryPath, Digest) {
        (self.repository.clone(), self.blob.digest)
    }

    /// Bytes will be appended to this file.
    pub(super) fn writes_to(&self, file: Arc<File>) {
        self.progress
            .send_modify(|progress| progress.file = Some(file));
    }

    /// The file has this many bytes.
    pub(super) fn has(&self, arrived: u64) {
        self.progress
            .send_modify(|progress| progress.arrived = arrived);
    }

    /// All bytes are in the file and hash to the digest.
    pub(super) fn verified(&self) {
        self.progress.send_modify(|progress| {
            progress.arrived = self.blob.size;
            progress.is_verified = true;
        });
    }

    pub(super) fn ended(&self, end: Result<(), FetchFailure>) {
        self.progress
            .send_modify(|progress| progress.end = Some(end));
    }

    /// Waits until the blob is stored.
    pub(super) async fn stored(&self) -> Result<(), FetchFailure> {
        let mut progress = self.progress.subscribe();
        let ended = progress.wait_for(|progress| progress.end.is_some()).await;
        // The sender is this value.
        ended.map_or(Err(FetchFailure::Stopped), |progress| {
            progress.end.clone().unwrap_or(Err(FetchFailure::Stopped))
        })
    }

    /// Waits until the first byte can be sent, or all of an empty blob. Then returns a reader.
    pub(super) async fn begun(&self) -> Result<GrowingFile, FetchFailure> {
        let mut progress = self.progress.subscribe();
        let has_begun = |progress: &DownloadState| {
            progress.readable() > 0 || progress.is_verified || progress.end.is_some()
        };
        let now = match progress.wait_for(has_begun).await {
            Ok(now) => now.clone(),
            Err(_) => return Err(FetchFailure::Stopped),
        };
        if let Some(failure) = now.failure() {
            return Err(failure.clone());
        }
        let file = now.file.ok_or(FetchFailure::Stopped)?;
        Ok(GrowingFile { file, progress })
    }
}

/// A file that grows while it is read. Bytes that may be read once never change.
#[derive(Debug, Clone)]
pub struct GrowingFile {
    file: Arc<File>,
    progress: watch::Receiver<DownloadState>,
}

impl GrowingFile {
    /// The file; its content counts only as far as [`Self::readable_beyond`] says.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Waits until more than `offset` bytes may be read, and returns how many; `None` if no byte
    /// arrives for this long.
    pub(crate) async fn readable_beyond(
        mut self,
        offset: u64,
        stall: Duration,
    ) -> Option<Result<u64, StoreError>> {
        loop {
            {
                let now = self.progress.borrow_and_update();
                if now.readable() > offset {
                    return Some(Ok(now.readable()));
                }
                if now.end.is_some() {
                    let failure = now.failure().cloned().unwrap_or(FetchFailure::Stopped);
                    return Some(Err(failure.into()));
                }
            }
            let changed = tokio::time::timeout(stall, self.progress.changed());
            if changed.await.ok()?.is_err() {
                return Some(Err(FetchFailure::Stopped.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures::FutureExt as _;

    use super::*;

    const STALL: Duration = Duration::from_mins(2);

    fn download(content: &[u8]) -> (Download, File) {
        let digest = Digest::sha256(content);
        let blob = Descriptor::new("", digest, content.len() as u64);
        let repository = RepositoryPath::parse("docker.io/a").unwrap();
        let download = Download::new(repository, blob);
        let file = tempfile::tempfile().unwrap();
        download.writes_to(Arc::new(file.try_clone().unwrap()));
        (download, file)
    }

    #[tokio::test]
    async fn bytes_may_be_read_as_they_arrive_and_the_last_one_after_the_check() {
        let (download, mut file) = download(b"content");
        assert!(download.begun().now_or_never().is_none());
        file.write_all(b"cont").unwrap();
        download.has(4);
        let growing = download.begun().await.unwrap();
        let beyond = |offset| growing.clone().readable_beyond(offset, STALL);
        assert_eq!(beyond(0).await.unwrap().unwrap(), 3);
        assert!(beyond(3).now_or_never().is_none());
        file.write_all(b"ent").unwrap();
        download.has(7);
        assert_eq!(beyond(3).await.unwrap().unwrap(), 6);
        assert!(beyond(6).now_or_never().is_none());
        download.verified();
        assert_eq!(beyond(6).await.unwrap().unwrap(), 7);
        download.ended(Ok(()));
        download.stored().await.unwrap();
        assert_eq!(beyond(0).await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn a_failure_is_told_to_readers_that_wait_and_to_those_who_have_nothing_yet() {
        let (download, _file) = download(b"content");
        download.has(7);
        let growing = download.begun().await.unwrap();
        download.ended(Err(FetchFailure::NoRoom));
        let beyond = |offset| growing.clone().readable_beyond(offset, STALL);
        assert_eq!(beyond(5).await.unwrap().unwrap(), 6);
        let error = beyond(6).await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(download.stored().await.is_err());
        assert!(download.begun().await.is_err());
    }

    /// Regression: a range far behind what had arrived was cut off although bytes came.
    #[tokio::test(start_paused = true)]
    async fn only_a_download_that_stands_still_is_given_up() {
        let (download, _file) = download(b"content");
        download.has(2);
        let growing = download.begun().await.unwrap();
        let arrives = async {
            for arrived in 3..6 {
                tokio::time::advance(STALL / 2).await;
                tokio::task::yield_now().await;
                tokio::time::advance(STALL / 3).await;
                download.has(arrived);
            }
        };
        let beyond = growing.clone().readable_beyond(3, STALL);
        let (readable, ()) = tokio::join!(beyond, arrives);
        assert_eq!(readable.unwrap().unwrap(), 4);
        assert!(growing.readable_beyond(4, STALL).await.is_none());
    }

    #[tokio::test]
    async fn an_empty_blob_is_there_once_it_is_verified() {
        let (download, _file) = download(b"");
        assert!(download.begun().now_or_never().is_none());
        download.verified();
        download.begun().await.unwrap();
    }
}
