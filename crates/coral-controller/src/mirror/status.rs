//! Pure: the status of a mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::conditions::kind::{DEGRADED, PROGRESSING, READY};
use coral_api::conditions::{Saying, Truth, cut, set};
use coral_api::mirrored_images::MirroredImage;
use coral_api::{
    MirrorFailure, MirrorSettings, MirroredRepository, RegistryMirror, RegistryMirrorStatus,
    Target, Visibility,
};
use coral_image::destination_path;
use coral_mirror::RepositoryRecord;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::conflicts::Conflict;
use super::shards::{is_failing, is_there};
use super::sources;
use super::verdict::Trouble;
use crate::ObjectKey;
use crate::store::Snapshot;

/// Failures that a status names.
const MOST_FAILURES: usize = 20;
/// Repositories that a status names.
const MOST_REPOSITORIES: usize = 1000;
/// Longest message of a failure, in bytes.
const MAX_MESSAGE: usize = 1024;

/// What the status of a mirror that runs is made from.
pub(super) struct Input<'a> {
    pub(super) old: Option<&'a RegistryMirrorStatus>,
    pub(super) generation: Option<i64>,
    pub(super) settings: &'a MirrorSettings,
    pub(super) snapshot: &'a coral_mirror::Snapshot,
    /// Whether nothing is being looked at or copied.
    pub(super) quiet: bool,
    pub(super) conflicts: &'a [Conflict],
    /// The public paths that the Registry has loaded; `None` while that is not known.
    pub(super) loaded: Option<Arc<BTreeSet<String>>>,
    pub(super) now: Timestamp,
}

/// The status of a mirror that runs. `known` says what this process learned of a repository, and
/// `is_unclear` whether its source was asked and did not say who may read it.
pub(super) fn status(
    input: &Input<'_>,
    known: impl Fn(&str) -> Option<Visibility>,
    is_unclear: impl Fn(&str) -> bool,
) -> RegistryMirrorStatus {
    let old = input.old.cloned().unwrap_or_default();
    let repositories = repositories(input, known);
    let unasked = |r: &&MirroredRepository| r.visibility.is_none() && !is_unclear(&r.name);
    let unasked = repositories.iter().find(unasked).map(|r| r.name.clone());
    let counts = Counts::of(input.snapshot);
    let failures = failures(input.snapshot);
    let (next_sync, last_sync) = syncs(input, &old);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    for saying in &sayings(input, &counts, failures.first(), unasked.as_deref()) {
        saying.set(&mut conditions, input.generation, input.now);
    }
    RegistryMirrorStatus {
        observed_generation: input.generation,
        desired: Some(counts.desired),
        mirrored: Some(counts.mirrored),
        pending: Some(counts.pending),
        failed: Some(counts.failed),
        bytes_copied: i64::try_from(input.snapshot.moved).ok(),
        last_sync,
        next_sync,
        failures_omitted: failures
            .len()
            .checked_sub(MOST_FAILURES)
            .filter(|omitted| *omitted > 0)
            .map(count),
        failures: (!failures.is_empty())
            .then(|| failures.into_iter().take(MOST_FAILURES).collect()),
        repositories: Some(repositories),
        conditions: Some(conditions),
    }
}

/// The status of a mirror that cannot run: what is known of its images stays.
pub(super) fn troubled(
    old: Option<&RegistryMirrorStatus>,
    generation: Option<i64>,
    trouble: &Trouble,
    now: Timestamp,
) -> RegistryMirrorStatus {
    let mut status = old.cloned().unwrap_or_default();
    let mut conditions = status.conditions.take().unwrap_or_default();
    for (kind, truth) in [
        (READY, Truth::False),
        (PROGRESSING, Truth::False),
        (DEGRADED, Truth::True),
    ] {
        let saying = Said {
            kind,
            truth,
            reason: trouble.reason,
            message: trouble.message.clone(),
        };
        saying.set(&mut conditions, generation, now);
    }
    status.conditions = Some(conditions);
    status
}

