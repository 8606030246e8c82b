//! A process that continues from the snapshot of an earlier one.

use std::sync::Arc;

use coral_mirror::{ImageFilter, ImageQuery, Snapshot, Until};
use tokio_util::sync::CancellationToken;

use super::upkeep::engine;
use super::{Deaf, Mirror, Pair, image};

const EVERYTHING: ImageQuery = ImageQuery {
    which: ImageFilter::All,
    skip: 0,
    limit: 10,
};

/// Runs the mirror until as many images as `until_mirrored` are mirrored and it rests. Returns its
/// snapshot.
async fn settled(mirror: Mirror, until_mirrored: usize) -> Snapshot {
    let (engine, stop) = (engine(Arc::new(Deaf)), CancellationToken::new());
    let name = mirror.name.clone();
    let (told, mut summaries) = tokio::sync::watch::channel(None);
    let run = engine.run(mirror, Until::Stopped, stop.clone(), move |summary| {
        told.send_replace(Some(summary.clone()));
    });
    let look = async {
        let at_rest = |summary: &Option<coral_mirror::Summary>| {
            let summary = summary.as_ref();
            summary.is_some_and(|s| s.quiet && s.mirrored == until_mirrored)
        };
        summaries.wait_for(at_rest).await.unwrap();
        // The mirror is waiting: everything that was due has been requested.
        engine.image_page(&name, EVERYTHING).await.unwrap();
        let snapshot = engine.snapshot(&name).await.unwrap();
        stop.cancel();
        snapshot
    };
    tokio::join!(run, look).1
}

#[tokio::test]
async fn a_restarted_process_asks_no_registry_for_what_is_mirrored_and_not_due() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &image(1));
    let mirror = pair.mirror_of("m", "select: {all: true}", "  interval: 1h\n");
    let snapshot = settled(mirror.clone(), 1).await;
    let text = serde_json::to_string(&snapshot).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    pair.source.clear_requests();
    pair.destination.clear_requests();
    let restarted = Mirror {
        restored: Some(Arc::new(snapshot.clone())),
        ..mirror
    };
    assert_eq!(settled(restarted.clone(), 1).await, snapshot);
    assert!(pair.source.requests().is_empty());
    assert!(pair.destination.requests().is_empty());
    // With other settings, everything is compared again.
    let changed = Mirror {
        changed: true,
        ..restarted
    };
    let listed = |r: &coral_testkit::Recorded| r.path.contains("/tags/list");
    let look = async { pair.source.wait_for(|rs| rs.iter().any(listed)).await };
    tokio::join!(settled(changed, 1), look);
}
