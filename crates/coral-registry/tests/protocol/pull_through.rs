//! What a client gets of a repository that is pulled through, and what is stored of it.

use std::time::Duration;

use coral_distribution::{Client, ClientOptions, Credentials, HostOptions};
use coral_image::Host;
use coral_registry::{InternalUser, PullThrough, Settings, SpaceBounds};
use coral_testkit::{Built, Effect, Fault, FaultRegistry, ImageBuilder, IndexBuilder, Throttle};
use http::StatusCode;
use tempfile::TempDir;

use super::client::{Answer, Served, request};

/// A registry that is filled from another one.
struct Filled {
    source: FaultRegistry,
    served: Served,
    /// Sees only what is stored.
    mirror: InternalUser,
}

impl Filled {
    async fn new() -> Self {
        Self::over(TempDir::new().unwrap(), FaultRegistry::start().await)
    }

    fn over(folder: TempDir, source: FaultRegistry) -> Self {
        let mirror = InternalUser::random();
        let served = Served::with_internal_user_over(folder, mirror.clone());
        let host = Host::parse(&source.host()).unwrap();
        let plain = HostOptions {
            plain_http: true,
            ..HostOptions::default()
        };
        let options = ClientOptions {
            hosts: [(host.clone(), plain)].into(),
            ..ClientOptions::default()
        };
        let client = Client::new(options).unwrap();
        let from = PullThrough::new(client, Credentials::none().into(), vec![host]);
        served.registry.pull_through(from);
        Self {
            source,
            served,
            mirror,
        }
    }

    /// The registry as after a restart, over the same folder.
    async fn restarted(self) -> Self {
        self.served.registry.clone().close().await;
        let folder = self.served.ended();
        Self::over(folder, self.source)
    }

    /// Pulls one image of an index.
    async fn pull(&self, index: &Built, number: usize) {
        let tag = index.tags.keys().next().unwrap();
        assert_eq!(
            self.get(&format!("manifests/{tag}")).await.status,
            StatusCode::OK
        );
        let child = &index.manifests[number];
        self.get(&format!("manifests/{}", child.digest)).await;
        let manifest: serde_json::Value = serde_json::from_slice(&child.bytes).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        self.get(&format!("blobs/{layer}")).await;
    }

    /// The path of the API for the repository `team/app` of the source.
    fn path(&self, rest: &str) -> String {
        let host = self.source.host().replace(':', "_");
        format!("/v2/{host}/team/app/{rest}")
    }

    async fn get(&self, rest: &str) -> Answer {
        self.served.get(&self.path(rest)).await
    }

    /// As a mirror beside the registry sees it.
    async fn stored(&self, rest: &str) -> Answer {
        let login = format!("{}:{}", self.mirror.name(), self.mirror.password());
        let login = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, login);
        let header = ("authorization", &*format!("Basic {login}"));
        let request = request("GET", &self.path(rest), &[header], b"");
        self.served.ask(request).await
    }

    /// Waits until the tag is stored as this image.
    async fn wait_for_tag(&self, tag: &str, image: &Built) {
        let stored = async {
            loop {
                let found = self.stored(&format!("manifests/{tag}")).await;
                if found.body == *image.root().bytes {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), stored)
            .await
            .expect("the image should be stored");
    }

    async fn blob(&self, image: &Built, number: usize) -> Answer {
        let digest = image.blobs.keys().nth(number).unwrap();
        self.get(&format!("blobs/{digest}")).await
    }
}

