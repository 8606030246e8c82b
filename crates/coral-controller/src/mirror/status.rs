//! The part of a mirror's status that is about the cluster. Pure. Counts, failures and repositories
//! come from [`coral_mirror::Snapshot::status`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::conditions::kind::{DEGRADED, PROGRESSING, PRUNE_PAUSED, READY, SOURCE_GONE};
use coral_api::conditions::{ConditionUpdate, Truth, set};
use coral_api::metadata::time;
use coral_api::mirrored_images::{MirroredImage, MirroredState};
use coral_api::names::annotation;
use coral_api::{
    MirrorSettings, MirroredRepository, PruningStatus, RegistryMirror, RegistryMirrorStatus,
    Target, Visibility,
};
use coral_image::{Digest, destination_path};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::conflicts::Conflict;
use super::verdict::MirrorProblem;
use super::{HELD, sources};
use crate::ObjectKey;
use crate::store::Snapshot;

/// The input for the status of a running mirror.
pub(super) struct StatusInput<'a> {
    pub(super) old: Option<&'a RegistryMirrorStatus>,
    pub(super) generation: Option<i64>,
    /// The digest of what is pruned, of which only a change ends a pause.
    pub(super) prune: Option<Digest>,
    pub(super) settings: &'a MirrorSettings,
    pub(super) snapshot: &'a coral_mirror::Snapshot,
    /// When a pass ended last in this process.
    pub(super) last_pass: Option<Timestamp>,
    /// Whether no image is being checked or copied.
    pub(super) quiet: bool,
    pub(super) conflicts: &'a [Conflict],
    /// The public paths that the Registry has loaded; `None` while that is not known.
    pub(super) loaded: Option<Arc<BTreeSet<String>>>,
    pub(super) now: Timestamp,
}

/// The status of a running mirror. `known` returns what this process learned about a repository,
/// and `is_unclear` whether its source was asked and did not say who may read it.
pub(super) fn status(
    input: &StatusInput<'_>,
    known: impl Fn(&str) -> Option<Visibility>,
    is_unclear: impl Fn(&str) -> bool,
) -> RegistryMirrorStatus {
    let old = input.old.cloned().unwrap_or_default();
    let counted = input.snapshot.status();
    let repositories = repositories(input, known);
    let unusable = unusable(&repositories, is_unclear);
    let (next_sync, last_sync) = syncs(input, &old);
    let mut conditions = old.conditions.unwrap_or_default();
    for update in &sayings(input, &counted, unusable) {
        update.set(&mut conditions, input.generation, input.now);
    }
    RegistryMirrorStatus {
        observed_generation: input.generation,
        prune_digest: input.prune.map(|digest| digest.to_string()),
        last_sync,
        next_sync,
        repositories: Some(repositories),
        conditions: Some(conditions),
        ..counted
    }
}

/// The status of a mirror that cannot run. What is known about its images stays.
pub(super) fn troubled(
    old: Option<&RegistryMirrorStatus>,
    generation: Option<i64>,
    problem: &MirrorProblem,
    now: Timestamp,
) -> RegistryMirrorStatus {
    let mut status = old.cloned().unwrap_or_default();
    let mut conditions = status.conditions.take().unwrap_or_default();
    for (kind, truth) in [
        (READY, Truth::False),
        (PROGRESSING, Truth::False),
        (DEGRADED, Truth::True),
    ] {
        let update = ConditionValue {
            kind,
            truth,
            reason: problem.reason,
            message: problem.message.clone(),
        };
        update.set(&mut conditions, generation, now);
    }
    status.conditions = Some(conditions);
    status
}

