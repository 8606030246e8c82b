//! What the controller counts.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    part: &'static str,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

/// The controller's metrics. Cheap to clone; all clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    passes: Family<PassLabels, Counter>,
    durations: Family<PartLabels, Histogram, fn() -> Histogram>,
    leading: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets: fn() -> Histogram =
            || Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0]);
        Self {
            passes: Family::default(),
            durations: Family::new_with_constructor(buckets),
            leading: Gauge::default(),
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
    }

    pub(crate) fn passed(&self, part: &'static str, outcome: Outcome, took: Duration) {
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
