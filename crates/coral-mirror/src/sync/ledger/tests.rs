//! The states of an image from pass to pass, in tables: every step has its own `now`.

mod clock;
mod missed;
mod restored;

use std::time::Duration;

use coral_image::ImageRef;

use super::*;
use crate::copy::Sparse;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn wanted(name: &str) -> Wanted {
    let source = ImageRef::parse(&format!("quay.io/{name}")).unwrap();
    let key =
        Key::from_reference(&ImageRef::parse(&format!("mirror:5000/quay.io/{name}")).unwrap());
    Wanted {
        source,
        key,
        platforms: vec![],
        foreign_layers: false,
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

/// A ledger whose first repository was listed at second 0, and whose images are being compared.
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

fn fails(ledger: &mut Ledger, name: &str, cause: Cause, now: i64) -> ImageProgress {
    let failed = ledger.image_failed(&wanted(name).key, failure(cause), at(now), 1.0);
    failed.expect("it is wanted").1
}

/// Regression: a typing error in a host name was retried as often as the limit allows, and again in
/// the next pass.
#[test]
fn a_host_whose_name_does_not_exist_is_tried_twice_and_then_once_in_each_pass() {
    let unknown = |cause| Failure {
        category: "dns".into(),
        ..failure(cause)
    };
    let policy = RetryPolicy {
        limit: 5,
        max_backoff: Duration::from_mins(1),
    };
    let mut ledger = Ledger::new(1, policy, Until::Stopped, None);
    ledger.expanded(0, vec![wanted("a/b:1")], at(0));
    let key = wanted("a/b:1").key;
    let mut fails = |cause, now| {
        let failed = ledger.image_failed(&key, unknown(cause), at(now), 1.0);
        failed.expect("it is wanted").1.next_try
    };
    assert_eq!(fails(Cause::Refusal, 0), Some(at(10)));
    assert_eq!(fails(Cause::Refusal, 10), None);
    assert_eq!(fails(Cause::Refusal, 3600), None);
    // A resolver that cannot tell is asked again.
    assert_eq!(fails(Cause::Transient, 7200), Some(at(7208)));
    let status = ledger.repository_failed(0, unknown(Cause::Refusal), at(0), 1.0);
    assert_eq!(status.next_try, Some(at(10)));
    let status = ledger.repository_failed(0, unknown(Cause::Refusal), at(10), 1.0);
    assert_eq!(status.next_try, None);
}

/// Regression: every pass asked again, long before the time that the registry had requested.
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
        (Cause::NoRoom { needed: 0 }, Until::OnePass, true),
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
fn what_waits_for_room_is_tried_when_there_is_room_for_it_and_by_no_pass() {
    let names = ["a/a:1", "a/b:1", "a/c:1"];
    let mut ledger = looking_at(Until::Stopped, &names);
    for (name, needed) in names.iter().zip([300, 500, 200]) {
        let status = fails(&mut ledger, name, Cause::NoRoom { needed }, 0);
        assert_eq!((status.attempts, status.next_try), (0, Some(at(600))));
    }
    let summary = ledger.summary(None);
    let counts = (
        summary.waiting,
        summary.failing,
        summary.errors,
        summary.pending,
    );
    assert_eq!(counts, (3, 0, 0, 0));
    ledger.expanded(0, names.iter().map(|name| wanted(name)).collect(), at(1));
    ledger.has_room(100, at(500));
    assert!(due(&mut ledger, 1099).is_empty());
    // There is space for the first and the last image.
    ledger.has_room(599, at(1000));
    assert_eq!(due(&mut ledger, 1000), ["a/a", "a/c"]);
    let waits = &ledger.images[&wanted("a/b:1").key].status;
    let lack = MissingSpace {
        needed: 500,
        free: Some(599),
    };
    assert_eq!(waits.state, ImageState::Waiting(lack));
    // A destination that does not report its free space is tried from time to time.
    assert_eq!(due(&mut ledger, 1600), ["a/b"]);
    // While it is being tried, it counts as waiting.
    assert_eq!(ledger.waiting(), 3);
}

#[test]
fn a_destination_that_says_it_has_room_and_takes_nothing_is_tried_ever_more_rarely() {
    let full = Cause::NoRoom { needed: 300 };
    let mut ledger = looking_at(Until::Stopped, &["a/a:1"]);
    fails(&mut ledger, "a/a:1", full, 0);
    let mut tries = Vec::new();
    for second in (10..3600).step_by(10) {
        ledger.has_room(1 << 30, at(second));
        if !due(&mut ledger, second).is_empty() {
            fails(&mut ledger, "a/a:1", full, second);
            tries.push(second);
        }
    }
    assert_eq!(tries[..6], [10, 20, 40, 80, 160, 320]);
    assert!(tries.len() < 15, "{tries:?}");
    // There is space again.
    ledger.has_room(1 << 30, at(5000));
    assert_eq!(due(&mut ledger, 5000), ["a/a"]);
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

fn settings() -> Vec<coral_api::RepositorySettings> {
    let yaml = "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {name: m}\nspec:\n  \
                registry: {name: local}\n  repositories:\n    \
                - {name: quay.io/a/b, tags: ['1']}\n    - {name: quay.io/c/d, tags: ['1']}\n";
    let documents = coral_api::documents::read("m.yaml", yaml).unwrap();
    let coral_api::documents::Object::RegistryMirror(mirror) = &documents[0].object else {
        panic!("a mirror");
    };
    mirror.settings().unwrap().repositories
}

fn places(settings: &[coral_api::RepositorySettings]) -> Vec<coral_image::Repository> {
    let host = coral_image::Host::parse("mirror:5000").unwrap();
    let place = |s: &coral_api::RepositorySettings| crate::expand::destination_repository(&host, s);
    settings.iter().map(place).collect()
}

/// The ledger that these settings restore from a snapshot of `before`.
fn restored(before: &Ledger, trust: Trust, settings: &[coral_api::RepositorySettings]) -> Ledger {
    let text = serde_json::to_string(&before.snapshot(&self::settings())).unwrap();
    let snapshot = serde_json::from_str(&text).unwrap();
    let mut ledger = ledger(Until::Stopped);
    ledger.restore(&snapshot, settings, &places(settings), trust, at(10));
    ledger
}

fn found(ledger: &mut Ledger, name: &str) {
    let arrival = Arrival::Copied {
        moved: 7,
        sparse: Sparse {
            platforms: true,
            ..Sparse::default()
        },
        missed: false,
    };
    ledger.succeeded(&wanted(name).key, Digest::sha256(b"x"), arrival, at(0));
}

#[test]
fn an_image_keeps_its_digest_while_looks_fail_and_loses_it_where_it_is_broken() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1"]);
    found(&mut ledger, "a/b:1");
    fails(&mut ledger, "a/b:1", Cause::Transient, 1);
    let digest = |ledger: &Ledger| ledger.snapshot(&settings()).images[0].digest.clone();
    assert_eq!(digest(&ledger), Some(Digest::sha256(b"x").to_string()));
    let broken = BTreeSet::from([Digest::sha256(b"x")]);
    ledger.verified(&wanted("a/b:1").key, broken, at(2));
    assert_eq!(digest(&ledger), None);
}

#[test]
fn what_failed_is_looked_at_again_at_once_when_asked_to_and_nothing_else_is() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1", "c/d:1"]);
    fails(&mut ledger, "a/b:1", Cause::Refusal, 0);
    fails(&mut ledger, "a/b:1", Cause::Refusal, 1);
    let digest = Digest::sha256(b"x");
    let found = Arrival::Present {
        sparse: Sparse::default(),
    };
    ledger.succeeded(&wanted("c/d:1").key, digest, found, at(0));
    assert!(due(&mut ledger, 1000).is_empty());
    ledger.retry();
    assert_eq!(due(&mut ledger, 1000), ["a/b"]);
}

#[test]
fn the_images_of_other_repositories_count() {
    let ledger = looking_at(Until::Stopped, &["a/b:1", "c/d:1"]);
    let again = [wanted("e/f:1")];
    assert_eq!(ledger.would_hold(0, &again), 1, "they replace those before");
    assert_eq!(ledger.would_hold(1, &again), 3);
}

#[test]
fn a_summary_counts_what_a_snapshot_counts() {
    let names = ["a/b:1", "a/b:2", "a/b:3", "a/b:4"];
    let mut ledger = looking_at(Until::Stopped, &names);
    found(&mut ledger, "a/b:1");
    found(&mut ledger, "a/b:2");
    fails(&mut ledger, "a/b:2", Cause::Transient, 1);
    fails(&mut ledger, "a/b:3", Cause::Refusal, 1);
    let counted = |ledger: &Ledger| {
        let (one, other) = (
            ledger.summary(None).status(),
            ledger.snapshot(&settings()).status(),
        );
        let counts = |s: &coral_api::RegistryMirrorStatus| {
            [s.desired, s.mirrored, s.pending, s.failed].map(Option::unwrap)
        };
        assert_eq!(counts(&one), counts(&other));
        assert_eq!(one.bytes_copied, other.bytes_copied);
        counts(&one)
    };
    assert_eq!(counted(&ledger), [4, 2, 1, 2]);
    let broken = BTreeSet::from([Digest::sha256(b"x")]);
    ledger.verified(&wanted("a/b:1").key, broken, at(2));
    assert_eq!(counted(&ledger), [4, 1, 2, 2]);
    ledger.repository_failed(1, failure(Cause::Refusal), at(2), 1.0);
    assert_eq!(counted(&ledger), [4, 1, 2, 2], "a repository is no image");
}

#[test]
fn a_repository_has_a_number_of_images_once_it_was_listed() {
    let mut ledger = ledger(Until::Stopped);
    ledger.repository_failed(0, failure(Cause::Transient), at(0), 1.0);
    let known = ledger.snapshot(&settings()).repositories;
    assert_eq!((known[0].images, known[1].images), (None, None));
    assert_eq!(known[0].message.as_deref(), Some("broken"));
    assert_eq!(known[0].next_attempt.as_ref().unwrap().0, at(1));
    ledger.expanded(0, vec![wanted("a/b:1"), wanted("a/b:2")], at(1));
    ledger.expanded(1, vec![], at(1));
    ledger.unmatched(1, Some(7));
    let known = ledger.snapshot(&settings()).repositories;
    assert_eq!((known[0].images, known[1].images), (Some(2), Some(0)));
    assert_eq!(
        (&known[0].message, known[1].unmatched_tags),
        (&None, Some(7))
    );
}

#[test]
fn two_entries_of_one_repository_are_told_of_as_one() {
    let mut twice = settings();
    twice[1] = twice[0].clone();
    let mut ledger = ledger(Until::Stopped);
    ledger.expanded(0, vec![wanted("a/b:1")], at(0));
    ledger.repository_failed(1, failure(Cause::Transient), at(0), 1.0);
    let known = ledger.snapshot(&twice).repositories;
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].images, None, "one of them was not listed yet");
    assert_eq!(known[0].message.as_deref(), Some("broken"));
    ledger.expanded(1, vec![wanted("a/b:2")], at(1));
    let known = ledger.snapshot(&twice).repositories;
    assert_eq!((known[0].images, &known[0].message), (Some(2), &None));
}

