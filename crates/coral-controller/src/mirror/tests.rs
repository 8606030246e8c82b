//! Objects in, decisions out.

mod passes;
mod pruning;

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
use super::status::Input;
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

fn trouble(verdicts: &Verdicts, name: &str) -> (&'static str, String) {
    match &verdicts[&ObjectKey::new("a", name)] {
        Verdict::Wrong(trouble) => (trouble.reason, trouble.message.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mirror_copies_to_the_registry_of_its_namespace() {
    let verdicts = decide(&all([mirror("m", OLD, &spec("quay.io/a/b"))]), &seen());
    let Verdict::Run { prepared, .. } = &verdicts[&ObjectKey::new("a", "m")] else {
        panic!("{verdicts:?}");
    };
    assert_eq!(prepared.name, "a/m");
    assert_eq!(prepared.destination.to_string(), "reg.a.svc:5000");
}

#[test]
fn what_is_wrong_with_one_mirror_is_said_of_that_one() {
    let mut private = spec("quay.io/a/b");
    private["imagePullSecrets"] = json!([{"name": "one"}, {"name": "two"}]);
    let mut elsewhere = spec("quay.io/a/b");
    elsewhere["registry"] = json!({"name": "other"});
    let mirrors = all([
        mirror("good", OLD, &spec("quay.io/a/b")),
        mirror("invalid", OLD, &spec("quay.io/UPPER")),
        mirror("private", OLD, &private),
        mirror("elsewhere", OLD, &elsewhere),
    ]);
    let mut seen = seen();
    for name in ["one", "two"] {
        let key = ObjectKey::new("a", name);
        let refused = Err(SecretProblem::NotGranted(key.clone()));
        seen.secrets.insert(key, refused);
    }
    let verdicts = decide(&mirrors, &seen);
    assert!(matches!(
        verdicts[&ObjectKey::new("a", "good")],
        Verdict::Run { .. }
    ));
    let (reason, message) = trouble(&verdicts, "invalid");
    assert_eq!(reason, "InvalidSpec");
    assert!(message.contains("spec.repositories[0].name"), "{message}");
    let (reason, message) = trouble(&verdicts, "private");
    assert_eq!(reason, "SecretNotGranted");
    let command = "`coral grant a one two | kubectl apply -f -`";
    assert!(message.contains(command), "{message}");
    let (reason, message) = trouble(&verdicts, "elsewhere");
    assert_eq!(reason, "RegistryMissing");
    assert!(message.contains("a/other"), "{message}");
}

#[test]
fn what_is_not_known_yet_is_left_as_it_is() {
    let mirrors = all([mirror("m", OLD, &spec("quay.io/a/b"))]);
    let seen = NamedObjects {
        registries: None,
        ..seen()
    };
    let verdicts = decide(&mirrors, &seen);
    assert!(matches!(
        verdicts[&ObjectKey::new("a", "m")],
        Verdict::NotYet
    ));
}

#[test]
fn of_two_sources_for_one_place_the_older_mirror_goes_on_and_the_younger_says_so() {
    // The host of an IPv6 address is written with dashes for colons.
    let address = "[2001:db8::1]:5000/a/b";
    let mirrors = all([
        mirror("younger", NEW, &spec(address)),
        mirror("older", OLD, &spec("2001-db8-0-0-0-0-0-1:5000/a/b")),
        mirror("shares", NEW, &spec("quay.io/a/b")),
        mirror("shares-too", OLD, &spec("quay.io/a/b")),
    ]);
    let verdicts = decide(&mirrors, &seen());
    let run = |name: &str| match &verdicts[&ObjectKey::new("a", name)] {
        Verdict::Run {
            prepared,
            conflicts,
        } => (prepared.settings.repositories.len(), conflicts.clone()),
        other => panic!("{name}: {other:?}"),
    };
    for name in ["older", "shares", "shares-too"] {
        assert_eq!(run(name), (1, vec![]), "{name}");
    }
    let (left, conflicts) = run("younger");
    assert_eq!((left, conflicts.len()), (0, 1));
    let text = conflicts[0].to_string();
    assert!(
        text.starts_with(address) && text.contains("a/older"),
        "{text}"
    );
}

#[test]
fn mirrors_below_different_prefixes_meet_only_where_their_whole_paths_are_the_same() {
    let into = |source: &str, prefix: &str| {
        let mut spec = spec(source);
        spec["registry"] = json!({"host": "harbor.example", "port": 443, "prefix": prefix});
        spec
    };
    let mut root = spec("quay.io/docker.io/library/a");
    root["registry"] = json!({"host": "harbor.example", "port": 443});
    let mirrors = all([
        mirror("one", OLD, &into("quay.io/a/b", "one")),
        mirror("two", OLD, &into("quay.io/a/b", "two")),
        mirror("root", OLD, &root),
        mirror("same", NEW, &into("docker.io/library/a", "quay.io")),
    ]);
    let verdicts = decide(&mirrors, &seen());
    let run = |name: &str| match &verdicts[&ObjectKey::new("a", name)] {
        Verdict::Run {
            prepared,
            conflicts,
        } => {
            let places = prepared.settings.repositories.iter();
            let places: Vec<_> = places.map(|it| it.destination.to_string()).collect();
            (places, conflicts.len())
        }
        other => panic!("{name}: {other:?}"),
    };
    for (name, place) in [
        ("one", "one/quay.io/a/b"),
        ("two", "two/quay.io/a/b"),
        ("root", "quay.io/docker.io/library/a"),
    ] {
        assert_eq!(run(name), (vec![place.to_owned()], 0), "{name}");
    }
    assert_eq!(run("same"), (vec![], 1));
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
    let input = Input {
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
    let mut input = Input {
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
    let times = |input: &Input<'_>| {
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
    let input = Input {
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
fn a_registry_that_restarts_leaves_its_mirrors_as_they_are() {
    let mut away = seen();
    let registries = away.registries.as_deref().unwrap().clone();
    let away_now = registries.into_iter().map(|(key, access)| {
        let ready = false;
        (key, RegistryAccess { ready, ..access })
    });
    away.registries = Some(Arc::new(away_now.collect()));
    let unschedulable = "Unschedulable: pod reg-0 finds no node".to_owned();
    away.troubles = [(ObjectKey::new("a", "reg"), unschedulable)].into();
    let new = mirror("m", OLD, &spec("quay.io/a/b"));
    let mut ran = new.clone();
    ran.status = Some(status_of(&new, &snapshot(vec![]), true, 10));
    let (reason, message) = trouble(&decide(&all([new]), &away), "m");
    assert_eq!(reason, "RegistryNotReady");
    let why = "Registry a/reg is not ready yet: Unschedulable: pod reg-0 finds no node";
    assert!(message.contains(why), "{message}");
    let Verdict::Waits(waits) = of(&decide(&all([ran.clone()]), &away)) else {
        panic!("it goes on as it was, and says so");
    };
    assert_eq!(waits.reason, "RegistryNotReady");
    ran.spec.suspend = true;
    let suspended = decide(&all([ran]), &away);
    assert!(matches!(of(&suspended), Verdict::Wrong(_)), "it ends");
}

fn of(verdicts: &Verdicts) -> Verdict {
    match &verdicts[&ObjectKey::new("a", "m")] {
        Verdict::Waits(trouble) => Verdict::Waits(trouble.clone()),
        Verdict::Wrong(trouble) => Verdict::Wrong(trouble.clone()),
        other => panic!("{other:?}"),
    }
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
        let input = Input {
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
fn an_older_mirror_that_cannot_run_now_keeps_its_places() {
    let mut older = mirror("older", OLD, &spec("2001-db8-0-0-0-0-0-1:5000/a/b"));
    let younger = mirror("m", NEW, &spec("[2001:db8::1]:5000/a/b"));
    let conflicts = |older: &RegistryMirror| {
        let verdicts = decide(&all([older.clone(), younger.clone()]), &seen());
        match &verdicts[&ObjectKey::new("a", "m")] {
            Verdict::Run { conflicts, .. } => conflicts.len(),
            other => panic!("{other:?}"),
        }
    };
    older.status = Some(status_of(&older, &snapshot(vec![]), true, 10));
    older.spec.interval = Some("one day".to_owned());
    assert_eq!(conflicts(&older), 1);
    older.status = None;
    assert_eq!(conflicts(&older), 0, "it has copied nothing");
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
fn a_restarted_controller_goes_on_from_status_and_shards() {
    let mut mirror = mirror("m", OLD, &spec("quay.io/a/b"));
    let before = snapshot(vec![
        image("quay.io/a/b:1", MirroredState::Mirrored, Some("sha256:00")),
        image("quay.io/a/b:2", MirroredState::Failing, None),
    ]);
    assert!(
        restore::snapshot(
            &mirror,
            &Store::<MirroredImages>::from_objects([]).snapshot()
        )
        .is_none()
    );
    mirror.status = Some(status_of(&mirror, &before, true, 10));
    assert!(restore::is_current(&mirror));
    let divided = shards::divide(&before.images, 2);
    let objects = divided.into_iter().map(|(number, status)| {
        let mut object = shards::object(&mirror, number, "reg.a.svc:5000");
        object["metadata"]["namespace"] = json!("a");
        object["metadata"]["name"] = json!(shards::name("m", number));
        object["status"] = serde_json::to_value(status).unwrap();
        serde_json::from_value::<MirroredImages>(object).unwrap()
    });
    let stored = Store::from_objects(objects).snapshot();
    let mut restored = restore::snapshot(&mirror, &stored).unwrap();
    restored
        .images
        .sort_by(|a, b| a.reference.cmp(&b.reference));
    assert_eq!(restored, before);
}

#[test]
fn shards_stay_below_their_most_and_images_do_not_move_to_and_fro() {
    let images: Vec<MirroredImage> = (0..4000)
        .map(|n| image(&format!("quay.io/a/b:{n}"), MirroredState::Pending, None))
        .collect();
    let count = shards::count(images.len(), 0);
    assert_eq!(count, 8);
    let divided = shards::divide(&images, count);
    assert_eq!(
        divided.values().map(|s| s.images.len()).sum::<usize>(),
        4000
    );
    let most = coral_api::mirrored_images::MAX_SHARD_IMAGES;
    assert!(divided.values().all(|shard| shard.images.len() <= most));
    assert_eq!(shards::count(1500, 8), 8, "large enough as it is");
    assert_eq!(shards::count(100, 8), 1);
    assert_eq!(shards::count(0, 0), 1);
}

#[test]
fn a_shard_says_whether_its_images_are_there_and_keeps_the_time_of_what_stays() {
    let shard = |images: Vec<MirroredImage>| shards::divide(&images, 1).remove(&0).unwrap();
    let there = image("quay.io/a/b:1", MirroredState::Mirrored, Some("sha256:00"));
    let mut failed = image("quay.io/a/b:2", MirroredState::Failing, None);
    failed.message = Some("no answer".to_owned());
    let complete = shards::conditions(&shard(vec![there.clone()]), &[], Some(1), at(10));
    assert!(is_true(&complete, READY) && !is_true(&complete, DEGRADED));
    let same = shards::conditions(&shard(vec![there.clone()]), &complete, Some(1), at(20));
    assert_eq!(same, complete);
    let both = shard(vec![there, failed]);
    let failing = shards::conditions(&both, &complete, Some(2), at(30));
    assert!(!is_true(&failing, READY) && is_true(&failing, DEGRADED));
    let said: Vec<&str> = failing.iter().map(|c| c.message.as_str()).collect();
    assert_eq!(
        said,
        [
            "1 of 2 images mirrored",
            "1 failed; first quay.io/a/b:2: no answer"
        ]
    );
    assert!(failing.iter().all(|c| c.observed_generation == Some(2)));
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
    let told = status::began(Some(&pending), &failing, DEGRADED).unwrap();
    assert_eq!(told.reason, "Failing");
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
        let input = Input {
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
