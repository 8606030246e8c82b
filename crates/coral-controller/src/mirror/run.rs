//! A running mirror, and when its state is written to the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coral_api::conditions::kind::{DEGRADED, PRUNE_PAUSED, READY, SOURCE_GONE};
use coral_api::mirrored_images::MirroredImages;
use coral_api::{RegistryMirror, RegistryMirrorStatus};
use coral_image::ImageRef;
use coral_mirror::{Confirmation, Engine, Prepared, Summary};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::conflicts::Conflict;
use super::probes::StoredVisibility;
use super::verdict::{MirrorProblem, Verdict, Verdicts};
use super::{MirrorPart, registry_of, restore, shards, status};
use crate::ObjectKey;
use crate::advice;
use crate::api::ApiError;
use crate::backoff::has_come;
use crate::changes::{Changes, Topic};

/// Shortest time between two writes of a shard or status.
const BETWEEN_WRITES: Duration = Duration::from_secs(5);
/// Time before the first write of a mirror, so that quick copies are written once.
const BEFORE_FIRST_WRITE: Duration = Duration::from_secs(1);
/// Shortest time between two wake-ups of the part by progress.
const BETWEEN_WAKES: Duration = Duration::from_secs(1);

/// A mirror that runs.
pub(super) struct RunningMirror {
    summary: watch::Receiver<Summary>,
    snapshot: Option<Arc<coral_mirror::Snapshot>>,
    /// The earliest time of the next write.
    next_write: Timestamp,
    waker: AbortHandle,
}

impl Drop for RunningMirror {
    fn drop(&mut self) {
        self.waker.abort();
    }
}

impl RunningMirror {
    /// Follows a mirror that was started.
    pub(super) fn new(summary: watch::Receiver<Summary>, changes: &Changes) -> Self {
        let (mut progress, changes) = (summary.clone(), changes.clone());
        let waker = tokio::spawn(async move {
            while progress.changed().await.is_ok() {
                changes.notify(Topic::MirrorProgress);
                tokio::time::sleep(BETWEEN_WAKES).await;
            }
        });
        Self {
            summary,
            snapshot: None,
            next_write: after(Timestamp::now(), BEFORE_FIRST_WRITE),
            waker: waker.abort_handle(),
        }
    }
}

