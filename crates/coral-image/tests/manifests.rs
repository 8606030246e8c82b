//! Manifests as they occur in registries, and some that no registry should have.

use bytes::Bytes;
use coral_image::{
    Descriptor, Digest, MAX_MANIFEST_SIZE, Manifest, ManifestError, ManifestKind, media_type,
};

const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn parse(json: &str, content_type: Option<&str>) -> Result<Manifest, ManifestError> {
    let json = json.replace("ZERO", ZERO);
    Manifest::parse(Bytes::from(json), content_type)
}

fn check(json: &str, content_type: Option<&str>, kind: ManifestKind) -> Manifest {
    let manifest = parse(json, content_type).unwrap_or_else(|e| panic!("{json}: {e:?}"));
    assert_eq!(manifest.kind(), kind, "{json}");
    manifest
}

fn check_refused(json: &str, content_type: Option<&str>, wanted: &str) {
    let error = parse(json, content_type).expect_err(json).to_string();
    assert!(error.contains(wanted), "{json}: {error:?} has {wanted:?}");
}

#[test]
fn artifacts_of_every_kind_are_read() {
    let helm = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"ZERO","size":2},"layers":[{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":"ZERO","size":1}],"annotations":{"org.opencontainers.image.title":"x"}}"#;
    let manifest = check(helm, None, ManifestKind::Image);
    assert_eq!(manifest.media_type(), media_type::OCI_MANIFEST);
    assert_eq!(
        manifest.artifact_type(),
        Some("application/vnd.cncf.helm.config.v1+json")
    );

    let oras = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"text/x","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"ZERO","size":2,"data":"e30="},"layers":[],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"ZERO","size":9}}"#;
    let manifest = check(oras, Some(media_type::OCI_MANIFEST), ManifestKind::Image);
    assert_eq!(manifest.artifact_type(), Some("text/x"));
    assert_eq!(manifest.subject().map(|s| s.size), Some(9));

    let artifact = r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"text/x","blobs":[{"digest":"ZERO","size":3}]}"#;
    let manifest = check(
        artifact,
        Some(media_type::OCI_ARTIFACT),
        ManifestKind::Image,
    );
    assert_eq!(manifest.blobs().count(), 1);
}

#[test]
fn an_index_with_attestations_and_odd_platforms_is_read() {
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
        {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"ZERO","size":1,"platform":{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["win32k"],"features":null,"variant":null}},
        {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"ZERO","size":1,"platform":{"architecture":"unknown","os":"unknown"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}},
        {"mediaType":null,"digest":"ZERO","size":1,"platform":{"os":null},"annotations":null,"urls":null}
    ],"annotations":null}"#;
    let manifest = check(index, None, ManifestKind::Index);
    assert_eq!(manifest.children().len(), 3);
    assert_eq!(manifest.artifact_type(), None);
}

#[test]
fn nulls_that_go_writes_for_empty_lists_are_empty_lists() {
    let image = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":"ZERO","size":2},"layers":null,"annotations":{"a":null,"b":1,"c":"d"}}"#;
    let manifest = check(image, None, ManifestKind::Image);
    assert_eq!(manifest.blobs().count(), 1);
    let annotations = manifest.body().annotations.clone().unwrap();
    assert_eq!(
        annotations.into_iter().collect::<Vec<_>>(),
        [("c".to_owned(), "d".to_owned())]
    );

    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null,"layers":null,"config":null}"#;
    assert!(
        check(index, None, ManifestKind::Index)
            .children()
            .is_empty()
    );
    let untyped =
        r#"{"schemaVersion":2,"config":{"digest":"ZERO","size":2},"layers":[],"manifests":null}"#;
    check(untyped, None, ManifestKind::Image);
}

#[test]
fn a_docker_manifest_keeps_its_type_and_parameters_of_the_header_are_dropped() {
    let docker = r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"ZERO","size":2},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"ZERO","size":3,"urls":["https://example.com/x"]}]}"#;
    let header = format!("{}; charset=utf-8", media_type::DOCKER_MANIFEST);
    let manifest = check(docker, Some(&header), ManifestKind::Image);
    assert_eq!(manifest.media_type(), media_type::DOCKER_MANIFEST);
    check(docker, Some("application/json"), ManifestKind::Image);
}

