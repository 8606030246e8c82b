//! What a mirror does beside copying: limits, large selections, verification, pruning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coral_api::Referrers;
use coral_api::documents::{self, Object};
use coral_distribution::Credentials;
use coral_image::{Host, Version};
use coral_mirror::{
    Bandwidth, Catalogue, Creations, Engine, EngineLimits, Event, InProcess, Mirror, MirrorAccess,
    Observer, Paces, PlannedAction, Subject, Summary, Until, Verify, expand, plan, plan_prune,
};
use coral_testkit::{Built, ImageBuilder, IndexBuilder};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Deaf, Pair};

pub(super) fn engine(observer: Arc<dyn Observer>) -> Engine {
    Engine::start(InProcess::default(), EngineLimits::default(), observer)
}

impl Pair {
    /// A mirror of `a/b`, with these lines of its entry and of the spec.
    pub(super) fn mirror_of(&self, name: &str, entry: &str, spec: &str) -> Mirror {
        let source = self.source.host();
        let yaml = format!(
            "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: {name}}}\nspec:\n  \
             registry: {{name: local}}\n  retry: {{limit: 2, maxBackoff: 100ms}}\n{spec}  \
             repositories:\n    - {{name: {source}/a/b, {entry}}}\n"
        );
        let documents = documents::read("m.yaml", &yaml).unwrap();
        let Object::RegistryMirror(mirror) = &documents[0].object else {
            panic!("a mirror")
        };
        let settings = mirror.settings().unwrap();
        Mirror {
            name: format!("default/{name}"),
            access: MirrorAccess {
                client: self.client.clone(),
                destination_client: self.client.clone(),
                destination: Host::parse(&self.destination.host()).unwrap(),
                source_credentials: Arc::new(Credentials::none()),
                destination_credentials: Arc::new(Credentials::none()),
                paces: Paces::default(),
                bandwidth: settings.limits.bandwidth.map(Bandwidth::new),
                creations: Creations::default(),
                catalogue: Catalogue::default(),
            },
            settings,
            changed: false,
            restored: None,
            verify: Verify::AsScheduled,
        }
    }

    pub(super) async fn passes(&self, mirrors: Vec<Mirror>) -> Vec<Summary> {
        let engine = engine(Arc::new(Deaf));
        for mirror in &mirrors {
            engine.announce(mirror);
        }
        let run =
            |mirror: Mirror| engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {});
        let ended = futures::future::join_all(mirrors.into_iter().map(run)).await;
        ended.into_iter().map(|ended| ended.summary).collect()
    }

    /// The repository of `a/b` at the destination.
    fn place(&self) -> String {
        format!("{}/a/b", self.source.host().replace(':', "_"))
    }

    pub(super) fn tags(&self) -> Vec<String> {
        self.destination.tags(&self.place()).into_keys().collect()
    }
}

/// Images under the tags 1, 2, 3, all different.
fn three() -> Built {
    (1..=3_u64).fold(Built::default(), |all, n| {
        let image = ImageBuilder::new(n).layers_of(&[1000, 100]).build();
        all.with(image.tagged(&n.to_string()))
    })
}

const VERIFYING: &str = "  verifyBy: Content\n";

#[tokio::test]
async fn a_blob_that_is_gone_or_broken_at_the_destination_is_copied_again_and_nothing_else() {
    let pair = Pair::start().await;
    let built =
        IndexBuilder::of_platforms(1, &["linux/amd64", "linux/arm64"], &[2000, 300]).build();
    let built = built.tagged("1");
    pair.source.load("a/b", &built);
    let entry = "tags: ['1']";
    pair.passes(vec![pair.mirror_of("m", entry, "")]).await;
    let mut layers = built.blobs.iter().filter(|(_, bytes)| bytes.len() == 2000);
    let (gone, _) = layers.next().unwrap();
    let (spoilt, _) = layers.next().unwrap();
    pair.destination.lose_blob(&pair.place(), gone);
    pair.destination
        .spoil_blob(&pair.place(), spoilt, vec![7; 2000]);
    pair.source.clear_requests();
    let mirror = Mirror {
        verify: Verify::Now,
        ..pair.mirror_of("m", entry, VERIFYING)
    };
    let summaries = pair.passes(vec![mirror]).await;
    assert_eq!(pair.destination.difference(&pair.place(), &built), None);
    assert_eq!((summaries[0].mirrored, summaries[0].errors), (1, 0));
    assert_eq!(summaries[0].moved, 4000);
    assert_eq!(pair.blob_reads(), 2);
}

