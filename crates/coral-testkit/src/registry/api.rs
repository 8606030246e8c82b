//! The distribution API over the store: one function a verb, each from a request to a reply.

mod blobs;
mod listing;
mod manifests;
mod uploads;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::reply::Reply;
use super::route::Route;
use super::store::Store;

/// A request whose body has been read.
#[derive(Debug)]
pub(super) struct BufferedRequest {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// What of the API is switched on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    pub(super) referrers: bool,
    pub(super) page_size: usize,
}

impl BufferedRequest {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

/// Answers a request that is allowed.
pub(super) fn answer(
    store: &mut Store,
    features: Features,
    route: &Route,
    request: &BufferedRequest,
) -> Reply {
    match route {
        Route::Base => Reply::json(&serde_json::json!({})),
        Route::Manifest { path, reference } => manifest(store, features, path, reference, request),
        Route::Blob { path, digest } if request.reads() => blobs::get(store, path, digest, request),
        Route::Blob { path, digest } if request.method == Method::DELETE => {
            blobs::delete(store, path, digest)
        }
        Route::Uploads { path } if request.method == Method::POST => {
            uploads::begin(store, path, request)
        }
        Route::Upload { path, id } => uploads::go_on(store, path, id, request),
        Route::Tags { path } if request.reads() => listing::tags(store, features, path, request),
        Route::Referrers { path, digest } if request.reads() && features.referrers => {
            listing::referrers(store, path, digest, request)
        }
        Route::Referrers { .. } | Route::Unknown | Route::Token => Reply::new(404)
            .header("content-type", "text/plain")
            .body("404 page not found\n"),
        _ => Reply::error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}

fn manifest(
    store: &mut Store,
    features: Features,
    path: &str,
    at: &str,
    request: &BufferedRequest,
) -> Reply {
    match request.method {
        Method::GET | Method::HEAD => manifests::get(store, path, at),
        Method::PUT => manifests::put(store, features, path, at, request),
        Method::DELETE => manifests::delete(store, path, at),
        _ => Reply::error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}
