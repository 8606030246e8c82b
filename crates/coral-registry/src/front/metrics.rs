//! The metrics of the registry. Every label has a bounded set of values.

pub(crate) mod space;
mod upkeep;

use std::time::Duration;

use coral_rt::register_each;
use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use self::upkeep::{Collections, Scrubs};
use super::route::RouteClass;
use crate::access::Rejected;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    client: &'static str,
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    client: &'static str,
    method: &'static str,
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginLabels {
    result: &'static str,
}

/// The origin and route of a request, for its labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// `own` for the embedding program (its mirrors and its status page), else `other`.
    pub(crate) client: &'static str,
    pub(crate) method: &'a Method,
    pub(crate) route: RouteClass,
}

/// The registry's metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    collections: Collections,
    scrubs: Scrubs,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    bytes_in: Counter,
    bytes_out: Counter,
    fetched_bytes: Counter,
    open_uploads: Gauge,
    logins: Family<LoginLabels, Counter>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("coral_registry");
        let metrics = Self {
            collections: Collections::register(registry),
            scrubs: Scrubs::register(registry),
            requests: Family::default(),
            // 0.25 ms to 65 s, in steps of four.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_25, 4.0, 10))
            }),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            fetched_bytes: Counter::default(),
            open_uploads: Gauge::default(),
            logins: Family::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time until the head of the answer was ready",
            metrics.seconds.clone(),
        );
        let counters = [
            (
                "received_bytes",
                "Bytes of blobs and manifests received",
                &metrics.bytes_in,
            ),
            (
                "sent_bytes",
                "Bytes of blobs and manifests sent",
                &metrics.bytes_out,
            ),
            (
                "pulled_through_bytes",
                "Bytes of blobs and manifests fetched from registries that are pulled through",
                &metrics.fetched_bytes,
            ),
        ];
        register_each(registry, counters);
        let open = metrics.open_uploads.clone();
        registry.register("open_uploads", "Uploads begun and not ended", open);
        let logins = metrics.logins.clone();
        registry.register("logins", "Requests with a name and a password", logins);
        metrics
    }

    pub(crate) fn login(&self, rejected: Option<&Rejected>) {
        let result = match rejected {
            None => "taken",
            Some(Rejected::Wrong) => "wrong",
            Some(Rejected::Later(_)) => "limited",
        };
        self.logins.get_or_create(&LoginLabels { result }).inc();
    }

    pub(crate) fn request(&self, asked: Asked<'_>, status: StatusCode, took: Duration) {
        let (client, method) = (asked.client, method_label(asked.method));
        let route = asked.route.as_str();
        let labels = RequestLabels {
            client,
            method,
            route,
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        let labels = RouteLabels {
            client,
            method,
            route,
        };
        self.seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    pub(crate) fn bytes_in(&self) -> Counter {
        self.bytes_in.clone()
    }

    pub(crate) fn fetched_bytes(&self) -> Counter {
        self.fetched_bytes.clone()
    }

    pub(crate) fn bytes_out(&self) -> Counter {
        self.bytes_out.clone()
    }

    /// The metrics of collections.
    pub(crate) fn collections(&self) -> &Collections {
        &self.collections
    }

    /// The metrics of scrubs.
    pub(crate) fn scrubs(&self) -> &Scrubs {
        &self.scrubs
    }

    pub(crate) fn open_uploads(&self, count: u64) {
        self.open_uploads.set(gauge(count));
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A bounded label for a method, since clients can send any text.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::space::tests::Fixed;
    use super::*;

    const RULES: &str = include_str!("../../../../deploy/monitoring/registry-rules.yaml");

    #[test]
    fn the_alerts_ask_for_nothing_that_is_not_exported() {
        let mut registry = Registry::default();
        let _metrics = Metrics::register(&mut registry);
        space::register(&mut registry, Arc::new(Fixed::default()));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let words = RULES.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        // The alert on certificates is tested in `coral-rt`, the one on files of `coral up` in `coral`.
        let asked = words.filter(|it| it.starts_with("coral_registry_"));
        let asked: Vec<&str> = asked.collect();
        assert!(asked.len() > 1, "{asked:?}");
        for name in asked {
            let line = format!("\n{name} ");
            assert!(text.contains(&line), "{name} is not in {text}");
        }
    }
}
