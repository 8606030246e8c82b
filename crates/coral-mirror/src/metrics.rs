//! Metrics of mirrors: the controller and `coral up` export them under the same names, so that one
//! rules file and one dashboard serve both.

mod sources;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::status::count;
use crate::sync::Summary;
pub use sources::SourceMetrics;

/// The values of a mirror's gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MirrorGauges {
    /// Whether all wanted images are mirrored.
    pub ready: bool,
    /// Whether it is suspended. A suspended mirror has no times, and is not shown as not ready.
    pub suspended: bool,
    /// Images wanted.
    pub desired: i64,
    /// Images that the destination has.
    pub mirrored: i64,
    /// Images that have to be compared or copied.
    pub pending: i64,
    /// Images that wait for space at the destination.
    pub waiting: i64,
    /// Images that failed at the last attempt.
    pub failed: i64,
    /// Mirrored images that are gone at their source.
    pub source_gone: i64,
    /// Whether deletions are paused because many images vanished.
    pub prune_paused: bool,
    /// Bytes copied since the mirror was created.
    pub copied_bytes: i64,
    /// When the next pass begins, in seconds since 1970.
    pub next_pass: Option<i64>,
    /// End of the last pass, in seconds since 1970, if nothing failed in it.
    pub last_success: Option<i64>,
    /// Shown while no success is known, so that an alert on the age has a value: when the mirror
    /// began to fail, or else when it was created.
    pub no_success_since: i64,
}

impl MirrorGauges {
    /// The gauges of a mirror of this process that has run since `since`.
    pub fn from_summary(summary: &Summary, suspended: bool, since: Timestamp) -> Self {
        let status = summary.status();
        let fails = summary.failing + summary.errors > 0;
        let second = |at: Timestamp| at.as_second();
        let last_pass = summary.last_pass.map(second);
        Self {
            ready: last_pass.is_some() && !fails && summary.mirrored == summary.desired,
            suspended,
            desired: count(summary.desired),
            mirrored: count(summary.mirrored),
            pending: count(summary.pending),
            waiting: count(summary.waiting),
            failed: count(summary.failed()),
            source_gone: count(summary.source_gone),
            prune_paused: summary.pruning.paused,
            copied_bytes: status.bytes_copied.unwrap_or_default(),
            next_pass: status.next_sync.map(|next| next.0.as_second()),
            last_success: last_pass.filter(|_| !fails),
            no_success_since: since.as_second(),
        }
    }

