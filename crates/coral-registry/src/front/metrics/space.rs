//! What is stored and free, read when the metrics are.

use std::sync::Arc;

use coral_image::RepositoryPath;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::gauge;
use crate::store::Store;

/// Repositories that have a gauge of their own: those that hold most.
const MOST_REPOSITORIES: usize = 1000;

/// What the gauges are made from.
pub(crate) trait Measured: Send + Sync + 'static {
    /// What holds the content.
    fn store(&self) -> &dyn Store;

    /// Whether a repository may be named to everyone who reads the metrics.
    fn is_named(&self, repository: &RepositoryPath) -> bool;
}

struct SpaceMetrics(Arc<dyn Measured>);

/// Adds the gauges `coral_registry_storage_*` and `coral_registry_repository_bytes`. One without a
/// value is left out.
pub(crate) fn register(registry: &mut Registry, measured: Arc<dyn Measured>) {
    let registry = registry.sub_registry_with_prefix("coral_registry");
    registry.register_collector(Box::new(SpaceMetrics(measured)));
}

impl SpaceMetrics {
    /// Bytes by repository, the largest first.
    fn repositories(&self) -> Vec<(RepositoryPath, u64)> {
        let mut all = self.0.store().bytes_by_repository();
        all.sort_unstable_by(|(name, bytes), (other, others)| {
            others.cmp(bytes).then_with(|| name.cmp(other))
        });
        all.retain(|(name, _)| self.0.is_named(name));
        all.truncate(MOST_REPOSITORIES);
        all
    }

    fn encode_repositories(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let help =
            "Bytes of all that a repository holds, of those that may be pulled without a login";
        let kind = MetricType::Gauge;
        let mut family = encoder.encode_descriptor("repository_bytes", help, None, kind)?;
        for (name, bytes) in self.repositories() {
            let labels = [("repository", name.as_str())];
            ConstGauge::new(gauge(bytes)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for SpaceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpaceMetrics")
    }
}

impl Collector for SpaceMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let space = self.0.store().space();
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
        self.encode_repositories(&mut encoder)
    }
}