#[tokio::test]
async fn what_belongs_to_an_image_is_verified_with_it() {
    let pair = Pair::start().await;
    let image = ImageBuilder::new(1).layers_of(&[500]).build();
    let signature = ImageBuilder::cosign_signature(&image);
    let attestation = ImageBuilder::new(2)
        .layers_of(&[700])
        .subject(&image)
        .build();
    let spoil = [&signature, &attestation].map(|built| {
        let mut blobs = built.blobs.keys();
        *blobs.find(|blob| !image.blobs.contains_key(*blob)).unwrap()
    });
    let built = signature.with(attestation).with(image.tagged("1"));
    pair.source.load("a/b", &built);
    let entry = "tags: ['1']";
    pair.passes(vec![pair.mirror_of("m", entry, "")]).await;
    for blob in &spoil {
        pair.destination.lose_blob(&pair.place(), blob);
    }
    let mirror = Mirror {
        verify: Verify::Now,
        ..pair.mirror_of("m", entry, "")
    };
    let summaries = pair.passes(vec![mirror.clone()]).await;
    assert_eq!(pair.destination.difference(&pair.place(), &built), None);
    assert_eq!((summaries[0].mirrored, summaries[0].errors), (1, 0));
    // Such a part is not reported if it is not wanted, because no copy would repair it.
    for blob in &spoil {
        pair.destination.lose_blob(&pair.place(), blob);
    }
    let mut alone = mirror;
    alone.settings.repositories[0].referrers = Referrers::Skip;
    pair.source.clear_requests();
    let summaries = pair.passes(vec![alone]).await;
    assert_eq!((summaries[0].mirrored, summaries[0].errors), (1, 0));
    assert_eq!(pair.blob_reads(), 0);
}

#[tokio::test]
async fn a_whole_image_is_verified_without_a_look_at_its_source() {
    let pair = Pair::start().await;
    let built = ImageBuilder::new(1).layers_of(&[2000]).build().tagged("1");
    pair.source.load("a/b", &built);
    pair.passes(vec![pair.mirror_of("m", "tags: ['1']", "")])
        .await;
    pair.source.clear_requests();
    let mirror = Mirror {
        verify: Verify::Now,
        ..pair.mirror_of("m", "tags: ['1']", "")
    };
    let summaries = pair.passes(vec![mirror]).await;
    assert_eq!((summaries[0].mirrored, summaries[0].moved), (1, 0));
    let requests = pair.source.requests();
    assert!(requests.iter().all(|r| r.method == "HEAD"), "{requests:#?}");
}

#[tokio::test]
async fn tags_that_are_no_longer_selected_are_deleted_and_their_manifests_stay() {
    let pair = Pair::start().await;
    let built = three();
    pair.source.load("a/b", &built);
    pair.passes(vec![pair.mirror_of("m", "select: {all: true}", "")])
        .await;
    assert_eq!(pair.tags(), ["1", "2", "3"]);
    let prune = "  prune: {enabled: true, keep: ['3*']}\n";
    let summaries = pair
        .passes(vec![pair.mirror_of("m", "tags: ['1']", prune)])
        .await;
    assert_eq!(pair.tags(), ["1", "3"]);
    assert_eq!(summaries[0].pruned, 1);
    let second = built.tags["2"].to_string();
    assert!(pair.destination.manifest(&pair.place(), &second).is_some());
}

#[tokio::test]
async fn a_tag_that_another_mirror_wants_is_not_deleted() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &three());
    let prune = "  prune: {enabled: true}\n";
    let both = || {
        vec![
            pair.mirror_of("one", "tags: ['1']", prune),
            pair.mirror_of("two", "select: {glob: '[12]'}", ""),
        ]
    };
    pair.passes(vec![pair.mirror_of("all", "select: {all: true}", "")])
        .await;
    pair.passes(both()).await;
    assert_eq!(pair.tags(), ["1", "2"]);
    // While it is unknown what the other mirror wants, nothing is deleted.
    pair.passes(vec![pair.mirror_of("all", "select: {all: true}", "")])
        .await;
    let mut mirrors = both();
    mirrors[1].settings.suspend = true;
    pair.passes(mirrors).await;
    assert_eq!(pair.tags(), ["1", "2", "3"]);
}

#[tokio::test]
async fn an_empty_selection_deletes_nothing() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &three());
    pair.passes(vec![pair.mirror_of("m", "select: {all: true}", "")])
        .await;
    let prune = "  prune: {enabled: true}\n";
    pair.passes(vec![pair.mirror_of("m", "select: {glob: 'x*'}", prune)])
        .await;
    assert_eq!(pair.tags(), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_selection_that_fits_no_tag_is_known_with_how_many_there_are() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &three());
    for (select, unmatched) in [
        ("select: {semver: '>=5'}", Some(3)),
        ("select: {glob: '1'}", None),
        ("tags: ['1']", None),
    ] {
        let mirror = pair.mirror_of("m", select, "");
        let settings = &mirror.settings.repositories[0];
        let expanded = expand(&mirror.access, settings, Timestamp::now()).await;
        assert_eq!(expanded.unwrap().unmatched, unmatched, "{select}");
    }
}

