//! Wrong answers, refused referrers, and images that do not match the request.

use coral_distribution::Layout;
use coral_image::{Digest, ManifestKind, Tag, Version, media_type};
use coral_testkit::{BuiltManifest, Effect, Match};
use serde_json::{Value, json};

use super::*;

fn built(media_type: &str, manifest: &Value) -> Built {
    let bytes = serde_json::to_vec(manifest).unwrap();
    let manifest = BuiltManifest {
        media_type: media_type.to_owned(),
        digest: Digest::sha256(&bytes),
        bytes: bytes.into(),
    };
    Built {
        manifests: vec![manifest],
        ..Built::default()
    }
}

fn entry(of: &BuiltManifest) -> Value {
    json!({"mediaType": of.media_type, "digest": of.digest, "size": of.bytes.len()})
}

fn list(entries: &[Value]) -> Built {
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
    });
    built(media_type::OCI_INDEX, &index)
}

fn on(path: &str, effect: Effect) -> Fault {
    Fault {
        on: Match {
            path: Some(path.to_owned()),
            ..Match::default()
        },
        times: coral_testkit::Times::Always,
        effect,
    }
}

fn writes(registry: &FaultRegistry) -> usize {
    registry.count(|r| !["GET", "HEAD"].contains(&r.method.as_str()))
}

#[tokio::test]
async fn an_image_gets_its_tag_whatever_its_source_says_of_its_referrers() {
    for status in [401, 403, 406, 410, 418, 500, 503] {
        let pair = Pair::start().await;
        pair.source.load("team/app", &image(1));
        let refusal = Effect::Status {
            status,
            headers: vec![],
            body: String::new(),
        };
        pair.source.fault(on("/referrers/", refusal));
        let copied = pair.copy("team/app:1", "here/app:1").await.unwrap();
        assert_eq!(copied.missed.count, 1, "{status}");
        assert!(copied.missed.first.is_some(), "{status}");
        assert_eq!(copied.missed.may_pass(), status >= 500, "{status}");
        assert_eq!(pair.destination.difference("here/app", &image(1)), None);
    }
}

#[tokio::test]
async fn garbage_in_place_of_referrers_and_a_refused_signature_keep_no_image_back() {
    for (path, effect) in [
        ("/referrers/", Effect::Garbage { status: 200 }),
        (
            ".sig",
            Effect::Status {
                status: 403,
                headers: vec![],
                body: String::new(),
            },
        ),
    ] {
        let pair = Pair::start().await;
        pair.source.load("team/app", &image(1));
        pair.source.fault(on(path, effect));
        let copied = pair.copy("team/app:1", "here/app:1").await.unwrap();
        assert_eq!(copied.missed.count, 1, "{path}");
        assert_eq!(pair.destination.difference("here/app", &image(1)), None);
    }
}

#[tokio::test]
async fn a_referrer_that_cannot_be_read_is_missed_and_the_others_are_copied() {
    let pair = Pair::start().await;
    let app = image(1);
    let artifact = |kind| ImageBuilder::new(9).artifact(kind).subject(&app).build();
    let (whole, broken) = (artifact("application/x.sbom"), artifact("application/y"));
    for built in [&app, &whole, &broken] {
        pair.source.load("team/app", built);
    }
    let refused = broken.digest().to_string();
    let refusal = Effect::Status {
        status: 403,
        headers: vec![],
        body: String::new(),
    };
    pair.source
        .fault(on(&format!("/manifests/{refused}"), refusal));
    let copied = pair.copy("team/app:1", "here/app:1").await.unwrap();
    assert_eq!((copied.referrers, copied.missed.count), (1, 1));
    assert_eq!(pair.destination.difference("here/app", &whole), None);
    assert!(pair.destination.manifest("here/app", "1").is_some());
}

#[tokio::test]
async fn a_referrers_tag_that_answers_with_the_index_itself_lists_nothing() {
    let pair = Pair::start().await;
    let mut app = index(1);
    let tag = app.fallback_tag();
    app.tags.insert(tag.clone(), app.digest());
    pair.source.set_referrers(false);
    pair.source.load("team/app", &app);
    let folder = tempfile::tempdir().unwrap();
    let mut request = pair.request("team/app:1", "here/app:1");
    request.destination = CopySide::layout(Layout::new(folder.path()));
    request.options.platforms = vec![PlatformPattern::parse("linux/amd64").unwrap()];
    let copied = Copier::default().copy(&request).await.unwrap();
    assert_eq!((copied.referrers, copied.missed.count), (0, 0));
    assert!(copied.sparse.platforms);
    let tags = request.destination.endpoint.tags().await.unwrap();
    assert_eq!(tags.len(), 1, "{tag} is not copied");
}

#[tokio::test]
async fn a_signature_tag_that_answers_with_the_image_itself_is_no_signature() {
    let pair = Pair::start().await;
    let mut app = image(1);
    let tag = format!("sha256-{}.sig", app.digest().hex());
    app.tags.insert(tag.clone(), app.digest());
    pair.source.load("team/app", &app);
    let copied = pair.copy("team/app:1", "here/app:1").await.unwrap();
    assert_eq!((copied.referrers, copied.missed.count), (0, 0));
    assert!(pair.destination.manifest("here/app", &tag).is_none());
}

#[tokio::test]
async fn what_does_not_name_the_image_as_its_subject_is_no_referrer() {
    let pair = Pair::start().await;
    let (app, other) = (image(1), ImageBuilder::new(7).build());
    let mut claims = list(&[entry(other.root())]);
    claims.tags.insert(app.fallback_tag(), claims.digest());
    pair.source.set_referrers(false);
    for built in [&app, &other, &claims] {
        pair.source.load("team/app", built);
    }
    let copied = pair.copy("team/app:1", "here/app:1").await.unwrap();
    assert_eq!((copied.referrers, copied.missed.count), (0, 0));
    let there = pair
        .destination
        .manifest("here/app", &other.digest().to_string());
    assert!(there.is_none());
}

