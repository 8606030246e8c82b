//! Objects in, decisions out.

mod divided;
mod passes;
mod pruning;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::conditions::is_true;
use coral_api::conditions::kind::{DEGRADED, PROGRESSING, PRUNE_PAUSED, READY, SOURCE_GONE};
use coral_api::mirrored_images::{MirroredImage, MirroredImages, MirroredState};
use coral_api::{
    MirroredRepository, PruningStatus, RegistryMirror, RegistryMirrorStatus, Visibility,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lookup::NamedObjects;
use super::status::StatusInput;
use super::verdict::{Verdict, Verdicts, decide};
use super::{restore, shards, status};
use crate::ObjectKey;
use crate::secrets::SecretProblem;
use crate::shared::{PushCredential, RegistryAccess};
use crate::store::{Snapshot, Store};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn mirror(name: &str, created: &str, spec: &Value) -> RegistryMirror {
    let metadata = json!({
        "namespace": "a", "name": name, "uid": name, "generation": 3, "creationTimestamp": created,
    });
    let object = json!({"metadata": metadata, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn spec(source: &str) -> Value {
    json!({"registry": {"name": "reg"}, "repositories": [{"name": source, "tags": ["1"]}]})
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-02T00:00:00Z";

fn all(mirrors: impl IntoIterator<Item = RegistryMirror>) -> Snapshot<RegistryMirror> {
    Store::from_objects(mirrors).snapshot()
}

/// A Registry that is ready, and no Secret.
fn seen() -> NamedObjects {
    let key = ObjectKey::new("a", "reg");
    let access = RegistryAccess {
        host: "reg.a.svc:5000".to_owned(),
        endpoint: "https://10.96.0.9:5000".to_owned(),
        ready: true,
        is_observed: true,
        push: Some(PushCredential::new("coral", "s3cret")),
        loaded: None,
    };
    NamedObjects {
        registries: Some(Arc::new(BTreeMap::from([(key.clone(), access)]))),
        ca: Some(Arc::new(String::new())),
        objects: BTreeSet::from([key]),
        ..NamedObjects::default()
    }
}

fn image(reference: &str, state: MirroredState, digest: Option<&str>) -> MirroredImage {
    MirroredImage {
        digest: digest.map(ToOwned::to_owned),
        message: matches!(state, MirroredState::Failing).then(|| "source: down".to_owned()),
        ..MirroredImage::new(reference, format!("reg.a.svc:5000/{reference}"), state)
    }
}

fn snapshot(images: Vec<MirroredImage>) -> coral_mirror::Snapshot {
    coral_mirror::Snapshot {
        next_pass: Some(at(3600)),
        moved: 7,
        pruned: 0,
        pruning: PruningStatus::default(),
        held_back: BTreeMap::new(),
        is_memory: false,
        repositories: vec![MirroredRepository {
            name: "quay.io/a/b".to_owned(),
            images: i64::try_from(images.len()).ok(),
            ..MirroredRepository::default()
        }],
        images,
    }
}

fn status_of(
    mirror: &RegistryMirror,
    snapshot: &coral_mirror::Snapshot,
    quiet: bool,
    now: i64,
) -> RegistryMirrorStatus {
    let settings = mirror.settings().unwrap();
    let input = StatusInput {
        old: mirror.status.as_ref(),
        generation: mirror.metadata.generation,
        prune: mirror.spec.prune_digest(),
        settings: &settings,
        snapshot,
        last_pass: quiet.then(|| at(now)),
        quiet,
        conflicts: &[],
        loaded: Some(Arc::new(BTreeSet::from(["quay.io/a/b".to_owned()]))),
        now: at(now),
    };
    status::status(&input, |_| None, |_| true)
}

#[test]
fn the_outside_being_cut_off_makes_no_image_absent_and_no_repository_private() {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let good = snapshot(vec![image(
        "quay.io/a/b:1",
        MirroredState::Mirrored,
        Some("sha256:00"),
    )]);
    let mut first = status_of(&mirror, &good, true, 10);
    assert_eq!(first.last_sync.as_ref().unwrap().0, at(10));
    first.repositories.as_mut().unwrap()[0].visibility = Some(Visibility::Public);
    mirror.status = Some(first);
    let cut = snapshot(vec![image(
        "quay.io/a/b:1",
        MirroredState::Failing,
        Some("sha256:00"),
    )]);
    let status = status_of(&mirror, &cut, true, 20);
    let conditions = status.conditions.as_ref().unwrap();
    assert!(is_true(conditions, READY) && is_true(conditions, DEGRADED));
    assert_eq!((status.mirrored, status.failed), (Some(1), Some(1)));
    let repository = &status.repositories.as_ref().unwrap()[0];
    assert_eq!(repository.visibility, Some(Visibility::Public));
    assert_eq!(repository.loaded, Some(true));
    let paths = status::public_paths(&all([mirror]), |_, _| None);
    let expected = BTreeSet::from(["quay.io/a/b".to_owned()]);
    assert_eq!(paths[&ObjectKey::new("a", "reg")], expected);
}

/// Regression: each jump of the wall clock moved the next pass, which was taken for the end of one:
/// the alert on the age of the last pass fell silent.
#[test]
fn a_wall_clock_that_is_set_is_no_pass() {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    mirror.status = Some(status_of(&mirror, &snapshot(vec![]), true, 10));
    let mut jumped = snapshot(vec![]);
    jumped.next_pass = Some(at(90_000));
    let settings = mirror.settings().unwrap();
    let mut input = StatusInput {
        old: mirror.status.as_ref(),
        generation: Some(3),
        prune: None,
        settings: &settings,
        snapshot: &jumped,
        last_pass: None,
        quiet: true,
        conflicts: &[],
        loaded: None,
        now: at(87_000),
    };
    let times = |input: &StatusInput<'_>| {
        let status = status::status(input, |_| None, |_| true);
        [status.last_sync, status.next_sync].map(|time| time.unwrap().0)
    };
    assert_eq!(times(&input), [at(10), at(90_000)], "of an earlier process");
    input.last_pass = Some(at(86_410));
    assert_eq!(
        times(&input),
        [at(86_410), at(90_000)],
        "the driver shifted it"
    );
}

#[test]
fn a_repository_that_one_mirror_found_private_is_not_public() {
    let mirrors = all([
        mirror("one", OLD, &spec("quay.io/a/b")),
        mirror("two", OLD, &spec("quay.io/a/b")),
    ]);
    let known = |key: &ObjectKey, _: &str| {
        Some(if key.name == "one" {
            Visibility::Public
        } else {
            Visibility::Private
        })
    };
    assert!(status::public_paths(&mirrors, known).is_empty());
}

#[test]
fn a_mirror_is_ready_once_it_was_asked_who_may_read_its_repositories() {
    let mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let held = image("quay.io/a/b:1", MirroredState::Mirrored, Some("sha256:00"));
    let (snapshot, settings) = (snapshot(vec![held]), mirror.settings().unwrap());
    let input = StatusInput {
        old: None,
        generation: Some(3),
        prune: mirror.spec.prune_digest(),
        settings: &settings,
        snapshot: &snapshot,
        last_pass: None,
        quiet: true,
        conflicts: &[],
        loaded: None,
        now: at(10),
    };
    let ready = |seen: Option<Visibility>, unclear: bool| {
        let status = status::status(&input, |_| seen, |_| unclear);
        is_true(&status.conditions.unwrap(), READY)
    };
    assert!(!ready(None, false));
    assert!(ready(None, true));
    assert!(ready(Some(Visibility::Private), false));
}

#[test]
fn a_mirror_whose_repository_was_never_listed_is_not_ready() {
    let mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let mut cut = snapshot(vec![]);
    cut.repositories[0].images = None;
    cut.repositories[0].message = Some("source: down".to_owned());
    let status = status_of(&mirror, &cut, true, 10);
    let conditions = status.conditions.as_ref().unwrap();
    assert!(!is_true(conditions, READY) && is_true(conditions, DEGRADED));
    let failures = status.failures.unwrap();
    assert_eq!(failures[0].reference, "quay.io/a/b");
}

#[test]
fn what_vanished_at_its_source_is_a_condition_and_stays_known_after_a_restart() {
    let mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let gone = image(
        "quay.io/a/b:1",
        MirroredState::SourceGone,
        Some("sha256:00"),
    );
    let mut known = snapshot(vec![gone]);
    known.pruning = PruningStatus {
        paused: true,
        accepted: 4,
        counted: 6,
        confirmed: None,
    };
    let status = status_of(&mirror, &known, true, 10);
    assert_eq!(
        (status.source_gone, status.mirrored, status.failed),
        (Some(1), Some(1), Some(0))
    );
    let conditions = status.conditions.as_ref().unwrap();
    for (kind, holds) in [(SOURCE_GONE, true), (PRUNE_PAUSED, true), (DEGRADED, false)] {
        assert_eq!(is_true(conditions, kind), holds, "{kind}");
    }
    let message = &conditions
        .iter()
        .find(|c| c.type_ == SOURCE_GONE)
        .unwrap()
        .message;
    assert!(message.contains("first quay.io/a/b:1"), "{message}");
    let well = snapshot(vec![image(
        "quay.io/a/b:1",
        MirroredState::Mirrored,
        Some("sha256:00"),
    )]);
    let well = status_of(&mirror, &well, true, 10).conditions.unwrap();
    assert!(!is_true(&well, SOURCE_GONE) && !is_true(&well, PRUNE_PAUSED));
}

#[test]
fn a_mistake_in_a_mirror_makes_none_of_its_repositories_private() {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let mut status = status_of(&mirror, &snapshot(vec![]), true, 10);
    status.repositories.as_mut().unwrap()[0].visibility = Some(Visibility::Public);
    mirror.status = Some(status);
    mirror.spec.interval = Some("one day".to_owned());
    assert!(mirror.settings().is_err());
    let paths = status::public_paths(&all([mirror]), |_, _| None);
    let expected = BTreeSet::from(["quay.io/a/b".to_owned()]);
    assert_eq!(paths[&ObjectKey::new("a", "reg")], expected);
}

#[test]
fn what_a_registry_has_loaded_says_nothing_about_the_one_after_it() {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let mut before = status_of(&mirror, &snapshot(vec![]), true, 10);
    let repository = &mut before.repositories.as_mut().unwrap()[0];
    repository.visibility = Some(Visibility::Public);
    repository.loaded = Some(true);
    let mut loaded = |spec: Value, generation: i64| {
        mirror.spec = serde_json::from_value(spec).unwrap();
        let (settings, snapshot) = (mirror.settings().unwrap(), snapshot(vec![]));
        let input = StatusInput {
            old: Some(&before),
            generation: Some(generation),
            prune: mirror.spec.prune_digest(),
            settings: &settings,
            snapshot: &snapshot,
            last_pass: None,
            quiet: true,
            conflicts: &[],
            loaded: None,
            now: at(20),
        };
        let status = status::status(&input, |_| None, |_| true);
        status.repositories.unwrap()[0].loaded
    };
    assert_eq!(loaded(spec("quay.io/a/b"), 3), Some(true));
    let mut elsewhere = spec("quay.io/a/b");
    elsewhere["registry"] = json!({"name": "other"});
    assert_eq!(loaded(elsewhere.clone(), 4), None);
    elsewhere["registry"] = json!({"host": "reg.coral-system.svc:5000"});
    assert_eq!(loaded(elsewhere, 3), None);
}

#[test]
fn the_same_state_is_the_same_status_and_progress_is_said() {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let pending = snapshot(vec![image("quay.io/a/b:1", MirroredState::Pending, None)]);
    let status = status_of(&mirror, &pending, false, 10);
    assert_eq!(status.next_sync, None, "the pass has not ended");
    assert!(is_true(status.conditions.as_ref().unwrap(), PROGRESSING));
    mirror.status = Some(status.clone());
    assert_eq!(status_of(&mirror, &pending, false, 20), status);
}

#[test]
fn a_mirror_that_gets_ready_or_fails_is_told_of_once() {
    let object = mirror("m", OLD, &spec("quay.io/a/b"));
    let pending = snapshot(vec![image("quay.io/a/b:1", MirroredState::Pending, None)]);
    let failing = snapshot(vec![image("quay.io/a/b:1", MirroredState::Failing, None)]);
    let pending = status_of(&object, &pending, false, 10);
    let failing = status_of(&object, &failing, true, 20);
    assert_eq!(status::began(None, &pending, READY), None);
    assert_eq!(status::began(Some(&pending), &pending, DEGRADED), None);
    let condition = status::began(Some(&pending), &failing, DEGRADED).unwrap();
    assert_eq!(condition.reason, "Failing");
    assert_eq!(status::began(Some(&failing), &failing, DEGRADED), None);
}

#[test]
fn a_mirror_is_ready_once_the_registry_serves_its_public_repositories() {
    let object = mirror("m", OLD, &spec("quay.io/a/b"));
    let settings = object.settings().unwrap();
    let there = image("quay.io/a/b:1", MirroredState::Mirrored, Some("sha256:00"));
    let snapshot = snapshot(vec![there]);
    let served = BTreeSet::from(["quay.io/a/b".to_owned()]);
    for (visibility, loaded, reason) in [
        (Visibility::Public, None, "NotServed"),
        (Visibility::Public, Some(BTreeSet::new()), "NotServed"),
        (Visibility::Public, Some(served), "Mirrored"),
        (Visibility::Private, Some(BTreeSet::new()), "Mirrored"),
    ] {
        let input = StatusInput {
            old: None,
            generation: Some(3),
            prune: object.spec.prune_digest(),
            settings: &settings,
            snapshot: &snapshot,
            last_pass: None,
            quiet: true,
            conflicts: &[],
            loaded: loaded.map(Arc::new),
            now: at(10),
        };
        let status = status::status(&input, |_| Some(visibility), |_| false);
        let mut conditions = status.conditions.into_iter().flatten();
        let ready = conditions.find(|c| c.type_ == READY).unwrap();
        assert_eq!(ready.reason, reason, "{}", ready.message);
        assert_eq!(ready.status == "True", reason == "Mirrored");
    }
}
