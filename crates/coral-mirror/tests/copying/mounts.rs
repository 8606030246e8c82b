//! Mounts of blobs that the destination has in another repository of the mirror, by a later
//! process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coral_api::documents::{self, Object};
use coral_image::{Digest, Host};
use coral_mirror::{CopyLimits, Engine, EngineLimits, InProcess, Mirror, Until};
use coral_testkit::{
    Built, Effect, Fault, FaultRegistry, ImageBuilder, IndexBuilder, Match, Recorded, Times,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::upkeep::engine;
use super::{Deaf, Pair, own_registry};

/// Longest time that a test waits for an event.
const LONGEST: Duration = Duration::from_mins(2);

/// An image with a base that other images share, and a layer of its own.
fn above(base: &[u8], seed: u64) -> Built {
    let image = ImageBuilder::new(seed).layer(base.to_vec());
    image.layer_of(10_000).tag("1").build()
}

fn reads_manifest(request: &Recorded) -> bool {
    request.method == "GET" && request.path.contains("/manifests/")
}

/// The blobs that were read at the source.
fn read(source: &FaultRegistry) -> BTreeSet<Digest> {
    let requests = source.requests();
    let read = requests.iter().filter(|r| r.method == "GET");
    read.filter_map(|r| r.path.split_once("/blobs/"))
        .map(|(_, digest)| Digest::parse(digest).unwrap())
        .collect()
}

fn blobs(built: &Built) -> BTreeSet<Digest> {
    built.blobs.keys().copied().collect()
}

#[tokio::test]
async fn a_later_process_reads_no_blob_that_another_image_of_the_mirror_has_there() {
    let pair = Pair::start().await;
    let base = vec![7; 60_000];
    let old: Vec<Built> = (0..5).map(|seed| above(&base, seed)).collect();
    for (number, built) in old.iter().enumerate() {
        pair.source.load(&format!("team/old{number}"), built);
    }
    let new: Vec<Built> = (5..10).map(|seed| above(&base, seed)).collect();
    for (number, built) in new.iter().enumerate() {
        pair.source.load(&format!("team/new{number}"), built);
    }
    let names = |kind: &str| {
        (0..5)
            .map(|n| format!("team/{kind}{n}"))
            .collect::<Vec<_>>()
    };
    let (old_names, new_names) = (names("old"), names("new"));
    let all: Vec<&str> = new_names
        .iter()
        .chain(&old_names)
        .map(String::as_str)
        .collect();
    pair.pass(&all[5..]).await;
    pair.source.clear_requests();
    pair.destination.clear_requests();
    let summary = pair.pass(&all).await;
    assert_eq!((summary.mirrored, summary.errors), (10, 0));
    for (name, built) in new_names.iter().zip(&new) {
        let place = pair.landed(name);
        assert_eq!(pair.destination.difference(&place, built), None, "{name}");
    }
    let there: BTreeSet<Digest> = old.iter().flat_map(blobs).collect();
    let wanted: BTreeSet<Digest> = new.iter().flat_map(blobs).collect();
    let missing: BTreeSet<Digest> = wanted.difference(&there).copied().collect();
    assert_eq!(read(&pair.source), missing);
    let of_old = |r: &Recorded| reads_manifest(r) && r.path.contains("/old");
    assert_eq!(pair.destination.count(of_old), 5, "each image is read once");
    assert!(pair.destination.repositories().len() >= 10);
}

#[tokio::test]
async fn the_images_below_an_index_count_too() {
    let pair = Pair::start().await;
    let platforms = ["linux/amd64", "linux/arm64"];
    let old = IndexBuilder::of_platforms(1, &platforms, &[40_000])
        .tag("1")
        .build();
    let layer = old
        .blobs
        .values()
        .find(|bytes| bytes.len() == 40_000)
        .unwrap();
    let new = ImageBuilder::new(9).layer(layer.clone()).tag("1").build();
    pair.source.load("team/old", &old);
    pair.source.load("team/new", &new);
    pair.pass(&["team/old"]).await;
    pair.source.clear_requests();
    pair.pass(&["team/old", "team/new"]).await;
    let missing: BTreeSet<Digest> = blobs(&new).difference(&blobs(&old)).copied().collect();
    assert_eq!(read(&pair.source), missing);
}

#[tokio::test]
async fn no_manifest_is_read_while_nothing_is_to_be_copied() {
    let pair = Pair::start().await;
    let names = ["team/a", "team/b"];
    for (name, seed) in names.iter().zip(0..) {
        pair.source.load(name, &above(&[1; 1000], seed));
    }
    pair.pass(&names).await;
    pair.destination.clear_requests();
    pair.pass(&names).await;
    assert_eq!(pair.destination.count(reads_manifest), 0);
}

/// The blob is in a repository of the destination that the mirror fills, but its source does not
/// have it: knowing its digest is no right to it.
#[tokio::test]
async fn a_blob_that_the_source_lacks_is_not_mounted() {
    let pair = Pair::start().await;
    let secret = vec![9; 50_000];
    let digest = Digest::sha256(&secret);
    let thief = above(&secret, 2);
    pair.source.load("team/secret", &above(&secret, 1));
    pair.source.load("team/thief", &thief);
    pair.pass(&["team/secret"]).await;
    pair.source.lose_blob("team/thief", &digest);
    let summary = pair.pass(&["team/secret", "team/thief"]).await;
    assert_eq!((summary.mirrored, summary.errors), (1, 1));
    let place = pair.landed("team/thief");
    assert_eq!(pair.destination.blob(&place, &digest), None);
}

#[tokio::test]
async fn a_process_that_goes_on_from_a_snapshot_knows_what_is_there() {
    let pair = Pair::start().await;
    let base = vec![7; 60_000];
    let (old, new) = (above(&base, 1), above(&base, 2));
    pair.source.load("team/old", &old);
    let mirror = pair.described("default/m", &["team/old"]);
    let run = |mirror: Mirror| async {
        let engine = engine(Arc::new(Deaf));
        let stop = CancellationToken::new();
        engine
            .run(mirror, Until::OnePass, stop, |_| {})
            .await
            .snapshot
    };
    let snapshot = run(mirror).await;
    pair.source.load("team/new", &new);
    pair.source.clear_requests();
    let restarted = Mirror {
        restored: Some(Arc::new(snapshot)),
        ..pair.described("default/m", &["team/old", "team/new"])
    };
    run(restarted).await;
    let missing: BTreeSet<Digest> = blobs(&new).difference(&blobs(&old)).copied().collect();
    assert_eq!(read(&pair.source), missing);
}

#[tokio::test]
async fn a_registry_that_tells_of_its_blobs_is_asked_for_no_manifest() {
    let pair = Pair::start().await;
    let storage = tempfile::tempdir().unwrap();
    let behind = own_registry(storage.path()).await;
    let proxy = coral_testkit::CountingProxy::start(&behind).await.unwrap();
    let host = proxy.addr().to_string();
    let client = super::client(&[&pair.source.host(), &host]);
    let base = vec![7; 60_000];
    let (old, new) = (above(&base, 1), above(&base, 2));
    pair.source.load("team/old", &old);
    pair.source.load("team/new", &new);
    let pass = |names: &'static [&str]| {
        let mut mirror = pair.described("default/m", names);
        mirror.access.client = client.clone();
        mirror.access.destination_client = client.clone();
        mirror.access.destination = Host::parse(&host).unwrap();
        async move {
            let engine = engine(Arc::new(Deaf));
            let stop = CancellationToken::new();
            engine
                .run(mirror, Until::OnePass, stop, |_| {})
                .await
                .summary
        }
    };
    pass(&["team/old"]).await;
    pair.source.clear_requests();
    let summary = pass(&["team/old", "team/new"]).await;
    assert_eq!((summary.mirrored, summary.errors), (2, 0));
    let missing: BTreeSet<Digest> = blobs(&new).difference(&blobs(&old)).copied().collect();
    assert_eq!(read(&pair.source), missing);
    let read = proxy
        .requests()
        .iter()
        .filter(|r| reads_manifest(r))
        .count();
    assert_eq!(read, 0);
}