/// Tells a mirror of the number in its annotation, if that changes anything.
fn confirm_prune(
    engine: &Engine,
    key: &ObjectKey,
    mirror: &RegistryMirror,
    summary: &watch::Receiver<Summary>,
) {
    let (pruning, number) = (summary.borrow().pruning, restore::confirmed(mirror));
    if pruning.after_annotation(number) != pruning {
        // A mirror whose channel is full is told in the next pass of this part.
        engine.confirm_prune(&key.to_string(), Confirmation::Annotation(number));
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// One mirror whose state may be written in this pass.
struct PendingWrite<'a> {
    key: &'a ObjectKey,
    mirror: &'a Arc<RegistryMirror>,
    prepared: &'a Prepared,
    conflicts: &'a [Conflict],
    snapshot: Arc<coral_mirror::Snapshot>,
    last_pass: Option<Timestamp>,
    quiet: bool,
    now: Timestamp,
}

impl MirrorPart {
    /// Writes the state of one mirror, if it is time. Returns when it is time again.
    pub(super) async fn write_down(
        &mut self,
        key: &ObjectKey,
        mirror: &Arc<RegistryMirror>,
        verdicts: &Verdicts,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, ApiError> {
        let (prepared, conflicts) = match verdicts.get(key) {
            Some(Verdict::Run {
                prepared,
                conflicts,
            }) => (prepared.as_ref(), conflicts.as_slice()),
            Some(Verdict::Invalid(problem) | Verdict::Waiting(problem)) => {
                return self.write_trouble(key, mirror, problem, now).await;
            }
            Some(Verdict::NotYet) | None => return Ok(None),
        };
        let Some(run) = self.runs.get_mut(key) else {
            let problem = MirrorProblem {
                reason: "ClientInvalid",
                message: "no client can be made for the mirror: correct the certificates of its \
                          ca fields"
                    .to_owned(),
            };
            return self.write_trouble(key, mirror, &problem, now).await;
        };
        confirm_prune(self.fleet.engine(), key, mirror, &run.summary);
        if !has_come(run.next_write, now, BETWEEN_WRITES) {
            return Ok(Some(run.next_write));
        }
        if run.snapshot.is_none() || run.summary.has_changed().unwrap_or(false) {
            run.summary.mark_unchanged();
            let snapshot = self.fleet.engine().snapshot(&key.to_string()).await;
            run.snapshot = snapshot.map(advice::for_mirror).map(Arc::new);
        }
        let Some(snapshot) = run.snapshot.clone() else {
            // It is being restarted: it wakes the part again.
            return Ok(None);
        };
        let pending = PendingWrite {
            key,
            mirror,
            prepared,
            conflicts,
            last_pass: run.summary.borrow().last_pass,
            quiet: run.summary.borrow().quiet || prepared.settings.suspend,
            snapshot,
            now,
        };
        self.probe(&pending);
        // The images come first, then the status that says that all of them are there.
        let mut wrote = self.write_shards(&pending).await?;
        wrote |= self.write_status(&pending).await?;
        if wrote && let Some(run) = self.runs.get_mut(key) {
            run.next_write = after(now, BETWEEN_WRITES);
        }
        Ok(self.probes.next(now))
    }

    async fn write_trouble(
        &self,
        key: &ObjectKey,
        mirror: &Arc<RegistryMirror>,
        problem: &MirrorProblem,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, ApiError> {
        let old = mirror.status.as_ref();
        let new = status::troubled(old, mirror.metadata.generation, problem, now);
        self.publish(key, mirror, &new).await?;
        Ok(None)
    }

    async fn publish(
        &self,
        key: &ObjectKey,
        mirror: &Arc<RegistryMirror>,
        new: &RegistryMirrorStatus,
    ) -> Result<bool, ApiError> {
        let old = mirror.status.as_ref();
        let wrote = self
            .writer
            .publish_status::<RegistryMirror, _>(key, old, new)
            .await?;
        let events = &self.context.events;
        if let Some(ready) = status::began(old, new, READY) {
            let message = ready.message.as_str();
            events.normal(&**mirror, &ready.reason, message).await;
        }
        for kind in [DEGRADED, SOURCE_GONE, PRUNE_PAUSED] {
            if let Some(begun) = status::began(old, new, kind) {
                let message = begun.message.as_str();
                events.warning(&**mirror, &begun.reason, message).await;
            }
        }
        if let Some(paused) = status::more_vanished(old, new) {
            let message = paused.message.as_str();
            events.warning(&**mirror, &paused.reason, message).await;
        }
        Ok(wrote)
    }

    /// Asks for repositories of which it is not known whether they are public, or not in this pass.
    fn probe(&self, pending: &PendingWrite<'_>) {
        let Some(access) = self.fleet.engine().access(&pending.key.to_string()) else {
            return;
        };
        let mut firsts: BTreeMap<String, ImageRef> = BTreeMap::new();
        for image in pending.snapshot.images.iter().filter(|i| i.is_held()) {
            if let Ok(reference) = ImageRef::parse(&image.reference) {
                let source = reference.repository().to_string();
                firsts.entry(source).or_insert(reference);
            }
        }
        let old = pending.mirror.status.as_ref();
        let pass = pending.snapshot.next_pass.filter(|_| pending.quiet);
        for (source, image) in firsts {
            let stored = StoredVisibility {
                visibility: status::visibility(old, &source),
                pass: old.and_then(|s| s.next_sync.as_ref()).map(|time| time.0),
            };
            let (probes, key) = (&self.probes, pending.key);
            let suspended = pending.prepared.settings.suspend;
            if !suspended && probes.is_due(key, &source, stored, pass, pending.now) {
                probes.ask(key, &source, pass, access.clone(), image);
            }
        }
    }

    async fn write_shards(&self, pending: &PendingWrite<'_>) -> Result<bool, ApiError> {
        let all = self.context.cluster.mirrored.snapshot();
        let stored = restore::shards_of(pending.mirror, &all);
        let in_use = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        let images = &pending.snapshot.images;
        let divided = shards::divide(images, shards::count(images.len(), in_use));
        let registry = pending.prepared.destination.to_string();
        let named = |number| {
            let name = shards::name(&pending.key.name, number);
            ObjectKey::new(pending.key.namespace.clone(), name)
        };
        let mut wrote = false;
        let numbers: BTreeSet<u32> = divided.keys().copied().collect();
        // New shards have the highest numbers: an image is in its new shard before it leaves the
        // one that it was in.
        for (number, mut shard) in divided.into_iter().rev() {
            let (key, there) = (named(number), stored.get(&number));
            let mut generation = there.and_then(|there| there.metadata.generation);
            if there.is_none_or(|there| there.spec.registry != registry) {
                let object = shards::object(pending.mirror, number, &registry);
                let applied = self.writer.apply::<MirroredImages>(&key, &object).await?;
                generation = applied.metadata.generation;
                wrote = true;
            }
            let before = there.and_then(|there| there.status.as_ref());
            let conditions = before.map_or(&[][..], |before| &before.conditions);
            shard.conditions = shards::conditions(&shard, conditions, generation, pending.now);
            wrote |= self
                .writer
                .publish_status::<MirroredImages, _>(&key, before, &shard)
                .await?;
        }
        for number in stored.keys().filter(|number| !numbers.contains(number)) {
            let key = named(*number);
            self.writer.delete::<MirroredImages>(&key, None).await?;
            wrote = true;
        }
        Ok(wrote)
    }

    async fn write_status(&self, pending: &PendingWrite<'_>) -> Result<bool, ApiError> {
        let registry = registry_of(pending.key, &pending.prepared.settings.target);
        let registries = self.context.shared.registries.get();
        let access = registry.and_then(|key| registries.as_ref()?.get(&key).cloned());
        let input = status::StatusInput {
            old: pending.mirror.status.as_ref(),
            generation: pending.mirror.metadata.generation,
            prune: pending.prepared.prune,
            settings: &pending.prepared.settings,
            snapshot: &pending.snapshot,
            last_pass: pending.last_pass,
            quiet: pending.quiet,
            conflicts: pending.conflicts,
            loaded: access.and_then(|access| access.loaded),
            now: pending.now,
        };
        let known = |source: &str| self.probes.known(pending.key, source);
        let is_unclear = |source: &str| self.probes.is_unclear(pending.key, source);
        let new = status::status(&input, known, is_unclear);
        self.publish(pending.key, pending.mirror, &new).await
    }
}
