//! When a mirror that deletes no tags goes on, and what is said meanwhile.

use coral_api::metadata::time;
use coral_api::names::annotation;

use super::*;

/// A mirror whose pruning is paused, with this status in the API.
fn paused_mirror(counted: i64) -> RegistryMirror {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    mirror.spec.prune = Some(serde_json::from_value(json!({"enabled": true})).unwrap());
    let mut known = snapshot(vec![]);
    known.pruning = PruningStatus {
        paused: true,
        accepted: 4,
        counted,
        confirmed: None,
    };
    let status = status_of(&mirror, &known, true, 10);
    mirror.metadata.generation = Some(3);
    mirror.status = Some(RegistryMirrorStatus {
        observed_generation: Some(3),
        ..status
    });
    mirror
}

fn restored_pruning(mirror: &RegistryMirror) -> PruningStatus {
    let none = Store::<MirroredImages>::from_objects([]).snapshot();
    restore::snapshot(mirror, &none).unwrap().pruning
}

/// Regression: an edit of the interval, or of a repository, by a person who knew of no pause,
/// confirmed deletions.
#[test]
fn a_pause_ends_with_a_change_of_what_is_pruned_and_with_no_other() {
    let mut stored = paused_mirror(6);
    let paused = stored.status.as_ref().unwrap().pruning.unwrap();
    assert_eq!(restored_pruning(&stored), paused);
    stored.metadata.generation = Some(4);
    stored.spec.suspend = true;
    stored.spec.interval = Some("2h".to_owned());
    stored.spec.repositories[0].tags = vec!["2".to_owned()];
    assert_eq!(restored_pruning(&stored), paused, "not about pruning");
    stored.spec.prune.as_mut().unwrap().dry_run = true;
    assert_eq!(restored_pruning(&stored), paused, "set in order to look");
    let prune = stored.spec.prune.take();
    assert_eq!(restored_pruning(&stored), paused, "turned off");
    stored.spec.prune = prune;
    stored.spec.prune.as_mut().unwrap().keep = vec!["*-lts".to_owned()];
    let looked = PruningStatus::accepting(6);
    assert_eq!(restored_pruning(&stored), looked, "what was counted");
    let open = PruningStatus {
        paused: false,
        ..paused
    };
    stored.status.as_mut().unwrap().pruning = Some(open);
    assert_eq!(
        restored_pruning(&stored),
        open,
        "no pause, so nothing is confirmed"
    );
}

/// Regression: the number of vanished images grew while deletions were paused, in silence.
#[test]
fn a_pause_says_how_many_images_are_gone_and_an_event_says_when_more_are() {
    let of = |mirror: &RegistryMirror| mirror.status.clone().unwrap();
    let (before, now) = (of(&paused_mirror(6)), of(&paused_mirror(100)));
    let paused = status::began(None, &before, PRUNE_PAUSED).unwrap();
    for part in [
        "6 of 0 are gone now",
        "image.stvz.io/confirm-prune is \"6\"",
    ] {
        assert!(paused.message.contains(part), "{}", paused.message);
    }
    assert!(status::began(Some(&before), &now, PRUNE_PAUSED).is_none());
    let more = status::more_vanished(Some(&before), &now).unwrap();
    assert!(more.message.contains("100 of 0"), "{}", more.message);
    assert!(status::more_vanished(Some(&now), &now).is_none());
    assert!(status::more_vanished(Some(&now), &before).is_none());
    assert!(status::more_vanished(None, &now).is_none());
}

#[test]
fn the_annotation_of_a_mirror_confirms_the_number_that_it_has() {
    let mut mirror = paused_mirror(6);
    for (text, number) in [("6", 6), (" 7 ", 7), ("yes", 0), ("", 0)] {
        let annotations = BTreeMap::from([(annotation::CONFIRM_PRUNE.to_owned(), text.to_owned())]);
        mirror.metadata.annotations = Some(annotations);
        assert_eq!(restore::confirmed(&mirror), Some(number), "{text}");
    }
    mirror.metadata.annotations = None;
    assert_eq!(restore::confirmed(&mirror), None);
}

/// Regression: no condition said by whom tags were kept from being deleted.
#[test]
fn a_mirror_that_deletes_no_tags_because_of_another_names_it() {
    let mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let mut held = snapshot(vec![]);
    let by = ("quay.io/a/b".to_owned(), "tenant/m (held)".to_owned());
    held.held_back = BTreeMap::from([by]);
    let status = status_of(&mirror, &held, true, 10);
    let said = status::began(None, &status, PRUNE_PAUSED).unwrap();
    assert_eq!(said.reason, "WaitsForMirror");
    let expected = "no tag of quay.io/a/b is deleted (1 repositories in all): RegistryMirror tenant/m \
                    names it too, and it is unknown which of its tags that mirror wants";
    assert_eq!(said.message, expected);
}

#[test]
fn a_mirror_by_an_address_that_never_held_anything_is_empty_after_a_day() {
    let day = 86_400;
    let address = json!({"registry": {"host": "reg.a.svc", "port": 5000}, "repositories": []});
    let made = |status: Option<RegistryMirrorStatus>, spec: &Value| {
        let mut mirror = mirror("m", OLD, spec);
        mirror.metadata.creation_timestamp = Some(time(at(0)));
        mirror.status = status;
        all([mirror])
    };
    let is_empty = |mirrors: &Snapshot<RegistryMirror>, now| {
        !crate::mirror::empty(mirrors, at(now)).is_empty()
    };
    let holding = |mirrored, bytes_copied| RegistryMirrorStatus {
        mirrored: Some(mirrored),
        bytes_copied: Some(bytes_copied),
        conditions: Some(vec![]),
        ..RegistryMirrorStatus::default()
    };
    for (status, now, expected) in [
        (None, day, false),
        (Some(RegistryMirrorStatus::default()), day, false),
        (Some(holding(0, 0)), day - 1, false),
        (Some(holding(0, 0)), day, true),
        (Some(holding(1, 0)), day, false),
        (Some(holding(0, 1)), day, false),
    ] {
        let mirrors = made(status, &address);
        assert_eq!(is_empty(&mirrors, now), expected, "{now}");
    }
    assert!(
        !is_empty(&made(Some(holding(0, 0)), &spec("quay.io/a/b")), day),
        "a Registry"
    );
    let names = crate::mirror::empty(&made(Some(holding(0, 0)), &address), at(day));
    assert_eq!(names, ["a/m", "a/m (held)"].map(str::to_owned).into());
}
