//! Manifests by tag and by digest.

use coral_image::Digest;
use serde_json::Value;

use super::{BufferedRequest, Features};
use crate::registry::reply::Reply;
use crate::registry::store::{Store, Stored};

pub(super) fn get(store: &Store, path: &str, reference: &str) -> Reply {
    let Some(repository) = store.repository(path) else {
        return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let found = repository.resolve(reference);
    let Some((digest, stored)) = found.and_then(|d| Some((d, repository.manifests.get(&d)?)))
    else {
        return Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    Reply::new(200)
        .header("content-type", &stored.media_type)
        .header("docker-content-digest", digest.to_string())
        .body(stored.bytes.clone())
}

pub(super) fn put(
    store: &mut Store,
    features: Features,
    path: &str,
    reference: &str,
    request: &BufferedRequest,
) -> Reply {
    let Ok(manifest) = serde_json::from_slice::<Value>(&request.body) else {
        return Reply::error(400, "MANIFEST_INVALID", "manifest is not JSON");
    };
    let Some(digest) = digest_of(reference, request) else {
        let message = "provided digest is malformed or did not match content";
        return Reply::error(400, "DIGEST_INVALID", message);
    };
    let repository = store.make(path);
    if let Some(missing) = repository.missing_for(&manifest) {
        return Reply::error(
            404,
            "MANIFEST_BLOB_UNKNOWN",
            &format!("{missing} is not known here"),
        );
    }
    let media_type = request
        .header("content-type")
        .or(manifest["mediaType"].as_str());
    let stored = Stored {
        media_type: media_type.unwrap_or("application/octet-stream").to_owned(),
        bytes: request.body.clone(),
    };
    repository.manifests.insert(digest, stored);
    let tags = tags_of(reference, request);
    for tag in &tags {
        repository.tags.insert((*tag).to_owned(), digest);
    }
    let mut reply = Reply::new(201)
        .header("location", format!("/v2/{path}/manifests/{digest}"))
        .header("docker-content-digest", digest.to_string());
    if reference.contains(':') && !tags.is_empty() {
        reply.set_header("oci-tag", &tags.join(", "));
    }
    if let (true, Some(subject)) = (features.referrers, manifest["subject"]["digest"].as_str()) {
        reply.set_header("oci-subject", subject);
    }
    reply
}

/// The digest that a manifest is put under; none where one is named that is not its own.
fn digest_of(reference: &str, request: &BufferedRequest) -> Option<Digest> {
    // A colon cannot be in a tag: what has one and is no digest is refused.
    let named = if reference.contains(':') {
        Some(reference)
    } else {
        request.field("digest")
    };
    let Some(named) = named else {
        return Some(Digest::sha256(&request.body));
    };
    Digest::parse(named)
        .ok()
        .filter(|named| named.matches(&request.body))
}

/// The tags it gets: its own name, or those beside the digest.
fn tags_of<'a>(reference: &'a str, request: &'a BufferedRequest) -> Vec<&'a str> {
    if !reference.contains(':') {
        return vec![reference];
    }
    let more = request.fields.iter().filter(|(key, _)| key == "tag");
    more.map(|(_, tag)| tag.as_str()).collect()
}

pub(super) fn delete(store: &mut Store, path: &str, reference: &str) -> Reply {
    let repository = store.make(path);
    let gone = match Digest::parse(reference) {
        Ok(digest) => {
            repository.tags.retain(|_, named| *named != digest);
            repository.manifests.remove(&digest).is_some()
        }
        Err(_) => repository.tags.remove(reference).is_some(),
    };
    if gone {
        return Reply::new(202);
    }
    Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown")
}
