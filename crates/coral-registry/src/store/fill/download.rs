//! The download of one blob into the store, and the readers of the file that it grows.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use coral_image::{Descriptor, Digest, RepositoryPath};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use super::Failure;
use crate::store::{BlobReader, StoreError};

/// How many bytes a reader takes at once.
const PIECE: u64 = 512 * 1024;

/// How far a download is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// The file with the bytes; absent until the download has begun.
    file: Option<Arc<File>>,
    /// How many of the bytes are in the file.
    arrived: u64,
    /// Whether the bytes hash to the digest.
    is_verified: bool,
    /// How the download ended.
    end: Option<Result<(), Failure>>,
}

impl Progress {
    /// How many bytes may be sent. The last one waits for the digest, so bytes that are not those
    /// of the blob never make a complete answer.
    fn readable(&self) -> u64 {
        if self.is_verified {
            self.arrived
        } else {
            self.arrived.saturating_sub(1)
        }
    }

    fn failure(&self) -> Option<&Failure> {
        self.end.as_ref()?.as_ref().err()
    }
}

/// A blob that is being fetched.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) repository: RepositoryPath,
    pub(super) blob: Descriptor,
    progress: watch::Sender<Progress>,
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

    pub(super) fn ended(&self, end: Result<(), Failure>) {
        self.progress
            .send_modify(|progress| progress.end = Some(end));
    }

    /// Cuts readers off if the download has not ended.
    pub(super) fn ended_if_not(&self, failure: Failure) {
        self.progress.send_if_modified(|progress| {
            let is_running = progress.end.is_none();
            if is_running {
                progress.end = Some(Err(failure));
            }
            is_running
        });
    }

    /// Waits until the blob is stored.
    pub(super) async fn stored(&self) -> Result<(), Failure> {
        let mut progress = self.progress.subscribe();
        let ended = progress.wait_for(|progress| progress.end.is_some()).await;
        // The sender is this value.
        ended.map_or(Err(Failure::Stopped), |progress| {
            progress.end.clone().unwrap_or(Err(Failure::Stopped))
        })
    }

    /// Waits until the first byte can be sent, or all of an empty blob. Then returns a reader.
    pub(super) async fn begun(&self) -> Result<Arc<Arriving>, Failure> {
        let mut progress = self.progress.subscribe();
        let has_begun = |progress: &Progress| {
            progress.readable() > 0 || progress.is_verified || progress.end.is_some()
        };
        let now = match progress.wait_for(has_begun).await {
            Ok(now) => now.clone(),
            Err(_) => return Err(Failure::Stopped),
        };
        if let Some(failure) = now.failure() {
            return Err(failure.clone());
        }
        Ok(Arc::new(Arriving { progress }))
    }
}

/// Reads a blob while its bytes arrive.
#[derive(Debug)]
pub(super) struct Arriving {
    progress: watch::Receiver<Progress>,
}

impl BlobReader for Arriving {
    fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let reading = (self.progress.clone(), range);
        stream::try_unfold(reading, |(mut progress, rest)| async move {
            if rest.is_empty() {
                return Ok(None);
            }
            let bytes = next_piece(&mut progress, &rest).await?;
            let rest = rest.start + bytes.len() as u64..rest.end;
            Ok(Some((bytes, (progress, rest))))
        })
        .boxed()
    }
}

async fn next_piece(
    progress: &mut watch::Receiver<Progress>,
    rest: &Range<u64>,
) -> Result<Bytes, StoreError> {
    let can_go_on =
        |progress: &Progress| progress.readable() > rest.start || progress.end.is_some();
    let (file, readable) = match progress.wait_for(can_go_on).await {
        Ok(now) => {
            if now.readable() <= rest.start {
                let failure = now.failure().cloned().unwrap_or(Failure::Stopped);
                return Err(failure.into());
            }
            (now.file.clone(), now.readable())
        }
        Err(_) => return Err(Failure::Stopped.into()),
    };
    let file = file.ok_or(Failure::Stopped)?;
    let (start, end) = (rest.start, rest.end.min(readable).min(rest.start + PIECE));
    let read = tokio::task::spawn_blocking(move || {
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, start).map(|()| bytes)
    });
    let read = read.await.map_err(|_| StoreError::Closed)?;
    let bytes = read.map_err(|error| StoreError::Other {
        action: "read a blob that is being fetched".to_owned(),
        source: error.into(),
    })?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures::{FutureExt as _, TryStreamExt as _};

    use super::*;

    fn download(content: &[u8]) -> (Download, File) {
        let digest = Digest::sha256(content);
        let blob = Descriptor::new("", digest, content.len() as u64);
        let repository = RepositoryPath::parse("docker.io/a").unwrap();
        let download = Download::new(repository, blob);
        let file = tempfile::tempfile().unwrap();
        download.writes_to(Arc::new(file.try_clone().unwrap()));
        (download, file)
    }

    async fn all(stream: BoxStream<'static, Result<Bytes, StoreError>>) -> Vec<u8> {
        let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
        pieces.concat()
    }

    #[tokio::test]
    async fn readers_get_bytes_as_they_arrive_and_the_last_one_after_the_check() {
        let (download, mut file) = download(b"content");
        assert!(download.begun().now_or_never().is_none());
        file.write_all(b"cont").unwrap();
        download.has(4);
        let reader = download.begun().await.unwrap();
        let mut stream = reader.read(0..7);
        assert_eq!(stream.next().await.unwrap().unwrap(), "con");
        file.write_all(b"ent").unwrap();
        download.has(7);
        assert_eq!(stream.next().await.unwrap().unwrap(), "ten");
        assert!(stream.next().now_or_never().is_none());
        download.verified();
        assert_eq!(all(stream).await, b"t");
        // Another reader, of a range.
        assert_eq!(all(reader.read(2..5)).await, b"nte");
        download.ended(Ok(()));
        download.stored().await.unwrap();
        assert_eq!(all(reader.read(0..7)).await, b"content");
    }

    #[tokio::test]
    async fn a_failure_cuts_readers_off_and_is_told_to_those_who_have_nothing_yet() {
        let (download, mut file) = download(b"content");
        file.write_all(b"conten!").unwrap();
        download.has(7);
        let reader = download.begun().await.unwrap();
        let mut stream = reader.read(0..7);
        assert_eq!(stream.next().await.unwrap().unwrap(), "conten");
        download.ended(Err(Failure::NoRoom));
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(download.stored().await.is_err());
        assert!(download.begun().await.is_err());
    }

    #[tokio::test]
    async fn an_empty_blob_is_there_once_it_is_verified() {
        let (download, _file) = download(b"");
        assert!(download.begun().now_or_never().is_none());
        download.verified();
        let reader = download.begun().await.unwrap();
        assert_eq!(all(reader.read(0..0)).await, b"");
    }
}
