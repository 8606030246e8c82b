use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use coral_image::{Algorithm, Digest};
use futures::StreamExt as _;
use futures::stream::{self, FuturesUnordered};
use http::{Request, StatusCode};
use serde_json::json;

use crate::client::{INDEX, MANIFEST, Served, digest_of, image_of, request};

#[tokio::test]
async fn a_pushed_manifest_comes_back_by_tag_and_by_digest_with_all_its_headers() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    let digest = digest_of(&image);
    let pushed = registry.put("a", "v1", &image).await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    assert_eq!(
        pushed.header("location"),
        format!("/v2/a/manifests/{digest}")
    );
    for reference in ["v1".to_owned(), digest.to_string()] {
        for method in ["GET", "HEAD"] {
            let answer = registry
                .send(method, &format!("/v2/a/manifests/{reference}"), b"")
                .await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.header("content-type"), MANIFEST);
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(
                answer.header("content-length"),
                image.to_string().len().to_string()
            );
            let body = if method == "GET" {
                image.to_string()
            } else {
                String::new()
            };
            assert_eq!(String::from_utf8(answer.body).unwrap(), body);
        }
    }
}

#[tokio::test]
async fn an_image_whose_blobs_are_missing_is_refused_with_their_digests() {
    let registry = Served::new();
    registry.push("a", b"{}").await;
    let refused = registry.put("a", "v1", &image_of(b"{}", b"missing")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.code(), "MANIFEST_BLOB_UNKNOWN");
    let named = refused.json()["errors"][0]["detail"]["digest"].clone();
    assert_eq!(named, json!(Digest::sha256(b"missing")));
    assert_eq!(
        registry.get("/v2/a/manifests/v1").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_layer_that_is_fetched_from_elsewhere_need_not_be_there() {
    let registry = Served::new();
    registry.push("a", b"{}").await;
    let mut image = image_of(b"{}", b"foreign");
    image["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    assert_eq!(
        registry.put("a", "v1", &image).await.status,
        StatusCode::CREATED
    );
}

/// Regression: such an image was accepted, and no client could ever pull it.
#[tokio::test]
async fn a_layer_that_must_not_be_distributed_and_names_no_urls_has_to_be_there() {
    let registry = Served::new();
    registry.push("a", b"{}").await;
    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    for urls in [json!(null), json!([])] {
        let mut image = image_of(b"{}", b"foreign");
        image["layers"][0]["mediaType"] = json!(kind);
        image["layers"][0]["urls"] = urls;
        let refused = registry.put("a", "v1", &image).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN")
        );
    }
    registry.push("a", b"foreign").await;
    let mut image = image_of(b"{}", b"foreign");
    image["layers"][0]["mediaType"] = json!(kind);
    let taken = registry.put("a", "v1", &image).await;
    assert_eq!(taken.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_index_may_be_pushed_without_some_of_its_children() {
    let registry = Served::new();
    let child = json!({"mediaType": MANIFEST, "digest": Digest::sha256(b"other"), "size": 5});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]});
    assert_eq!(
        registry.put("a", "v1", &index).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_manifest_under_a_wrong_digest_is_refused() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    let wrong = Digest::sha256(b"wrong").to_string();
    let refused = registry.put("a", &wrong, &image).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
    );
}

#[tokio::test]
async fn a_manifest_pushed_by_sha512_is_known_by_sha512_also_under_its_tags() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    let digest = Algorithm::Sha512.digest(image.to_string().as_bytes());
    let pushed = registry
        .put("a", &format!("{digest}?tag=x&tag=y&tag=x"), &image)
        .await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    let tags: Vec<_> = pushed.headers.get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["x", "y"]);
    for reference in ["x".to_owned(), "y".to_owned(), digest.to_string()] {
        let answer = registry.get(&format!("/v2/a/manifests/{reference}")).await;
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
}

