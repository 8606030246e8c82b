//! Failed pulls: when they are retried, and what their status says.

use super::*;

#[test]
fn a_failure_is_tried_again_later_and_is_an_error_after_the_limit() {
    let mut scene = scene(&[NodeImage {
        retry_limit: Some(2),
        ..image("reg.io/a:1", ONE)
    }]);
    scene.fail(0, Category::Other, false);
    let decision = scene.decide();
    assert!(decision.pulls.is_empty());
    assert_eq!(decision.wake, Some(at(1)));
    let status = only(&decision);
    assert_eq!(status.state, ImageTagState::Pending);
    assert_eq!(status.attempts, Some(1));
    assert_eq!(status.message.as_deref(), Some("pull the image: it failed"));
    scene.now = at(1);
    assert_eq!(scene.decide().pulls.len(), 1);
    scene.fail(0, Category::Other, false);
    let decision = scene.decide();
    assert_eq!(only(&decision).state, ImageTagState::Error);
    // A transient failure is retried without an end.
    assert_eq!(decision.wake, Some(at(3)));
}

#[test]
fn a_refusal_waits_for_a_change_of_digest_or_generation() {
    let mut scene = scene(&[image("quay.io/a:1", ONE)]);
    scene.fail(0, Category::Unauthorized, false);
    scene.now = at(100_000);
    let decision = scene.decide();
    assert!(decision.pulls.is_empty());
    assert_eq!(decision.wake, None);
    let status = only(&decision);
    assert_eq!(status.state, ImageTagState::Error);
    assert_eq!(status.reason.as_deref(), Some("Unauthorized"));
    assert_eq!(status.next_attempt, None);
    scene.images[0].generation = Some(2);
    let decision = scene.decide();
    assert_eq!(decision.pulls.len(), 1);
    assert_eq!(only(&decision).state, ImageTagState::Pending);
}

#[test]
fn a_refusal_by_a_registry_inside_is_tried_up_to_the_limit() {
    let mut scene = scene(&[NodeImage {
        retry_limit: Some(2),
        ..image("reg.io/a:1", ONE)
    }]);
    scene.fail(0, Category::NotFound, true);
    assert_eq!(only(&scene.decide()).state, ImageTagState::Pending);
    scene.now = at(1);
    assert_eq!(scene.decide().pulls.len(), 1);
    scene.fail(0, Category::NotFound, true);
    let decision = scene.decide();
    assert_eq!(only(&decision).state, ImageTagState::Error);
    assert_eq!(decision.wake, None);
}

#[test]
fn failures_survive_the_agent_in_the_status() {
    let mut scene = scene(&[image("reg.io/a:1", ONE), image("reg.io/b:1", ONE)]);
    scene.fail(0, Category::Other, false);
    scene.fail(1, Category::Denied, false);
    let before = scene.decide();
    let restored = before.statuses.iter().map(|status| {
        let attempt = Attempt::restored(status).unwrap();
        (status.reference.clone(), attempt)
    });
    scene.attempts = restored.collect();
    assert_eq!(scene.decide(), before);
}

#[test]
fn waits_never_pass_the_longest_of_the_spec_and_a_clock_set_back_ends_them() {
    let mut scene = scene(&[NodeImage {
        max_backoff_seconds: Some(3),
        ..image("reg.io/a:1", ONE)
    }]);
    for _ in 0..10 {
        scene.fail(0, Category::Other, false);
    }
    assert_eq!(scene.decide().wake, Some(at(3)));
    scene.now = at(-100_000);
    assert_eq!(scene.decide().pulls.len(), 1);
}