#[tokio::test]
async fn one_blob_that_is_asked_for_completes_its_image() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layers_of(&[1000, 2000]).tag("1");
    let image = image.build();
    filled.source.load("team/app", &image);
    let sent = filled.get("manifests/1").await;
    assert_eq!(sent.body, *image.root().bytes);
    // A manifest alone may be read by anything that only looks: nothing is fetched for it.
    let stored = filled.stored("manifests/1").await;
    assert_eq!(stored.status, StatusCode::NOT_FOUND);
    assert_eq!(filled.source.count(|it| it.path.contains("/blobs/")), 0);
    let sent = filled.blob(&image, 0).await;
    assert_eq!(sent.status, StatusCode::OK);
    assert_eq!(sent.body, *image.blobs.values().next().unwrap());
    filled.wait_for_tag("1", &image).await;
    for digest in image.blobs.keys() {
        let stored = filled.stored(&format!("blobs/{digest}")).await;
        assert_eq!(stored.status, StatusCode::OK);
        let read = filled
            .source
            .count(|it| it.method == "GET" && it.path.ends_with(&digest.to_string()));
        assert_eq!(read, 1, "{digest}");
    }
}

#[tokio::test]
async fn an_index_is_stored_with_the_first_of_its_images() {
    let filled = Filled::new().await;
    let platforms = ["linux/amd64", "linux/arm64"];
    let index = IndexBuilder::of_platforms(1, &platforms, &[1000]).tag("1");
    let index = index.build();
    filled.source.load("team/app", &index);
    assert_eq!(filled.get("manifests/1").await.status, StatusCode::OK);
    let child = &index.manifests[0];
    let sent = filled.get(&format!("manifests/{}", child.digest)).await;
    assert_eq!(sent.body, *child.bytes);
    let stored = filled.stored("manifests/1").await;
    assert_eq!(stored.status, StatusCode::NOT_FOUND);
    let manifest: serde_json::Value = serde_json::from_slice(&child.bytes).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    filled.get(&format!("blobs/{layer}")).await;
    filled.wait_for_tag("1", &index).await;
    let other = &index.manifests[1];
    let stored = filled.stored(&format!("manifests/{}", other.digest)).await;
    assert_eq!(stored.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_image_whose_blobs_are_all_here_is_stored_at_once() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layer_of(1000).tag("1").build();
    let same = ImageBuilder::new(1).layer_of(1000);
    let same = same.annotation("a", "b").tag("2").build();
    filled.source.load("team/app", &image);
    filled.source.load("team/app", &same);
    filled.get("manifests/1").await;
    filled.blob(&image, 0).await;
    filled.wait_for_tag("1", &image).await;
    filled.get("manifests/2").await;
    filled.wait_for_tag("2", &same).await;
}

#[tokio::test]
async fn what_the_storage_has_no_room_for_is_passed_through() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layer_of(100_000).tag("1").build();
    filled.source.load("team/app", &image);
    filled.served.registry.configure(Settings {
        space: SpaceBounds {
            limit: Some(1000),
            ..SpaceBounds::default()
        },
        ..Settings::default()
    });
    filled.get("manifests/1").await;
    let (digest, content) = image.blobs.iter().max_by_key(|it| it.1.len()).unwrap();
    let target = format!("blobs/{digest}");
    for _ in 0..2 {
        let sent = filled.get(&target).await;
        assert_eq!((sent.status, sent.body), (StatusCode::OK, content.to_vec()));
    }
    let range = [("range", "bytes=99000-99999")];
    let part = request("GET", &filled.path(&target), &range, b"");
    let part = filled.served.ask(part).await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body, content[99_000..]);
    assert_eq!(filled.stored(&target).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_digest_are_never_a_whole_blob() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layer_of(100_000).tag("1").build();
    filled.source.load("team/app", &image);
    let (digest, content) = image.blobs.iter().max_by_key(|it| it.1.len()).unwrap();
    let mut wrong = content.to_vec();
    wrong[500] ^= 1;
    filled.source.spoil_blob("team/app", digest, wrong);
    filled.get("manifests/1").await;
    let router = filled.served.router();
    let service = hyper_util::service::TowerToHyperService::new(router);
    let target = filled.path(&format!("blobs/{digest}"));
    let asked = request("GET", &target, &[], b"");
    let answer = hyper::service::Service::call(&service, asked).await;
    let answer = answer.unwrap();
    if answer.status() == StatusCode::OK {
        let body = http_body_util::BodyExt::collect(answer.into_body()).await;
        assert!(body.is_err(), "the answer should be cut off");
    } else {
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    }
    let stored = filled.stored(&format!("blobs/{digest}")).await;
    assert_eq!(stored.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_source_that_fails_is_named_and_what_is_stored_is_served() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layer_of(1000).tag("1").build();
    filled.source.load("team/app", &image);
    filled.get("manifests/1").await;
    filled.blob(&image, 0).await;
    filled.wait_for_tag("1", &image).await;
    let status = |status: u16| Effect::Status {
        status,
        headers: vec![],
        body: String::new(),
    };
    let limited = Effect::Throttle(Throttle::Seconds(7));
    for (effect, expected, code) in [
        (status(503), StatusCode::BAD_GATEWAY, "UNKNOWN"),
        (status(403), StatusCode::FORBIDDEN, "DENIED"),
        (status(404), StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        (limited, StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
    ] {
        filled.source.clear_faults();
        filled.source.fault(Fault::new(effect.clone()));
        // What is not at the source is remembered.
        let tag = format!("of-{}", expected.as_u16());
        let unknown = filled.get(&format!("manifests/{tag}")).await;
        assert_eq!(unknown.status, expected, "{effect:?}");
        assert_eq!(unknown.code(), code, "{effect:?}");
        if expected != StatusCode::NOT_FOUND {
            let message = unknown.json()["errors"][0]["message"].to_string();
            assert!(message.contains(&filled.source.host()), "{message}");
            // Advice for the operator is in the log.
            assert!(!message.contains("log in"), "{message}");
        }
        if expected == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(unknown.header("retry-after"), "7");
            filled.source.clear_requests();
            let again = filled.get("manifests/another").await;
            assert_eq!(again.status, expected);
            assert!(filled.source.requests().is_empty(), "it asked to wait");
        }
        let stored = filled.get("manifests/1").await;
        assert_eq!(stored.body, *image.root().bytes, "{effect:?}");
        assert_eq!(filled.get("tags/list").await.status, StatusCode::OK);
        // A runtime that may ask the source itself goes on after this.
        if expected == StatusCode::FORBIDDEN {
            let target = format!("/v2/team/app/manifests/2?ns={}", filled.source.host());
            let routed = filled.served.get(&target).await;
            assert_eq!(routed.status, StatusCode::NOT_FOUND);
        }
    }
}

#[tokio::test]
async fn only_the_mirror_beside_the_registry_writes_below_a_host_that_is_pulled_through() {
    let filled = Filled::new().await;
    let begin = filled.path("blobs/uploads/");
    let pushed = filled.served.send("POST", &begin, b"").await;
    assert_eq!(pushed.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(pushed.code(), "UNSUPPORTED");
    let deleted = filled.path("manifests/1");
    let deleted = filled.served.send("DELETE", &deleted, b"").await;
    assert_eq!(deleted.status, StatusCode::METHOD_NOT_ALLOWED);
    let login = format!("{}:{}", filled.mirror.name(), filled.mirror.password());
    let login = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, login);
    let header = ("authorization", &*format!("Basic {login}"));
    let by_mirror = request("POST", &begin, &[header], b"");
    let by_mirror = filled.served.ask(by_mirror).await;
    assert_eq!(by_mirror.status, StatusCode::ACCEPTED);
    filled.served.push("elsewhere/app", b"content").await;
}

#[tokio::test]
async fn lists_are_those_of_the_source_and_of_what_is_stored() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layer_of(1000).tag("1").build();
    let signature = ImageBuilder::new(2).artifact("a/signature");
    let signature = signature.subject(&image).layer_of(10).build();
    filled.source.load("team/app", &image.clone().tagged("2"));
    filled.source.load("team/app", &signature);
    let listed = filled.get("tags/list?n=1").await;
    assert_eq!(listed.json()["tags"], serde_json::json!(["1"]));
    let listed = filled.get("tags/list?n=5&last=1").await;
    assert_eq!(listed.json()["tags"], serde_json::json!(["2"]));
    let referrers = filled.get(&format!("referrers/{}", image.digest())).await;
    let first = &referrers.json()["manifests"][0];
    assert_eq!(first["digest"], signature.digest().to_string());
}

/// Docker Hub answers `HEAD` without a limit when it refuses every `GET` of a manifest.
#[tokio::test]
async fn a_tag_that_moved_to_an_image_that_is_not_sent_stays_at_the_stored_one() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layer_of(1000).tag("1").build();
    filled.source.load("team/app", &image);
    // Stored, but never looked up by this registry: as after a restart.
    filled.get(&format!("manifests/{}", image.digest())).await;
    filled.get("manifests/1").await;
    filled.blob(&image, 0).await;
    filled.wait_for_tag("1", &image).await;
    let filled = filled.restarted().await;
    let moved = ImageBuilder::new(2).layer_of(1000).tag("1").build();
    filled.source.load("team/app", &moved);
    let limited = Effect::Throttle(Throttle::Seconds(7));
    let limited = Fault::new(limited).method("GET").path("/manifests/");
    filled.source.fault(limited);
    // containerd looks the tag up by `HEAD` and then fetches the digest.
    for _ in 0..2 {
        let head = request("HEAD", &filled.path("manifests/1"), &[], b"");
        let head = filled.served.ask(head).await;
        assert_eq!(head.status, StatusCode::OK);
        let digest = head.header("docker-content-digest");
        assert_eq!(digest, image.digest().to_string());
        let sent = filled.get(&format!("manifests/{digest}")).await;
        assert_eq!(sent.body, *image.root().bytes);
    }
}