/// Requests with this method and this part in their path wait at a gate.
fn held(method: &str, path: &str, gate: &str) -> Fault {
    Fault {
        on: Match {
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
        },
        times: Times::Always,
        effect: Effect::Hold {
            gate: gate.to_owned(),
        },
    }
}

fn sends_blob(request: &Recorded) -> bool {
    request.method == "PUT" && request.path.contains("/blobs/uploads/")
}

#[tokio::test]
async fn a_copy_that_waits_for_manifests_holds_up_no_transfer_of_another_mirror() {
    let (pair, other) = (Pair::start().await, Pair::start().await);
    let base = vec![7; 60_000];
    pair.source.load("team/old", &above(&base, 1));
    pair.source.load("team/new", &above(&base, 2));
    other.source.load("team/app", &above(&base, 3));
    pair.pass(&["team/old"]).await;
    pair.destination.clear_requests();
    pair.destination
        .fault(held("GET", "/manifests/", "manifests"));
    let one_transfer = EngineLimits {
        copy: CopyLimits {
            transfers: 1,
            ..CopyLimits::default()
        },
        ..EngineLimits::default()
    };
    let engine = Engine::start(InProcess::default(), one_transfer, Arc::new(Deaf));
    let run = |mirror| engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {});
    let waits = run(pair.described("default/waits", &["team/old", "team/new"]));
    let goes_on = async {
        let asks = |requests: &[Recorded]| requests.iter().any(reads_manifest);
        pair.destination.wait_for(asks).await;
        let ended = run(other.described("default/other", &["team/app"])).await;
        assert_eq!((ended.summary.mirrored, ended.summary.errors), (1, 0));
        assert_eq!(pair.destination.count(sends_blob), 0, "it waits still");
        pair.destination.release("manifests");
    };
    let both = Box::pin(async { tokio::join!(waits, goes_on) });
    let (ended, ()) = timeout(LONGEST, both).await.unwrap();
    assert_eq!((ended.summary.mirrored, ended.summary.errors), (2, 0));
}

