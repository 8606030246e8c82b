use coral_image::{Manifest, ManifestKind};

use super::*;

fn check_parses(built: &Built) {
    for manifest in &built.manifests {
        let parsed = Manifest::parse_pinned(
            manifest.bytes.clone(),
            Some(&manifest.media_type),
            &manifest.digest,
        );
        let parsed = parsed.expect("a valid manifest");
        for blob in parsed.blobs() {
            assert_eq!(built.blobs[&blob.digest].len() as u64, blob.size);
        }
        for child in parsed.children() {
            assert!(built.manifests.iter().any(|m| m.digest == child.digest));
        }
    }
    for (digest, bytes) in &built.blobs {
        assert!(digest.matches(bytes));
    }
}

#[test]
fn the_same_seed_gives_the_same_image_and_another_seed_another() {
    let image = |seed| ImageBuilder::new(seed).layers_of(&[10, 20]).build();
    assert_eq!(image(1).digest(), image(1).digest());
    assert_ne!(image(1).digest(), image(2).digest());
}

#[test]
fn every_kind_is_valid_and_complete() {
    let image = ImageBuilder::new(1)
        .layers_of(&[100, 0, 7])
        .tag("1")
        .build();
    check_parses(&image);
    check_parses(&ImageBuilder::new(2).docker().layer_of(9).build());
    check_parses(&ImageBuilder::new(3).sha512().layer_of(9).build());
    check_parses(
        &ImageBuilder::new(4)
            .artifact("application/x")
            .layer("a")
            .subject(&image)
            .build(),
    );
    check_parses(&ImageBuilder::cosign_signature(&image));
    let index = IndexBuilder::of_platforms(5, &["linux/amd64", "linux/arm64/v8"], &[10, 20]);
    let index = index
        .attestation()
        .nested(IndexBuilder::new().image(image, "linux/s390x").build());
    let index = index.tag("all").build();
    check_parses(&index);
    let root = Manifest::parse(index.root().bytes.clone(), None).expect("valid");
    assert_eq!(root.kind(), ManifestKind::Index);
    assert_eq!(root.children().len(), 4);
    assert_eq!(index.tags["all"], index.digest());
}

#[test]
fn a_manifest_written_again_is_no_longer_the_same() {
    let built = ImageBuilder::new(1).layer_of(3).build();
    let value: serde_json::Value = serde_json::from_slice(&built.root().bytes).expect("JSON");
    assert_ne!(
        serde_json::to_vec(&value).expect("JSON"),
        built.root().bytes
    );
    assert_ne!(
        serde_json::to_vec_pretty(&value).expect("JSON"),
        built.root().bytes
    );
}
