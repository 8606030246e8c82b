//! Lists: tags and referrers.

use coral_image::media_type;
use serde_json::json;

use super::{BufferedRequest, Features};
use crate::registry::reply::Reply;
use crate::registry::store::Store;

pub(super) fn tags(
    store: &Store,
    features: Features,
    path: &str,
    request: &BufferedRequest,
) -> Reply {
    let Some(repository) = store.repository(path) else {
        return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let last = request.field("last").unwrap_or_default();
    let wished = request
        .field("n")
        .and_then(|n| n.parse().ok())
        .unwrap_or(features.page_size);
    let size = wished.min(features.page_size);
    let rest: Vec<&String> = repository
        .tags
        .keys()
        .filter(|tag| tag.as_str() > last)
        .collect();
    let page = &rest[..size.min(rest.len())];
    let mut reply = Reply::json(&json!({ "name": path, "tags": page }));
    if let (true, Some(last)) = (page.len() < rest.len(), page.last()) {
        let next = format!("</v2/{path}/tags/list?n={size}&last={last}>; rel=\"next\"");
        reply.set_header("link", &next);
    }
    reply
}

pub(super) fn referrers(
    store: &Store,
    path: &str,
    digest: &str,
    request: &BufferedRequest,
) -> Reply {
    let mut found = store
        .repository(path)
        .map(|r| r.referrers(digest))
        .unwrap_or_default();
    let mut reply = Reply::new(200).header("content-type", media_type::OCI_INDEX);
    if let Some(artifact_type) = request.field("artifactType") {
        found.retain(|descriptor| descriptor["artifactType"] == artifact_type);
        reply.set_header("oci-filters-applied", "artifactType");
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": found,
    });
    reply.body(index.to_string())
}