/// The content of a repository at the destination is known only when its tags are listed.
#[tokio::test]
async fn copies_wait_until_the_first_lists_of_tags_are_read() {
    let pair = Pair::start().await;
    let base = vec![7; 60_000];
    let (old, new) = (above(&base, 1), above(&base, 2));
    pair.source.load("team/old", &old);
    pair.source.load("team/new", &new);
    pair.pass(&["team/old"]).await;
    pair.source.clear_requests();
    pair.destination.clear_requests();
    pair.source.fault(held("GET", "/tags/list", "tags"));
    let mirror = pair.mirror_with(
        "",
        &[
            ("team/new", "tags: ['1']"),
            ("team/old", "select: {all: true}"),
        ],
    );
    let engine = engine(Arc::new(Deaf));
    let pass = engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {});
    let listing_ends = async {
        let begins = |requests: &[Recorded]| requests.iter().any(|r| r.method == "POST");
        pair.destination.wait_for(begins).await;
        pair.source.release("tags");
    };
    let both = Box::pin(async { tokio::join!(pass, listing_ends) });
    let (ended, ()) = timeout(LONGEST, both).await.unwrap();
    assert_eq!((ended.summary.mirrored, ended.summary.errors), (2, 0));
    let missing: BTreeSet<Digest> = blobs(&new).difference(&blobs(&old)).copied().collect();
    assert_eq!(read(&pair.source), missing);
}

/// A source that claims to have every blob, but sends none.
fn lies(source: &FaultRegistry, blob: &Digest, size: usize) {
    source.fault(Fault {
        on: Match {
            method: Some("HEAD".to_owned()),
            path: Some(format!("/blobs/{blob}")),
        },
        times: Times::Always,
        effect: Effect::Status {
            status: 200,
            headers: vec![("content-length".to_owned(), size.to_string())],
            body: String::new(),
        },
    });
}

/// A mirror of these images, each from its host.
fn mirror_of_hosts(pair: &Pair, images: &[(&FaultRegistry, &str)]) -> Mirror {
    let entries = images.iter().map(|(source, path)| {
        let host = source.host();
        format!("    - {{name: {host}/{path}, tags: ['1']}}\n")
    });
    let yaml = format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: m}}\nspec:\n  registry: \
         {{name: local}}\n  retry: {{limit: 1}}\n  repositories:\n{}",
        entries.collect::<String>()
    );
    let documents = documents::read("m.yaml", &yaml).unwrap();
    let Object::RegistryMirror(mirror) = &documents[0].object else {
        panic!("a mirror")
    };
    Mirror {
        settings: mirror.settings().unwrap(),
        ..pair.described("default/m", &["a/b"])
    }
}

/// The numbers of images that arrived and that failed.
async fn pass_of(engine: &Engine, mirror: Mirror) -> (usize, usize) {
    let stop = CancellationToken::new();
    let ended = engine.run(mirror, Until::OnePass, stop, |_| {}).await;
    (ended.summary.mirrored, ended.summary.errors)
}