#[tokio::test]
async fn a_signature_goes_with_its_image_only() {
    let pair = Pair::start().await;
    let images = [1, 2].map(|n| ImageBuilder::new(n).layers_of(&[500]).build());
    for (image, tag) in images.iter().zip(["1", "2"]) {
        let signature = ImageBuilder::cosign_signature(image);
        pair.source
            .load("a/b", &signature.with(image.clone().tagged(tag)));
    }
    let both = "tags: ['1', '2']";
    pair.passes(vec![pair.mirror_of("m", both, "")]).await;
    assert_eq!(pair.tags().len(), 4);
    let prune = "  prune: {enabled: true}\n";
    pair.passes(vec![pair.mirror_of("m", "tags: ['1']", prune)])
        .await;
    let first = format!("{}.sig", images[0].fallback_tag());
    let mut left = vec!["1".to_owned(), first];
    left.sort();
    assert_eq!(pair.tags(), left);
}

#[tokio::test]
async fn a_dry_run_and_a_plan_say_what_would_be_deleted() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &three());
    pair.passes(vec![pair.mirror_of("m", "select: {all: true}", "")])
        .await;
    let mirror = pair.mirror_of(
        "m",
        "tags: ['1', '2']",
        "  prune: {enabled: true, dryRun: true}\n",
    );
    let counted = &mut std::collections::HashSet::new();
    let now = Timestamp::now();
    let planned = plan(&mirror, now, counted).await;
    let mirrors = [mirror];
    let deletions = plan_prune(&mirrors, &[planned]).await;
    let [(0, deletion)] = deletions.as_slice() else {
        panic!("{deletions:?}")
    };
    assert_eq!(deletion.action, PlannedAction::DeleteButForDryRun);
    assert_eq!(
        deletion.key.as_ref().unwrap().version,
        Version::parse("3").unwrap()
    );
    pair.passes(mirrors.into()).await;
    assert_eq!(pair.tags(), ["1", "2", "3"]);
}

/// Regression: the plan of a suspended mirror was that of a running one.
#[tokio::test]
async fn a_plan_leaves_a_suspended_mirror_out_and_deletes_nothing_that_it_may_want() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &three());
    pair.passes(vec![pair.mirror_of("m", "select: {all: true}", "")])
        .await;
    let prunes = pair.mirror_of("m", "tags: ['1']", "  prune: {enabled: true}\n");
    let suspended = pair.mirror_of("n", "tags: ['2']", "  suspend: true\n");
    let counted = &mut std::collections::HashSet::new();
    let mut mirrors = vec![prunes];
    for (with, deletions) in [(None, 2), (Some(suspended), 0)] {
        mirrors.extend(with);
        let mut planned = vec![];
        for mirror in &mirrors {
            planned.push(plan(mirror, Timestamp::now(), counted).await);
        }
        assert!(planned.iter().skip(1).all(Vec::is_empty), "{planned:?}");
        let found = plan_prune(&mirrors, &planned).await;
        assert_eq!(found.len(), deletions, "{found:?}");
    }
}

/// How many images are being copied, and the most at any time.
#[derive(Default)]
struct AtOnce {
    now: AtomicUsize,
    most: AtomicUsize,
    began: Notify,
}

