//! Foreign layers: left out, copied if they are wanted, and missing at a source.

use std::collections::{BTreeMap, HashSet};

use coral_api::mirrored_images::MissingPart;
use coral_image::{Digest, media_type};
use coral_mirror::{Layers, PlannedAction, plan};
use coral_testkit::{BuiltManifest, Recorded};
use serde_json::{Value, json};

use super::gone::Heard;
use super::*;

const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const CONFIG: &[u8] = br#"{"os":"windows","architecture":"amd64"}"#;
const OWN: &[u8] = b"own";
const BASE: &[u8] = b"base";
const SECOND: &[u8] = b"second";

fn named(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::sha256(content), "size": content.len()})
}

fn manifest(media_type: &str, body: &Value) -> BuiltManifest {
    let bytes = serde_json::to_vec(body).unwrap();
    BuiltManifest {
        media_type: media_type.to_owned(),
        digest: Digest::sha256(&bytes),
        bytes: bytes.into(),
    }
}

/// An image whose layer `BASE` has this type and URLs, with the content of all layers.
fn windows(kind: &str, urls: &[&str]) -> Built {
    let mut base = named(kind, BASE);
    if !urls.is_empty() {
        base["urls"] = json!(urls);
    }
    image_of(&[base, named(media_type::OCI_LAYER, OWN)])
}

fn image_of(layers: &[Value]) -> Built {
    let image = json!({
        "schemaVersion": 2,
        "mediaType": media_type::DOCKER_MANIFEST,
        "config": named(media_type::DOCKER_CONFIG, CONFIG),
        "layers": layers,
    });
    let blobs = [CONFIG, OWN, BASE].map(|bytes| (Digest::sha256(bytes), bytes.into()));
    let built = Built {
        blobs: blobs.into(),
        manifests: vec![manifest(media_type::DOCKER_MANIFEST, &image)],
        ..Built::default()
    };
    built.tagged("1")
}

/// The same image with a second foreign layer, `SECOND`.
fn two_bases() -> Built {
    let urls = json!(["https://layers.example/base"]);
    let [base, second] = [BASE, SECOND].map(|content| {
        let mut layer = named(FOREIGN, content);
        layer["urls"] = urls.clone();
        layer
    });
    let mut built = image_of(&[base, second, named(media_type::OCI_LAYER, OWN)]);
    built.blobs.insert(Digest::sha256(SECOND), SECOND.into());
    built
}

fn usual() -> Built {
    windows(FOREIGN, &["https://layers.example/base"])
}

/// The image below an index.
fn index_of(image: Built) -> Built {
    let child = image.root();
    let entry = json!({
        "mediaType": child.media_type, "digest": child.digest, "size": child.bytes.len(),
        "platform": {"os": "windows", "architecture": "amd64"},
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry],
    });
    let index = Built {
        manifests: vec![manifest(media_type::OCI_INDEX, &index)],
        ..Built::default()
    };
    Built {
        tags: BTreeMap::new(),
        ..image.with(index)
    }
    .tagged("1")
}

impl Pair {
    async fn copy_all(&self, to: &str) -> Copied {
        let mut request = self.request("a/b:1", to);
        request.options.foreign_layers = true;
        request.options.look_first = true;
        Copier::default().copy(&request).await.unwrap()
    }

    fn has_base(&self, path: &str) -> bool {
        let base = self.destination.blob(path, &Digest::sha256(BASE));
        base.is_some_and(|bytes| bytes == BASE)
    }

    /// A mirror of `a/b` without and with foreign layers.
    fn mirrors(&self) -> [Mirror; 2] {
        ["tags: ['1']", "tags: ['1'], foreignLayers: true"]
            .map(|entry| self.mirror_with("", &[("a/b", entry)]))
    }
}

#[tokio::test]
async fn a_layer_that_must_not_be_distributed_stays_at_its_urls_unless_it_is_asked_for() {
    for built in [usual(), index_of(usual())] {
        let pair = Pair::start().await;
        pair.source.load("a/b", &built);
        let copied = pair.copy("a/b:1", "here/b:1").await.unwrap();
        assert_eq!(copied.digest, built.digest());
        assert_eq!(copied.sparse.layers, Layers::LeftOut);
        assert!(!copied.sparse.platforms && !pair.has_base("here/b"));
        let stored = pair.destination.manifest("here/b", "1").unwrap();
        assert_eq!(stored.1, built.root().bytes);
        // The image has its name. Its missing layers are copied all the same; the next copy has
        // nothing to do.
        let copied = pair.copy_all("here/b:1").await;
        assert_eq!(copied.sparse.layers, Layers::Complete);
        assert_eq!(copied.moved, BASE.len() as u64);
        assert_eq!(pair.destination.difference("here/b", &built), None);
        let copied = pair.copy_all("here/b:1").await;
        assert!(copied.up_to_date && copied.moved == 0);
    }
}

