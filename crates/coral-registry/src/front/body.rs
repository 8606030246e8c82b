//! Receives the bodies of uploads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::error::{Code, Refusal};
use super::progress::Progress;
use crate::store::UploadWriter;

/// Uploads are written and hashed in batches of about this size, one while the next is received;
/// batches are smaller when many uploads run at once.
const BATCH: usize = 256 * 1024;
const LEAST_BATCH: usize = 16 * 1024;
/// Memory for the batches of all uploads.
const BATCHES: usize = 24 * 1024 * 1024;
/// Batches of one upload: one being received, one written, one hashed.
const BATCHES_OF_ONE: usize = 3;
/// Limit for small frames, which take more memory than their bytes.
const MOST_FRAMES: usize = 512;
/// How much of an unwanted body is read.
const MOST_DRAINED: u64 = 16 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Receives a body into an upload. `limit` is the announced length, if there was one.
///
/// While one batch is written and hashed, the next one is received. The bytes that arrived before
/// an error are kept, so that the client can continue from there.
pub(super) async fn receive(
    body: &mut Body,
    limit: Option<u64>,
    writer: &mut dyn UploadWriter,
    mut progress: Progress,
    received: Counter,
) -> Result<(), Refusal> {
    let _counted = Counted::new();
    let mut left = limit.unwrap_or(u64::MAX);
    let mut batch = next_batch(body, &mut left, &mut progress).await;
    loop {
        let (frames, end) = batch;
        if frames.is_empty() {
            return end.unwrap_or(Ok(()));
        }
        received.inc_by(frames.iter().map(|frame| frame.len() as u64).sum());
        let Some(end) = end else {
            let (written, next) = futures::join!(
                writer.append(frames),
                next_batch(body, &mut left, &mut progress)
            );
            written?;
            batch = next;
            continue;
        };
        writer.append(frames).await?;
        return end;
    }
}

/// How many uploads this process is receiving; they share the memory for batches.
static RECEIVING: AtomicUsize = AtomicUsize::new(0);

/// Counts one upload for as long as it exists.
struct Counted;

impl Counted {
    fn new() -> Self {
        RECEIVING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        RECEIVING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn batch_size(uploads: usize) -> usize {
    half_share(uploads).clamp(LEAST_BATCH, BATCH)
}

/// Half of an upload's share of the memory: a batch that lacks a single byte may still grow by a
/// complete read.
fn half_share(uploads: usize) -> usize {
    BATCHES / BATCHES_OF_ONE / uploads.max(1) / 2
}

/// How many bytes a connection may read at once. Large reads are efficient, but each is a buffer
/// that is kept until it is written and hashed.
pub(crate) fn read_limit() -> u64 {
    read_size(RECEIVING.load(Ordering::Relaxed)) as u64
}

/// The size is one byte less than a power of two: a reader whose buffer grows whenever it is full
/// then never grows it further.
fn read_size(uploads: usize) -> usize {
    let most = half_share(uploads).max(LEAST_BATCH);
    (1 << most.ilog2()) - 1
}

/// Frames for about one batch, and how the body ended, if it has.
async fn next_batch(
    body: &mut Body,
    left: &mut u64,
    progress: &mut Progress,
) -> (Vec<Bytes>, Option<Result<(), Refusal>>) {
    let mut frames = Vec::new();
    let mut size = 0;
    let enough = batch_size(RECEIVING.load(Ordering::Relaxed));
    while size < enough && frames.len() < MOST_FRAMES {
        match next_data(body, progress).await {
            Ok(Some(data)) if data.len() as u64 > *left => {
                return (frames, Some(Err(too_long())));
            }
            Ok(Some(data)) => {
                *left -= data.len() as u64;
                size += data.len();
                frames.push(data);
            }
            Ok(None) => return (frames, Some(Ok(()))),
            Err(refusal) => return (frames, Some(Err(refusal))),
        }
    }
    (frames, None)
}

fn too_long() -> Refusal {
    Refusal::invalid(Code::SizeInvalid, "the body is longer than was announced")
}

pub(super) async fn next_data(
    body: &mut Body,
    progress: &mut Progress,
) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = tokio::time::timeout_at(progress.deadline(), body.frame())
            .await
            .map_err(|_| progress.too_slow())?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    progress.received(data.len(), Instant::now())?;
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                let message = format!("the body was cut off: {error}");
                return Err(Refusal::invalid(Code::BlobUploadInvalid, message));
            }
        }
    }
}

/// Reads and discards a body, within bounds.
pub(super) async fn drain(mut body: Body) {
    let all = async {
        let mut left = MOST_DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME, all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batches_of_many_uploads_share_the_memory_that_there_is() {
        assert_eq!(batch_size(0), BATCH);
        assert_eq!(batch_size(1), BATCH);
        // More than the protocol's own largest buffer, so that it is not held back.
        assert!(read_size(0) > 500_000 && read_size(8) > 500_000);
        for uploads in [16, 17, 64, 256] {
            let one = batch_size(uploads) + read_size(uploads);
            assert!(one * BATCHES_OF_ONE * uploads <= BATCHES, "{uploads}");
        }
        assert_eq!(batch_size(100_000), LEAST_BATCH);
        assert_eq!(read_size(100_000), LEAST_BATCH - 1);
    }
}
