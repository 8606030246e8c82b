//! Metrics of the registries that mirrors copy from.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::pace::SourceUse;

/// How many registries are shown, those with the most requests first. Bounded because tenants
/// choose their names.
const MOST_HOSTS: usize = 100;

/// Returns the requests so far, the registries with the most first.
type Reader = Box<dyn Fn() -> Vec<SourceUse> + Send>;

/// Reads the requests to sources at each scrape. Cheap to clone; all clones share one state.
#[derive(Clone, Default)]
pub struct SourceMetrics(Arc<Mutex<Option<Reader>>>);

impl SourceMetrics {
    /// Sets the reader whose values are shown from now on.
    pub fn follow(&self, read: impl Fn() -> Vec<SourceUse> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(read));
    }

    fn used(&self) -> Vec<SourceUse> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = read.as_ref().map(|read| read()).unwrap_or_default();
        used.truncate(MOST_HOSTS);
        used
    }
}

impl fmt::Debug for SourceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceMetrics").finish_non_exhaustive()
    }
}

/// A counter of each registry: its name, its help and its value.
type Counted = (&'static str, &'static str, fn(&SourceUse) -> u64);

const COUNTED: [Counted; 3] = [
    (
        "coral_source_requests",
        "Requests of mirrors to the registry",
        |source| source.requests,
    ),
    (
        "coral_source_refused_requests",
        "Requests that the registry refused because there were too many (429 and the like)",
        |source| source.refused,
    ),
    (
        "coral_source_repeated_requests",
        "Requests that were repeated after such a refusal",
        |source| source.repeated,
    ),
];

impl Collector for SourceMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let used = self.used();
        if used.is_empty() {
            return Ok(());
        }
        for (name, help, value) in COUNTED {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for source in &used {
                let labels = [("host", source.host.as_str())];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&value(source), None)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "coral_source_requests_left",
            "Requests that the registry reports as left in its current window",
            None,
            MetricType::Gauge,
        )?;
        for source in &used {
            let Some(left) = source.left else { continue };
            let labels = [("host", source.host.as_str())];
            let left = i64::try_from(left).unwrap_or(i64::MAX);
            metric.encode_family(&labels)?.encode_gauge(&left)?;
        }
        Ok(())
    }
}