#[test]
fn what_is_to_be_done_is_told_once() {
    let verify = Verification {
        every: Duration::from_hours(1),
        at_once: true,
    };
    let policy = RetryPolicy::default();
    let mut ledger = Ledger::new(2, policy, Until::Stopped, Some(verify));
    ledger.begin_pass(at(0));
    let expand = [Action::Expand(0), Action::Expand(1)];
    assert_eq!(ledger.actions(at(0)), expand);
    ledger.expanded(0, vec![wanted("a/b:1")], at(0));
    let compare = [Action::Compare(wanted("a/b:1"))];
    assert_eq!(ledger.actions(at(0)), compare);
    let (digest, arrival) = (
        Digest::sha256(b"x"),
        Arrival::Present {
            sparse: Sparse::default(),
        },
    );
    ledger.succeeded(&wanted("a/b:1").key, digest, arrival, at(1));
    let verify = [Action::Verify(wanted("a/b:1"), digest)];
    assert_eq!(ledger.actions(at(1)), verify);
    assert_eq!(ledger.actions(at(1)), []);
}

/// Regression: an alert on failures went quiet at the fifth failure.
#[test]
fn what_fails_stays_counted_as_failed_when_it_goes_into_error() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1", "a/c:1"]);
    fails(&mut ledger, "a/c:1", Cause::Refusal, 0);
    for n in 0..3 {
        fails(&mut ledger, "a/b:1", Cause::Refusal, n);
        let summary = ledger.summary(None);
        let status = summary.status();
        assert_eq!((summary.failed(), status.failed), (2, Some(2)), "{n}");
        let written = ledger.snapshot(&[]).status();
        assert_eq!(
            (written.failed, written.mirrored),
            (Some(2), Some(0)),
            "{n}"
        );
    }
}

