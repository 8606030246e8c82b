//! The bytes of a blob, from the network to the thread that writes files.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coral_distribution::{BlobSource, Category, Error};
use futures::{TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::login::Failure;

/// Chunks that are read ahead of the file system.
const AHEAD: usize = 8;

/// A channel for the bytes; the reader reaches the end when the sender is dropped.
pub(super) fn channel() -> (mpsc::Sender<Bytes>, impl Read + Send + 'static) {
    let (sender, mut chunks) = mpsc::channel(AHEAD);
    let chunks = stream::poll_fn(move |cx| {
        let next = chunks.poll_recv(cx);
        next.map(|chunk| chunk.map(io::Result::Ok))
    });
    (sender, SyncIoBridge::new(StreamReader::new(chunks)))
}

/// Passes on the bytes after the first `passed` ones, and continues counting.
pub(super) async fn pass_on(
    source: &BlobSource,
    passed: &AtomicU64,
    chunks: &mpsc::Sender<Bytes>,
) -> Result<(), DownloadError> {
    let mut bytes = source.read_on(passed.load(Ordering::Relaxed)).await?;
    while let Some(chunk) = bytes.try_next().await? {
        passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        if chunks.send(chunk).await.is_err() {
            // The writing thread has failed and reports why.
            break;
        }
    }
    Ok(())
}

/// A download that was interrupted.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct DownloadError(#[from] pub(super) Error);

impl Failure for DownloadError {
    fn retry_after(&self) -> Option<Duration> {
        match self.0.category() {
            // Wrong bytes would be wrong again; those before them are passed on.
            Category::Digest | Category::TooLarge => None,
            _ => self.0.retry_after(),
        }
    }

    fn is_unauthorized(&self) -> bool {
        self.0.is_unauthorized()
    }
}
