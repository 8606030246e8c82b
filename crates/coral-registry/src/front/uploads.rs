//! `/v2/<name>/blobs/uploads/`: pushing blobs, whole, in chunks or by mount.

use std::time::Duration;

use axum::body::Body;
use coral_image::{Algorithm, Digest, RepositoryPath};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::access_log::Done;
use super::body;
use super::error::{Code, Refusal};
use super::range::{self, Span};
use super::route;
use super::upload_slots::{self, UploadSlot};
use super::{CONTENT_DIGEST, Context, Head, Response, empty, header};
use crate::access::Right;
use crate::store::{Mounted, UploadError, UploadId, UploadWriter};

/// How long clients are told to wait when too many uploads are open.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(5);
/// Tells Coral's own client that the registry verifies the digest, so that the client need not.
const VERIFIES: HeaderName = HeaderName::from_static("coral-verifies-digest");
/// Tells Coral's own client that a mount without `from` would succeed where one with `from` did
/// not. Sent only to clients that may read every repository.
const ELSEWHERE: HeaderName = HeaderName::from_static("coral-blob-elsewhere");
const YES: HeaderValue = HeaderValue::from_static("true");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST`: begins an upload, mounts a blob (`?mount=`), or receives one as a whole (`?digest=`).
pub(super) async fn begin(
    context: &Context,
    head: &Head,
    body: &mut Body,
    name: &RepositoryPath,
) -> Result<Response, Refusal> {
    // If the mount fails, or its parameters are not valid, the blob is uploaded.
    let mount = head.query.get("mount");
    if let Some(digest) = mount.and_then(|text| route::digest(text).ok()) {
        let mounted = match mount_source(head) {
            Ok(from) if may_mount(head, from.as_ref()) => {
                context.store.mount(name, &digest, from.as_ref()).await?
            }
            _ => Mounted::Nowhere,
        };
        if mounted == Mounted::Here {
            return Ok(created(name, digest, None));
        }
        let mut opened = open(context, head, name, digest.algorithm()).await?;
        if mounted == Mounted::Elsewhere && head.visitor.session().may_pull_everything() {
            opened.headers_mut().insert(ELSEWHERE, YES);
        }
        return Ok(opened);
    }
    let Some(text) = head.query.get("digest") else {
        return open(context, head, name, requested_algorithm(head)?).await;
    };
    let digest = route::digest(text)?;
    let _place = take_slot(context, head)?;
    let id = context.store.begin_upload(name, digest.algorithm()).await?;
    let writer = context.store.write_upload(name, id).await?;
    let taken = take_whole(context, head, body, name, writer, digest).await;
    if taken.is_err() {
        // No client was told the name of this upload, so none can continue it.
        discard(context, name, id).await;
    }
    context.metrics.open_uploads(context.store.open_uploads());
    taken
}

async fn open(
    context: &Context,
    head: &Head,
    name: &RepositoryPath,
    algorithm: Algorithm,
) -> Result<Response, Refusal> {
    let place = take_slot(context, head)?;
    let id = context.store.begin_upload(name, algorithm).await?;
    if let Some(place) = place {
        place.keep(id);
    }
    context.metrics.open_uploads(context.store.open_uploads());
    let mut opened = describe(StatusCode::ACCEPTED, name, id, 0);
    opened.headers_mut().insert(VERIFIES, YES);
    Ok(opened)
}

/// Takes a slot for an upload. One client cannot take all slots. A tenth of them is reserved for
/// the embedding program, which uses only those.
fn take_slot<'a>(context: &'a Context, head: &Head) -> Result<Option<UploadSlot<'a>>, Refusal> {
    let all = head.visitor.settings.limits.open_uploads;
    let owner = head.visitor.owner();
    let most = match (&owner, &context.internal) {
        (Some(_), Some(_)) => all - upload_slots::reserved_slots(all),
        _ => all,
    };
    if context.store.open_uploads() >= most {
        let why = format!("{most} uploads are open, which is the limit");
        return Err(Refusal::later(
            WAIT_FOR_ROOM,
            format!("{why}; try again later"),
        ));
    }
    let share = upload_slots::share_per_client(all);
    let taken = owner.map(|owner| context.places.take(owner, share).ok_or(share));
    taken.transpose().map_err(|share| {
        let why =
            format!("{share} uploads of this client are open, which is the limit for one client");
        Refusal::later(WAIT_FOR_ROOM, format!("{why}; end some or try again later"))
    })
}

async fn discard(context: &Context, name: &RepositoryPath, id: UploadId) {
    if let Ok(writer) = context.store.write_upload(name, id).await {
        let _ = writer.cancel().await;
    }
}

fn mount_source(head: &Head) -> Result<Option<RepositoryPath>, Refusal> {
    head.query
        .get("from")
        .filter(|from| !from.is_empty())
        .map_or(Ok(None), |from| {
            RepositoryPath::parse(from)
                .map(Some)
                .map_err(|error| Refusal::invalid(Code::NameInvalid, error.to_string()))
        })
}

/// Whether a blob may be mounted. Knowing its digest is not enough: the client must be allowed to
/// read it.
fn may_mount(head: &Head, from: Option<&RepositoryPath>) -> bool {
    let session = head.visitor.session();
    match from {
        Some(from) => session.may(Right::Pull, from),
        None => session.may_pull_everything(),
    }
}

/// `?digest-algorithm=`, in the next version of the specification.
fn requested_algorithm(head: &Head) -> Result<Algorithm, Refusal> {
    match head.query.get("digest-algorithm") {
        None | Some("" | "sha256") => Ok(Algorithm::Sha256),
        Some("sha512") => Ok(Algorithm::Sha512),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            Err(Refusal::invalid(
                Code::DigestInvalid,
                format!("digest algorithm {other:?} is not supported (sha256 and sha512 are)"),
            ))
        }
    }
}

/// `GET`: the progress of the upload.
pub(super) async fn status(
    context: &Context,
    name: &RepositoryPath,
    id: UploadId,
) -> Result<Response, Refusal> {
    let offset = context
        .store
        .upload_offset(name, id)
        .await?
        .ok_or(UploadError::Unknown)?;
    Ok(describe(StatusCode::NO_CONTENT, name, id, offset))
}

/// `PATCH`: one more chunk.
pub(super) async fn append(
    context: &Context,
    head: &Head,
    body: &mut Body,
    name: &RepositoryPath,
    id: UploadId,
) -> Result<Response, Refusal> {
    let mut writer = context.store.write_upload(name, id).await?;
    receive(context, head, body, name, id, writer.as_mut()).await?;
    Ok(describe(StatusCode::ACCEPTED, name, id, writer.offset()))
}

/// `PUT`: the last chunk, which may be everything or empty, and the digest of the blob.
pub(super) async fn finish(
    context: &Context,
    head: &Head,
    body: &mut Body,
    name: &RepositoryPath,
    id: UploadId,
) -> Result<Response, Refusal> {
    let Some(text) = head.query.get("digest") else {
        let message = "an upload is finished with ?digest=<digest of the whole blob>";
        return Err(Refusal::invalid(Code::DigestInvalid, message));
    };
    let digest = route::digest(text)?;
    let mut writer = context.store.write_upload(name, id).await?;
    writer.expect(digest.algorithm());
    receive(context, head, body, name, id, writer.as_mut()).await?;
    let committed = writer.commit(digest).await;
    if committed.is_ok() || context.store.upload_offset(name, id).await?.is_none() {
        context.places.free(id);
    }
    context.metrics.open_uploads(context.store.open_uploads());
    committed
        .map(|size| created(name, digest, Some(size)))
        .map_err(Refusal::from)
}

/// `DELETE`: cancels the upload.
pub(super) async fn cancel(
    context: &Context,
    name: &RepositoryPath,
    id: UploadId,
) -> Result<Response, Refusal> {
    context.store.write_upload(name, id).await?.cancel().await?;
    context.places.free(id);
    context.metrics.open_uploads(context.store.open_uploads());
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn take_whole(
    context: &Context,
    head: &Head,
    body: &mut Body,
    name: &RepositoryPath,
    mut writer: Box<dyn UploadWriter>,
    digest: Digest,
) -> Result<Response, Refusal> {
    let limit = content_length(&head.headers);
    receive_bounded(context, head, body, limit, writer.as_mut()).await?;
    let size = writer.commit(digest).await?;
    Ok(created(name, digest, Some(size)))
}

/// Receives a chunk at the position that the client names.
async fn receive(
    context: &Context,
    head: &Head,
    body: &mut Body,
    name: &RepositoryPath,
    id: UploadId,
    writer: &mut dyn UploadWriter,
) -> Result<(), Refusal> {
    let offset = writer.offset();
    let span = announced(&head.headers)?;
    if span.is_some_and(|span| span.start != offset) {
        return Err(out_of_order(name, id, offset));
    }
    let limit = span
        .map(|span| span.length)
        .or_else(|| content_length(&head.headers));
    receive_bounded(context, head, body, limit, writer).await?;
    match span {
        Some(span) if writer.offset() - offset < span.length => Err(Refusal::invalid(
            Code::SizeInvalid,
            "the body is shorter than its Content-Range; what arrived was kept",
        )
        .with_header(RANGE, range_header(writer.offset()))),
        _ => Ok(()),
    }
}

/// Receives a body, up to the largest size of a blob.
async fn receive_bounded(
    context: &Context,
    head: &Head,
    body: &mut Body,
    announced: Option<u64>,
    writer: &mut dyn UploadWriter,
) -> Result<(), Refusal> {
    let (progress, counter) = (head.progress(), context.metrics.bytes_in());
    if let Some(length) = announced.filter(|length| *length > 0) {
        context.store.check_room(length).await?;
    }
    let Some(most) = head.visitor.settings.limits.blob_bytes else {
        return body::receive(body, announced, writer, progress, counter).await;
    };
    let room = most.saturating_sub(writer.offset());
    if announced.is_some_and(|length| length > room) {
        return Err(too_large(most));
    }
    let limit = announced.unwrap_or(room);
    let received = body::receive(body, Some(limit), writer, progress, counter).await;
    received.map_err(|refusal| match refusal.code() {
        Code::SizeInvalid if announced.is_none() => too_large(most),
        _ => refusal,
    })
}

fn too_large(most: u64) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        Code::SizeInvalid,
        format!("a blob may have at most {most} bytes here"),
    )
}

/// The `Content-Range`, which must agree with the `Content-Length`.
fn announced(headers: &HeaderMap) -> Result<Option<Span>, Refusal> {
    let Some(value) = headers.get(CONTENT_RANGE) else {
        return Ok(None);
    };
    let span = value
        .to_str()
        .ok()
        .and_then(range::content_range)
        .ok_or_else(|| {
            let message = "the Content-Range is not of the form <first byte>-<last byte>";
            Refusal::invalid(Code::BlobUploadInvalid, message)
        })?;
    match content_length(headers) {
        Some(length) if length != span.length => Err(Refusal::invalid(
            Code::SizeInvalid,
            format!(
                "the Content-Range is {} bytes long, but the body {length}",
                span.length
            ),
        )),
        _ => Ok(Some(span)),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()
        .and_then(range::number)
}

fn out_of_order(name: &RepositoryPath, id: UploadId, offset: u64) -> Refusal {
    Refusal::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        Code::BlobUploadInvalid,
        format!("the upload has {offset} bytes; the next chunk must begin there"),
    )
    .with_header(LOCATION, location(name, id))
    .with_header(RANGE, range_header(offset))
    .with_header(UPLOAD_UUID, header(id))
}

fn describe(status: StatusCode, name: &RepositoryPath, id: UploadId, offset: u64) -> Response {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, location(name, id));
    headers.insert(RANGE, range_header(offset));
    headers.insert(UPLOAD_UUID, header(id));
    response
}

fn location(name: &RepositoryPath, id: UploadId) -> http::HeaderValue {
    header(format!("/v2/{name}/blobs/uploads/{id}"))
}

/// `0-<last byte>`. An empty upload is `0-0` as well, as it always was in this API.
fn range_header(offset: u64) -> http::HeaderValue {
    header(format!("0-{}", offset.saturating_sub(1)))
}

/// The answer for a blob that the repository has now; `size` is known if it was pushed.
fn created(name: &RepositoryPath, digest: Digest, size: Option<u64>) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(format!("/v2/{name}/blobs/{digest}")));
    headers.insert(CONTENT_DIGEST, header(digest));
    response
        .extensions_mut()
        .insert(Done::Blob { digest, size });
    response
}
