//! The reserved image that every registry serves: nodes pull it to prove that they reach the
//! registry.
//!
//! It has no layers, so that a pull costs one manifest and one config. It is public under the
//! registry's own names and under every `ns`, appears in no list of repositories, and nothing can
//! be pushed below its first path component.

use std::sync::LazyLock;

use axum::body::Body;
use coral_image::{Digest, Version, media_type};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::blobs::{etag, has_it, not_modified};
use super::error::{Code, Refusal};
use super::listings::referrers_index;
use super::route::Route;
use super::{CONTENT_DIGEST, Response, gate, header, json};

/// The repository.
const REPOSITORY: &str = "coral-reserved/probe";
/// The first path component of repositories that the registry reserves.
const PREFIX: &str = "coral-reserved/";
const TAG: &str = "1";
/// An image without layers cannot be run, so any platform will do.
const CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// The documents of the image.
struct Probe {
    manifest: String,
    manifest_digest: Digest,
    config_digest: Digest,
}

static PROBE: LazyLock<Probe> = LazyLock::new(|| {
    let config_digest = Digest::sha256(CONFIG.as_bytes());
    // The JSON is written out literally: nodes rely on the digest, and the order of a map's keys
    // may change.
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},"layers":[]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        CONFIG.len(),
    );
    Probe {
        manifest_digest: Digest::sha256(manifest.as_bytes()),
        manifest,
        config_digest,
    }
});

/// The answer to a request for the reserved image; `None` for any other request.
pub(super) fn answer(
    route: &Route,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Result<Response, Refusal>> {
    let path = route.repository()?;
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if !is_read && path.as_str().starts_with(PREFIX) {
        return Some(Err(gate::refuse_write("this repository is reserved")));
    }
    (path.as_str() == REPOSITORY).then(|| read(route, headers))
}

fn read(route: &Route, headers: &HeaderMap) -> Result<Response, Refusal> {
    let probe = &*PROBE;
    match route {
        Route::Manifest(_, version) => {
            let is_it = match version {
                Version::Tag(tag) => tag.as_str() == TAG,
                Version::Digest(digest) => *digest == probe.manifest_digest,
            };
            let found = is_it.then(|| Document {
                text: &probe.manifest,
                digest: probe.manifest_digest,
                media_type: media_type::OCI_MANIFEST,
            });
            let found = found.ok_or_else(|| absent(Code::ManifestUnknown));
            Ok(found?.response(headers))
        }
        Route::Blob(_, digest) => {
            let found = (*digest == probe.config_digest).then_some(Document {
                text: CONFIG,
                digest: probe.config_digest,
                media_type: "application/octet-stream",
            });
            Ok(found
                .ok_or_else(|| absent(Code::BlobUnknown))?
                .response(headers))
        }
        Route::Tags(name) => Ok(json(
            StatusCode::OK,
            &serde_json::json!({ "name": name, "tags": [TAG] }),
        )),
        Route::Referrers(..) => Ok(referrers_index(&[])),
        _ => Err(absent(Code::NameUnknown)),
    }
}

fn absent(code: Code) -> Refusal {
    Refusal::not_found(code, "the reserved image does not have this")
}

struct Document {
    text: &'static str,
    digest: Digest,
    media_type: &'static str,
}

impl Document {
    fn response(self, asked: &HeaderMap) -> Response {
        if has_it(asked, &self.digest) {
            return not_modified(&self.digest);
        }
        let mut response = Response::new(Body::from(self.text));
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, self.text.len().into());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        headers.insert(CONTENT_DIGEST, header(self.digest));
        headers.insert(ETAG, etag(&self.digest));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_a_small_config_and_no_layer() {
        assert!(CONFIG.len() < 100 && CONFIG.contains("\"diff_ids\":[]"));
        let manifest: serde_json::Value = serde_json::from_str(&PROBE.manifest).unwrap();
        assert_eq!(manifest["layers"], serde_json::json!([]));
    }

    #[test]
    fn nodes_pull_the_image_by_the_digest_that_is_served() {
        use coral_api::names::{PROBE_DIGEST, PROBE_PATH, PROBE_TAG};
        assert_eq!(PROBE.manifest_digest.to_string(), PROBE_DIGEST);
        assert_eq!((REPOSITORY, TAG), (PROBE_PATH, PROBE_TAG));
    }

    #[test]
    fn only_the_reserved_prefix_is_kept_from_pushes() {
        for (path, reserved) in [
            ("/v2/coral-reserved/probe/blobs/uploads/", true),
            ("/v2/coral-reserved/other/manifests/1", true),
            ("/v2/coral-reserved/manifests/1", false),
            ("/v2/x/coral-reserved/probe/manifests/1", false),
        ] {
            let route = Route::parse(path).unwrap();
            let pushed = answer(&route, &Method::PUT, &HeaderMap::new());
            assert_eq!(pushed.is_some(), reserved, "{path}");
            assert!(pushed.is_none_or(|answer| answer.is_err()), "{path}");
        }
    }
}