    /// The numbers of images, by state.
    fn counts(&self) -> [(&'static str, i64); 5] {
        [
            ("desired", self.desired),
            ("mirrored", self.mirrored),
            ("pending", self.pending),
            ("waiting", self.waiting),
            ("failed", self.failed),
        ]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MirrorLabels {
    namespace: String,
    mirror: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    namespace: String,
    mirror: String,
    state: &'static str,
}

impl MirrorLabels {
    /// The labels of a mirror, from its name `namespace/name`.
    fn from_name(name: &str) -> Self {
        let (namespace, mirror) = name.split_once('/').unwrap_or(("", name));
        Self {
            namespace: namespace.to_owned(),
            mirror: mirror.to_owned(),
        }
    }

    fn with_state(&self, state: &'static str) -> StateLabels {
        StateLabels {
            namespace: self.namespace.clone(),
            mirror: self.mirror.clone(),
            state,
        }
    }
}

/// The metrics of mirrors, and of the registries that they read from. Cheap to clone; all clones
/// share one state.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use coral_mirror::{MirrorGauges, MirrorMetrics};
///
/// let metrics = MirrorMetrics::default();
/// let mut registry = prometheus_client::registry::Registry::default();
/// metrics.register(&mut registry);
/// let gauges = MirrorGauges { mirrored: 5, ..MirrorGauges::default() };
/// metrics.show(BTreeMap::from([("default/app".to_owned(), gauges)]));
///
/// let mut text = String::new();
/// prometheus_client::encoding::text::encode(&mut text, &registry)?;
/// let line = r#"coral_mirror_images{namespace="default",mirror="app",state="mirrored"} 5"#;
/// assert!(text.contains(line));
/// # Ok::<(), std::fmt::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MirrorMetrics {
    ready: Family<MirrorLabels, Gauge>,
    images: Family<StateLabels, Gauge>,
    source_gone: Family<MirrorLabels, Gauge>,
    last_success: Family<MirrorLabels, Gauge>,
    next_pass: Family<MirrorLabels, Gauge>,
    prune_paused: Family<MirrorLabels, Gauge>,
    copied_bytes: Family<MirrorLabels, Gauge>,
    failed_attempts: Family<MirrorLabels, Counter>,
    sources: SourceMetrics,
    shown: Arc<Mutex<BTreeMap<String, MirrorGauges>>>,
}

impl MirrorMetrics {
    /// Registers the metrics for `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            (
                "coral_mirror_ready",
                "1 while the mirror is Ready; absent while it is suspended and not Ready",
                &self.ready,
            ),
            (
                "coral_mirror_source_gone_images",
                "Mirrored images of the mirror that are gone at their source",
                &self.source_gone,
            ),
            (
                "coral_mirror_last_success_timestamp_seconds",
                "End of the mirror's last pass without a failure; while none is known, when it \
                 began to fail or was created",
                &self.last_success,
            ),
            (
                "coral_mirror_next_pass_timestamp_seconds",
                "When the next pass of the mirror begins",
                &self.next_pass,
            ),
            (
                "coral_mirror_prune_paused",
                "1 while the mirror deletes no tags because many images vanished at their sources",
                &self.prune_paused,
            ),
            (
                "coral_mirror_copied_bytes",
                "Bytes copied since the mirror was created",
                &self.copied_bytes,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "coral_mirror_images",
            "Images of the mirror: all desired ones, and of these the mirrored, pending, waiting \
             (for space) and failed ones",
            self.images.clone(),
        );
        registry.register(
            "coral_mirror_failed_attempts",
            "Failed attempts at images and repositories of the mirror; each is retried",
            self.failed_attempts.clone(),
        );
        registry.register_collector(Box::new(self.sources.clone()));
    }

    /// Sets the gauges of all mirrors, by `namespace/name`. Mirrors that are not among them are
    /// removed.
    pub fn show(&self, now: BTreeMap<String, MirrorGauges>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for name in shown.keys().filter(|name| !now.contains_key(*name)) {
            self.remove(&MirrorLabels::from_name(name));
        }
        for (name, mirror) in &now {
            self.show_one(&MirrorLabels::from_name(name), shown.get(name), mirror);
        }
        *shown = now;
    }

    fn remove(&self, labels: &MirrorLabels) {
        for gauge in [
            &self.ready,
            &self.source_gone,
            &self.last_success,
            &self.next_pass,
            &self.prune_paused,
            &self.copied_bytes,
        ] {
            gauge.remove(labels);
        }
        self.failed_attempts.remove(labels);
        for (state, _) in MirrorGauges::default().counts() {
            self.images.remove(&labels.with_state(state));
        }
    }

    fn show_one(
        &self,
        labels: &MirrorLabels,
        before: Option<&MirrorGauges>,
        mirror: &MirrorGauges,
    ) {
        self.show_success(labels, before, mirror);
        let set = |gauge: &Family<MirrorLabels, Gauge>, value| {
            gauge.get_or_create(labels).set(value);
        };
        set(&self.source_gone, mirror.source_gone);
        set(&self.prune_paused, i64::from(mirror.prune_paused));
        set(&self.copied_bytes, mirror.copied_bytes);
        match mirror.next_pass {
            Some(next) => set(&self.next_pass, next),
            // Suspended, or no pass has ended: an older time would look overdue.
            None => {
                self.next_pass.remove(labels);
            }
        }
        for (state, count) in mirror.counts() {
            let labels = labels.with_state(state);
            self.images.get_or_create(&labels).set(count);
        }
    }