#[test]
fn a_foreign_layer_is_known_by_its_type_or_its_urls() {
    let layer = |media_type: &str, urls: &[&str]| Descriptor {
        urls: Some(urls.iter().map(|&url| url.to_owned()).collect()),
        ..Descriptor::new(media_type, Digest::sha256(b""), 0)
    };
    let url = &["https://example.com/x"][..];
    for (media_type, urls, is_foreign, stays) in [
        (media_type::OCI_LAYER, &[][..], false, false),
        (media_type::OCI_LAYER, url, true, false),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            url,
            true,
            true,
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            &[],
            false,
            false,
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            url,
            true,
            true,
        ),
        ("application/x.foreign-policy", &[], false, false),
    ] {
        let layer = layer(media_type, urls);
        assert_eq!(layer.is_foreign(), is_foreign, "{layer:?}");
        assert_eq!(layer.must_not_be_distributed(), stays, "{layer:?}");
    }
}

#[test]
fn what_is_image_and_index_at_once_is_refused() {
    let both = r#"{"schemaVersion":2,"config":{"digest":"ZERO","size":2},"layers":[],"manifests":[{"digest":"ZERO","size":1}]}"#;
    check_refused(
        both,
        Some(media_type::OCI_MANIFEST),
        "must not have the field \"manifests\"",
    );
    check_refused(
        both,
        Some(media_type::OCI_INDEX),
        "must not have the field \"config\"",
    );
    check_refused(both, None, "must not have the field");
}

#[test]
fn what_is_no_manifest_is_refused_with_a_reason() {
    let oci = Some(media_type::OCI_MANIFEST);
    check_refused("", oci, "not valid JSON");
    check_refused("<html>", oci, "not valid JSON");
    check_refused("[]", oci, "not valid JSON");
    check_refused(" [2, null, {}, []]", oci, "not valid JSON");
    check_refused("{}", None, "neither the Content-Type nor the manifest");
    check_refused("{}", oci, "needs the field \"config\"");
    check_refused(
        "{}",
        Some(media_type::OCI_INDEX),
        "needs the field \"manifests\"",
    );
    check_refused(
        r#"{"config":{"digest":"ZERO","size":1}}"#,
        oci,
        "needs the field \"layers\"",
    );
    check_refused(
        r#"{"schemaVersion":1,"fsLayers":[]}"#,
        None,
        "schema version 1",
    );
    check_refused(
        "{}",
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        "schema version 1",
    );
    check_refused(
        r#"{"mediaType":"a/b"}"#,
        oci,
        "says it is \"a/b\", but was sent as",
    );
    for config in [
        r#"{"digest":"ZERO","size":-1}"#,
        r#"{"digest":"ZERO","size":1e30}"#,
        r#"{"digest":"ZERO","size":18446744073709551616}"#,
        r#"{"digest":"ZERO","size":"1"}"#,
        r#"{"digest":"blake3:00","size":1}"#,
        r#"{"digest":null,"size":1}"#,
        r#"{"size":1}"#,
        r#"{"digest":"ZERO","digest":"ZERO","size":1}"#,
    ] {
        check_refused(
            &format!(r#"{{"config":{config},"layers":[]}}"#),
            oci,
            "not valid JSON",
        );
    }
}

#[test]
fn deep_nesting_and_large_sizes_are_survived() {
    let deep = format!(
        r#"{{"x":{}{}}}"#,
        "[".repeat(1_000_000),
        "]".repeat(1_000_000)
    );
    assert!(parse(&deep, Some(media_type::OCI_MANIFEST)).is_err());
    let annotations = format!(
        r#"{{"annotations":{{"a":{}{}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(parse(&annotations, Some(media_type::OCI_MANIFEST)).is_err());
    let large = Bytes::from(vec![b' '; MAX_MANIFEST_SIZE + 1]);
    let digest = Digest::sha256(&large);
    assert!(matches!(
        Manifest::parse(large.clone(), None),
        Err(ManifestError::TooLarge)
    ));
    assert!(matches!(
        Manifest::parse_pinned(large, None, &digest),
        Err(ManifestError::TooLarge)
    ));
    let huge = r#"{"config":{"digest":"ZERO","size":18446744073709551615},"layers":[]}"#;
    let manifest = check(huge, Some(media_type::OCI_MANIFEST), ManifestKind::Image);
    assert_eq!(manifest.blobs().map(|d| d.size).max(), Some(u64::MAX));
}

#[test]
fn a_manifest_that_does_not_hash_to_what_was_asked_for_is_refused() {
    let bytes = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
    for digest in [
        Digest::sha256(b"other"),
        coral_image::Algorithm::Sha512.digest(b"other"),
    ] {
        let error = Manifest::parse_pinned(bytes.clone(), Some(media_type::OCI_INDEX), &digest);
        assert!(matches!(error, Err(ManifestError::Digest { .. })));
    }
    let digest = coral_image::Algorithm::Sha512.digest(&bytes);
    let manifest = Manifest::parse_pinned(bytes, Some(media_type::OCI_INDEX), &digest).unwrap();
    assert_eq!(manifest.digest(), digest);
}
