//! Blobs, deduplicated across all running copies.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use coral_distribution::{BlobPush, BlobPushError, BlobSource, BlobStream, Error, Upload};
use coral_image::{Descriptor, Digest, RepositoryPath};
use futures::Stream;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::error::Side;
use super::mount::{self, MountFrom};
use super::sightings::{BlobLocationHint, BlobSightings};
use super::{ByteCounts, CopyError, CopyLimits, CopyRequest, Report};
use crate::pace::{InFlightRequest, Purpose};
use crate::progress::Event;

/// How many refusals of one blob are waited out before its image fails.
const MAX_REFUSALS: u32 = 4;

type BlobLocation = (String, Digest);

/// Which blobs are being transferred, and where they have arrived.
#[derive(Debug)]
pub(super) struct Blobs {
    transfers: Semaphore,
    per_source: usize,
    known: Mutex<BlobState>,
}

#[derive(Debug, Default)]
struct BlobState {
    /// One turn per blob and destination registry: others wait, and then mount.
    turns: HashMap<BlobLocation, Arc<AsyncMutex<()>>>,
    /// Transfers from each source.
    sources: HashMap<String, Arc<Semaphore>>,
    /// What this process has seen or put there, by registry.
    arrived: HashMap<String, BlobSightings>,
}

impl Blobs {
    pub(super) fn new(limits: CopyLimits) -> Self {
        Self {
            transfers: Semaphore::new(limits.transfers.max(1)),
            per_source: limits.transfers_per_source.max(1),
            known: Mutex::default(),
        }
    }

    /// Forgets the blobs that were believed to be at a registry.
    pub(super) fn forget(&self, registry: &str) {
        self.known().arrived.remove(registry);
    }

    /// Brings one blob to the destination, unless it is there. If that is likely, the destination
    /// is asked first, which changes nothing there.
    pub(super) async fn ensure(
        &self,
        request: &CopyRequest,
        blob: &Descriptor,
        asks_first: bool,
    ) -> Result<ByteCounts, CopyError> {
        let place = (request.destination.registry.clone(), blob.digest);
        let turn = self.turn(&place);
        let guard = turn.lock().await;
        let result = if asks_first && is_there(request, blob).await {
            Ok(ByteCounts {
                moved: 0,
                spared: blob.size,
            })
        } else {
            self.ensure_in_turn(request, blob, &place).await
        };
        drop(guard);
        self.end_turn(&place, turn);
        let bytes = result.map_err(|error| error.with_needed_bytes(blob.size))?;
        if bytes.spared > 0 {
            (request.report)(&Event::Spared {
                bytes: bytes.spared,
            });
        }
        Ok(bytes)
    }

    async fn ensure_in_turn(
        &self,
        request: &CopyRequest,
        blob: &Descriptor,
        place: &BlobLocation,
    ) -> Result<ByteCounts, CopyError> {
        let source = &request.source.registry;
        let path = request.destination.path.as_ref();
        let broken = request.options.broken.contains(&blob.digest);
        let mount_from = match self.where_is(place, source, path) {
            // The destination's claim about it cannot be trusted.
            _ if broken => MountFrom::Nowhere,
            BlobLocationHint::Here => {
                return Ok(ByteCounts {
                    moved: 0,
                    spared: blob.size,
                });
            }
            BlobLocationHint::At(other) if mount::source_has(request, blob).await => {
                MountFrom::At(other)
            }
            // Knowing a digest gives no right to a blob of another repository: the source has to
            // send it.
            BlobLocationHint::At(_) => MountFrom::Nowhere,
            BlobLocationHint::Unknown => {
                path.cloned().map_or(MountFrom::Nowhere, MountFrom::Unknown)
            }
        };
        let bytes = self.push(request, blob, mount_from).await?;
        self.remember(place, source, path);
        Ok(bytes)
    }

    /// Mounts the blob, or sends it. Waiting for manifests of other images happens before a
    /// transfer permit is taken, so that other copies can use the permits meanwhile.
    async fn push(
        &self,
        request: &CopyRequest,
        blob: &Descriptor,
        mount_from: MountFrom,
    ) -> Result<ByteCounts, CopyError> {
        let (mut mount_from, first) = mount::look(request, blob, mount_from).await;
        let mut begun = None;
        if let Some(first) = first {
            // Other copies wait for this answer, even those from idle sources.
            let answer = mount::begin(request, blob, &mount_from).await?;
            let lacks_hints = match &answer {
                BlobPush::Upload(upload) => first.gets_no_hints(upload),
                BlobPush::Mounted => false,
            };
            if lacks_hints {
                // An upload that waits for a permit could expire before its turn.
                drop(answer);
                let other = mount::find(request, blob).await;
                mount_from = other.map_or(mount_from, MountFrom::At);
            } else {
                begun = Some(answer);
            }
        }
        let _permits = self.permits(&request.source.registry).await;
        let begun = match begun {
            Some(begun) => begun,
            None => mount::begin(request, blob, &mount_from).await?,
        };
        transfer(request, blob, &mount_from, begun).await
    }

