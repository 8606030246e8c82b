//! Many concurrent requests for the same objects.

use std::sync::Arc;

use coral_image::Digest;
use futures::future::join_all;
use http::StatusCode;
use serde_json::json;

use crate::client::{MANIFEST, Served, digest_of, request};

#[tokio::test(flavor = "multi_thread")]
async fn referrers_that_are_pushed_at_once_are_all_listed() {
    let registry = Arc::new(Served::new());
    let subject = Digest::sha256(b"subject");
    let image = registry.image("a", b"layer").await;
    let pushes = (0..64).map(|number| {
        let (registry, mut image) = (Arc::clone(&registry), image.clone());
        image["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        image["annotations"] = json!({"number": number.to_string()});
        tokio::spawn(async move {
            let digest = digest_of(&image).to_string();
            let by_digest = registry.put("a", &digest, &image).await.status;
            let by_tag = registry.put("a", "moving", &image).await.status;
            (by_digest, by_tag)
        })
    });
    for pushed in join_all(pushes).await {
        assert_eq!(pushed.unwrap(), (StatusCode::CREATED, StatusCode::CREATED));
    }
    let listed = registry
        .get(&format!("/v2/a/referrers/{subject}"))
        .await
        .json();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 64);
    assert_eq!(
        registry.get("/v2/a/manifests/moving").await.status,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_writers_of_the_same_piece_is_told_that_it_is_out_of_order() {
    let registry = Arc::new(Served::new());
    let location = registry.begin("a").await;
    let content = vec![7; 2_000_000];
    let range = format!("0-{}", content.len() - 1);
    let writers = (0..4).map(|_| {
        let (registry, location) = (Arc::clone(&registry), location.clone());
        let (content, range) = (content.clone(), range.clone());
        tokio::spawn(async move {
            let headers = [("content-range", range.as_str())];
            registry
                .ask(request("PATCH", &location, &headers, &content))
                .await
                .status
        })
    });
    let mut statuses: Vec<StatusCode> = join_all(writers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    statuses.sort();
    let refused = StatusCode::RANGE_NOT_SATISFIABLE;
    assert_eq!(statuses, [StatusCode::ACCEPTED, refused, refused, refused]);
    let target = format!("{location}?digest={}", Digest::sha256(&content));
    assert_eq!(
        registry.send("PUT", &target, b"").await.status,
        StatusCode::CREATED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_never_listed_without_its_image_while_both_come_and_go() {
    let registry = Arc::new(Served::new());
    let image = registry.image("a", b"layer").await;
    let target = format!("/v2/a/manifests/{}", digest_of(&image));
    // Checking the other tags gives the push time to come in between.
    let tags: Vec<String> = (0..90).map(|number| format!("tag=x{number}")).collect();
    let other = registry.image("a", b"other").await;
    let by_digest = format!("{}?{}", digest_of(&other), tags.join("&"));
    assert_eq!(
        registry.put("a", &by_digest, &other).await.status,
        StatusCode::CREATED
    );
    for turn in 0..60 {
        let pushes = (0..3).map(|number| {
            let (registry, image) = (Arc::clone(&registry), image.clone());
            let tag = format!("t{turn}-{number}");
            tokio::spawn(async move { registry.put("a", &tag, &image).await })
        });
        let pushes: Vec<_> = pushes.collect();
        let deleted = registry.send("DELETE", &target, b"").await;
        assert!(deleted.status.as_u16() < 500);
        for pushed in join_all(pushes).await {
            assert_eq!(pushed.unwrap().status, StatusCode::CREATED);
        }
        let tags = registry.get("/v2/a/tags/list").await.json()["tags"].clone();
        let left = tags
            .as_array()
            .unwrap()
            .iter()
            .any(|tag| tag.as_str().unwrap().contains('-'));
        let there = registry.get(&target).await.status == StatusCode::OK;
        assert!(there || !left, "{tags} without the image in turn {turn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_blob_pushed_many_times_at_once_is_there_once() {
    let registry = Arc::new(Served::new());
    let content = vec![9; 700_000];
    let pushes = (0..16).map(|number| {
        let (registry, content) = (Arc::clone(&registry), content.clone());
        tokio::spawn(async move { registry.push(&format!("r{}", number % 4), &content).await })
    });
    let digests = join_all(pushes).await;
    let hex = digests[0].as_ref().unwrap().hex();
    let store = registry.folder.path().join("store");
    let folder = store.join("blobs/sha256").join(&hex[..2]);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(store.join("uploads")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.join("tmp")).unwrap().count(), 0);
}