#[test]
fn a_host_whose_name_does_not_resolve_for_long_is_gone_until_it_answers() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1"]);
    let key = wanted("a/b:1").key;
    let digest = Digest::sha256(b"x");
    ledger.succeeded(
        &key,
        digest,
        Arrival::Present {
            sparse: Sparse::default(),
        },
        at(0),
    );
    let gone: Vec<bool> = (1..=9)
        .map(|n| {
            fails(&mut ledger, "a/b:1", Cause::Transient, n);
            ledger.host_unknown(&key);
            ledger.is_gone(&key)
        })
        .collect();
    assert_eq!(
        gone.iter().filter(|gone| **gone).count(),
        2,
        "the limit is 2, and 6 more"
    );
    let summary = ledger.summary(None);
    assert_eq!(
        (summary.source_gone, summary.mirrored, summary.failed()),
        (1, 1, 0)
    );
    assert_eq!(ledger.vanished().0, 0, "an outage is not counted as a loss");
    assert!(summary.next_try.is_some(), "it is asked again");
    let restored = ledger.snapshot(&[]);
    assert_eq!(restored.status().source_gone, Some(1));
    ledger.succeeded(
        &key,
        digest,
        Arrival::Present {
            sparse: Sparse::default(),
        },
        at(10),
    );
    assert_eq!(ledger.summary(None).source_gone, 0);
}

#[test]
fn images_whose_content_was_damaged_at_the_destination_are_verified_now() {
    let mut ledger = looking_at(Until::Stopped, &["a/b:1", "a/c:1"]);
    let digest = Digest::sha256(b"a");
    let found = Arrival::Present {
        sparse: Sparse::default(),
    };
    for name in ["a/b:1", "a/c:1"] {
        ledger.succeeded(&wanted(name).key, digest, found, at(0));
    }
    assert!(ledger.verifications_due(at(10)).is_empty());
    let path = wanted("a/b:1").key.repository.path().clone();
    ledger.damaged(&[path], at(10));
    let due = ledger.verifications_due(at(10));
    assert_eq!(due, [(wanted("a/b:1"), digest)]);
}
