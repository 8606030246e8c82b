//! Gauges whose values are read when the metrics are read.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;

/// Writes a gauge without labels, from inside a collector.
///
/// ```
/// use prometheus_client::collector::Collector;
/// use prometheus_client::encoding::DescriptorEncoder;
///
/// #[derive(Debug)]
/// struct Temperature(i64);
///
/// impl Collector for Temperature {
///     fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
///         coral_rt::encode_gauge(&mut encoder, "temperature", "Degrees Celsius", self.0)
///     }
/// }
///
/// let mut registry = prometheus_client::registry::Registry::default();
/// registry.register_collector(Box::new(Temperature(21)));
/// let mut text = String::new();
/// prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
/// assert!(text.contains("# TYPE temperature gauge\ntemperature 21\n"));
/// ```
pub fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue + Copy,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}