#[tokio::test]
async fn an_index_whose_children_are_there_is_known_to_lack_their_foreign_layers() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &index_of(usual()));
    pair.copy("a/b:1", "here/b:1").await.unwrap();
    let again = pair.copy("a/b:1", "here/b:2").await.unwrap();
    assert_eq!(again.sparse.layers, Layers::LeftOut);
}

#[tokio::test]
async fn a_foreign_layer_that_the_source_does_not_have_fails_no_image() {
    let urls = &["https://layers.example/base"][..];
    for (kind, urls) in [
        (FOREIGN, urls),
        (media_type::OCI_LAYER, urls),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            urls,
        ),
    ] {
        let pair = Pair::start().await;
        let mut built = windows(kind, urls);
        built.blobs.remove(&Digest::sha256(BASE));
        pair.source.load("a/b", &built);
        let copied = pair.copy_all("here/b:1").await;
        assert_eq!(copied.sparse.layers, Layers::NotAtSource, "{kind}");
        assert_eq!(pair.destination.difference("here/b", &built), None);
    }
    // A layer without URLs is missed, whatever its type.
    for kind in [media_type::OCI_LAYER, FOREIGN] {
        let pair = Pair::start().await;
        let mut built = windows(kind, &[]);
        built.blobs.remove(&Digest::sha256(BASE));
        pair.source.load("a/b", &built);
        assert!(pair.copy("a/b:1", "here/b:1").await.is_err(), "{kind}");
    }
}

#[tokio::test]
async fn what_nothing_else_has_or_may_be_distributed_is_copied() {
    let urls = &["https://layers.example/base"][..];
    for (kind, urls) in [(FOREIGN, &[][..]), (media_type::OCI_LAYER, urls)] {
        let pair = Pair::start().await;
        pair.source.load("a/b", &windows(kind, urls));
        let copied = pair.copy("a/b:1", "here/b:1").await.unwrap();
        assert!(!copied.sparse.is_sparse(), "{kind}");
        assert!(pair.has_base("here/b"), "{kind}");
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_asked_for_a_foreign_layer_fails_the_copy() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &usual());
    let head = Fault::new(super::gone::status_of(500)).method("HEAD");
    pair.source.fault(head.path("/blobs/"));
    let mut request = pair.request("a/b:1", "here/b:1");
    request.options.foreign_layers = true;
    assert!(Copier::default().copy(&request).await.is_err());
    assert!(pair.destination.tags("here/b").is_empty());
}

#[tokio::test]
async fn a_mirror_says_that_foreign_layers_are_left_out_and_brings_them_once_they_are_wanted() {
    for built in [usual(), index_of(usual())] {
        let pair = Pair::start().await;
        let heard = Arc::new(Heard::default());
        pair.source.load("a/b", &built);
        let [without, with] = pair.mirrors();
        let ended = pair.pass_of(without.clone(), None, &heard).await;
        assert_eq!((ended.summary.mirrored, ended.summary.sparse), (1, 1));
        let image = &ended.snapshot.images[0];
        let message = image.message.clone().unwrap_or_default();
        assert!(
            image.sparse && message.contains("foreign layers"),
            "{message}"
        );
        // This is remembered across restarts, and the image does not count as damaged.
        let verified = Mirror {
            verify: Verify::Now,
            ..without
        };
        pair.destination.clear_requests();
        let memory = ended.snapshot.clone().into_memory();
        let ended = pair.pass_of(verified, Some(memory), &heard).await;
        assert_eq!((ended.summary.mirrored, ended.summary.sparse), (1, 1));
        assert_eq!(ended.snapshot.images[0].message, Some(message));
        let writes = |r: &Recorded| !["GET", "HEAD"].contains(&r.method.as_str());
        assert_eq!(pair.destination.count(writes), 0);
        // The layers are wanted now: they are copied, even by a mirror without a snapshot.
        let ended = pair.pass_of(with, None, &heard).await;
        assert_eq!((ended.summary.mirrored, ended.summary.sparse), (1, 0));
        assert_eq!(
            pair.destination.difference(&pair.landed("a/b"), &built),
            None
        );
        assert_eq!(ended.snapshot.images[0].message, None);
    }
}

