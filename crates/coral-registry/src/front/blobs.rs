//! `GET`, `HEAD` and `DELETE /v2/<name>/blobs/<digest>`.

use axum::body::Body;
use coral_image::{Digest, RepositoryPath};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::blob_body::RangeBody;
use super::error::{Code, Refusal};
use super::manifests::deleted;
use super::range::{Span, Wanted};
use super::{CONTENT_DIGEST, Context, Head, Response, empty, header};
use crate::store::{Deleted, Source as _};

pub(super) async fn get(
    context: &Context,
    head: &Head,
    name: &RepositoryPath,
    digest: &Digest,
) -> Result<Response, Refusal> {
    if head.method == Method::HEAD {
        let size = context
            .source(&head.visitor)
            .stat_blob(name, digest)
            .await?
            .ok_or_else(|| unknown(digest))?;
        return Ok(describe(empty(StatusCode::OK), digest, size));
    }
    let blob = context
        .source(&head.visitor)
        .open_blob(name, digest)
        .await?
        .ok_or_else(|| unknown(digest))?;
    if has_it(&head.headers, digest) {
        return Ok(not_modified(digest));
    }
    let (status, span) = match wanted(&head.headers, digest, blob.size) {
        Wanted::All => (
            StatusCode::OK,
            Span {
                start: 0,
                length: blob.size,
            },
        ),
        Wanted::Part(span) => (StatusCode::PARTIAL_CONTENT, span),
        Wanted::Unsatisfiable => return Err(unsatisfiable(blob.size)),
    };
    let body = RangeBody::new(blob.content, span, head.wire, context.metrics.bytes_out());
    let mut response = describe(Response::new(Body::new(body)), digest, span.length);
    *response.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{}", span.start, span.last(), blob.size);
        response.headers_mut().insert(CONTENT_RANGE, header(range));
    }
    Ok(response)
}

pub(super) async fn delete(
    context: &Context,
    name: &RepositoryPath,
    digest: &Digest,
) -> Result<Response, Refusal> {
    if context.store.delete_blob(name, digest).await? {
        return Ok(deleted(Deleted {
            digest: Some(*digest),
            tags: vec![],
        }));
    }
    Err(unknown(digest))
}

fn describe(mut response: Response, digest: &Digest, length: u64) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_DIGEST, header(digest));
    headers.insert(ETAG, etag(digest));
    response
}

fn unknown(digest: &Digest) -> Refusal {
    Refusal::not_found(Code::BlobUnknown, "the repository does not have this blob")
        .with_detail(serde_json::json!({ "digest": digest }))
}

fn unsatisfiable(size: u64) -> Refusal {
    Refusal::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        Code::RangeInvalid,
        format!("the blob has {size} bytes, and the requested range is outside"),
    )
    .with_header(CONTENT_RANGE, header(format!("bytes */{size}")))
}

fn wanted(headers: &HeaderMap, digest: &Digest, size: u64) -> Wanted {
    // With `If-Range`, a range is only wanted of the content whose beginning the client has.
    let of_other = headers
        .get(IF_RANGE)
        .is_some_and(|value| value != etag(digest));
    let range = headers.get(RANGE).filter(|_| !of_other);
    Wanted::parse(range.map(|value| value.to_str().unwrap_or("bytes=")), size)
}

/// The digest as a strong validator.
pub(super) fn etag(digest: &Digest) -> HeaderValue {
    header(format!("\"{digest}\""))
}

/// Whether the client already has this content (RFC 9110, section 13.1.2).
pub(super) fn has_it(headers: &HeaderMap, digest: &Digest) -> bool {
    let quoted = format!("\"{digest}\"");
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == quoted)
}

pub(super) fn not_modified(digest: &Digest) -> Response {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    response.headers_mut().insert(ETAG, etag(digest));
    response
        .headers_mut()
        .insert(CONTENT_DIGEST, header(digest));
    response
}
