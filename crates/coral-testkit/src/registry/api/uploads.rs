//! Uploads: whole, in chunks, and mounts.

use bytes::Bytes;
use coral_image::Digest;
use http::Method;

use super::BufferedRequest;
use crate::registry::reply::Reply;
use crate::registry::store::Store;

pub(super) fn begin(store: &mut Store, path: &str, request: &BufferedRequest) -> Reply {
    if let Some(digest) = request
        .field("mount")
        .and_then(|text| Digest::parse(text).ok())
        && let Some(blob) = mountable(store, request.field("from"), &digest)
    {
        store.make(path).blobs.insert(digest, blob);
        return created(path, &digest);
    }
    if request.field("digest").is_some() {
        return finish(store, path, Vec::new(), request);
    }
    let id = uuid::Uuid::new_v4().to_string();
    store.make(path).uploads.insert(id.clone(), Vec::new());
    accepted(202, path, &id, 0)
}

/// PATCH, PUT, GET and DELETE of an upload.
pub(super) fn go_on(store: &mut Store, path: &str, id: &str, request: &BufferedRequest) -> Reply {
    let repository = store.make(path);
    let Some(so_far) = repository.uploads.get_mut(id) else {
        return Reply::error(
            404,
            "BLOB_UPLOAD_UNKNOWN",
            "blob upload unknown to registry",
        );
    };
    let length = so_far.len();
    let in_order = request
        .header("content-range")
        .is_none_or(|range| starts_at(range) == Some(length));
    match request.method {
        Method::PATCH | Method::PUT if !in_order => accepted(416, path, id, length),
        Method::PATCH => {
            so_far.extend_from_slice(&request.body);
            accepted(202, path, id, so_far.len())
        }
        Method::PUT => {
            let so_far = repository.uploads.remove(id).unwrap_or_default();
            finish(store, path, so_far, request)
        }
        Method::GET => accepted(204, path, id, length),
        Method::DELETE => {
            repository.uploads.remove(id);
            Reply::new(204)
        }
        _ => Reply::error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}

fn finish(store: &mut Store, path: &str, mut bytes: Vec<u8>, request: &BufferedRequest) -> Reply {
    let Some(digest) = request
        .field("digest")
        .and_then(|text| Digest::parse(text).ok())
    else {
        return Reply::error(
            400,
            "DIGEST_INVALID",
            "the digest parameter is missing or malformed",
        );
    };
    bytes.extend_from_slice(&request.body);
    if !digest.matches(&bytes) {
        return Reply::error(
            400,
            "DIGEST_INVALID",
            "provided digest did not match content",
        );
    }
    store.make(path).blobs.insert(digest, Bytes::from(bytes));
    created(path, &digest)
}

/// Without `from`, whichever repository has the blob will do.
fn mountable(store: &Store, from: Option<&str>, digest: &Digest) -> Option<Bytes> {
    match from {
        Some(from) => store.repository(from)?.blobs.get(digest).cloned(),
        None => store.blob_of_any(digest),
    }
}

fn created(path: &str, digest: &Digest) -> Reply {
    Reply::new(201)
        .header("location", format!("/v2/{path}/blobs/{digest}"))
        .header("docker-content-digest", digest.to_string())
}

fn accepted(status: u16, path: &str, id: &str, length: usize) -> Reply {
    Reply::new(status)
        .header("location", format!("/v2/{path}/blobs/uploads/{id}"))
        .header("docker-upload-uuid", id)
        .header("range", format!("0-{}", length.saturating_sub(1)))
}

/// The first number of `Content-Range: 0-99`, with or without a unit before it.
fn starts_at(range: &str) -> Option<usize> {
    let range = range
        .trim_start_matches("bytes")
        .trim_start_matches([' ', '=']);
    range.split_once('-')?.0.parse().ok()
}