    /// The right to move one blob from this source.
    async fn permits(&self, source: &str) -> Permits<'_> {
        let of_source = self.of_source(source).acquire_owned().await;
        let (Ok(of_source), Ok(of_all)) = (of_source, self.transfers.acquire().await) else {
            unreachable!("the semaphores are never closed")
        };
        Permits {
            _of_source: of_source,
            _of_all: of_all,
        }
    }

    fn known(&self) -> MutexGuard<'_, BlobState> {
        // Ignores poisoning: a wrong entry costs one request at most, so a panic elsewhere does no
        // harm.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_source(&self, registry: &str) -> Arc<Semaphore> {
        let new = || Arc::new(Semaphore::new(self.per_source));
        let mut known = self.known();
        let sources = &mut known.sources;
        sources.retain(|name, turns| name == registry || Arc::strong_count(turns) > 1);
        sources
            .entry(registry.to_owned())
            .or_insert_with(new)
            .clone()
    }

    fn turn(&self, place: &BlobLocation) -> Arc<AsyncMutex<()>> {
        self.known().turns.entry(place.clone()).or_default().clone()
    }

    fn end_turn(&self, place: &BlobLocation, turn: Arc<AsyncMutex<()>>) {
        let mut known = self.known();
        drop(turn);
        if known
            .turns
            .get(place)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            known.turns.remove(place);
        }
    }

    fn where_is(
        &self,
        place: &BlobLocation,
        source: &str,
        path: Option<&RepositoryPath>,
    ) -> BlobLocationHint {
        let mut known = self.known();
        let arrived = known.arrived.get_mut(&place.0);
        arrived.map_or(BlobLocationHint::Unknown, |arrived| {
            arrived.find(&place.1, source, path, Instant::now())
        })
    }

    fn remember(&self, place: &BlobLocation, source: &str, path: Option<&RepositoryPath>) {
        let mut known = self.known();
        let arrived = known.arrived.entry(place.0.clone()).or_default();
        arrived.remember(&place.1, source, path, Instant::now());
    }
}

/// Sends a blob that was not mounted. Retries if the source refused it for a while.
async fn transfer(
    request: &CopyRequest,
    blob: &Descriptor,
    mount_from: &MountFrom,
    mut begun: BlobPush,
) -> Result<ByteCounts, CopyError> {
    let mut refusals = 0;
    loop {
        let BlobPush::Upload(upload) = begun else {
            return Ok(ByteCounts {
                moved: 0,
                spared: blob.size,
            });
        };
        match send(request, blob, upload).await {
            Ok(()) => {
                return Ok(ByteCounts {
                    moved: blob.size,
                    spared: 0,
                });
            }
            // With a pace, the next request waits for as long as the registry wants. Without one,
            // the copy itself has to wait.
            Err(error)
                if request.source.pace.is_some()
                    && error.is_refusal_of_source()
                    && refusals < MAX_REFUSALS =>
            {
                refusals += 1;
                begun = mount::begin(request, blob, mount_from).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Held while one blob is moved.
struct Permits<'a> {
    _of_source: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'a>,
}

/// Whether the destination has this blob, in this size. If it does not answer, the blob is sent.
async fn is_there(request: &CopyRequest, blob: &Descriptor) -> bool {
    if request.options.broken.contains(&blob.digest) {
        return false;
    }
    let size = request.destination.endpoint.blob_size(&blob.digest).await;
    matches!(size, Ok(Some(size)) if size == blob.size)
}

/// Sends the bytes of one blob, at the pace of its source. The request counts as in flight only
/// until the first bytes arrive, so that a slow body does not keep other requests waiting.
async fn send(request: &CopyRequest, blob: &Descriptor, upload: Upload) -> Result<(), CopyError> {
    let of_source = |e| CopyError::at(Side::Source, e);
    let site = &request.source;
    let turn = match &site.pace {
        Some(pace) => Some(pace.turn(Purpose::Copy).await.map_err(of_source)?),
        None => None,
    };
    let asking = Arc::new(Mutex::new(turn));
    let end = |asking: &Mutex<Option<InFlightRequest>>, error: Option<&Error>| {
        let mut asking = asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = asking.take() {
            asking.ends(error);
        }
    };
    let (report, bandwidth, answered) = (
        request.report.clone(),
        site.bandwidth.clone(),
        asking.clone(),
    );
    let source = BlobSource::new(site.endpoint.clone(), blob.clone());
    let source = source.with_wrapper(move |inner| {
        end(&answered, None);
        let report = report.clone();
        let counted = BlobStream::new(Counted { inner, report });
        match &bandwidth {
            Some(bandwidth) => bandwidth.limit(counted),
            None => counted,
        }
    });
    let sent = upload.put_from(&source).await;
    site.note_rate_limit();
    sent.map_err(|error| match error {
        BlobPushError::Source(error) => {
            end(&asking, Some(&error));
            CopyError::at(Side::Source, error)
        }
        BlobPushError::Destination(error) => CopyError::at(Side::Destination, error),
    })
}

/// A blob's bytes, counted for the progress.
struct Counted {
    inner: BlobStream,
    report: Report,
}

impl Stream for Counted {
    type Item = Result<bytes::Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(Pin::new(&mut self.inner).poll_next(cx));
        if let Some(Ok(chunk)) = &next {
            (self.report)(&Event::Moved {
                bytes: chunk.len() as u64,
            });
        }
        Poll::Ready(next)
    }
}
