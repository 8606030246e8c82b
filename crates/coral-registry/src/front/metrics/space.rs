//! Stored and free bytes, read when the metrics are read.

use std::sync::Arc;

use coral_image::RepositoryPath;
use coral_rt::encode_gauge;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::gauge;
use crate::store::{RepositoryBytes, Space};

/// How many repositories have their own gauge: the largest.
const MOST_REPOSITORIES: usize = 1000;

/// The source of the gauges.
pub(crate) trait SpaceSource: Send + Sync + 'static {
    /// Stored and free bytes.
    fn space(&self) -> Space;

    /// The bytes of each repository, the largest first.
    fn largest(&self) -> Arc<RepositoryBytes>;

    /// A check whether a repository may be named to every client that reads the metrics, under the
    /// current settings.
    fn naming(&self) -> Box<dyn Fn(&RepositoryPath) -> bool + '_>;
}

struct SpaceMetrics(Arc<dyn SpaceSource>);

/// Adds the gauges `coral_registry_storage_*` and `coral_registry_repository_bytes`. One without a
/// value is left out.
pub(crate) fn register(registry: &mut Registry, measured: Arc<dyn SpaceSource>) {
    let registry = registry.sub_registry_with_prefix("coral_registry");
    registry.register_collector(Box::new(SpaceMetrics(measured)));
}

impl SpaceMetrics {
    fn encode_repositories(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let help = "Bytes of all content of a repository, for repositories that may be pulled without a \
             login";
        let kind = MetricType::Gauge;
        let mut family = encoder.encode_descriptor("repository_bytes", help, None, kind)?;
        let (largest, is_named) = (self.0.largest(), self.0.naming());
        let named = largest.all.iter().filter(|(name, _)| is_named(name));
        for (name, bytes) in named.take(MOST_REPOSITORIES) {
            let labels = [("repository", name.as_str())];
            family
                .encode_family(&labels)?
                .encode_gauge(&gauge(*bytes))?;
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
                "Bytes that content and open uploads may take",
                space.limit,
            ),
            (
                "storage_disk_bytes",
                "Bytes of the disk that the storage is on",
                space.disk,
            ),
            (
                "storage_free_bytes",
                "Bytes of that disk that the registry can still write",
                space.free,
            ),
            (
                "storage_min_free_bytes",
                "Bytes of that disk that pushes leave free",
                space.min_free,
            ),
            (
                "storage_full",
                "1 while pushes are refused because space is short",
                Some(u64::from(space.lack(0).is_some())),
            ),
        ] {
            let Some(value) = value else { continue };
            encode_gauge(&mut encoder, name, help, gauge(value))?;
        }
        self.encode_repositories(&mut encoder)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Repositories of these sizes; those below `private/` may not be named.
    #[derive(Default)]
    pub(crate) struct Fixed(Mutex<Vec<(RepositoryPath, u64)>>);

    impl Fixed {
        fn set(&self, all: &[(&str, u64)]) {
            let path = |path| RepositoryPath::parse(path).unwrap();
            let all = all.iter().map(|(name, bytes)| (path(name), *bytes));
            *self.0.lock().unwrap() = all.collect();
        }
    }

    impl SpaceSource for Fixed {
        fn space(&self) -> Space {
            Space::default()
        }

        fn largest(&self) -> Arc<RepositoryBytes> {
            let bytes = RepositoryBytes {
                all: self.0.lock().unwrap().clone(),
                counted: true,
            };
            Arc::new(bytes.largest_first())
        }

        fn naming(&self) -> Box<dyn Fn(&RepositoryPath) -> bool + '_> {
            Box::new(|path| !path.as_str().starts_with("private/"))
        }
    }

    #[test]
    fn the_largest_that_may_be_named_are_shown_however_many_others_there_are() {
        let fixed = Arc::new(Fixed::default());
        let name = |kind: &str, number| format!("{kind}/{number}");
        let names: Vec<(String, u64)> = (0..2000)
            .flat_map(|number| {
                [
                    (name("private", number), 10_000),
                    (name("public", number), number),
                ]
            })
            .collect();
        let all: Vec<(&str, u64)> = names
            .iter()
            .map(|(n, bytes)| (n.as_str(), *bytes))
            .collect();
        fixed.set(&all);
        let mut registry = Registry::default();
        register(&mut registry, fixed);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let shown = text
            .lines()
            .filter(|line| line.contains("_repository_bytes{"));
        assert_eq!(shown.count(), MOST_REPOSITORIES);
        assert!(text.contains("repository=\"public/1999\"} 1999") && !text.contains("private/"));
        assert!(!text.contains("repository=\"public/999\"}"));
    }
}
