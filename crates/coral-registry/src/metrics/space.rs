//! What is stored and free, read when the metrics are.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::gauge;
use crate::store::Store;

struct SpaceMetrics(Arc<dyn Store>);

/// Adds the gauges `coral_registry_storage_*`. One without a value is left out.
pub(crate) fn register(registry: &mut Registry, store: Arc<dyn Store>) {
    let registry = registry.sub_registry_with_prefix("coral_registry");
    registry.register_collector(Box::new(SpaceMetrics(store)));
}

impl std::fmt::Debug for SpaceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpaceMetrics")
    }
}

impl Collector for SpaceMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let space = self.0.space();
        for (name, help, value) in [
            (
                "storage_bytes",
                "Bytes of content, each blob once",
                Some(space.stored),
            ),
            (
                "storage_upload_bytes",
                "Bytes of uploads that are not committed yet",
                Some(space.uploads),
            ),
            (
                "storage_damaged_bytes",
                "Bytes of damaged content that was moved aside",
                Some(space.damaged),
            ),
            (
                "storage_limit_bytes",
                "Bytes that content and open uploads may have",
                space.limit,
            ),
            (
                "storage_disk_bytes",
                "Bytes of the disk that the storage is on",
                space.disk,
            ),
            (
                "storage_free_bytes",
                "Bytes of that disk that can still be written",
                space.free,
            ),
            (
                "storage_min_free_bytes",
                "Bytes of that disk that pushes leave free",
                space.min_free,
            ),
            (
                "storage_full",
                "1 while pushes are refused for want of room",
                Some(u64::from(space.lack(0).is_some())),
            ),
        ] {
            let Some(value) = value else { continue };
            let metric = ConstGauge::new(gauge(value));
            let descriptor = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(descriptor)?;
        }
        Ok(())
    }
}