#[tokio::test]
async fn an_index_replaces_another_when_its_platforms_are_here_too() {
    let filled = Filled::new().await;
    let platforms = ["linux/amd64", "linux/arm64", "linux/s390x"];
    let index = |seed| IndexBuilder::of_platforms(seed, &platforms, &[1000]).tag("1");
    let before = index(1).build();
    filled.source.load("team/app", &before);
    filled.pull(&before, 0).await;
    filled.wait_for_tag("1", &before).await;
    let filled = filled.restarted().await;
    let after = index(2).build();
    filled.source.load("team/app", &after);
    // A client for arm64 pulls the new one.
    filled.pull(&after, 1).await;
    filled.wait_for_tag("1", &after).await;
    let stored = |number: usize| {
        let digest = after.manifests[number].digest;
        let filled = &filled;
        async move { filled.stored(&format!("manifests/{digest}")).await.status }
    };
    assert_eq!(stored(0).await, StatusCode::OK, "amd64 was stored before");
    assert_eq!(stored(1).await, StatusCode::OK);
    assert_eq!(stored(2).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_download_that_has_taken_the_room_is_read_by_all() {
    let filled = Filled::new().await;
    let image = ImageBuilder::new(1).layer_of(400_000).tag("1").build();
    filled.source.load("team/app", &image);
    filled.served.registry.configure(Settings {
        space: SpaceBounds {
            limit: Some(600_000),
            ..SpaceBounds::default()
        },
        ..Settings::default()
    });
    filled.get("manifests/1").await;
    let (digest, content) = image.blobs.iter().max_by_key(|it| it.1.len()).unwrap();
    let hold = Effect::HoldBody {
        after: 300_000,
        gate: "rest".to_owned(),
    };
    let of_blob = Fault::new(hold).method("GET").path(&digest.to_string());
    filled.source.fault(of_blob);
    let target = format!("blobs/{digest}");
    let first = filled.get(&target);
    let second = async {
        let is_read = |it: &[coral_testkit::Recorded]| {
            it.iter().any(|it| it.path.ends_with(&digest.to_string()))
        };
        filled.source.wait_for(is_read).await;
        let asked = filled.get(&target);
        let release = async { filled.source.release("rest") };
        tokio::join!(asked, release).0
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.body, *content);
    assert_eq!(second.body, *content);
    let read = filled
        .source
        .count(|it| it.method == "GET" && it.path.ends_with(&digest.to_string()));
    assert_eq!(read, 1);
}