#[tokio::test]
async fn a_foreign_layer_that_is_wanted_and_nowhere_is_asked_for_once() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let mut built = usual();
    built.blobs.remove(&Digest::sha256(BASE));
    pair.source.load("a/b", &built);
    let [_, with] = pair.mirrors();
    let ended = pair.pass_of(with.clone(), None, &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.sparse), (1, 1));
    pair.source.clear_requests();
    pair.destination.clear_requests();
    heard.take_up_to_date();
    let ended = pair
        .pass_of(with.clone(), Some(ended.snapshot), &heard)
        .await;
    assert_eq!(heard.take_up_to_date(), ["1"]);
    let verified = Mirror {
        verify: Verify::Now,
        ..with
    };
    let ended = pair.pass_of(verified, Some(ended.snapshot), &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.sparse), (1, 1));
    assert_eq!(pair.source.count(|r| r.path.contains("/blobs/")), 0);
    let writes = |r: &Recorded| !["GET", "HEAD"].contains(&r.method.as_str());
    assert_eq!(pair.destination.count(writes), 0);
}

/// Regression: if one foreign layer was missing, damage to any of them went unnoticed.
#[tokio::test]
async fn a_foreign_layer_that_is_there_is_verified_though_another_is_missing() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let mut built = two_bases();
    built.blobs.remove(&Digest::sha256(SECOND));
    pair.source.load("a/b", &built);
    let [_, with] = pair.mirrors();
    let ended = pair.pass_of(with.clone(), None, &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.sparse), (1, 1));
    let base = Digest::sha256(BASE);
    pair.destination
        .spoil_blob(&pair.landed("a/b"), &base, &b"no"[..]);
    let verified = Mirror {
        verify: Verify::Now,
        ..with
    };
    let ended = pair.pass_of(verified, Some(ended.snapshot), &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.sparse), (1, 1));
    assert!(pair.has_base(&pair.landed("a/b")));
}

#[tokio::test]
async fn what_is_missing_of_an_image_is_a_field_and_not_only_a_message() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let mut nowhere = usual();
    nowhere.blobs.remove(&Digest::sha256(BASE));
    pair.source.load("a/b", &nowhere);
    let [without, with] = pair.mirrors();
    for (mirror, expected) in [
        (without, MissingPart::ForeignLayers),
        (with, MissingPart::ForeignLayersAtSource),
    ] {
        let ended = pair.pass_of(mirror.clone(), None, &heard).await;
        assert_eq!(ended.snapshot.images[0].missing, [expected]);
        // The message is for people: no later process parses it.
        let mut memory = ended.snapshot.into_memory();
        assert_eq!(memory.images[0].message, None);
        memory.images[0].message = Some("in other words".to_owned());
        let ended = pair.pass_of(mirror, Some(memory), &heard).await;
        assert_eq!(ended.snapshot.images[0].missing, [expected]);
    }
}

#[tokio::test]
async fn a_plan_counts_foreign_layers_where_they_are_wanted() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &usual());
    let [without, with] = pair.mirrors();
    let planned = async |mirror: &Mirror| {
        let now = jiff::Timestamp::now();
        let planned = plan(mirror, now, &mut HashSet::new()).await;
        planned[0].action.clone()
    };
    let copy = |contents: &[&[u8]]| PlannedAction::Copy {
        bytes: contents.iter().map(|bytes| bytes.len() as u64).sum(),
        blobs: contents.len(),
    };
    assert_eq!(planned(&without).await, copy(&[CONFIG, OWN]));
    assert_eq!(planned(&with).await, copy(&[CONFIG, OWN, BASE]));
    let heard = Arc::new(Heard::default());
    pair.pass_of(without.clone(), None, &heard).await;
    let skip = PlannedAction::Skip(usual().digest());
    assert_eq!(planned(&without).await, skip);
    assert_eq!(planned(&with).await, copy(&[BASE]));
    pair.pass_of(with.clone(), None, &heard).await;
    assert_eq!(planned(&with).await, skip);
}
