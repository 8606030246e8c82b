//! The metrics of the webhook.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::run::Stores;

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// A pod was changed.
    Changed,
    /// Nothing was changed.
    Unchanged,
    /// The body was not an admission review.
    Malformed,
    /// The body was too large.
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// Too many reviews were in progress.
    Overloaded,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// The counters. Cheap to clone; all clones share one state.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<Labels, Counter>,
    warnings: Counter,
    not_rewritten: Family<ReasonLabels, Counter>,
    duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            warnings: Counter::default(),
            not_rewritten: Family::default(),
            // 100 µs to 3.3 s: a review is answered within 2 s or not at all.
            duration: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
        }
    }
}

impl Metrics {
    /// Counters that appear in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("coral_webhook");
        registry.register(
            "requests",
            "Admission reviews, by outcome",
            metrics.requests.clone(),
        );
        registry.register(
            "warnings",
            "Warnings given to authors of pods",
            metrics.warnings.clone(),
        );
        registry.register(
            "images_not_rewritten",
            "Images that annotations asked to rewrite but that were kept, by reason",
            metrics.not_rewritten.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from the head of a request to its answer",
            metrics.duration.clone(),
        );
        metrics
    }

    /// Records that a request was answered.
    pub(crate) fn answered(&self, outcome: Outcome, duration: Duration) {
        self.requests.get_or_create(&Labels { outcome }).inc();
        self.duration.observe(duration.as_secs_f64());
    }

    /// Records the decision about a pod.
    pub(crate) fn decided(&self, decision: &crate::Decision) {
        self.warnings.inc_by(decision.warnings.len() as u64);
        for (_, refusal) in &decision.reasons {
            let reason = refusal.word();
            let labels = ReasonLabels { reason };
            self.not_rewritten.get_or_create(&labels).inc();
        }
    }
}

/// Makes `registry` report for how long each watch has been failing.
pub(crate) fn register_watches(registry: &mut Registry, stores: Stores) {
    let registry = registry.sub_registry_with_prefix("coral_webhook");
    registry.register_collector(Box::new(Watches(stores)));
}

struct Watches(Stores);

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watches")
    }
}

impl Collector for Watches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut encoder = encoder.encode_descriptor(
            "watch_failing_seconds",
            "For how long the watch of a kind has been failing; 0 while it works",
            None,
            MetricType::Gauge,
        )?;
        for (kind, since) in self.0.failing() {
            let labels = [("kind", kind)];
            encoder
                .encode_family(&labels)?
                .encode_gauge(&since.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_works_has_been_failing_for_no_time() {
        let mut registry = Registry::default();
        register_watches(&mut registry, Stores::default());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = "coral_webhook_watch_failing_seconds{kind=\"Node\"} 0.0\n";
        assert!(text.contains(line), "{text}");
    }
}