/// What a status says of a repository.
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
        // Not by the settings: one mistake in the object would make all of it private.
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

/// How many images stand where.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    desired: i64,
    mirrored: i64,
    pending: i64,
    failed: i64,
    /// Repositories that could not be listed, or whose tags could not be deleted.
    repositories: i64,
}

impl Counts {
    fn of(snapshot: &coral_mirror::Snapshot) -> Self {
        let images = &snapshot.images;
        let matching =
            |is: fn(&MirroredImage) -> bool| count(images.iter().filter(|i| is(i)).count());
        let failed = snapshot.repositories.iter().filter(|r| r.failure.is_some());
        Self {
            desired: count(images.len()),
            mirrored: matching(is_there),
            pending: matching(|image| !is_there(image) && !is_failing(image)),
            failed: matching(is_failing),
            repositories: count(failed.count()),
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// When the next pass begins, and when the last one ended. A pass that runs is not noted: a process
/// that goes on from the status begins it anew.
fn syncs(input: &Input<'_>, old: &RegistryMirrorStatus) -> (Option<Time>, Option<Time>) {
    if input.settings.suspend {
        return (None, old.last_sync.clone());
    }
    let is_same = old.observed_generation == input.generation;
    if !input.quiet {
        let next = old.next_sync.clone().filter(|_| is_same);
        return (next, old.last_sync.clone());
    }
    let next = input.snapshot.next_pass.map(|next| Time(whole(next)));
    if next == old.next_sync && is_same {
        (next, old.last_sync.clone())
    } else {
        (next, Some(Time(whole(input.now))))
    }
}

/// Kubernetes stores whole seconds.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn failures(snapshot: &coral_mirror::Snapshot) -> Vec<MirrorFailure> {
    let repositories = snapshot.repositories.iter().filter_map(|record| {
        let failure = record.failure.as_ref()?;
        Some(MirrorFailure {
            reference: record.name.clone(),
            reason: Some("Repository".to_owned()),
            message: Some(cut(&failure.message, MAX_MESSAGE)),
            attempts: Some(failure.attempts.into()),
            next_attempt: failure.next_attempt.map(|at| Time(whole(at))),
        })
    });
    let images = snapshot.images.iter().filter(|image| is_failing(image));
    let images = images.map(|image| MirrorFailure {
        reference: image.reference.clone(),
        reason: Some(format!("{:?}", image.state)),
        message: image.message.as_ref().map(|m| cut(m, MAX_MESSAGE)),
        attempts: image.attempts.map(Into::into),
        next_attempt: image
            .next_attempt
            .as_ref()
            .and_then(|at| at.parse().ok())
            .map(|at| Time(whole(at))),
    });
    repositories.chain(images).collect()
}

fn repositories(
    input: &Input<'_>,
    known: impl Fn(&str) -> Option<Visibility>,
) -> Vec<MirroredRepository> {
    let records: BTreeMap<&str, &RepositoryRecord> = input
        .snapshot
        .repositories
        .iter()
        .map(|record| (record.name.as_str(), record))
        .collect();
    let mut images: BTreeMap<&str, i64> = BTreeMap::new();
    for image in &input.snapshot.images {
        *images.entry(source_of(&image.reference)).or_default() += 1;
    }
    // What the Registry before had loaded says nothing about the one after a change.
    let is_same = input.old.and_then(|old| old.observed_generation) == input.generation
        && matches!(input.settings.target, Target::Named(_));
    let mut all = BTreeMap::new();
    for settings in &input.settings.repositories {
        let name = settings.repository.to_string();
        let old = repository(input.old, &name);
        let seen = known(&name).or(old.and_then(|old| old.visibility));
        let record = records.get(name.as_str());
        let failure = record.and_then(|record| record.failure.as_ref());
        let path = destination_path(&settings.repository).ok();
        let is_loaded = match (&input.loaded, path) {
            (Some(loaded), Some(path)) => Some(loaded.contains(&path.to_string())),
            _ => old.and_then(|old| old.loaded).filter(|_| is_same),
        };
        let repository = MirroredRepository {
            visibility: seen,
            loaded: is_loaded.filter(|_| seen == Some(Visibility::Public)),
            images: record.map(|_| images.get(name.as_str()).copied().unwrap_or(0)),
            message: failure.map(|failure| cut(&failure.message, MAX_MESSAGE)),
            attempts: failure.map(|failure| failure.attempts.into()),
            next_attempt: failure
                .and_then(|failure| failure.next_attempt)
                .map(|at| Time(whole(at))),
            name: name.clone(),
        };
        all.insert(name, repository);
    }
    all.into_values().take(MOST_REPOSITORIES).collect()
}

/// The repository of a canonical reference.
fn source_of(reference: &str) -> &str {
    if let Some((source, _)) = reference.split_once('@') {
        return source;
    }
    let path = reference.rfind('/').unwrap_or(0);
    match reference[path..].rfind(':') {
        Some(colon) => &reference[..path + colon],
        None => reference,
    }
}

/// What a condition says, as long as it is being made.
struct Said {
    kind: &'static str,
    truth: Truth,
    reason: &'static str,
    message: String,
}

impl Said {
    fn set(&self, conditions: &mut Vec<Condition>, generation: Option<i64>, now: Timestamp) {
        let saying = Saying {
            kind: self.kind,
            truth: self.truth,
            reason: self.reason,
            message: &self.message,
        };
        set(conditions, &saying, generation, now);
    }
}

fn sayings(
    input: &Input<'_>,
    counts: &Counts,
    first: Option<&MirrorFailure>,
    unasked: Option<&str>,
) -> [Said; 3] {
    let said = |kind, truth: bool, reason, message| Said {
        kind,
        truth: truth.into(),
        reason,
        message,
    };
    let mirrored = format!("{} of {} images mirrored", counts.mirrored, counts.desired);
    let (suspended, listed) = (input.settings.suspend, is_listed(input));
    let conflict = input.conflicts.first();
    let complete = listed && counts.mirrored == counts.desired && conflict.is_none();
    // No node and no pod can use what the mirror holds before it is known who may read it.
    let is_named = matches!(input.settings.target, Target::Named(_));
    let unasked = unasked.filter(|_| is_named && counts.desired > 0 && !suspended);
    let ready = match (complete, conflict) {
        (true, _) if unasked.is_some() => {
            let source = unasked.unwrap_or_default();
            let message = format!("{mirrored}; whether {source} is public is being asked");
            said(READY, false, "VisibilityUnknown", message)
        }
        (true, _) => said(READY, true, "Mirrored", mirrored.clone()),
        (_, Some(conflict)) => said(READY, false, "Conflict", conflict.to_string()),
        _ if suspended => said(READY, false, "Suspended", mirrored.clone()),
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
    let degraded = match (conflict, first) {
        (Some(conflict), _) => said(DEGRADED, true, "Conflict", conflict.to_string()),
        (None, Some(first)) => {
            let message = first.message.as_deref().unwrap_or_default();
            let all = counts.failed + counts.repositories;
            let message = format!("{all} failed; first {}: {message}", first.reference);
            said(DEGRADED, true, "Failing", message)
        }
        (None, None) => said(DEGRADED, false, "Healthy", String::new()),
    };
    [ready, progressing, degraded]
}

/// Whether every repository was listed once.
fn is_listed(input: &Input<'_>) -> bool {
    let known: BTreeSet<&str> = input
        .snapshot
        .repositories
        .iter()
        .map(|record| record.name.as_str())
        .collect();
    let mut wanted = input.settings.repositories.iter();
    wanted.all(|settings| known.contains(settings.repository.to_string().as_str()))
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
