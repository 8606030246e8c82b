//! What becomes of an image between two looks, in tables: every step with its own `now`.

use std::time::Duration;

use coral_image::ImageRef;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn wanted(name: &str) -> Wanted {
    let source = ImageRef::parse(&format!("quay.io/{name}")).unwrap();
    let key = Key::of(&ImageRef::parse(&format!("mirror:5000/quay.io/{name}")).unwrap());
    Wanted {
        source,
        key,
        platforms: vec![],
        referrers: true,
    }
}

fn failure(cause: Cause) -> Failure {
    Failure {
        error: "broken".to_owned(),
        category: "cut".into(),
        cause,
    }
}

fn ledger(until: Until) -> Ledger {
    let policy = RetryPolicy {
        limit: 2,
        max_backoff: Duration::from_mins(1),
    };
    Ledger::new(2, policy, until, None)
}

/// The images of a ledger's first repository are known at second 0, and looked at.
fn looking_at(until: Until, names: &[&str]) -> Ledger {
    let mut ledger = ledger(until);
    let images = names.iter().map(|name| wanted(name)).collect();
    ledger.expanded(0, images, at(0));
    assert_eq!(ledger.images_due(at(0)).len(), names.len());
    ledger
}

fn due(ledger: &mut Ledger, now: i64) -> Vec<String> {
    let due = ledger.images_due(at(now)).into_iter();
    due.map(|wanted| wanted.source.repository().path().to_string())
        .collect()
}

fn fails(ledger: &mut Ledger, name: &str, cause: Cause, now: i64) -> ImageStatus {
    let failed = ledger.image_failed(&wanted(name).key, failure(cause), at(now), 1.0);
    failed.expect("it is wanted").1
}

/// Regression: every pass asked again, long before the registry wanted to be asked.
#[test]
fn a_pass_does_not_shorten_the_wait_of_an_image() {
    let later = Cause::After(Duration::from_mins(5));
    for (cause, next) in [(later, 300), (Cause::Transient, 1), (Cause::Refusal, 1)] {
        let mut ledger = looking_at(Until::Stopped, &["a/b:1"]);
        let status = fails(&mut ledger, "a/b:1", cause, 0);
        assert_eq!(status.next_try, Some(at(next)), "{cause:?}");
        ledger.begin_pass(at(0));
        assert_eq!(ledger.repositories_due(at(0)), [0, 1]);
        ledger.expanded(0, vec![wanted("a/b:1")], at(0));
        assert!(due(&mut ledger, next - 1).is_empty(), "{cause:?}");
        assert_eq!(due(&mut ledger, next), ["a/b"], "{cause:?}");
    }
}

#[test]
fn a_pass_does_not_shorten_the_wait_of_a_repository() {
    let mut ledger = ledger(Until::Stopped);
    ledger.begin_pass(at(0));
    assert_eq!(ledger.repositories_due(at(0)), [0, 1]);
    let later = Cause::After(Duration::from_mins(5));
    ledger.repository_failed(0, failure(later), at(0), 1.0);
    let summary = ledger.summary(None);
    assert_eq!((summary.failing, summary.repositories.failing), (1, 1));
    ledger.expanded(1, vec![], at(0));
    ledger.begin_pass(at(10));
    assert_eq!(ledger.repositories_due(at(10)), [1]);
    assert_eq!(ledger.repositories_due(at(300)), [0]);
}

#[test]
fn what_was_refused_as_often_as_the_limit_says_is_looked_at_in_the_next_pass() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1"]);
    fails(&mut ledger, "a/b:1", Cause::Refusal, 0);
    assert_eq!(due(&mut ledger, 1), ["a/b"]);
    let status = fails(&mut ledger, "a/b:1", Cause::Refusal, 1);
    assert_eq!(status.next_try, None);
    assert!(due(&mut ledger, 100_000).is_empty());
    ledger.expanded(0, vec![wanted("a/b:1")], at(100_000));
    assert_eq!(due(&mut ledger, 100_000), ["a/b"]);
}

#[test]
fn a_single_pass_tries_a_refusal_once_and_a_cut_as_often_as_the_limit_says() {
    for (cause, until, error) in [
        (Cause::Refusal, Until::OnePass, true),
        (Cause::Refusal, Until::Stopped, false),
        (Cause::Transient, Until::OnePass, false),
    ] {
        let mut ledger = looking_at(until, &["a/b:1"]);
        let status = fails(&mut ledger, "a/b:1", cause, 0);
        let is_error = matches!(status.state, ImageState::Error(_));
        assert_eq!(is_error, error, "{cause:?} {until:?}");
        assert_eq!(ledger.is_at_rest(), error, "{cause:?} {until:?}");
    }
}

#[test]
fn a_single_pass_waits_for_a_minute_and_ends_with_what_is_to_wait_longer() {
    for (seconds, until, next) in [
        (60, Until::OnePass, Some(60)),
        (61, Until::OnePass, None),
        (61, Until::Stopped, Some(61)),
    ] {
        let later = Cause::After(Duration::from_secs(seconds));
        let mut ledger = looking_at(until, &["a/b:1"]);
        let status = fails(&mut ledger, "a/b:1", later, 0);
        assert_eq!(status.next_try, next.map(at), "{seconds} {until:?}");
        assert_eq!(ledger.is_at_rest(), next.is_none(), "{seconds} {until:?}");
        let status = ledger.repository_failed(1, failure(later), at(0), 1.0);
        assert_eq!(status.next_try, next.map(at), "{seconds} {until:?}");
    }
}

#[test]
fn a_single_pass_is_over_for_what_failed_as_often_as_the_limit_says() {
    for (until, next) in [(Until::OnePass, None), (Until::Stopped, Some(61))] {
        let mut ledger = looking_at(until, &["a/b:1"]);
        fails(&mut ledger, "a/b:1", Cause::Transient, 0);
        assert_eq!(due(&mut ledger, 1), ["a/b"]);
        let status = fails(&mut ledger, "a/b:1", Cause::Transient, 1);
        assert_eq!(status.next_try, next.map(at), "{until:?}");
    }
}

#[test]
fn images_that_are_wanted_no_more_leave_and_those_of_other_repositories_stay() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1", "a/b:2"]);
    ledger.expanded(1, vec![wanted("c/d:1")], at(0));
    ledger.expanded(0, vec![wanted("a/b:2")], at(0));
    let summary = ledger.summary(None);
    assert_eq!(summary.desired, 2);
    assert!(ledger.copying(&wanted("a/b:1").key).is_none());
    assert!(ledger.copying(&wanted("a/b:2").key).is_some());
    assert!(ledger.copying(&wanted("c/d:1").key).is_some());
}

#[test]
fn an_image_that_is_being_copied_is_not_looked_at_by_the_next_pass() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1"]);
    ledger.copying(&wanted("a/b:1").key);
    ledger.expanded(0, vec![wanted("a/b:1")], at(5));
    assert!(due(&mut ledger, 5).is_empty());
    assert!(ledger.being_copied(&wanted("a/b:1").key).is_some());
    assert!(!ledger.is_at_rest());
}
