//! A storage folder that was changed by hand or by a fault: damaged content counts as missing, for
//! every method alike, until it is pushed again.

use std::fs;
use std::path::Path;

use http::StatusCode;
use serde_json::{Value, json};

use crate::client::{MANIFEST, Served, digest_of};

/// Pushes an image, reads it and damages its storage. Then checks that a request for the image
/// reports the damage, and that one more push repairs it; also across a restart.
async fn check(damage: impl Fn(&Served, &Value)) {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    registry.put("a", "v1", &image).await;
    registry.get("/v2/a/manifests/v1").await;
    damage(&registry, &image);
    heals(&registry, &image).await;
    damage(&registry, &image);
    heals(&registry.restarted(), &image).await;
}

#[tokio::test]
async fn a_manifest_with_other_bytes_is_absent_until_it_is_pushed_again() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    registry.put("a", "v1", &image).await;
    let other = image.to_string().replace("layers", "lay3rs");
    write(&registry.content(&digest_of(&image)), &other);
    heals(&registry, &image).await;
}

async fn heals(registry: &Served, image: &Value) {
    let status = async |method| {
        let answer = registry.send(method, "/v2/a/manifests/v1", b"").await;
        answer.status
    };
    for method in ["HEAD", "GET"] {
        assert_eq!(status(method).await, StatusCode::NOT_FOUND, "{method}");
    }
    let pushed = registry.put("a", "v1", image).await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    for method in ["HEAD", "GET"] {
        assert_eq!(status(method).await, StatusCode::OK, "{method}");
    }
    let by_digest = format!("/v2/a/manifests/{}", digest_of(image));
    let answer = registry.get(&by_digest).await;
    assert_eq!(answer.body, image.to_string().as_bytes());
}

fn write(path: &Path, content: &str) {
    assert!(path.exists(), "{}", path.display());
    fs::write(path, content).unwrap();
}

#[tokio::test]
async fn a_manifest_without_its_bytes_is_absent_until_it_is_pushed_again() {
    check(|registry, image| fs::remove_file(registry.content(&digest_of(image))).unwrap()).await;
}

#[tokio::test]
async fn a_manifest_with_fewer_bytes_is_absent_until_it_is_pushed_again() {
    check(|registry, image| write(&registry.content(&digest_of(image)), "x")).await;
}

#[tokio::test]
async fn a_tag_whose_record_is_empty_is_absent_until_it_is_pushed_again() {
    check(|registry, _| write(&registry.stored("a/_tags/v1"), "")).await;
}

#[tokio::test]
async fn a_manifest_whose_record_is_damaged_is_absent_until_it_is_pushed_again() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    let digest = digest_of(&image);
    registry.put("a", "v1", &image).await;
    let record = format!("a/_manifests/sha256/{}", digest.hex());
    write(&registry.stored(&record), "{");
    let registry = registry.restarted();
    let target = format!("/v2/a/manifests/{digest}");
    for method in ["HEAD", "GET"] {
        let answer = registry.send(method, &target, b"").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method}");
    }
    registry.put("a", "v1", &image).await;
    assert_eq!(registry.get(&target).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_damaged_tag_does_not_block_deleting_another_image() {
    let registry = Served::new();
    let digest = registry.push_image("a", "v1", b"layer").await;
    registry.push_image("a", "v2", b"other").await;
    write(&registry.stored("a/_tags/v2"), "");
    let registry = registry.restarted();
    let target = format!("/v2/a/manifests/{digest}");
    let deleted = registry.send("DELETE", &target, b"").await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    assert_eq!(registry.get(&target).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_damaged_referrer_hides_no_other() {
    let registry = Served::new();
    let subject = registry.push_image("a", "v1", b"layer").await;
    for number in 0..2 {
        let mut image = registry.image("a", b"layer").await;
        image["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        image["annotations"] = json!({"number": number.to_string()});
        registry.put("a", &format!("r{number}"), &image).await;
    }
    let folder = registry.stored(&format!("a/_referrers/sha256/{}", subject.hex()));
    let one = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    write(&one.path(), "");
    let listed = registry.get(&format!("/v2/a/referrers/{subject}")).await;
    assert_eq!(listed.json()["manifests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_layer_that_was_cut_is_refused_to_a_manifest_and_pushed_again() {
    let registry = Served::new();
    let image = registry.image("a", b"a layer of some length").await;
    let layer = coral_image::Digest::sha256(b"a layer of some length");
    write(&registry.content(&layer), "a layer");
    let refused = registry.put("a", "v1", &image).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN")
    );
    // No client is told any more that the layer exists.
    let target = format!("/v2/a/blobs/{layer}");
    let head = registry.send("HEAD", &target, b"").await;
    assert_eq!(head.status, StatusCode::NOT_FOUND);
    for name in ["a", "b"] {
        let mount = format!("/v2/{name}/blobs/uploads/?mount={layer}&from=a");
        let answer = registry.send("POST", &mount, b"").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{name}");
    }
    registry.push("a", b"a layer of some length").await;
    let pushed = registry.put("a", "v1", &image).await;
    assert_eq!(pushed.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_layer_whose_content_is_gone_is_refused_to_a_manifest() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    let layer = coral_image::Digest::sha256(b"layer");
    fs::remove_file(registry.content(&layer)).unwrap();
    let refused = registry.put("a", "v1", &image).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN")
    );
}

#[tokio::test]
async fn a_manifest_that_lies_about_a_size_is_refused_and_the_blob_stays() {
    let registry = Served::new();
    let mut image = registry.image("a", b"layer").await;
    image["layers"][0]["size"] = json!(6);
    let refused = registry.put("a", "v1", &image).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (StatusCode::BAD_REQUEST, "SIZE_INVALID")
    );
    let detail = &refused.json()["errors"][0]["detail"];
    assert_eq!(
        (&detail["named"], &detail["stored"]),
        (&json!(6), &json!(5))
    );
    let layer = format!("/v2/a/blobs/{}", coral_image::Digest::sha256(b"layer"));
    assert_eq!(registry.get(&layer).await.body, b"layer");
}