/// The condition that holds now, and did not hold before or held for another reason: what an event
/// is about.
pub(super) fn began<'a>(
    old: Option<&RegistryMirrorStatus>,
    new: &'a RegistryMirrorStatus,
    kind: &str,
) -> Option<&'a Condition> {
    let holds = |condition: &&Condition| condition.type_ == kind && condition.status == "True";
    let now = new.conditions.iter().flatten().find(holds)?;
    let mut before = old
        .into_iter()
        .flat_map(|old| old.conditions.iter().flatten());
    let before = before.find(holds);
    before
        .is_none_or(|before| before.reason != now.reason)
        .then_some(now)
}

/// The condition that says that no tag is deleted, if more images have vanished than it said
/// before.
pub(super) fn more_vanished<'a>(
    old: Option<&RegistryMirrorStatus>,
    new: &'a RegistryMirrorStatus,
) -> Option<&'a Condition> {
    let (before, now) = (old?.pruning?, new.pruning?);
    let grows = before.paused && now.paused && now.counted > before.counted;
    let mut conditions = new.conditions.iter().flatten();
    conditions
        .find(|condition| condition.type_ == PRUNE_PAUSED)
        .filter(|_| grows)
}

/// The entry of a repository in a status.
pub(super) fn visibility(
    status: Option<&RegistryMirrorStatus>,
    source: &str,
) -> Option<Visibility> {
    repository(status, source)?.visibility
}

fn repository<'a>(
    status: Option<&'a RegistryMirrorStatus>,
    source: &str,
) -> Option<&'a MirroredRepository> {
    let mut repositories = status?.repositories.iter().flatten();
    repositories.find(|repository| repository.name == source)
}

/// The paths that everyone may read, for every Registry that a mirror names. A path is public if a
/// mirror found it so and no other one found it private.
pub(super) fn public_paths(
    mirrors: &Snapshot<RegistryMirror>,
    known: impl Fn(&ObjectKey, &str) -> Option<Visibility>,
) -> BTreeMap<ObjectKey, BTreeSet<String>> {
    let mut found: BTreeMap<(ObjectKey, String), BTreeSet<bool>> = BTreeMap::new();
    for (key, mirror) in mirrors.iter() {
        let Some(name) = &mirror.spec.registry.name else {
            continue;
        };
        let registry = ObjectKey::new(&key.namespace, name);
        // Read from the object and not from the settings: one mistake in the object would make all
        // of its repositories private.
        for repository in sources(mirror) {
            let source = repository.to_string();
            let stored = visibility(mirror.status.as_ref(), &source);
            let Some(seen) = known(key, &source).or(stored) else {
                continue;
            };
            if let Ok(path) = destination_path(&repository) {
                let place = (registry.clone(), path.to_string());
                let is_public = seen == Visibility::Public;
                found.entry(place).or_default().insert(is_public);
            }
        }
    }
    let mut paths = BTreeMap::<ObjectKey, BTreeSet<String>>::new();
    for ((registry, path), seen) in found {
        if !seen.contains(&false) {
            paths.entry(registry).or_default().insert(path);
        }
    }
    paths
}

/// When the next pass begins, and when the last one ended. A running pass is not recorded: a
/// process that continues from the status starts it over.
fn syncs(input: &StatusInput<'_>, old: &RegistryMirrorStatus) -> (Option<Time>, Option<Time>) {
    // A changed time of the next pass does not show that a pass ended: it also changes when the
    // wall clock is set.
    let last = input.last_pass.map(time).or_else(|| old.last_sync.clone());
    if input.settings.suspend {
        return (None, last);
    }
    if input.quiet {
        return (input.snapshot.next_pass.map(time), last);
    }
    let is_same = old.observed_generation == input.generation;
    (old.next_sync.clone().filter(|_| is_same), last)
}

