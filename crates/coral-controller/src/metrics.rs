//! What the controller counts.

#[cfg(test)]
mod alerts;

use std::time::Duration;

use coral_api::GoDuration;
use coral_api::image_build::{BuildPhase, ImageBuildStatus};
use coral_mirror::MirrorMetrics;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ObjectKey;
use crate::gauges::Gauges;

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

impl RegistryLabels {
    fn for_registry(key: &ObjectKey) -> Self {
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
    mirrors: MirrorMetrics,
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
            mirrors: MirrorMetrics::default(),
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
        self.mirrors.register(registry);
        self.register_gauges(registry);
    }

    fn register_gauges(&self, registry: &mut Registry) {
        registry.register(
            "coral_registry_ready",
            "1 while the Registry is Ready",
            self.registry_ready.clone(),
        );
        registry.register(
            "coral_nodes_behind",
            "Nodes that do not match their NodeImages object",
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

    /// Sets the gauges. `before` are the values that were set last: series of objects that no
    /// longer exist are removed.
    pub(crate) fn show(&self, before: &Gauges, now: &Gauges) {
        let mirrors = now.mirrors.iter();
        let mirrors = mirrors.map(|(key, mirror)| (key.to_string(), *mirror));
        self.mirrors.show(mirrors.collect());
        for (key, is_ready) in &now.registries {
            let ready = self
                .registry_ready
                .get_or_create(&RegistryLabels::for_registry(key));
            ready.set(i64::from(*is_ready));
        }
        for key in before.registries.keys() {
            if !now.registries.contains_key(key) {
                self.registry_ready
                    .remove(&RegistryLabels::for_registry(key));
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

    /// Records how long the steps of an ended build took.
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

    /// What is shown and counted of mirrors.
    pub(crate) fn mirrors(&self) -> &MirrorMetrics {
        &self.mirrors
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
