//! The pages over a registry in this process.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use coral_registry::{FileStore, MinFree, Registry, Settings, SpaceBounds};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;

/// A registry that has one blob of 6000 bytes in `team/app`.
struct Served {
    registry: Registry,
    router: Router,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(folder.path()).unwrap();
        let mut metrics = prometheus_client::registry::Registry::default();
        let registry = Registry::new(store, &mut metrics);
        let address = "127.0.0.1:5000".parse().unwrap();
        let site = Site::new(address, &Tls::off(), Board::default()).unwrap();
        let served = Self {
            router: beside(registry.router(), site),
            registry,
            _folder: folder,
        };
        let blob = vec![1; 6000];
        let digest = coral_image::Digest::sha256(&blob);
        let push = format!("/v2/team/app/blobs/uploads/?digest={digest}");
        served.ask("POST", &push, blob).await;
        let config = coral_image::Digest::sha256(b"{}");
        let push = format!("/v2/team/app/blobs/uploads/?digest={config}");
        served.ask("POST", &push, b"{}".to_vec()).await;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":6000}}]}}"#
        );
        served
            .ask("PUT", "/v2/team/app/manifests/1", manifest.into_bytes())
            .await;
        served.count().await;
        served
    }

    /// What is stored is counted in the background.
    async fn count(&self) {
        let stop = CancellationToken::new();
        let counting = tokio::spawn(self.registry.clone().keep_counted(stop.clone()));
        while self.status().await["storage"]["counted"] != true {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        counting.await.unwrap();
    }

    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> String {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_LENGTH, body.len()).header(
            header::CONTENT_TYPE,
            "application/vnd.oci.image.manifest.v1+json",
        );
        let request = request.body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert!(
            response.status().is_success(),
            "{method} {path}: {}",
            response.status()
        );
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/status.json", vec![]).await).unwrap()
    }

    fn limit(&self, limit: u64) {
        let min_free = MinFree::Bytes(0);
        let limit = Some(limit);
        self.registry.configure(Settings {
            space: SpaceBounds { limit, min_free },
            ..Settings::default()
        });
    }
}

#[tokio::test]
async fn what_is_stored_and_free_stands_on_the_page_and_in_its_json() {
    let served = Served::new().await;
    served.limit(1 << 20);
    let status = served.status().await;
    let storage = &status["storage"];
    assert!(storage["stored"].as_u64().unwrap() > 6000, "{status}");
    assert_eq!(storage["limit"], 1 << 20, "{status}");
    assert!(
        storage["free"].is_u64() && storage.get("full").is_none(),
        "{status}"
    );
    let stored = &status["repositories"]["stored"]["team/app"];
    assert!(stored.as_u64().unwrap() > 6000, "{status}");
    let page = served.ask("GET", "/", vec![]).await;
    for part in ["Storage", "of 1.00 MiB", "Free on the disk", ">6."] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("Pushes are refused"), "{page}");
}

#[tokio::test]
async fn the_page_of_a_repository_says_what_it_holds() {
    let served = Served::new().await;
    let page = served.ask("GET", "/repositories/team/app", vec![]).await;
    let (_, counts) = page.split_once("<dl class=\"counts\">").expect(&page);
    let (counts, _) = counts.split_once("</dl>").unwrap();
    assert!(counts.contains("<dt>Stored</dt>"), "{counts}");
    let status = served.status().await;
    let stored = &status["repositories"]["stored"]["team/app"];
    let stored = words::bytes(stored.as_u64().unwrap());
    assert!(counts.contains(&format!("<dd>{stored}</dd>")), "{counts}");
}

#[tokio::test]
async fn a_page_says_that_pushes_are_refused_and_why() {
    let served = Served::new().await;
    served.limit(5);
    let status = served.status().await;
    assert_eq!(status["storage"]["reason"], "Limit", "{status}");
    let page = served.ask("GET", "/", vec![]).await;
    for part in [
        "Pushes are refused",
        "that the storage limit allows",
        "delete images",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[tokio::test]
async fn how_the_scrub_is_stands_on_the_page_and_in_its_json() {
    let served = Served::new().await;
    let before = served.status().await;
    assert_eq!(before["scrub"]["missing"], 0, "{before}");
    assert!(before["scrub"].get("lastCompleted").is_none(), "{before}");
    let page = served.ask("GET", "/", vec![]).await;
    for part in ["Last read whole", "never"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_beyond_those_that_are_made_waits_and_is_then_refused() {
    let turns = Arc::new(Semaphore::new(1));
    let router = Router::new()
        .route("/", get(async || "made"))
        .layer(middleware::from_fn_with_state(Arc::clone(&turns), in_turn));
    let ask = || {
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        router.clone().oneshot(request)
    };
    let taken = turns.acquire().await.unwrap();
    let refused = ask().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(taken);
    assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
}