#[tokio::test]
async fn a_manifest_larger_than_clients_read_is_refused() {
    let registry = Served::new();
    let body = vec![b' '; coral_image::MAX_MANIFEST_SIZE + 1];
    let refused = registry.send("PUT", "/v2/a/manifests/x", &body).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID")
    );
    let length = body.len().to_string();
    let announced = [("content-length", length.as_str())];
    let refused = registry
        .ask(request("PUT", "/v2/a/manifests/x", &announced, b""))
        .await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_moved_tag_points_at_the_new_image_and_the_old_one_stays() {
    let registry = Served::new();
    let old = registry.push_image("a", "v1", b"old").await;
    let new = registry.push_image("a", "v1", b"new").await;
    let answer = registry.get("/v2/a/manifests/v1").await;
    assert_eq!(answer.header("docker-content-digest"), new.to_string());
    let answer = registry.get(&format!("/v2/a/manifests/{old}")).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn deleting_a_tag_leaves_the_image() {
    let registry = Served::new();
    let digest = registry.push_image("a", "v1", b"layer").await;
    let deleted = registry.send("DELETE", "/v2/a/manifests/v1", b"").await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    assert_eq!(
        registry.get("/v2/a/manifests/v1").await.status,
        StatusCode::NOT_FOUND
    );
    let answer = registry.get(&format!("/v2/a/manifests/{digest}")).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn deleting_an_image_takes_its_tags_and_no_others() {
    let registry = Served::new();
    let digest = registry.push_image("a", "v1", b"layer").await;
    registry.push_image("a", "v2", b"layer").await;
    registry.push_image("a", "other", b"other").await;
    let target = format!("/v2/a/manifests/{digest}");
    assert_eq!(
        registry.send("DELETE", &target, b"").await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        registry.send("DELETE", &target, b"").await.status,
        StatusCode::NOT_FOUND
    );
    let tags = registry.get("/v2/a/tags/list").await.json();
    assert_eq!(tags["tags"], json!(["other"]));
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let registry = Served::new();
    let digest = registry.push_image("a/b", "v1", b"layer").await;
    let registry = registry.restarted();
    let answer = registry.get("/v2/a/b/manifests/v1").await;
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    let layer = Digest::sha256(b"layer");
    assert_eq!(
        registry.get(&format!("/v2/a/b/blobs/{layer}")).await.body,
        b"layer"
    );
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_named_with_those_it_has() {
    let registry = Served::new();
    let refused = registry.send("POST", "/v2/a/manifests/x", b"").await;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(refused.header("allow"), "GET, HEAD, PUT, DELETE");
    assert_eq!(refused.code(), "UNSUPPORTED");
}

#[tokio::test]
async fn what_was_read_before_is_not_remembered_past_a_change() {
    let registry = Served::new();
    let (one, two) = ("/v2/a/manifests/v1", "/v2/a/manifests/v2");
    let first = registry.image("a", b"first").await;
    let second = registry.image("a", b"second").await;
    let by_digest = format!("/v2/a/manifests/{}", digest_of(&second));
    let body = async |target: &str| registry.get(target).await.body;
    let head = async |target: &str| {
        let answer = registry.send("HEAD", target, b"").await;
        answer.header("docker-content-digest").to_owned()
    };
    registry.put("a", "v1", &first).await;
    assert_eq!(body(one).await, first.to_string().as_bytes());
    assert_eq!(head(one).await, digest_of(&first).to_string());
    registry.put("a", "v1", &second).await;
    registry.put("a", "v2", &second).await;
    assert_eq!(head(one).await, digest_of(&second).to_string());
    for target in [one, two, by_digest.as_str()] {
        assert_eq!(body(target).await, second.to_string().as_bytes());
    }
    registry.send("DELETE", one, b"").await;
    assert_eq!(registry.get(one).await.status, StatusCode::NOT_FOUND);
    registry.send("DELETE", &by_digest, b"").await;
    for target in [two, by_digest.as_str()] {
        assert_eq!(registry.get(target).await.status, StatusCode::NOT_FOUND);
        assert_eq!(head(target).await, "");
    }
}

/// Each manifest may have 4 MiB, and the memory grew with the number of connections.
#[tokio::test]
async fn large_manifests_that_do_not_end_share_a_bounded_amount_of_memory() {
    const MANY: usize = 40;
    const ROOM: usize = 64 << 20;
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    let most = Bytes::from(vec![b' '; (4 << 20) - 1]);
    let endless = |_| {
        let body = stream::iter([Ok::<_, std::io::Error>(most.clone())]).chain(stream::pending());
        // A client that waits for `100 Continue` is refused without reading its body.
        let request = Request::put("/v2/a/manifests/large").header("expect", "100-continue");
        registry.ask(request.body(Body::from_stream(body)).unwrap())
    };
    let mut asked: FuturesUnordered<_> = (0..MANY).map(endless).collect();
    for _ in 0..MANY - ROOM / (4 << 20) {
        let next = tokio::time::timeout(Duration::from_mins(2), asked.next()).await;
        let refused = next.expect("there is no room for all").unwrap();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.header("retry-after"), "5");
    }
    let small = registry.put("a", "v1", &image).await;
    assert_eq!(small.status, StatusCode::CREATED);
    drop(asked);
    let mut large = image;
    large["annotations"] = json!({"x": "y".repeat(3 << 20)});
    let later = registry.put("a", "v2", &large).await;
    assert_eq!(later.status, StatusCode::CREATED);
}
