//! What the registry counts. Every label has a bounded set of values.

pub(crate) mod space;

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::route::RouteClass;
use crate::access::Rejected;
use crate::store::{Collected, RoundEnd, ScrubState, Scrubbed};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginLabels {
    result: &'static str,
}

/// What collections did.
#[derive(Debug, Clone, Default)]
struct Collections {
    runs: Family<RunLabels, Counter>,
    freed_bytes: Counter,
    contents: Counter,
    links: Counter,
    manifests: Counter,
    stored_bytes: Gauge,
    stored_contents: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    result: &'static str,
}

impl Collections {
    fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        registry.register("gc_runs", "Garbage collections that ended", it.runs.clone());
        for (name, help, counter) in [
            (
                "gc_freed_bytes",
                "Bytes of content deleted",
                &it.freed_bytes,
            ),
            (
                "gc_contents",
                "Blobs and manifests whose content was deleted",
                &it.contents,
            ),
            ("gc_links", "Blobs taken out of a repository", &it.links),
            (
                "gc_manifests",
                "Manifests removed that nothing reached",
                &it.manifests,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "stored_bytes",
                "Bytes of content that the last garbage collection left",
                &it.stored_bytes,
            ),
            (
                "stored_contents",
                "Blobs and manifests that the last garbage collection left",
                &it.stored_contents,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        it
    }

    fn run(&self, result: &'static str) {
        self.runs.get_or_create(&RunLabels { result }).inc();
    }
}

/// What scrubs did.
#[derive(Debug, Clone, Default)]
struct Scrubs {
    rounds: Family<RunLabels, Counter>,
    read_bytes: Counter,
    damaged: Counter,
    unsure: Counter,
    missing: Gauge,
    completed: Gauge,
}

impl Scrubs {
    fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        registry.register("scrub_rounds", "Scrubs that ended", it.rounds.clone());
        for (name, help, counter) in [
            ("scrub_read_bytes", "Bytes of content read", &it.read_bytes),
            (
                "scrub_damaged_contents",
                "Blobs and manifests found damaged",
                &it.damaged,
            ),
            (
                "scrub_unsure_contents",
                "Blobs and manifests of which two readings differed, or that could not be read",
                &it.unsure,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "scrub_missing_contents",
                "Blobs and manifests that were damaged and are not back",
                &it.missing,
            ),
            (
                "scrub_last_complete_timestamp_seconds",
                "When a scrub last read all content, in seconds since 1970; 0: never",
                &it.completed,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        it
    }
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
            open_uploads: Gauge::default(),
            logins: Family::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time until the head of the answer was ready",
            metrics.seconds.clone(),
        );
        let received = metrics.bytes_in.clone();
        registry.register(
            "received_bytes",
            "Bytes of blobs and manifests received",
            received,
        );
        let sent = metrics.bytes_out.clone();
        registry.register("sent_bytes", "Bytes of blobs and manifests sent", sent);
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

    pub(crate) fn request(
        &self,
        method: &Method,
        route: RouteClass,
        status: StatusCode,
        took: Duration,
    ) {
        let (method, route) = (name_of(method), route.as_str());
        let labels = RequestLabels {
            method,
            route,
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        self.seconds
            .get_or_create(&RouteLabels { method, route })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn bytes_in(&self) -> Counter {
        self.bytes_in.clone()
    }

    pub(crate) fn bytes_out(&self) -> Counter {
        self.bytes_out.clone()
    }

    pub(crate) fn collected(&self, collected: &Collected) {
        let it = &self.collections;
        it.freed_bytes.inc_by(collected.bytes);
        it.contents.inc_by(collected.contents);
        it.links.inc_by(collected.links);
        it.manifests.inc_by(collected.manifests);
        // One that was stopped has not seen all.
        if collected.is_complete {
            it.run("complete");
            it.stored_bytes.set(gauge(collected.kept_bytes));
            it.stored_contents.set(gauge(collected.kept_contents));
        }
    }

    pub(crate) fn collection_failed(&self) {
        self.collections.run("failed");
    }

    pub(crate) fn scrub_read(&self, bytes: u64) {
        self.scrubs.read_bytes.inc_by(bytes);
    }

    pub(crate) fn scrub_damaged(&self) {
        self.scrubs.damaged.inc();
    }

    pub(crate) fn scrubbed(&self, scrubbed: &Scrubbed) {
        self.scrubs.unsure.inc_by(scrubbed.unsure);
        match scrubbed.end {
            // It goes on.
            RoundEnd::Stopped => {}
            RoundEnd::Complete => self.scrub_ended("complete"),
            RoundEnd::Doubtful => self.scrub_ended("doubtful"),
        }
    }

    pub(crate) fn scrub_failed(&self) {
        self.scrub_ended("failed");
    }

    fn scrub_ended(&self, result: &'static str) {
        self.scrubs
            .rounds
            .get_or_create(&RunLabels { result })
            .inc();
    }

    pub(crate) fn scrub_state(&self, state: &ScrubState) {
        self.scrubs.missing.set(gauge(state.missing));
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let completed = state.completed.and_then(since);
        let seconds = completed.map_or(0, |since| since.as_secs());
        self.scrubs.completed.set(gauge(seconds));
    }

    pub(crate) fn open_uploads(&self, count: u64) {
        self.open_uploads.set(gauge(count));
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Anybody can send any method.
fn name_of(method: &Method) -> &'static str {
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

    use super::*;

    /// A store whose repositories may all be named.
    struct Open(crate::store::FileStore);

    impl space::Measured for Open {
        fn store(&self) -> &dyn crate::store::Store {
            &self.0
        }

        fn is_named(&self, _: &coral_image::RepositoryPath) -> bool {
            true
        }
    }

    const RULES: &str = include_str!("../../../../deploy/monitoring/registry-rules.yaml");

    #[test]
    fn the_alerts_ask_for_nothing_that_is_not_exported() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::FileStore::open(folder.path()).unwrap();
        let mut registry = Registry::default();
        let _metrics = Metrics::register(&mut registry);
        space::register(&mut registry, Arc::new(Open(store)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let words = RULES.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<&str> = words.filter(|it| it.starts_with("coral_")).collect();
        assert!(asked.len() > 1, "{asked:?}");
        for name in asked {
            let line = format!("\n{name} ");
            assert!(text.contains(&line), "{name} is not in {text}");
        }
    }
}
