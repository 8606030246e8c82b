//! Content that a mirror leaves alone: tags and signatures that are needed, and images of which it
//! knows too little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coral_mirror::{
    Engine, EngineLimits, Enqueued, InProcess, InProcessDelivery, Job, Mirror, Queue, QueueError,
    Results, Subscription, Until, Verify,
};
use coral_testkit::{Built, Effect, Fault, ImageBuilder, IndexBuilder};

use tokio_util::sync::CancellationToken;

use super::Pair;
use super::upkeep::engine;

const PRUNE: &str = "  prune: {enabled: true}\n";

fn image(seed: u64) -> Built {
    ImageBuilder::new(seed).layers_of(&[500]).build()
}

fn status(status: u16) -> Effect {
    Effect::Status {
        status,
        headers: vec![],
        body: String::new(),
    }
}

fn signature_of(image: &Built) -> String {
    format!("{}.sig", image.fallback_tag())
}

/// Mirrors tags 1 and 2, then only 1. Returns the remaining tags.
async fn left_without_the_second(built: &Built) -> Vec<String> {
    let pair = Pair::start().await;
    pair.source.load("a/b", built);
    pair.passes(vec![pair.mirror_of("m", "tags: ['1', '2']", "")])
        .await;
    assert_eq!(pair.tags(), built.tags.keys().cloned().collect::<Vec<_>>());
    pair.passes(vec![pair.mirror_of("m", "tags: ['1']", PRUNE)])
        .await;
    pair.tags()
}

#[tokio::test]
async fn a_signature_of_an_image_with_two_names_stays_while_one_of_them_does() {
    let image = image(1);
    let signature = ImageBuilder::cosign_signature(&image);
    let built = signature.with(image.clone().tagged("1").tagged("2"));
    let left = left_without_the_second(&built).await;
    assert_eq!(left, ["1".to_owned(), signature_of(&image)]);
}

#[tokio::test]
async fn a_signature_of_an_indexs_image_stays_while_one_of_its_indexes_does() {
    let [shared, own] = [1, 2].map(image);
    let index = |of: &[&Built], tag| {
        let all = of.iter().zip(["linux/amd64", "linux/arm64"]);
        let all = all.fold(IndexBuilder::new(), |index, (image, platform)| {
            index.image((*image).clone(), platform)
        });
        all.build().tagged(tag)
    };
    let built = ImageBuilder::cosign_signature(&shared)
        .with(ImageBuilder::cosign_signature(&own))
        .with(index(&[&shared, &own], "2"))
        .with(index(&[&shared], "1"));
    let left = left_without_the_second(&built).await;
    assert_eq!(left, ["1".to_owned(), signature_of(&shared)]);
}

#[tokio::test]
async fn while_one_mirror_cannot_list_its_source_another_deletes_nothing() {
    let pair = Pair::start().await;
    let built = (1..=3).map(|n| image(n).tagged(&n.to_string()));
    let built = built.fold(Built::default(), Built::with);
    pair.source.load("a/b", &built);
    pair.passes(vec![pair.mirror_of("all", "select: {all: true}", "")])
        .await;
    pair.source
        .fault(Fault::new(status(403)).path("/tags/list"));
    let both = || {
        vec![
            pair.mirror_of("one", "tags: ['1']", PRUNE),
            pair.mirror_of("two", "select: {glob: '[12]'}", ""),
        ]
    };
    let summaries = pair.passes(both()).await;
    assert!(summaries[1].errors > 0, "{summaries:?}");
    assert_eq!(pair.tags(), ["1", "2", "3"]);
    pair.source.clear_faults();
    pair.passes(both()).await;
    assert_eq!(pair.tags(), ["1", "2"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_taken_for_gone() {
    for part in ["/manifests/", "/blobs/"] {
        let pair = Pair::start().await;
        pair.source.load("a/b", &image(1).tagged("1"));
        pair.passes(vec![pair.mirror_of("m", "tags: ['1']", "")])
            .await;
        pair.destination
            .fault(Fault::new(status(403)).method("GET").path(part));
        pair.destination.clear_requests();
        let mirror = Mirror {
            verify: Verify::Now,
            ..pair.mirror_of("m", "tags: ['1']", "  verifyBy: Content\n")
        };
        let summaries = pair.passes(vec![mirror]).await;
        assert_eq!((summaries[0].errors, summaries[0].moved), (1, 0), "{part}");
        assert_eq!(pair.destination.count(|r| r.method == "PUT"), 0, "{part}");
    }
}

#[tokio::test]
async fn a_tag_that_moved_is_as_old_as_what_it_names_now() {
    let pair = Pair::start().await;
    let of = |seed, year: &str, tag| {
        let image = ImageBuilder::new(seed).layers_of(&[500]);
        let image = image.created(&format!("{year}-01-01T00:00:00Z"));
        image.build().tagged(tag)
    };
    pair.source.load("a/b", &of(1, "2020", "1"));
    pair.source.load("a/b", &of(2, "2021", "2"));
    let mirror = pair.mirror_of("m", "select: {latest: 1, latestBy: creation}", "");
    pair.passes(vec![mirror.clone()]).await;
    assert_eq!(pair.tags(), ["2"]);
    pair.source.load("a/b", &of(3, "2022", "1"));
    pair.passes(vec![mirror]).await;
    assert_eq!(pair.tags(), ["1", "2"]);
}

#[tokio::test]
async fn more_than_half_of_the_tags_go_when_two_passes_find_the_same() {
    let pair = Pair::start().await;
    let built = (1..=4).map(|n| image(n).tagged(&n.to_string()));
    let built = built.fold(Built::default(), Built::with);
    pair.source.load("a/b", &built);
    pair.passes(vec![pair.mirror_of("m", "select: {all: true}", "")])
        .await;
    pair.source.clear_requests();
    let spec = format!("  interval: 1s\n{PRUNE}");
    let mirror = pair.mirror_of("m", "select: {glob: '1'}", &spec);
    let (stop, engine) = (CancellationToken::new(), engine(Arc::new(super::Deaf)));
    let until_pruned = |summary: &coral_mirror::Summary| {
        if summary.pruned > 0 {
            stop.cancel();
        }
    };
    engine
        .run(mirror, Until::Stopped, stop.clone(), until_pruned)
        .await;
    assert_eq!(pair.tags(), ["1"]);
    let lists = pair.source.count(|r| r.path.contains("/tags/list"));
    assert!(lists >= 2, "deleted after {lists} look");
}

/// A queue that accepts no job the first time.
#[derive(Default)]
struct Refusing {
    queue: InProcess,
    asked: AtomicUsize,
}

impl Queue for Refusing {
    type Delivery = InProcessDelivery;

    async fn enqueue(&self, job: Job) -> Result<Enqueued, QueueError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(QueueError::Unavailable("no room".into()));
        }
        self.queue.enqueue(job).await
    }

    async fn take(&self) -> Result<InProcessDelivery, QueueError> {
        self.queue.take().await
    }
}

impl Results for Refusing {
    fn subscribe(&self) -> Subscription {
        self.queue.subscribe()
    }
}

#[tokio::test]
async fn a_queue_that_takes_no_job_is_tried_again_as_any_other_failure() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &super::image(1));
    let engine = Engine::start(
        Refusing::default(),
        EngineLimits::default(),
        Arc::new(super::Deaf),
    );
    let mirror = pair.mirror_of("m", "tags: ['1']", "");
    let pass = engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {});
    assert_eq!(pass.await.summary.mirrored, 1);
}