#[tokio::test]
async fn a_digest_at_the_destination_that_is_not_the_images_is_refused_before_anything_is_written()
{
    let pair = Pair::start().await;
    let app = image(1);
    pair.source.load("team/app", &app);
    let other = Digest::sha256(b"other");
    let refused = pair.copy("team/app:1", &format!("here/app@{other}")).await;
    let refused = refused.unwrap_err();
    let said = refused.to_string();
    assert!(said.contains(&other.to_string()) && said.contains(&app.digest().to_string()));
    let mut request = pair.request("team/app:1", "here/app:2");
    request.options.expected = Some(other);
    Copier::default().copy(&request).await.unwrap_err();
    assert_eq!(writes(&pair.destination), 0);
    request.options.expected = Some(app.digest());
    Copier::default().copy(&request).await.unwrap();
    assert!(pair.destination.manifest("here/app", "2").is_some());
}

#[tokio::test]
async fn a_copy_that_looks_first_writes_nothing_where_all_is_there_and_mends_what_is_not() {
    let pair = Pair::start().await;
    let app = index(1);
    pair.source.load("team/app", &app);
    let mut request = pair.request("team/app:1", "here/app:1");
    request.options.look_first = true;
    let copier = Copier::default();
    assert!(!copier.copy(&request).await.unwrap().up_to_date);
    pair.destination.clear_requests();
    assert!(copier.copy(&request).await.unwrap().up_to_date);
    assert_eq!(writes(&pair.destination), 0);
    // Another image has the name, and the first one still exists by its digest.
    let other = ImageBuilder::new(7).build().tagged("1");
    pair.destination.load("here/app", &other);
    assert!(!copier.copy(&request).await.unwrap().up_to_date);
    assert_eq!(pair.destination.tags("here/app")["1"], app.digest());
}

#[tokio::test]
async fn a_second_copy_brings_a_signature_that_is_new_and_leaves_the_tag() {
    let pair = Pair::start().await;
    let app = image(1);
    pair.source.load("team/app", &app);
    let mut request = pair.request("team/app:1", "here/app:1");
    request.options.look_first = true;
    Copier::default().copy(&request).await.unwrap();
    let signature = ImageBuilder::cosign_signature(&app);
    pair.source.load("team/app", &signature);
    pair.destination.clear_requests();
    let copied = Copier::default().copy(&request).await.unwrap();
    assert_eq!((copied.referrers, copied.up_to_date), (1, false));
    let tag = |r: &coral_testkit::Recorded| r.method == "PUT" && r.path.ends_with("/manifests/1");
    assert_eq!(pair.destination.count(tag), 0);
}

#[tokio::test]
async fn an_index_that_lists_layers_is_copied_with_them_and_odd_manifests_as_manifests() {
    let pair = Pair::start().await;
    let (layer, config) = (&b"layer"[..], &b"{}"[..]);
    let leaf = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::sha256(bytes), "size": bytes.len()});
    let odd = built(
        "application/vnd.example.thing+json",
        &json!({"schemaVersion": 2}),
    );
    let mut cache = list(&[
        leaf("application/vnd.oci.image.layer.v1.tar+gzip", layer),
        leaf("application/vnd.buildkit.cacheconfig.v0", config),
        entry(odd.root()),
    ])
    .tagged("1");
    for bytes in [layer, config] {
        cache
            .blobs
            .insert(Digest::sha256(bytes), bytes.to_vec().into());
    }
    let parsed = cache.root().bytes.clone();
    let parsed = coral_image::Manifest::parse(parsed, None).unwrap();
    assert_eq!(parsed.kind(), ManifestKind::Index);
    assert_eq!((parsed.children().len(), parsed.blobs().count()), (0, 3));
    for built in [&odd, &cache] {
        pair.source.load("team/app", built);
    }
    pair.copy("team/app:1", "here/app:1").await.unwrap();
    for built in [&odd, &cache] {
        assert_eq!(pair.destination.difference("here/app", built), None);
    }
}

#[tokio::test]
async fn an_image_of_one_manifest_for_another_platform_is_refused_as_an_index_is() {
    let pair = Pair::start().await;
    pair.source.load("team/app", &image(1));
    let sbom = ImageBuilder::new(9).artifact("application/x.sbom").build();
    pair.source.load("team/app", &sbom.tagged("sbom"));
    let docker = ImageBuilder::new(2).docker().tag("docker").build();
    pair.source.load("team/app", &docker);
    let mut request = pair.request("team/app:1", "here/app:1");
    let copier = Copier::default();
    request.options.platforms = vec![PlatformPattern::parse("windows/*").unwrap()];
    for tag in ["1", "docker"] {
        request.source_version = Version::Tag(Tag::parse(tag).unwrap());
        let refused = copier.copy(&request).await.unwrap_err();
        assert_eq!(refused.category(), "no_platform", "{tag}");
        assert_eq!(writes(&pair.destination), 0, "{tag}");
    }
    request.options.platforms = vec![PlatformPattern::parse("linux/*").unwrap()];
    copier.copy(&request).await.unwrap();
    // An artifact has no platform.
    request.source_version = Version::Tag(Tag::parse("sbom").unwrap());
    request.options.platforms = vec![PlatformPattern::parse("windows/*").unwrap()];
    copier.copy(&request).await.unwrap();
}
