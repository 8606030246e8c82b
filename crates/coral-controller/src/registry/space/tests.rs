use coral_api::conditions;
use jiff::Timestamp;
use serde_json::json;

use super::*;

const GIB: u64 = 1 << 30;

/// A storage with a limit of 100 GiB, of which so much is used, on a disk without end.
fn used(stored: u64) -> Space {
    Space {
        stored,
        counted: true,
        limit: Some(100 * GIB),
        ..Space::default()
    }
}

/// The status after these answers, one after the other.
fn after(answers: &[Space]) -> RegistryStatus {
    let mut status = RegistryStatus::default();
    for space in answers {
        let storage = space.storage(Some(&status));
        let mut all = status.conditions.take().unwrap_or_default();
        let update = conditions::ConditionUpdate {
            kind: STORAGE_AVAILABLE,
            truth: storage.level.truth(),
            reason: storage.level.reason(),
            message: &storage.message(),
        };
        conditions::set(&mut all, &update, Some(1), Timestamp::UNIX_EPOCH);
        status.conditions = Some(all);
        status.storage = Some(storage.status);
    }
    status
}

fn said(answers: &[Space]) -> (String, String) {
    let conditions = after(answers).conditions.unwrap();
    (conditions[0].status.clone(), conditions[0].reason.clone())
}

#[test]
fn the_condition_says_that_space_is_low_before_it_says_that_it_is_full() {
    for (stored, truth, reason) in [
        (0, "True", "Available"),
        (90 * GIB, "True", "Available"),
        (90 * GIB + 1, "True", "SpaceLow"),
        (100 * GIB - 1, "True", "SpaceLow"),
        (100 * GIB, "False", "StorageFull"),
        (u64::MAX, "False", "StorageFull"),
    ] {
        let expected = (truth.to_owned(), reason.to_owned());
        assert_eq!(said(&[used(stored)]), expected, "{stored}");
    }
}

#[test]
fn a_level_is_left_farther_away_than_it_is_entered() {
    let reason = |answers: &[u64]| {
        let answers: Vec<Space> = answers.iter().map(|stored| used(stored * GIB)).collect();
        said(&answers).1
    };
    assert_eq!(reason(&[91, 89]), "SpaceLow");
    assert_eq!(reason(&[91, 87]), "Available");
    // One GiB of 100 is left.
    assert_eq!(reason(&[100, 99]), "StorageFull");
    assert_eq!(reason(&[100, 98]), "SpaceLow");
    assert_eq!(reason(&[100, 98, 99]), "SpaceLow");
    assert_eq!(reason(&[100, 50]), "Available");
}

#[test]
fn the_floor_of_the_disk_is_a_bound_and_the_tighter_bound_counts() {
    let on = |free, min_free, limit| Space {
        counted: true,
        limit,
        disk: Some(200 * GIB),
        free: Some(free),
        min_free,
        ..Space::default()
    };
    for (space, level, free) in [
        (
            on(150 * GIB, Some(GIB), None),
            StorageLevel::Available,
            "149Gi",
        ),
        (
            on(11 * GIB - 1, Some(GIB), None),
            StorageLevel::Low,
            "10239Mi",
        ),
        (on(GIB, Some(GIB), None), StorageLevel::Full, "0"),
        // Without a floor a disk is full when no byte is left.
        (on(1, Some(0), None), StorageLevel::Low, "1"),
        (on(0, None, None), StorageLevel::Full, "0"),
        (
            on(150 * GIB, Some(GIB), Some(5)),
            StorageLevel::Available,
            "5",
        ),
    ] {
        let storage = space.storage(None);
        assert_eq!(storage.level, level, "{space:?}");
        assert_eq!(storage.status.free.as_deref(), Some(free), "{space:?}");
    }
}

#[test]
fn what_is_not_counted_yet_makes_nothing_better() {
    let restarted = Space {
        counted: false,
        ..used(0)
    };
    let status = after(&[used(100 * GIB), restarted]);
    assert_eq!(said(&[used(100 * GIB), restarted]).1, "StorageFull");
    assert_eq!(status.storage.unwrap().stored.as_deref(), Some("100Gi"));
    assert_eq!(after(&[restarted]).storage.unwrap().stored, None);
}

#[test]
fn a_small_difference_changes_no_status() {
    let status = after(&[used(50 * GIB)]);
    assert_eq!(after(&[used(50 * GIB), used(50 * GIB + GIB / 2)]), status);
    let more = after(&[used(50 * GIB), used(52 * GIB)]).storage.unwrap();
    assert_eq!(more.stored.as_deref(), Some("53248Mi"));
    // From nothing, each step is one.
    let first = after(&[used(0), used(7)]).storage.unwrap();
    assert_eq!(first.stored.as_deref(), Some("7"));
}

#[test]
fn the_message_says_what_is_stored_what_is_left_and_what_to_do() {
    let message = |stored| used(stored).storage(None).message();
    assert_eq!(
        message(20 * GIB),
        "20480Mi stored, 81920Mi can still be pushed"
    );
    assert!(message(95 * GIB).contains("5120Mi can still be pushed: delete images"));
    let full = message(100 * GIB);
    assert!(
        full.starts_with("pushes are refused and mirrors wait"),
        "{full}"
    );
    assert!(full.contains("spec.storage.limit"), "{full}");
}

#[test]
fn the_answer_of_a_registry_is_read() {
    let answer = json!({"stored": 3, "uploads": 1, "damaged": 0, "counted": true, "disk": 100,
        "free": 50, "minFree": 5, "full": "x", "reason": "Limit"});
    let space: Space = serde_json::from_value(answer).unwrap();
    let expected = Space {
        stored: 3,
        uploads: 1,
        counted: true,
        limit: None,
        disk: Some(100),
        free: Some(50),
        min_free: Some(5),
    };
    assert_eq!(space, expected);
}
