//! `GET`, `HEAD`, `PUT` and `DELETE /v2/<name>/manifests/<reference>`.

use axum::body::Body;
use bytes::Bytes;
use coral_image::{Digest, MAX_MANIFEST_SIZE, Manifest, RepositoryPath, Tag, Version};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::access_log::Done;
use super::blobs::{etag, has_it, not_modified};
use super::error::{Code, Refusal};
use super::route;
use super::{CONTENT_DIGEST, Context, Head, Response, empty, header};
use crate::store::{Deleted, ManifestRecord, Source as _};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one push may set; the specification asks for at least ten.
const MOST_TAGS: usize = 100;

pub(super) async fn get(
    context: &Context,
    head: &Head,
    name: &RepositoryPath,
    version: &Version,
) -> Result<Response, Refusal> {
    if head.method == Method::HEAD {
        let record = context
            .source(&head.visitor)
            .resolve(name, version)
            .await?
            .ok_or_else(|| unknown(version))?;
        return Ok(describe(empty(StatusCode::OK), &record));
    }
    let manifest = context
        .source(&head.visitor)
        .manifest(name, version)
        .await?
        .ok_or_else(|| unknown(version))?;
    if has_it(&head.headers, &manifest.record.digest) {
        return Ok(not_modified(&manifest.record.digest));
    }
    context.metrics.bytes_out().inc_by(manifest.record.size);
    Ok(describe(
        Response::new(Body::from(manifest.bytes)),
        &manifest.record,
    ))
}

fn describe(mut response: Response, record: &ManifestRecord) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, record.size.into());
    headers.insert(CONTENT_TYPE, header(&record.media_type));
    headers.insert(CONTENT_DIGEST, header(record.digest));
    headers.insert(ETAG, etag(&record.digest));
    response
}

pub(super) async fn put(
    context: &Context,
    head: &Head,
    body: &mut Body,
    name: &RepositoryPath,
    version: &Version,
) -> Result<Response, Refusal> {
    let tags = tags_of(head, version)?;
    let read = context
        .manifests
        .read(body, &head.headers, MAX_MANIFEST_SIZE, head.progress());
    let (bytes, _room) = read.await?;
    context.metrics.bytes_in().inc_by(bytes.len() as u64);
    let manifest = parse(bytes, head, version)?;
    let subject = manifest.subject().map(|subject| subject.digest);
    let (digest, size) = (manifest.digest(), manifest.size());
    let moved = context
        .store
        .put_manifest(name, manifest, tags.clone())
        .await?;
    let mut response = created(name, &digest, subject.as_ref(), version, &tags);
    response.extensions_mut().insert(Done::Manifest {
        digest,
        size,
        moved,
    });
    Ok(response)
}

/// The tag of the path and those of the query (`?tag=`, in the next version of the specification),
/// each once.
fn tags_of(head: &Head, version: &Version) -> Result<Vec<Tag>, Refusal> {
    let mut tags: Vec<Tag> = match version {
        Version::Tag(tag) => vec![tag.clone()],
        Version::Digest(_) => Vec::new(),
    };
    for text in head.query.all("tag") {
        let tag = route::tag(text)?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.len() > MOST_TAGS {
        let message = format!("one push can set at most {MOST_TAGS} tags");
        return Err(Refusal::invalid(Code::TagInvalid, message));
    }
    Ok(tags)
}

fn parse(bytes: Bytes, head: &Head, version: &Version) -> Result<Manifest, Refusal> {
    let content_type = match head.headers.get(CONTENT_TYPE).map(HeaderValue::to_str) {
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => {
            let message = "the Content-Type is not a media type";
            return Err(Refusal::invalid(Code::ManifestInvalid, message));
        }
        None => None,
    };
    let manifest = match version {
        Version::Tag(_) => Manifest::parse(bytes, content_type)?,
        Version::Digest(digest) => Manifest::parse_pinned(bytes, content_type, digest)?,
    };
    // It is sent back as a header, unchanged.
    match HeaderValue::from_str(manifest.media_type()) {
        Ok(_) => Ok(manifest),
        Err(_) => Err(Refusal::invalid(
            Code::ManifestInvalid,
            "the manifest's media type has characters that are not allowed in a media type",
        )),
    }
}

fn created(
    name: &RepositoryPath,
    digest: &Digest,
    subject: Option<&Digest>,
    version: &Version,
    tags: &[Tag],
) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(format!("/v2/{name}/manifests/{digest}")));
    headers.insert(CONTENT_DIGEST, header(digest));
    if let Some(subject) = subject {
        headers.insert(SUBJECT, header(subject));
    }
    if version.digest().is_some() {
        for tag in tags {
            headers.append(TAG, header(tag));
        }
    }
    response
}

pub(super) async fn delete(
    context: &Context,
    name: &RepositoryPath,
    version: &Version,
) -> Result<Response, Refusal> {
    let removed = context.store.delete_manifest(name, version).await?;
    removed.map(deleted).ok_or_else(|| unknown(version))
}

/// The answer to a deletion.
pub(super) fn deleted(removed: Deleted) -> Response {
    let mut response = empty(StatusCode::ACCEPTED);
    response.extensions_mut().insert(Done::Deleted(removed));
    response
}

fn unknown(version: &Version) -> Refusal {
    Refusal::not_found(
        Code::ManifestUnknown,
        "the repository does not have this manifest",
    )
    .with_detail(serde_json::json!({ "reference": version }))
}
