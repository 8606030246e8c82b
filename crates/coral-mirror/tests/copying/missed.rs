//! Referrers that a copy missed, in the next passes.

use coral_testkit::Recorded;

use super::gone::{Heard, status_of};
use super::*;

#[tokio::test]
async fn referrers_that_were_missed_are_tried_again_at_each_pass_until_none_is() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let app = image(1);
    let artifact = ImageBuilder::new(9).artifact("application/x.sbom");
    let sbom = artifact.subject(&app).build();
    pair.source.load("a/b", &app);
    pair.source.load("a/b", &sbom);
    pair.source
        .fault(Fault::new(status_of(403)).path("/referrers/"));
    let mirror = pair.mirror_with("", &[("a/b", "tags: ['1']")]);
    let ended = pair.pass_of(mirror.clone(), None, &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.missed), (1, 1));
    // They are still refused: they are requested again, and nothing is written.
    pair.destination.clear_requests();
    let ended = pair
        .pass_of(mirror.clone(), Some(ended.snapshot), &heard)
        .await;
    assert_eq!((ended.summary.mirrored, ended.summary.missed), (1, 1));
    let writes = |r: &Recorded| !["GET", "HEAD"].contains(&r.method.as_str());
    assert_eq!(pair.destination.count(writes), 0);
    pair.source.clear_faults();
    let ended = pair
        .pass_of(mirror.clone(), Some(ended.snapshot), &heard)
        .await;
    assert_eq!((ended.summary.mirrored, ended.summary.missed), (1, 0));
    assert_eq!(
        pair.destination.difference(&pair.landed("a/b"), &sbom),
        None
    );
    // Everything exists: one request.
    pair.source.clear_requests();
    heard.take_up_to_date();
    let ended = pair.pass_of(mirror, Some(ended.snapshot), &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.missed), (1, 0));
    assert_eq!(heard.take_up_to_date(), ["1"]);
    let asked = |r: &Recorded| r.path.contains("/a/b/");
    assert_eq!(pair.source.count(asked), 1);
}