/// This holds for the process that copied the blob and for a later one: the blob came from another
/// host, and the lying host never sent a byte of it.
#[tokio::test]
async fn a_host_that_only_says_that_it_has_a_blob_gets_none_of_another_host() {
    let pair = Pair::start().await;
    let liar = FaultRegistry::start().await;
    let client = super::client(&[&pair.source.host(), &pair.destination.host(), &liar.host()]);
    let secret = vec![9; 50_000];
    let digest = Digest::sha256(&secret);
    pair.source.load("team/secret", &above(&secret, 1));
    liar.load("team/thief", &above(&secret, 2));
    liar.lose_blob("team/thief", &digest);
    lies(&liar, &digest, secret.len());
    let place = format!("{}/team/thief", liar.host().replace(':', "_"));
    let (same, later) = (engine(Arc::new(Deaf)), engine(Arc::new(Deaf)));
    let mirror = |images: &[(&FaultRegistry, &str)]| {
        let mut mirror = mirror_of_hosts(&pair, images);
        mirror.access.client = client.clone();
        mirror.access.destination_client = client.clone();
        mirror
    };
    let (honest, thief) = ((&pair.source, "team/secret"), (&liar, "team/thief"));
    assert_eq!(pass_of(&same, mirror(&[honest])).await, (1, 0));
    for engine in [&same, &later] {
        assert_eq!(pass_of(engine, mirror(&[honest, thief])).await, (1, 1));
        assert_eq!(pair.destination.blob(&place, &digest), None);
    }
}

/// Regression: the first push waited for a permit of a busy source, and all other copies waited for
/// its answer.
#[tokio::test]
async fn a_first_push_from_a_busy_source_holds_up_no_copy_from_another() {
    let (pair, other) = (Pair::start().await, Pair::start().await);
    let busy = &pair.source;
    busy.load("team/old", &above(&[1; 1000], 1));
    busy.load("team/new", &above(&[2; 1000], 2));
    busy.load("team/busy", &above(&[3; 1000], 3));
    other.source.load("team/app", &above(&[4; 1000], 4));
    pair.pass(&["team/old"]).await;
    pair.destination.clear_requests();
    busy.fault(held("GET", "team/busy/blobs/", "blobs"));
    other.source.fault(held("GET", "/manifests/", "other"));
    let one_of_a_source = EngineLimits {
        copy: CopyLimits {
            transfers_per_source: 1,
            ..CopyLimits::default()
        },
        ..EngineLimits::default()
    };
    let engine = Engine::start(InProcess::default(), one_of_a_source, Arc::new(Deaf));
    let run = |mirror| engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {});
    let hosts = [busy.host(), other.source.host(), pair.destination.host()];
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let client = super::client(&hosts);
    let images = [
        (busy, "team/old"),
        (busy, "team/new"),
        (&other.source, "team/app"),
    ];
    let mut mirror = mirror_of_hosts(&pair, &images);
    mirror.access.client = client.clone();
    mirror.access.destination_client = client;
    let mut keeps_busy = mirror_of_hosts(&pair, &[(busy, "team/busy")]);
    keeps_busy.name = "default/busy".to_owned();
    keeps_busy.access.destination = Host::parse(&other.destination.host()).unwrap();
    keeps_busy.access.destination_client = super::client(&[&other.destination.host()]);
    let first = run(keeps_busy);
    let second = async {
        busy.wait_for(|all| {
            all.iter()
                .any(|r| r.method == "GET" && r.path.contains("busy/blobs/"))
        })
        .await;
        let ended = run(mirror);
        let in_order = async {
            // The first push is one from the busy source.
            let begins = |r: &Recorded| r.method == "POST" && r.path.contains("/new/");
            pair.destination
                .wait_for(|all| all.iter().any(begins))
                .await;
            other.source.release("other");
            let ends = |r: &Recorded| r.method == "PUT" && r.path.contains("/app/manifests/");
            pair.destination.wait_for(|all| all.iter().any(ends)).await;
            let sent = |r: &Recorded| sends_blob(r) && r.path.contains("/new/");
            assert_eq!(pair.destination.count(sent), 0, "it waits still");
            busy.release("blobs");
        };
        tokio::join!(ended, in_order).0
    };
    let both = Box::pin(async { tokio::join!(first, second) });
    let (first, second) = timeout(LONGEST, both).await.unwrap();
    assert_eq!((first.summary.mirrored, first.summary.errors), (1, 0));
    assert_eq!((second.summary.mirrored, second.summary.errors), (3, 0));
}
