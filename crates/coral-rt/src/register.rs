//! Metrics of one kind, registered together.

use prometheus_client::registry::{Metric, Registry};

/// Adds metrics of one kind to a registry, each with its name and its help.
pub fn register_each<'a, M: Metric + Clone>(
    registry: &mut Registry,
    metrics: impl IntoIterator<Item = (&'static str, &'static str, &'a M)>,
) {
    for (name, help, metric) in metrics {
        registry.register(name, help, metric.clone());
    }
}
