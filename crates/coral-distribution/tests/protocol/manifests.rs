//! Manifests: the answer is the requested manifest, or an error.

use coral_distribution::{Category, Credentials};
use coral_image::{Manifest, Version, media_type};
use coral_testkit::{Effect, Fault, FaultRegistry, ImageBuilder, IndexBuilder};

use crate::fixture::*;

#[tokio::test]
async fn every_kind_of_manifest_goes_out_and_comes_back_byte_for_byte() {
    let registry = FaultRegistry::start().await;
    let client = anonymous(&registry);
    let images = [
        ImageBuilder::new(1).layer_of(10).build(),
        ImageBuilder::new(2).docker().build(),
        ImageBuilder::new(3).sha512().build(),
        IndexBuilder::of_platforms(4, &["linux/amd64", "linux/arm64/v8"], &[10]).build(),
        IndexBuilder::of_platforms(5, &["linux/amd64"], &[10])
            .docker()
            .build(),
    ];
    for built in images {
        load_blobs(&registry, &built);
        for manifest in &built.manifests {
            let sent = Manifest::parse_pinned(
                manifest.bytes.clone(),
                Some(&manifest.media_type),
                &manifest.digest,
            );
            let sent = sent.unwrap();
            client
                .put_manifest(&Version::Digest(manifest.digest), &sent)
                .await
                .unwrap();
            client.put_manifest(&tag("some"), &sent).await.unwrap();
            for version in [Version::Digest(manifest.digest), tag("some")] {
                let got = client.manifest(&version).await.unwrap();
                assert_eq!(got.bytes(), &manifest.bytes);
                assert_eq!(got.media_type(), manifest.media_type);
                let head = client.head(&version).await.unwrap().unwrap();
                assert_eq!(head.size, manifest.bytes.len() as u64);
                assert_eq!(head.media_type, manifest.media_type);
            }
            let head = client
                .head(&Version::Digest(manifest.digest))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(head.digest, manifest.digest);
        }
    }
}

#[tokio::test]
async fn a_tag_that_is_not_there_is_none_by_head_and_an_error_by_get() {
    let (registry, _) = registry_with_image().await;
    let client = anonymous(&registry);
    assert_eq!(client.head(&tag("2")).await.unwrap(), None);
    let error = client.manifest(&tag("2")).await.unwrap_err();
    assert_eq!(error.category(), Category::NotFound);
}

#[tokio::test]
async fn a_head_without_digest_or_length_or_without_head_reads_the_manifest() {
    for fault in [
        Fault::new(Effect::DropHeader {
            name: "docker-content-digest".to_owned(),
        }),
        Fault::new(status(405, &[], "")).method("HEAD"),
    ] {
        let (registry, built) = registry_with_image().await;
        registry.fault(fault);
        let head = anonymous(&registry).head(&tag("1")).await.unwrap().unwrap();
        assert_eq!(head.digest, built.digest());
        assert_eq!(registry.count(|r| r.method == "GET"), 1);
    }
}

#[tokio::test]
async fn head_that_is_refused_for_itself_is_followed_by_get_and_no_other_answer_is() {
    for (refusal, reads) in [
        (400, 1),
        (406, 1),
        (501, 1),
        (401, 0),
        (404, 0),
        (429, 0),
        (503, 0),
    ] {
        let (registry, built) = registry_with_image().await;
        registry.fault(Fault::new(status(refusal, &[], "")).method("HEAD"));
        let head = anonymous(&registry).head(&tag("1")).await;
        let found = head.ok().flatten().map(|head| head.digest);
        assert_eq!(found, (reads > 0).then(|| built.digest()), "{refusal}");
        assert_eq!(registry.count(|r| r.method == "GET"), reads, "{refusal}");
    }
}

#[tokio::test]
async fn wrong_bytes_are_named_by_digest_and_by_tag() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(Effect::FlipByte { at: 20 }));
    let client = anonymous(&registry);
    for version in [tag("1"), Version::Digest(built.digest())] {
        let error = client.manifest(&version).await.unwrap_err();
        assert_eq!(error.category(), Category::Digest, "{error}");
    }
}

#[tokio::test]
async fn a_header_that_contradicts_the_digest_asked_for_is_named() {
    let (registry, built) = registry_with_image().await;
    let other = coral_image::Digest::sha256(b"other").to_string();
    registry.fault(Fault::new(set_header("docker-content-digest", &other)));
    let client = anonymous(&registry);
    let version = Version::Digest(built.digest());
    assert_eq!(
        client.head(&version).await.unwrap_err().category(),
        Category::Digest
    );
    assert_eq!(
        client.manifest(&version).await.unwrap().digest(),
        built.digest()
    );
    assert_eq!(
        client.manifest(&tag("1")).await.unwrap_err().category(),
        Category::Digest
    );
}

#[tokio::test]
async fn a_huge_or_endless_manifest_is_not_read() {
    for effect in [Effect::Huge { size: 5_000_000 }, Effect::Endless] {
        let (registry, _) = registry_with_image().await;
        registry.fault(Fault::new(effect).method("GET"));
        let error = anonymous(&registry).manifest(&tag("1")).await.unwrap_err();
        assert_eq!(error.category(), Category::TooLarge, "{error}");
    }
}

#[tokio::test]
async fn what_is_no_manifest_is_named() {
    let (registry, _) = registry_with_image().await;
    registry.fault(Fault::new(Effect::Garbage { status: 200 }));
    let error = anonymous(&registry).manifest(&tag("1")).await.unwrap_err();
    assert_eq!(error.category(), Category::Protocol, "{error}");
    let (registry, _) = registry_with_image().await;
    registry.fault(Fault::new(set_header(
        "docker-content-digest",
        "sha256:xyz",
    )));
    let error = anonymous(&registry).manifest(&tag("1")).await.unwrap_err();
    assert!(
        error.to_string().contains("Docker-Content-Digest"),
        "{error}"
    );
}

#[tokio::test]
async fn a_manifest_sent_with_parameters_in_its_type_keeps_its_type() {
    let (registry, _) = registry_with_image().await;
    let sent = format!("{}; charset=utf-8", media_type::OCI_MANIFEST);
    registry.fault(Fault::new(set_header("content-type", &sent)));
    let manifest = anonymous(&registry).manifest(&tag("1")).await.unwrap();
    assert_eq!(manifest.media_type(), media_type::OCI_MANIFEST);
}

#[tokio::test]
async fn a_registry_that_stores_other_bytes_is_caught_at_once() {
    let (registry, _) = registry_with_image().await;
    let client = with(&registry, plain(&[&registry]), Credentials::none());
    let manifest = client.manifest(&tag("1")).await.unwrap();
    let other = coral_image::Digest::sha256(b"other").to_string();
    registry.fault(Fault::new(set_header("docker-content-digest", &other)).method("PUT"));
    let error = client.put_manifest(&tag("2"), &manifest).await.unwrap_err();
    assert_eq!(error.category(), Category::Digest);
}

#[tokio::test]
async fn a_tag_is_deleted() {
    let (registry, _) = registry_with_image().await;
    let client = anonymous(&registry);
    client.delete(&tag("1")).await.unwrap();
    assert_eq!(client.head(&tag("1")).await.unwrap(), None);
    assert_eq!(
        client.delete(&tag("1")).await.unwrap_err().category(),
        Category::NotFound
    );
}
