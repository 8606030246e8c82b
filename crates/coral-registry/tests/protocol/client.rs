//! A registry over a temporary folder, and a client for it.

use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use coral_image::Digest;
use coral_registry::{FileStore, InternalUser, Registry};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry, and the folder of its store.
pub(crate) struct Served {
    router: Router,
    pub(crate) registry: Registry,
    pub(crate) metrics: prometheus_client::registry::Registry,
    pub(crate) folder: TempDir,
}

/// An answer that was read completely.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of the first error.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Served {
    pub(crate) fn new() -> Self {
        Self::over(TempDir::new().unwrap())
    }

    pub(crate) fn over(folder: TempDir) -> Self {
        Self::build(folder, None)
    }

    pub(crate) fn with_internal_user(user: InternalUser) -> Self {
        Self::with_internal_user_over(TempDir::new().unwrap(), user)
    }

    pub(crate) fn with_internal_user_over(folder: TempDir, user: InternalUser) -> Self {
        Self::build(folder, Some(user))
    }

    fn build(folder: TempDir, user: Option<InternalUser>) -> Self {
        let mut metrics = prometheus_client::registry::Registry::default();
        let store = FileStore::open(&folder.path().join("store")).unwrap();
        let registry = Registry::with_internal_user(store, &mut metrics, user);
        Self {
            router: registry.router(),
            registry,
            metrics,
            folder,
        }
    }

    /// Stops this registry, and starts another one over the same folder.
    pub(crate) fn restarted(self) -> Self {
        Self::over(self.ended())
    }

    /// Stops this registry.
    pub(crate) fn ended(self) -> TempDir {
        self.folder
    }

    /// The file with the content of a digest.
    pub(crate) fn content(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let contents = self.folder.path().join("store/blobs/sha256");
        contents.join(&hex[..2]).join(hex)
    }

    /// A file or folder of a repository.
    pub(crate) fn stored(&self, path: &str) -> PathBuf {
        self.folder.path().join("store/repositories").join(path)
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        let service = TowerToHyperService::new(self.router.clone());
        let (parts, body) = service.call(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(request("GET", target, &[], b"")).await
    }

    pub(crate) async fn send(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        self.ask(request(method, target, &[], body)).await
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let pushed = self.send("POST", &target, content).await;
        assert_eq!(pushed.status, StatusCode::CREATED);
        digest
    }

    /// Begins an upload, and returns its path.
    pub(crate) async fn begin(&self, name: &str) -> String {
        let begun = self
            .send("POST", &format!("/v2/{name}/blobs/uploads/"), b"")
            .await;
        assert_eq!(begun.status, StatusCode::ACCEPTED);
        begun.header("location").to_owned()
    }

    pub(crate) async fn put(&self, name: &str, reference: &str, manifest: &Value) -> Answer {
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        let target = format!("/v2/{name}/manifests/{reference}");
        let headers = [("content-type", kind.as_str())];
        self.ask(request(
            "PUT",
            &target,
            &headers,
            manifest.to_string().as_bytes(),
        ))
        .await
    }

    /// Pushes an image of one layer under a tag, and returns its digest.
    pub(crate) async fn push_image(&self, name: &str, tag: &str, layer: &[u8]) -> Digest {
        let image = self.image(name, layer).await;
        assert_eq!(
            self.put(name, tag, &image).await.status,
            StatusCode::CREATED
        );
        digest_of(&image)
    }

    /// An image whose blobs are pushed, but not its manifest.
    pub(crate) async fn image(&self, name: &str, layer: &[u8]) -> Value {
        self.push(name, b"{}").await;
        self.push(name, layer).await;
        image_of(b"{}", layer)
    }
}

pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_vec())).unwrap()
}

pub(crate) fn digest_of(manifest: &Value) -> Digest {
    Digest::sha256(manifest.to_string().as_bytes())
}

pub(crate) fn image_of(config: &[u8], layer: &[u8]) -> Value {
    let descriptor = |bytes: &[u8]| json!({"mediaType": "a/b", "digest": Digest::sha256(bytes), "size": bytes.len()});
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config),
        "layers": [descriptor(layer)],
    })
}
