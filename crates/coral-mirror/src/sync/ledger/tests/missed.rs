//! Missing parts of an image, from pass to pass.

use coral_api::mirrored_images::MissingPart;

use super::*;
use crate::copy::Layers;
use crate::sync::ledger::missed::last_turn;

const DAY: i64 = 24 * 3600;

fn digest() -> Digest {
    Digest::sha256(b"x")
}

/// A ledger with one image, copied at second 0 without these layers; it wants all foreign layers.
fn copied_without(layers: Layers, missed: bool) -> (Ledger, Key) {
    let mut ledger = ledger(Until::Stopped);
    let image = Wanted {
        foreign_layers: true,
        ..wanted("a/b:1")
    };
    let key = image.key.clone();
    ledger.expanded(0, vec![image], at(0));
    arrives_without(&mut ledger, layers, missed, 0);
    (ledger, key)
}

fn arrives_without(ledger: &mut Ledger, layers: Layers, missed: bool, now: i64) {
    let sparse = Sparse {
        platforms: false,
        layers,
    };
    let arrival = Arrival::Copied {
        moved: 7,
        sparse,
        missed,
    };
    ledger.succeeded(&wanted("a/b:1").key, digest(), arrival, at(now));
}

/// Whether a pass that finds the image without some layers copies it again.
fn asks(ledger: &mut Ledger, key: &Key, now: i64) -> bool {
    let seen = Sparse {
        platforms: false,
        layers: Layers::LeftOut,
    };
    ledger.begins_to_complete(key, digest(), seen, at(now))
}

/// Regression: the layers were never requested again until the tag or the settings changed.
#[test]
fn a_source_is_asked_once_a_day_for_layers_that_it_did_not_have() {
    let (mut ledger, key) = copied_without(Layers::NotAtSource, false);
    assert!(!asks(&mut ledger, &key, DAY - 1));
    assert!(asks(&mut ledger, &key, DAY));
    assert_eq!(ledger.completes(&key), Some(digest()));
    arrives_without(&mut ledger, Layers::NotAtSource, false, DAY);
    assert!(!asks(&mut ledger, &key, 2 * DAY - 1));
    assert!(asks(&mut ledger, &key, 2 * DAY));
    arrives_without(&mut ledger, Layers::Complete, false, 2 * DAY);
    let there = Sparse::default();
    assert!(!ledger.begins_to_complete(&key, digest(), there, at(9 * DAY)));
    // Layers that could not be copied are tried in each pass.
    let (mut ledger, key) = copied_without(Layers::LeftOut, false);
    assert!(asks(&mut ledger, &key, 1));
}

#[test]
fn a_restart_asks_no_source_at_once_and_each_within_a_day() {
    let (before, key) = copied_without(Layers::NotAtSource, false);
    let mut ledger = restored(&before, Trust::Everything, &settings());
    assert!(!asks(&mut ledger, &key, 10));
    assert!(asks(&mut ledger, &key, 10 + DAY));
}

#[test]
fn all_that_is_missing_is_written_down_read_and_told_beside_a_drift() {
    let (mut ledger, key) = copied_without(Layers::NotAtSource, true);
    ledger.pinned(&key, Digest::sha256(b"y"));
    let record = |ledger: &Ledger| ledger.snapshot(&settings()).images[0].clone();
    let parts = [MissingPart::ForeignLayersAtSource, MissingPart::Referrers];
    assert_eq!(record(&ledger).missing, parts);
    let told = record(&ledger).message.unwrap_or_default();
    for part in ["driftPolicy", "foreign layers", "referrers"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let read = restored(&ledger, Trust::Everything, &settings());
    assert_eq!(record(&read).missing, parts);
    assert_eq!(read.layers(&key), Layers::NotAtSource);
}

#[test]
fn foreign_layers_that_fail_are_told_of_once_until_something_is_copied() {
    let (mut ledger, key) = copied_without(Layers::LeftOut, false);
    assert!(ledger.could_not_complete(&key));
    assert!(!ledger.could_not_complete(&key));
    arrives_without(&mut ledger, Layers::LeftOut, false, 1);
    assert!(ledger.could_not_complete(&key));
    // The copy itself reports referrers.
    let (mut ledger, key) = copied_without(Layers::Complete, true);
    assert!(!ledger.could_not_complete(&key));
}

#[test]
fn a_source_that_was_asked_in_vain_is_asked_again_in_a_day() {
    let (mut ledger, key) = copied_without(Layers::NotAtSource, false);
    assert!(asks(&mut ledger, &key, 9 * DAY));
    ledger.asked_for_layers(&key, at(9 * DAY));
    assert!(!asks(&mut ledger, &key, 10 * DAY - 1));
    assert!(asks(&mut ledger, &key, 10 * DAY));
}

#[test]
fn restarts_do_not_move_the_turn_of_the_day() {
    for turn in [0.0, 0.05, 0.5, 0.999] {
        let first = last_turn(turn, at(20 * DAY + 1)).unwrap();
        for later in [0, 1, 60, 3600] {
            let now = Timestamp::from_second(first.as_second() + later).unwrap();
            assert_eq!(last_turn(turn, now), Some(first));
        }
        assert!(first <= at(20 * DAY + 1) && first > at(19 * DAY));
    }
}