    /// Sets the gauges for success; a suspended mirror has none.
    fn show_success(
        &self,
        labels: &MirrorLabels,
        before: Option<&MirrorGauges>,
        mirror: &MirrorGauges,
    ) {
        if mirror.suspended && !mirror.ready {
            self.ready.remove(labels);
        } else {
            let ready = self.ready.get_or_create(labels);
            ready.set(i64::from(mirror.ready));
        }
        if mirror.suspended {
            self.last_success.remove(labels);
            return;
        }
        // A failed pass keeps the time of the last successful one.
        let is_new = before.is_none_or(|before| before.suspended);
        let unknown = is_new.then_some(mirror.no_success_since);
        if let Some(time) = mirror.last_success.or(unknown) {
            self.last_success.get_or_create(labels).set(time);
        }
    }

    /// Counts a failed attempt of this mirror (`namespace/name`), unless the mirror is not shown.
    pub fn attempt_failed(&self, mirror: &str) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.contains_key(mirror) {
            let labels = MirrorLabels::from_name(mirror);
            self.failed_attempts.get_or_create(&labels).inc();
        }
    }

    /// The metrics of source registries.
    pub fn sources(&self) -> &SourceMetrics {
        &self.sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn text(metrics: &MirrorMetrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    fn show(metrics: &MirrorMetrics, summary: &Summary) -> String {
        let gauges = MirrorGauges::from_summary(summary, false, at(5));
        metrics.show(BTreeMap::from([("a/m".to_owned(), gauges)]));
        text(metrics)
    }

    #[test]
    fn a_mirror_of_this_process_is_shown_as_its_summary_says() {
        let metrics = MirrorMetrics::default();
        let mut summary = Summary {
            desired: 3,
            ..Summary::default()
        };
        let shown = show(&metrics, &summary);
        for line in [
            r#"coral_mirror_ready{namespace="a",mirror="m"} 0"#,
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 5"#,
            r#"coral_mirror_images{namespace="a",mirror="m",state="desired"} 3"#,
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
        assert!(
            !shown.contains("coral_mirror_next_pass_timestamp_seconds{"),
            "{shown}"
        );
        (summary.mirrored, summary.moved) = (3, 70);
        (summary.last_pass, summary.next_pass) = (Some(at(100)), Some(at(200)));
        let shown = show(&metrics, &summary);
        for line in [
            r#"coral_mirror_ready{namespace="a",mirror="m"} 1"#,
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 100"#,
            r#"coral_mirror_next_pass_timestamp_seconds{namespace="a",mirror="m"} 200"#,
            r#"coral_mirror_copied_bytes{namespace="a",mirror="m"} 70"#,
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
        // A repository that cannot be listed is no failed image, and no success.
        (summary.failing, summary.repositories.failing) = (1, 1);
        summary.last_pass = Some(at(300));
        let shown = show(&metrics, &summary);
        for line in [
            r#"coral_mirror_ready{namespace="a",mirror="m"} 0"#,
            r#"coral_mirror_last_success_timestamp_seconds{namespace="a",mirror="m"} 100"#,
            r#"coral_mirror_images{namespace="a",mirror="m",state="failed"} 0"#,
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
    }

    #[test]
    fn failed_attempts_count_for_a_mirror_that_is_shown_and_leave_with_it() {
        let metrics = MirrorMetrics::default();
        metrics.attempt_failed("a/m");
        let shown = show(&metrics, &Summary::default());
        assert!(
            !shown.contains("coral_mirror_failed_attempts_total{"),
            "{shown}"
        );
        metrics.attempt_failed("a/m");
        let line = r#"coral_mirror_failed_attempts_total{namespace="a",mirror="m"} 1"#;
        assert!(text(&metrics).contains(line));
        metrics.show(BTreeMap::new());
        let shown = text(&metrics);
        assert!(!shown.contains(r#"mirror="m""#), "{shown}");
    }
}