/// The repositories with what is known of their readers.
fn repositories(
    input: &StatusInput<'_>,
    known: impl Fn(&str) -> Option<Visibility>,
) -> Vec<MirroredRepository> {
    let settings = input.settings.repositories.iter();
    let paths: BTreeMap<String, String> = settings
        .map(|settings| {
            (
                settings.repository.to_string(),
                settings.destination.to_string(),
            )
        })
        .collect();
    // After a change of the destination, the state of the previous Registry says nothing about the
    // new one.
    let is_same = input.old.and_then(|old| old.observed_generation) == input.generation
        && matches!(input.settings.target, Target::Named(_));
    let mut all = input.snapshot.repositories.clone();
    for repository in &mut all {
        let old = self::repository(input.old, &repository.name);
        let seen = known(&repository.name).or(old.and_then(|old| old.visibility));
        let is_loaded = match (&input.loaded, paths.get(&repository.name)) {
            (Some(loaded), Some(path)) => Some(loaded.contains(path)),
            _ => old.and_then(|old| old.loaded).filter(|_| is_same),
        };
        repository.visibility = seen;
        repository.loaded = is_loaded.filter(|_| seen == Some(Visibility::Public));
    }
    all
}

/// Why no node and no pod can use a repository that is mirrored.
struct Unusable {
    reason: &'static str,
    message: String,
}

/// The first repository that cannot be used yet: either it is not known who may read it, or the
/// Registry does not serve it to anonymous clients yet.
fn unusable(
    repositories: &[MirroredRepository],
    is_unclear: impl Fn(&str) -> bool,
) -> Option<Unusable> {
    let unasked = |r: &&MirroredRepository| r.visibility.is_none() && !is_unclear(&r.name);
    if let Some(repository) = repositories.iter().find(unasked) {
        return Some(Unusable {
            reason: "VisibilityUnknown",
            message: format!("checking whether {} is public", repository.name),
        });
    }
    let is_public = |r: &&MirroredRepository| r.visibility == Some(Visibility::Public);
    let mut public = repositories.iter().filter(is_public);
    let unserved = public.find(|r| r.loaded != Some(true))?;
    Some(Unusable {
        reason: "NotServed",
        message: format!(
            "the Registry does not serve {} to anonymous clients yet",
            unserved.name
        ),
    })
}

/// A condition under construction.
struct ConditionValue {
    kind: &'static str,
    truth: Truth,
    reason: &'static str,
    message: String,
}

impl ConditionValue {
    fn set(&self, conditions: &mut Vec<Condition>, generation: Option<i64>, now: Timestamp) {
        let update = ConditionUpdate {
            kind: self.kind,
            truth: self.truth,
            reason: self.reason,
            message: &self.message,
        };
        set(conditions, &update, generation, now);
    }
}

fn sayings(
    input: &StatusInput<'_>,
    counted: &RegistryMirrorStatus,
    unusable: Option<Unusable>,
) -> [ConditionValue; 5] {
    let (desired, held) = (counted.desired.unwrap_or(0), counted.mirrored.unwrap_or(0));
    let said = |kind, truth: bool, reason, message| ConditionValue {
        kind,
        truth: truth.into(),
        reason,
        message,
    };
    let mirrored = format!("{held} of {desired} images mirrored");
    let (suspended, listed) = (input.settings.suspend, is_listed(input));
    let conflict = input.conflicts.first();
    let complete = listed && held == desired && conflict.is_none();
    let is_named = matches!(input.settings.target, Target::Named(_));
    let unusable = unusable.filter(|_| is_named && desired > 0 && !suspended);
    let ready = match (complete, unusable, conflict) {
        (true, Some(Unusable { reason, message }), _) => {
            said(READY, false, reason, format!("{mirrored}; {message}"))
        }
        (true, None, _) => said(READY, true, "Mirrored", mirrored.clone()),
        (_, _, Some(conflict)) => said(READY, false, "Conflict", conflict.to_string()),
        _ if suspended => said(READY, false, "Suspended", mirrored.clone()),
        _ if counted.waiting.unwrap_or(0) > 0 => said(
            READY,
            false,
            "WaitingForRoom",
            format!(
                "{mirrored}; {} wait for space at the destination, which is full",
                counted.waiting.unwrap_or(0)
            ),
        ),
        _ => said(READY, false, "Incomplete", mirrored.clone()),
    };
    let progressing = if suspended {
        said(
            PROGRESSING,
            false,
            "Suspended",
            "spec.suspend is true".to_owned(),
        )
    } else if input.quiet {
        said(PROGRESSING, false, "Idle", String::new())
    } else {
        said(PROGRESSING, true, "Mirroring", mirrored)
    };
    let failures = counted.failures.as_deref().unwrap_or_default();
    let degraded = match (conflict, failures.first()) {
        (Some(conflict), _) => said(DEGRADED, true, "Conflict", conflict.to_string()),
        (None, Some(first)) => {
            let message = first.message.as_deref().unwrap_or_default();
            let named = i64::try_from(failures.len()).unwrap_or(i64::MAX);
            let all = counted.failures_omitted.unwrap_or(0).saturating_add(named);
            let message = format!("{all} failed; first {}: {message}", first.reference);
            said(DEGRADED, true, "Failing", message)
        }
        (None, None) => said(DEGRADED, false, "Healthy", String::new()),
    };
    [
        ready,
        progressing,
        degraded,
        source_gone(input.snapshot, counted),
        prune_paused(input.snapshot, counted),
    ]
}