impl Observer for AtOnce {
    fn observe(&self, _: &Subject<'_>, event: &Event<'_>) {
        match event {
            Event::Started => {
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
                self.began.notify_one();
            }
            Event::Ended => {
                self.now.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn no_more_images_are_copied_at_once_than_the_limit_allows() {
    let pair = Pair::start().await;
    let many = (1..=12_u64).fold(Built::default(), |all, n| {
        all.with(
            ImageBuilder::new(n)
                .layers_of(&[1000])
                .build()
                .tagged(&n.to_string()),
        )
    });
    pair.source.load("a/b", &many);
    let observer = Arc::new(AtOnce::default());
    let engine = engine(observer.clone());
    let mirror = pair.mirror_of("m", "select: {all: true}", "  limits: {copies: 2}\n");
    let ended = engine
        .run(mirror, Until::OnePass, CancellationToken::new(), |_| {})
        .await;
    assert_eq!(ended.summary.mirrored, 12);
    assert_eq!(ended.snapshot.images.len(), 12);
    assert_eq!(observer.most.load(Ordering::SeqCst), 2);
    assert_eq!(observer.now.load(Ordering::SeqCst), 0);
}

/// Regression: after Ctrl-C, the progress bars of cancelled copies stayed on the terminal.
#[tokio::test]
async fn a_copy_that_is_cancelled_ends_too() {
    let pair = Pair::start().await;
    let image = ImageBuilder::new(1).layers_of(&[800_000]).build();
    pair.source.load("a/b", &image.tagged("1"));
    let observer = Arc::new(AtOnce::default());
    let engine = engine(observer.clone());
    let mirror = pair.mirror_of("m", "tags: ['1']", "  limits: {bandwidth: 64k}\n");
    let pass = engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {});
    tokio::select! {
        ended = pass => panic!("it was copied: {:?}", ended.summary),
        () = observer.began.notified() => {}
    }
    assert_eq!(observer.now.load(Ordering::SeqCst), 1);
    engine.stop().await;
    assert_eq!(observer.now.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_bandwidth_is_kept() {
    let pair = Pair::start().await;
    pair.source.load(
        "a/b",
        &ImageBuilder::new(1)
            .layers_of(&[800_000])
            .build()
            .tagged("1"),
    );
    let began = std::time::Instant::now();
    let mirror = pair.mirror_of("m", "tags: ['1']", "  limits: {bandwidth: 500k}\n");
    pair.passes(vec![mirror]).await;
    assert!(began.elapsed().as_millis() >= 1000, "{:?}", began.elapsed());
    assert_eq!(pair.tags(), ["1"]);
}

#[tokio::test]
async fn an_image_without_some_platforms_is_called_sparse_when_copied_and_when_found() {
    let mut pair = Pair::start().await;
    let platforms = [
        "linux/amd64",
        "linux/arm64",
        "linux/arm/v7",
        "windows/amd64",
    ];
    let built = IndexBuilder::of_platforms(1, &platforms, &[1000]).build();
    pair.source.load("a/b", &built.tagged("1"));
    let storage = tempfile::tempdir().unwrap();
    let host = super::own_registry(storage.path()).await;
    pair.client = super::client(&[&pair.source.host(), &host]);
    let entry = "tags: ['1'], platforms: ['linux/arm*']";
    for _ in 0..2 {
        let mut mirror = pair.mirror_of("m", entry, "");
        mirror.access.destination = Host::parse(&host).unwrap();
        let summaries = pair.passes(vec![mirror]).await;
        assert_eq!((summaries[0].mirrored, summaries[0].sparse), (1, 1));
    }
    assert_eq!(pair.blob_reads(), 4);
}

#[tokio::test]
async fn of_ten_thousand_tags_a_few_are_selected_with_a_request_a_page() {
    let pair = Pair::start().await;
    let image = ImageBuilder::new(1).layers_of(&[100]).build();
    let digest = image.digest();
    let tags: BTreeMap<_, _> = (0..10_000)
        .map(|n| (format!("1.{}.{}", n / 100, n % 100), digest))
        .collect();
    pair.source.load("a/b", &Built { tags, ..image });
    let select = "select: {semver: '>=1.50', exclude: ['*.99'], latest: 3}";
    let summaries = pair.passes(vec![pair.mirror_of("m", select, "")]).await;
    assert_eq!(summaries[0].mirrored, 3);
    assert_eq!(pair.tags(), ["1.99.96", "1.99.97", "1.99.98"]);
    let pages = pair.source.count(|r| r.path.contains("/tags/list"));
    // A full last page without a link may have lost it, so the client requests one more.
    assert_eq!(pages, 101);
}

#[tokio::test]
async fn a_source_that_lists_more_tags_than_a_mirror_may_have_images_fails_as_a_whole() {
    let pair = Pair::start().await;
    let image = ImageBuilder::new(1).layers_of(&[100]).build();
    let digest = image.digest();
    let tags: BTreeMap<_, _> = (0..20_001).map(|n| (format!("1.{n}"), digest)).collect();
    pair.source.load("a/b", &Built { tags, ..image });
    let mirror = pair.mirror_of("m", "select: {glob: '*'}", "");
    let summary = pair.passes(vec![mirror]).await.remove(0);
    assert_eq!((summary.desired, summary.repositories.errors), (0, 1));
    assert!(pair.tags().is_empty());
}

#[tokio::test]
async fn a_time_of_creation_that_was_read_costs_a_head_from_then_on() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &three());
    let mirror = pair.mirror_of("m", "select: {latest: 2, latestBy: creation}", "");
    pair.passes(vec![mirror.clone()]).await;
    pair.source.clear_requests();
    pair.passes(vec![mirror]).await;
    let reads = pair
        .source
        .count(|r| r.method == "GET" && !r.path.contains("/tags/list"));
    assert_eq!(reads, 0);
}
