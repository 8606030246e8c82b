//! What the controller counts.

#[cfg(test)]
mod alerts;
mod sources;

use std::time::Duration;

use coral_api::GoDuration;
use coral_api::image_build::{BuildPhase, ImageBuildStatus};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ObjectKey;
use crate::gauges::{Gauges, MirrorGauges};
pub(crate) use sources::Sources;

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// It did its work.
    Ok,
    /// It ended with an error.
    Error,
    /// It panicked.
    Panic,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Panic];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    part: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MirrorLabels {
    namespace: String,
    mirror: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MirrorImagesLabels {
    namespace: String,
    mirror: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegistryLabels {
    namespace: String,
    registry: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

impl MirrorLabels {
    fn of(key: &ObjectKey) -> Self {
        Self {
            namespace: key.namespace.clone(),
            mirror: key.name.clone(),
        }
    }
}

impl MirrorImagesLabels {
    fn of(key: &ObjectKey, state: &'static str) -> Self {
        Self {
            namespace: key.namespace.clone(),
            mirror: key.name.clone(),
            state,
        }
    }
}

impl RegistryLabels {
    fn of(key: &ObjectKey) -> Self {
        Self {
            namespace: key.namespace.clone(),
            registry: key.name.clone(),
        }
    }
}

/// The controller's metrics. Cheap to clone; all clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    passes: Family<PassLabels, Counter>,
    durations: Family<PartLabels, Histogram, fn() -> Histogram>,
    leading: Gauge,
    mirror_ready: Family<MirrorLabels, Gauge>,
    mirror_images: Family<MirrorImagesLabels, Gauge>,
    mirror_source_gone: Family<MirrorLabels, Gauge>,
    mirror_last_success: Family<MirrorLabels, Gauge>,
    mirror_next_pass: Family<MirrorLabels, Gauge>,
    mirror_prune_paused: Family<MirrorLabels, Gauge>,
    mirror_copied_bytes: Family<MirrorLabels, Gauge>,
    mirror_failed_attempts: Family<MirrorLabels, Counter>,
    sources: Sources,
    registry_ready: Family<RegistryLabels, Gauge>,
    nodes_behind: Gauge,
    omitted: Gauge,
    builds: Family<PhaseLabels, Gauge>,
    builds_queued: Gauge,
    build_durations: Family<StepLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets: fn() -> Histogram =
            || Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0]);
        let steps: fn() -> Histogram =
            || Histogram::new([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]);
        Self {
            passes: Family::default(),
            durations: Family::new_with_constructor(buckets),
            leading: Gauge::default(),
            mirror_ready: Family::default(),
            mirror_images: Family::default(),
            mirror_source_gone: Family::default(),
            mirror_last_success: Family::default(),
            mirror_next_pass: Family::default(),
            mirror_prune_paused: Family::default(),
            mirror_copied_bytes: Family::default(),
            mirror_failed_attempts: Family::default(),
            sources: Sources::default(),
            registry_ready: Family::default(),
            nodes_behind: Gauge::default(),
            omitted: Gauge::default(),
            builds: Family::default(),
            builds_queued: Gauge::default(),
            build_durations: Family::new_with_constructor(steps),
        }
    }
}