/// The condition about images that no longer exist at their sources.
fn source_gone(
    snapshot: &coral_mirror::Snapshot,
    counted: &RegistryMirrorStatus,
) -> ConditionValue {
    let is_gone = |image: &&MirroredImage| image.state == MirroredState::SourceGone;
    let (count, first) = (
        counted.source_gone.unwrap_or(0),
        snapshot.images.iter().find(is_gone),
    );
    let (truth, reason, message) = match first {
        Some(first) => (
            Truth::True,
            "SourceGone",
            format!(
                "{count} mirrored images are gone at their sources; first {}",
                first.reference
            ),
        ),
        None => (Truth::False, "SourcesComplete", String::new()),
    };
    ConditionValue {
        kind: SOURCE_GONE,
        truth,
        reason,
        message,
    }
}

/// Whether tags are deleted at present.
fn prune_paused(
    snapshot: &coral_mirror::Snapshot,
    counted: &RegistryMirrorStatus,
) -> ConditionValue {
    let paused = counted.pruning.filter(|pruning| pruning.paused);
    let held_back = snapshot.held_back.first_key_value();
    let (reason, message) = match (paused, held_back) {
        (
            Some(PruningStatus {
                counted: vanished, ..
            }),
            _,
        ) => (
            "ManyVanished",
            format!(
                "more than a fifth of the images vanished at their sources in one pass, and \
                 {vanished} of {} are gone now: no tag is deleted until the annotation {} is \
                 \"{vanished}\", or spec.prune changes in more than dryRun",
                counted.desired.unwrap_or(0),
                annotation::CONFIRM_PRUNE,
            ),
        ),
        (None, Some((repository, by))) => (
            "WaitsForMirror",
            format!(
                "no tag of {repository} is deleted ({} repositories in all): RegistryMirror {} \
                 names it too, and it is unknown which of its tags that mirror wants",
                snapshot.held_back.len(),
                by.trim_end_matches(HELD)
            ),
        ),
        (None, None) => ("NotPaused", String::new()),
    };
    ConditionValue {
        kind: PRUNE_PAUSED,
        truth: (reason != "NotPaused").into(),
        reason,
        message,
    }
}

/// Whether every repository was listed once.
fn is_listed(input: &StatusInput<'_>) -> bool {
    let mut repositories = input.snapshot.repositories.iter();
    repositories.all(|repository| repository.images.is_some())
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            source,
            place,
            older,
            other,
        } = self;
        write!(
            f,
            "{source} is not mirrored: the older RegistryMirror {older} writes {other} to {place}; \
             remove one of them"
        )
    }
}
