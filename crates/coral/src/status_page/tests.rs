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
        let site = PageContext::new(address, &Tls::off(), Board::default()).unwrap();
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

/// Regression: an image of docker's that names no platform was shown as an artifact of the type of its
/// configuration.
#[tokio::test]
async fn an_image_without_a_platform_is_shown_as_no_artifact_and_an_artifact_is() {
    let served = Served::new().await;
    let docker = "application/vnd.docker.container.image.v1+json";
    for (tag, kind) in [
        ("docker", docker),
        ("chart", "application/vnd.x.chart.v1+json"),
    ] {
        let config = coral_image::Digest::sha256(b"{}");
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"{kind}","digest":"{config}","size":2}},"layers":[]}}"#
        );
        let path = format!("/v2/team/app/manifests/{tag}");
        served.ask("PUT", &path, manifest.into_bytes()).await;
    }
    let page = served.ask("GET", "/repositories/team/app", vec![]).await;
    assert!(page.contains("vnd.x.chart"), "{page}");
    // Long names break at slashes, and not before a hyphen.
    assert!(
        page.contains("<h1><code>team/<wbr>app</code></h1>"),
        "{page}"
    );
    assert!(page.contains("team/<wbr>app:chart</code>"), "{page}");
    assert!(!page.contains("container.image"), "{page}");
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
    for part in ["Last complete scrub", "never"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

/// The pages of a process whose one mirror fails, as its metrics say it.
fn with_mirror(served: &Served) -> Router {
    let metrics = MirrorMetrics::default();
    let gauges = coral_mirror::MirrorGauges {
        failed: 3,
        ..Default::default()
    };
    metrics.show([("default/app".to_owned(), gauges)].into());
    let address = "127.0.0.1:5000".parse().unwrap();
    let board = Board::default();
    board.set_broken(&["x.yaml".to_owned()].into());
    let site = PageContext::new(address, &Tls::off(), board).unwrap();
    let health = coral_rt::Health::default();
    let health = coral_rt::health_router(health, Arc::new(Metrics::default()));
    let registry = served.registry.router().merge(health);
    beside(registry, site.with_metrics(&metrics))
}

async fn metrics_of(router: Router) -> String {
    let request = Request::builder().uri("/metrics");
    let request = request.body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

const FAILED: &str = r#"coral_mirror_images{namespace="default",mirror="app",state="failed"} 3"#;

#[tokio::test]
async fn the_metrics_have_the_mirrors_that_the_page_shows() {
    let served = Served::new().await;
    let text = metrics_of(with_mirror(&served)).await;
    for line in [FAILED, "coral_up_broken_files 1", "coral_build_info{"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1, "{text}");
}

#[tokio::test]
async fn who_may_not_see_mirrors_does_not_see_their_metrics() {
    let served = Served::new().await;
    let grants = coral_registry::Grants {
        users: coral_registry::Htpasswd::parse("").unwrap(),
        pull: vec![],
        push: vec![],
    };
    served.registry.configure(Settings {
        access: coral_registry::Access::Granted(grants),
        ..Settings::default()
    });
    let text = metrics_of(with_mirror(&served)).await;
    assert!(text.contains("process_start_time_seconds"), "{text}");
    assert!(
        !text.contains("coral_mirror_") && !text.contains("app"),
        "{text}"
    );
    assert!(text.ends_with("\n# EOF\n"), "{text}");
}

#[tokio::test]
async fn the_alert_on_broken_files_fires_while_there_is_one() {
    let rules = include_str!("../../../../deploy/monitoring/registry-rules.yaml");
    let alert = "alert: CoralUpFileBroken\n        expr: coral_up_broken_files > 0\n";
    assert!(rules.contains(alert), "{rules}");
    for (broken, value) in [(&["x.yaml".to_owned()][..], "1"), (&[], "0")] {
        let served = Served::new().await;
        let board = Board::default();
        board.set_broken(&broken.iter().cloned().collect());
        let address = "127.0.0.1:5000".parse().unwrap();
        let site = PageContext::new(address, &Tls::off(), board).unwrap();
        let health = coral_rt::health_router(coral_rt::Health::default(), Arc::default());
        let registry = served.registry.router().merge(health);
        let site = site.with_metrics(&MirrorMetrics::default());
        let shown = metrics_of(beside(registry, site)).await;
        let line = format!("\ncoral_up_broken_files {value}\n");
        assert!(shown.contains(&line), "{shown}");
    }
}

/// The names of Coral's metrics in a text.
fn named(text: &str) -> std::collections::BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("coral_")).collect()
}

#[tokio::test]
async fn the_alerts_of_mirrors_and_the_guide_are_about_what_coral_up_exports() {
    let served = Served::new().await;
    let metrics = MirrorMetrics::default();
    let gauges = coral_mirror::MirrorGauges {
        next_pass: Some(1),
        ..Default::default()
    };
    metrics.show([("default/app".to_owned(), gauges)].into());
    metrics.attempt_failed("default/app");
    metrics.sources().follow(|| {
        vec![coral_mirror::SourceUse {
            host: "quay.io".to_owned(),
            requests: 3,
            refused: 2,
            repeated: 1,
            left: Some(5),
        }]
    });
    let address = "127.0.0.1:5000".parse().unwrap();
    let site = PageContext::new(address, &Tls::off(), Board::default()).unwrap();
    let health = coral_rt::health_router(coral_rt::Health::default(), Arc::default());
    let registry = served.registry.router().merge(health);
    let shown = metrics_of(beside(registry, site.with_metrics(&metrics))).await;
    let samples: Vec<&str> = shown
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let samples = samples.join("\n");
    let exported = named(&samples);
    let rules = include_str!("../../../../deploy/monitoring/mirror-rules.yaml");
    let unknown: Vec<&str> = named(rules)
        .into_iter()
        .filter(|name| !exported.contains(*name))
        .collect();
    assert!(
        named(rules).len() > 8 && unknown.is_empty(),
        "{unknown:?} of {shown}"
    );
    let guide = include_str!("../../../../docs/src/guide/monitoring.md");
    let explained = named(guide);
    let is_explained = |name: &str| {
        // `coral_registry_gc_*` stands for all of these.
        let fits = |told: &&str| *told == name || told.ends_with('_') && name.starts_with(*told);
        explained.iter().any(fits)
    };
    let silent = exported.iter().filter(|name| {
        let ends = ["_bucket", "_sum", "_count"];
        let of_histogram = ends.iter().find_map(|end| name.strip_suffix(end));
        !is_explained(name) && !of_histogram.is_some_and(is_explained)
    });
    assert_eq!(silent.collect::<Vec<_>>(), Vec::<&&str>::new());
}
