//! Blobs, deduplicated across all running copies.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use coral_distribution::{BlobPush, BlobSource, BlobStream, Error, PushError, Upload};
use coral_image::{Descriptor, Digest, RepositoryPath};
use futures::Stream;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::arrived::{Arrived, Whereabouts};
use super::catalogue::{Before, Candidates, Tells};
use super::error::Side;
use super::{Bytes, CopyError, CopyRequest, Limits, Report};
use crate::pace::{Asking, Purpose};
use crate::progress::Event;

/// Refusals of one blob that are waited out before its image counts as failed.
const MAX_REFUSALS: u32 = 4;

type Place = (String, Digest);

/// Which blobs are on their way, and where they have arrived.
#[derive(Debug)]
pub(super) struct Blobs {
    transfers: Semaphore,
    per_source: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// One turn per blob and destination registry: others wait, and then mount.
    turns: HashMap<Place, Arc<AsyncMutex<()>>>,
    /// Transfers from each source.
    sources: HashMap<String, Arc<Semaphore>>,
    /// What was seen or put by this process, by registry.
    arrived: HashMap<String, Arrived>,
}

impl Blobs {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            transfers: Semaphore::new(limits.transfers.max(1)),
            per_source: limits.transfers_per_source.max(1),
            known: Mutex::default(),
        }
    }

    /// Forgets what was believed to be at a registry.
    pub(super) fn forget(&self, registry: &str) {
        self.known().arrived.remove(registry);
    }

    /// Brings one blob to the destination, unless it is there. Where that is likely, the
    /// destination is asked first, which changes nothing there.
    pub(super) async fn ensure(
        &self,
        request: &CopyRequest,
        blob: &Descriptor,
        asks_first: bool,
    ) -> Result<Bytes, CopyError> {
        let place = (request.destination.registry.clone(), blob.digest);
        let turn = self.turn(&place);
        let guard = turn.lock().await;
        let result = if asks_first && is_there(request, blob).await {
            Ok(Bytes {
                moved: 0,
                spared: blob.size,
            })
        } else {
            self.ensure_in_turn(request, blob, &place).await
        };
        drop(guard);
        self.end_turn(&place, turn);
        let bytes = result.map_err(|error| error.of_bytes(blob.size))?;
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
        place: &Place,
    ) -> Result<Bytes, CopyError> {
        let spared = Bytes {
            moved: 0,
            spared: blob.size,
        };
        let moved = Bytes {
            moved: blob.size,
            spared: 0,
        };
        let path = request.destination.path.as_ref();
        let broken = request.options.broken.contains(&blob.digest);
        let mount_from = match self.where_is(place, path) {
            // What the destination says of it is not to be believed.
            _ if broken => MountFrom::Nowhere,
            Whereabouts::Here => return Ok(spared),
            Whereabouts::At(other) if source_has(request, blob).await => MountFrom::At(other),
            // Knowing a digest is no right to a blob of another repository: the source has to
            // send it.
            Whereabouts::At(_) => MountFrom::Nowhere,
            Whereabouts::Unknown => path.cloned().map_or(MountFrom::Nowhere, MountFrom::Unknown),
        };
        let of_source = self.of_source(&request.source.registry);
        let (Ok(_turn), Ok(_permit)) = (of_source.acquire().await, self.transfers.acquire().await)
        else {
            unreachable!("the semaphores are never closed")
        };
        let mut refusals = 0;
        let bytes = loop {
            let BlobPush::Upload(upload) = begin(request, blob, &mount_from).await? else {
                break spared;
            };
            match send(request, blob, upload).await {
                Ok(()) => break moved,
                // The pace leaves the registry in peace for as long as it wants, then asks again.
                // Without one, the copy has to wait.
                Err(error)
                    if request.source.pace.is_some()
                        && error.is_refusal_of_source()
                        && refusals < MAX_REFUSALS =>
                {
                    refusals += 1;
                }
                Err(error) => return Err(error),
            }
        };
        self.remember(place, path);
        Ok(bytes)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A forgotten or remembered place too many costs one request, so a panic elsewhere does
        // not spoil the maps.
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

    fn turn(&self, place: &Place) -> Arc<AsyncMutex<()>> {
        self.known().turns.entry(place.clone()).or_default().clone()
    }

    fn end_turn(&self, place: &Place, turn: Arc<AsyncMutex<()>>) {
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

    fn where_is(&self, place: &Place, path: Option<&RepositoryPath>) -> Whereabouts {
        let mut known = self.known();
        let arrived = known.arrived.get_mut(&place.0);
        arrived.map_or(Whereabouts::Unknown, |arrived| {
            arrived.find(&place.1, path, Instant::now())
        })
    }

    fn remember(&self, place: &Place, path: Option<&RepositoryPath>) {
        let mut known = self.known();
        let arrived = known.arrived.entry(place.0.clone()).or_default();
        arrived.remember(&place.1, path, Instant::now());
    }
}

/// What is known before a blob is pushed.
enum MountFrom {
    /// It is sent, whatever the destination believes that it has.
    Nowhere,
    /// The source has it, and so has this repository of the destination.
    At(RepositoryPath),
    /// Nothing. This is the repository that it is pushed to.
    Unknown(RepositoryPath),
}

/// Asks the destination for the blob, in the cheapest way that there is.
async fn begin(
    request: &CopyRequest,
    blob: &Descriptor,
    mount_from: &MountFrom,
) -> Result<BlobPush, CopyError> {
    match (mount_from, &request.destination.candidates) {
        (MountFrom::Nowhere, _) => push(request, blob, None).await,
        (MountFrom::At(other), _) => push(request, blob, Some(other)).await,
        // Asking to mount a blob from its own repository finds it without a request more.
        (MountFrom::Unknown(own), None) => push(request, blob, Some(own)).await,
        (MountFrom::Unknown(own), Some(candidates)) => {
            push_or_look(request, blob, own, candidates).await
        }
    }
}

/// Pushes a blob of which nothing is known. A registry that does not say where it has the blob is
/// asked for it where other images of the mirror have it.
async fn push_or_look(
    request: &CopyRequest,
    blob: &Descriptor,
    own: &RepositoryPath,
    candidates: &Candidates,
) -> Result<BlobPush, CopyError> {
    let first = match candidates.before_push().await {
        Before::Nothing => return push(request, blob, Some(own)).await,
        Before::Look => {
            let other = find(request, blob, candidates).await;
            return push(request, blob, Some(other.as_ref().unwrap_or(own))).await;
        }
        Before::Push(first) => first,
    };
    let begun = push(request, blob, Some(own)).await?;
    let BlobPush::Upload(upload) = begun else {
        return Ok(begun);
    };
    if upload.tells_of_mounts() {
        first.answered(Tells::OfMounts);
        return Ok(BlobPush::Upload(upload));
    }
    first.answered(Tells::Nothing);
    match find(request, blob, candidates).await {
        // The upload is given up.
        Some(other) if other != *own => push(request, blob, Some(&other)).await,
        _ => Ok(BlobPush::Upload(upload)),
    }
}

/// A repository of the destination that has the blob, if the source has it too.
async fn find(
    request: &CopyRequest,
    blob: &Descriptor,
    candidates: &Candidates,
) -> Option<RepositoryPath> {
    let other = candidates.find(&blob.digest).await?;
    source_has(request, blob).await.then_some(other)
}

async fn push(
    request: &CopyRequest,
    blob: &Descriptor,
    mount_from: Option<&RepositoryPath>,
) -> Result<BlobPush, CopyError> {
    let failed = |e| CopyError::at(Side::Destination, e);
    let endpoint = &request.destination.endpoint;
    let begun = endpoint.begin_blob(&blob.digest, mount_from).await;
    match begun.map_err(failed)? {
        BlobPush::Upload(upload)
            if mount_from.is_some() && upload.is_elsewhere() && source_has(request, blob).await =>
        {
            upload.mount().await.map_err(failed)
        }
        begun => Ok(begun),
    }
}

/// Whether the destination says that it has this blob, in this size. One that does not say so is
/// sent the blob.
async fn is_there(request: &CopyRequest, blob: &Descriptor) -> bool {
    if request.options.broken.contains(&blob.digest) {
        return false;
    }
    let size = request.destination.endpoint.blob_size(&blob.digest).await;
    matches!(size, Ok(Some(size)) if size == blob.size)
}

/// Whether the source has this blob, in this size, itself. One that cannot be asked is taken to
/// have nothing: what it sends is verified.
async fn source_has(request: &CopyRequest, blob: &Descriptor) -> bool {
    let source = &request.source;
    let size = source.ask(|| source.endpoint.blob_size(&blob.digest)).await;
    matches!(size, Ok(Some(size)) if size == blob.size)
}

/// Sends the bytes of one blob, at the pace of its source. The request counts as in flight until
/// bytes come: a slow body keeps no other request waiting.
async fn send(request: &CopyRequest, blob: &Descriptor, upload: Upload) -> Result<(), CopyError> {
    let of_source = |e| CopyError::at(Side::Source, e);
    let site = &request.source;
    let turn = match &site.pace {
        Some(pace) => Some(pace.turn(Purpose::Copy).await.map_err(of_source)?),
        None => None,
    };
    let asking = Arc::new(Mutex::new(turn));
    let end = |asking: &Mutex<Option<Asking>>, error: Option<&Error>| {
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
    let source = source.through(move |inner| {
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
        PushError::Source(error) => {
            end(&asking, Some(&error));
            CopyError::at(Side::Source, error)
        }
        PushError::Destination(error) => CopyError::at(Side::Destination, error),
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
