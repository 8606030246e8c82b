//! The metrics of collections and scrubs.

use std::time::SystemTime;

use coral_rt::register_each;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::gauge;
use crate::store::{Collected, RoundEnd, ScrubState, Scrubbed};

/// The metrics of collections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collections {
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
    pub(super) fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        registry.register("gc_runs", "Garbage collections that ended", it.runs.clone());
        let counters = [
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
            ("gc_links", "Blobs removed from a repository", &it.links),
            ("gc_manifests", "Untagged manifests removed", &it.manifests),
        ];
        register_each(registry, counters);
        let gauges = [
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
        ];
        register_each(registry, gauges);
        it
    }

    pub(crate) fn collected(&self, collected: &Collected) {
        self.freed_bytes.inc_by(collected.bytes);
        self.contents.inc_by(collected.contents);
        self.links.inc_by(collected.links);
        self.manifests.inc_by(collected.manifests);
        // A stopped collection has not seen everything.
        if collected.is_complete {
            self.run("complete");
            self.stored_bytes.set(gauge(collected.kept_bytes));
            self.stored_contents.set(gauge(collected.kept_contents));
        }
    }

    pub(crate) fn failed(&self) {
        self.run("failed");
    }

    fn run(&self, result: &'static str) {
        self.runs.get_or_create(&RunLabels { result }).inc();
    }
}

/// The metrics of scrubs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrubs {
    rounds: Family<RunLabels, Counter>,
    read_bytes: Counter,
    damaged: Counter,
    unsure: Counter,
    missing: Gauge,
    completed: Gauge,
}

impl Scrubs {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        registry.register("scrub_rounds", "Scrubs that ended", it.rounds.clone());
        let counters = [
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
        ];
        register_each(registry, counters);
        let gauges = [
            (
                "scrub_missing_contents",
                "Blobs and manifests that were damaged and have not been restored",
                &it.missing,
            ),
            (
                "scrub_last_complete_timestamp_seconds",
                "When a scrub last read all content, in seconds since 1970; 0 if never",
                &it.completed,
            ),
        ];
        register_each(registry, gauges);
        it
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.read_bytes.inc_by(bytes);
    }

    pub(crate) fn found_damaged(&self) {
        self.damaged.inc();
    }

    pub(crate) fn scrubbed(&self, scrubbed: &Scrubbed) {
        self.unsure.inc_by(scrubbed.unsure);
        match scrubbed.end {
            // The round will be continued.
            RoundEnd::Stopped => {}
            RoundEnd::Complete => self.ended("complete"),
            RoundEnd::Doubtful => self.ended("doubtful"),
        }
    }

    pub(crate) fn failed(&self) {
        self.ended("failed");
    }

    fn ended(&self, result: &'static str) {
        self.rounds.get_or_create(&RunLabels { result }).inc();
    }

    pub(crate) fn show(&self, state: &ScrubState) {
        self.missing.set(gauge(state.missing));
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let completed = state.completed.and_then(since);
        let seconds = completed.map_or(0, |since| since.as_secs());
        self.completed.set(gauge(seconds));
    }
}