impl Metrics {
    /// Has `/metrics` show them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "coral_controller_passes",
            "Passes of the controller's parts, by how they ended",
            self.passes.clone(),
        );
        registry.register(
            "coral_controller_pass_duration_seconds",
            "How long passes took",
            self.durations.clone(),
        );
        registry.register(
            "coral_controller_leading",
            "1 while this process holds the lease",
            self.leading.clone(),
        );
        self.register_gauges(registry);
        registry.register_collector(Box::new(self.sources.clone()));
    }

    fn register_gauges(&self, registry: &mut Registry) {
        registry.register(
            "coral_mirror_ready",
            "1 while the RegistryMirror is Ready; absent of one that is suspended and is not",
            self.mirror_ready.clone(),
        );
        registry.register(
            "coral_mirror_images",
            "Images of the RegistryMirror: those desired, and of them those mirrored, pending, waiting for \
             room, failed",
            self.mirror_images.clone(),
        );
        registry.register(
            "coral_mirror_source_gone_images",
            "Mirrored images of the RegistryMirror that their source has no longer",
            self.mirror_source_gone.clone(),
        );
        registry.register(
            "coral_mirror_last_success_timestamp_seconds",
            "End of the last pass of the RegistryMirror in which nothing failed; while none is known, \
             when it began to fail or was made",
            self.mirror_last_success.clone(),
        );
        registry.register(
            "coral_mirror_next_pass_timestamp_seconds",
            "When the next pass of the RegistryMirror begins",
            self.mirror_next_pass.clone(),
        );
        registry.register(
            "coral_mirror_prune_paused",
            "1 while the RegistryMirror deletes no tag since many images vanished at their sources",
            self.mirror_prune_paused.clone(),
        );
        registry.register(
            "coral_mirror_copied_bytes",
            "Bytes copied since the RegistryMirror was made",
            self.mirror_copied_bytes.clone(),
        );
        registry.register(
            "coral_mirror_failed_attempts",
            "Attempts at images and repositories of the RegistryMirror that failed; each is made again",
            self.mirror_failed_attempts.clone(),
        );
        registry.register(
            "coral_registry_ready",
            "1 while the Registry is Ready",
            self.registry_ready.clone(),
        );
        registry.register(
            "coral_nodes_behind",
            "Nodes that are not as their NodeImages object says",
            self.nodes_behind.clone(),
        );
        registry.register(
            "coral_builds",
            "ImageBuilds, by their phase",
            self.builds.clone(),
        );
        registry.register(
            "coral_builds_queued",
            "ImageBuilds that wait until another one has ended",
            self.builds_queued.clone(),
        );
        registry.register(
            "coral_build_step_duration_seconds",
            "How long the steps of builds took: fetch, build, push",
            self.build_durations.clone(),
        );
        registry.register(
            "coral_objects_without_gauges",
            "RegistryMirrors and Registries beyond the first 1000, which have no gauges",
            self.omitted.clone(),
        );
    }

    /// Shows how the objects stand; `before` is what was shown last, of which what is gone leaves.
    pub(crate) fn show(&self, before: &Gauges, now: &Gauges) {
        for (key, mirror) in &now.mirrors {
            let labels = MirrorLabels::of(key);
            self.show_success(&labels, before.mirrors.get(key), mirror);
            let gone = self.mirror_source_gone.get_or_create(&labels);
            gone.set(mirror.source_gone);
            let paused = self.mirror_prune_paused.get_or_create(&labels);
            paused.set(i64::from(mirror.prune_paused));
            let copied = self.mirror_copied_bytes.get_or_create(&labels);
            copied.set(mirror.copied_bytes);
            if let Some(next) = mirror.next_pass {
                self.mirror_next_pass.get_or_create(&labels).set(next);
            } else {
                // Suspended, or no pass has ended: an older time would look overdue.
                self.mirror_next_pass.remove(&labels);
            }
            for (state, count) in mirror.counts() {
                let labels = MirrorImagesLabels::of(key, state);
                self.mirror_images.get_or_create(&labels).set(count);
            }
        }
        let gone = before.mirrors.iter();
        for (key, mirror) in gone.filter(|(key, _)| !now.mirrors.contains_key(key)) {
            let labels = MirrorLabels::of(key);
            for gauge in [
                &self.mirror_ready,
                &self.mirror_source_gone,
                &self.mirror_last_success,
                &self.mirror_next_pass,
                &self.mirror_prune_paused,
                &self.mirror_copied_bytes,
            ] {
                gauge.remove(&labels);
            }
            self.mirror_failed_attempts.remove(&labels);
            for (state, _) in mirror.counts() {
                let labels = MirrorImagesLabels::of(key, state);
                self.mirror_images.remove(&labels);
            }
        }
        for (key, is_ready) in &now.registries {
            let ready = self.registry_ready.get_or_create(&RegistryLabels::of(key));
            ready.set(i64::from(*is_ready));
        }
        for key in before.registries.keys() {
            if !now.registries.contains_key(key) {
                self.registry_ready.remove(&RegistryLabels::of(key));
            }
        }
        for phase in BuildPhase::ALL {
            let count = now.builds.get(&phase).copied().unwrap_or_default();
            let labels = PhaseLabels {
                phase: phase.as_str(),
            };
            let gauge = self.builds.get_or_create(&labels);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let queued = i64::try_from(now.builds_queued).unwrap_or(i64::MAX);
        self.builds_queued.set(queued);
        let behind = i64::try_from(now.nodes_behind).unwrap_or(i64::MAX);
        self.nodes_behind.set(behind);
        let omitted = i64::try_from(now.omitted).unwrap_or(i64::MAX);
        self.omitted.set(omitted);
    }

    /// Shows whether the mirror is well. Nothing is expected of one that is suspended.
    fn show_success(
        &self,
        labels: &MirrorLabels,
        before: Option<&MirrorGauges>,
        mirror: &MirrorGauges,
    ) {
        if mirror.suspended && !mirror.ready {
            self.mirror_ready.remove(labels);
        } else {
            let ready = self.mirror_ready.get_or_create(labels);
            ready.set(i64::from(mirror.ready));
        }
        if mirror.suspended {
            self.mirror_last_success.remove(labels);
            return;
        }
        // A pass that failed leaves the time of the last one that did not.
        let is_new = before.is_none_or(|before| before.suspended);
        let unknown = is_new.then_some(mirror.no_success_since);
        if let Some(time) = mirror.last_success.or(unknown) {
            self.mirror_last_success.get_or_create(labels).set(time);
        }
    }

    /// Notes how long the steps of a build took that has ended.
    pub(crate) fn built(&self, status: &ImageBuildStatus) {
        let durations = status.durations.clone().unwrap_or_default();
        for (step, took) in [
            ("fetch", durations.fetch),
            ("build", durations.build),
            ("push", durations.push),
        ] {
            let took = took.and_then(|text| GoDuration::parse(&text).ok());
            if let Some(took) = took {
                let histogram = self.build_durations.get_or_create(&StepLabels { step });
                histogram.observe(took.get().as_secs_f64());
            }
        }
    }

    /// An attempt of this mirror (`namespace/name`) failed. Those that have no gauges are not
    /// counted.
    pub(crate) fn attempt_failed(&self, mirror: &str) {
        let Some((namespace, name)) = mirror.split_once('/') else {
            return;
        };
        let labels = MirrorLabels::of(&ObjectKey::new(namespace, name));
        if self.mirror_ready.get(&labels).is_some() {
            self.mirror_failed_attempts.get_or_create(&labels).inc();
        }
    }

    /// Where what is asked of source registries is counted.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(crate) fn passed(&self, part: &'static str, outcome: Outcome, took: Duration) {
        // All outcomes from the first pass on: Prometheus sees no increase in a series that is new.
        for outcome in Outcome::ALL {
            drop(self.passes.get_or_create(&PassLabels { part, outcome }));
        }
        self.passes
            .get_or_create(&PassLabels { part, outcome })
            .inc();
        let durations = self.durations.get_or_create(&PartLabels { part });
        durations.observe(took.as_secs_f64());
    }

    pub(crate) fn set_leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }
}
