//! Ledgers that continue from a snapshot.

use super::*;

#[test]
fn a_restored_ledger_asks_for_nothing_that_is_mirrored_or_waits() {
    let mut before = looking_at(Until::Stopped, &["a/b:1", "a/b:2", "a/b:3"]);
    before.expanded(1, vec![], at(0));
    found(&mut before, "a/b:1");
    let later = Cause::After(Duration::from_mins(5));
    fails(&mut before, "a/b:2", later, 0);
    let mut ledger = restored(&before, Trust::Everything, &settings());
    assert!(ledger.repositories_due(at(10)).is_empty());
    assert_eq!(due(&mut ledger, 10), ["a/b"], "the one that was pending");
    assert_eq!(due(&mut ledger, 300), ["a/b"], "the one that waits");
    let summary = ledger.summary(None);
    assert_eq!((summary.desired, summary.mirrored), (3, 1));
    assert_eq!((summary.sparse, summary.moved), (1, 7));
}

#[test]
fn a_restored_ledger_goes_by_the_names_of_repositories_and_lists_unknown_ones() {
    let mut before = looking_at(Until::Stopped, &["a/b:1"]);
    found(&mut before, "a/b:1");
    let mut turned = settings();
    turned.reverse();
    let mut ledger = restored(&before, Trust::Everything, &turned);
    assert_eq!(ledger.repositories_due(at(10)), [0], "c/d was never listed");
    ledger.expanded(1, vec![], at(10));
    assert_eq!(ledger.summary(None).desired, 0, "a/b is the second now");
}

#[test]
fn a_changed_mirror_keeps_what_is_at_the_destination_and_forgets_failures() {
    let mut before = looking_at(Until::Stopped, &["a/b:1", "a/b:2"]);
    found(&mut before, "a/b:1");
    fails(&mut before, "a/b:2", Cause::Refusal, 0);
    let mut ledger = restored(&before, Trust::Contents, &settings());
    assert_eq!(ledger.repositories_due(at(10)), [0, 1]);
    assert!(due(&mut ledger, 100_000).is_empty());
    let summary = ledger.summary(None);
    assert_eq!((summary.desired, summary.mirrored), (1, 1));
}

#[test]
fn a_changed_mirror_knows_what_is_at_the_destination_also_where_the_last_look_failed() {
    let mut before = looking_at(Until::Stopped, &["a/b:1"]);
    found(&mut before, "a/b:1");
    fails(&mut before, "a/b:1", Cause::Transient, 1);
    let mut ledger = restored(&before, Trust::Contents, &settings());
    let image = ledger.snapshot(&settings()).images.remove(0);
    assert_eq!(image.digest, Some(Digest::sha256(b"x").to_string()));
    assert!(due(&mut ledger, 100_000).is_empty(), "not before its list");
    ledger.expanded(0, vec![wanted("a/b:1")], at(10));
    assert_eq!(due(&mut ledger, 10), ["a/b"]);
}

#[test]
fn what_is_only_remembered_is_compared_once_its_repository_is_listed() {
    let mut before = looking_at(Until::Stopped, &["a/b:1", "a/b:2"]);
    for name in ["a/b:1", "a/b:2"] {
        found(&mut before, name);
    }
    let snapshot = before.snapshot(&settings()).into_memory();
    let mut ledger = ledger(Until::Stopped);
    let settings = settings();
    let places = places(&settings);
    ledger.restore(&snapshot, &settings, &places, Trust::Everything, at(10));
    let summary = ledger.summary(None);
    assert_eq!((summary.mirrored, summary.pending), (0, 2));
    assert!(due(&mut ledger, 10).is_empty());
    assert_eq!(ledger.repositories_due(at(10)), [0, 1]);
    // Tag 2 is no longer wanted.
    ledger.expanded(0, vec![wanted("a/b:1")], at(10));
    assert_eq!(due(&mut ledger, 10), ["a/b"]);
    let held = ["a/b:1", "a/b:2"].map(|name| ledger.held(&wanted(name).key));
    assert_eq!(held, [Some(Digest::sha256(b"x")), None]);
}

#[test]
fn a_failed_listing_waits_in_a_restored_ledger_too() {
    let mut before = ledger(Until::Stopped);
    let later = Cause::After(Duration::from_mins(5));
    before.repository_failed(0, failure(later), at(0), 1.0);
    before.expanded(1, vec![], at(0));
    let mut ledger = restored(&before, Trust::Everything, &settings());
    assert_eq!(ledger.summary(None).repositories.failing, 1);
    assert!(ledger.repositories_due(at(299)).is_empty());
    assert_eq!(ledger.repositories_due(at(300)), [0]);
}

/// Regression: after a restart, such images were taken for tags that their source had deleted.
#[test]
fn images_of_a_host_that_cannot_be_listed_are_no_deleted_tags_after_a_restart() {
    let mut before = looking_at(Until::Stopped, &["a/b:1"]);
    found(&mut before, "a/b:1");
    for n in 1..=8 {
        before.repository_failed(0, failure(Cause::Transient), at(n), 1.0);
    }
    assert_eq!(before.repository_unknown(0).len(), 1);
    let after = restored(&before, Trust::Everything, &settings());
    for ledger in [&before, &after] {
        assert!(ledger.is_gone(&wanted("a/b:1").key));
        assert_eq!(ledger.vanished().0, 0, "an outage is not counted as a loss");
    }
}
