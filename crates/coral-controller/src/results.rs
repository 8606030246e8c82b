//! Results that builds have reported.
//!
//! The step `push` of a build reports its result where it gets its credential, up to a second
//! before the node reports that its container has ended. Every controller answers, and the leading
//! one keeps the reports. They are lost with the process, but the pod's termination message has the
//! same content.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_build::contract::PushReport;
use jiff::Timestamp;

use crate::changes::{Changes, Topic};

/// How long a result is kept: the node says the same within seconds.
const KEPT: Duration = Duration::from_mins(5);
/// Results that are kept, each of 4 KiB at most.
const MOST: usize = 2000;

/// A result, and when it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PushResult {
    pub(crate) report: PushReport,
    pub(crate) at: Timestamp,
}

/// The results by the uid of the pod that reported them. Cheap to clone; all clones share one
/// state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    by_pod: BTreeMap<String, Arc<PushResult>>,
    /// Notified of results, once this controller leads.
    changes: Option<Changes>,
}

impl Results {
    /// Accepts results from now on, since this controller leads.
    pub(crate) fn lead(&self, changes: &Changes) {
        self.lock().changes = Some(changes.clone());
    }

    /// Whether this controller leads.
    pub(crate) fn leads(&self) -> bool {
        self.lock().changes.is_some()
    }

    /// Records the result of a pod, unless this controller does not lead or the limit is reached.
    pub(crate) fn record(&self, pod: &str, report: PushReport, now: Timestamp) {
        let mut kept = self.lock();
        kept.by_pod
            .retain(|_, push_result| is_fresh(push_result, now));
        let Some(changes) = kept.changes.clone() else {
            return;
        };
        if kept.by_pod.len() < MOST {
            let push_result = PushResult { report, at: now };
            kept.by_pod.insert(pod.to_owned(), Arc::new(push_result));
            drop(kept);
            changes.notify(Topic::BuildWorkloads);
        }
    }

    /// The result of the pod with this uid.
    pub(crate) fn for_pod(&self, pod: &str) -> Option<Arc<PushResult>> {
        self.lock().by_pod.get(pod).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every change is made by single assignments: a panic leaves no half state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A result from the future was reported before the clock was set back.
fn is_fresh(push_result: &PushResult, now: Timestamp) -> bool {
    let age = now.duration_since(push_result.at);
    !age.is_negative() && age.unsigned_abs() < KEPT
}

#[cfg(test)]
mod tests {
    use coral_build::contract::PushedBytes;
    use futures::FutureExt as _;

    use super::*;

    fn report(digest: &str) -> PushReport {
        PushReport {
            digest: digest.to_owned(),
            outputs: Vec::new(),
            bytes: PushedBytes::default(),
            milliseconds: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_result_wakes_the_part_of_builds_and_is_kept_for_minutes() {
        let (results, changes) = (Results::default(), Changes::default());
        results.lead(&changes);
        let mut woken = changes.subscribe(&[Topic::BuildWorkloads]);
        results.record("a", report("one"), at(0));
        assert_eq!(woken.changed().now_or_never(), Some(()));
        assert_eq!(results.for_pod("a").unwrap().report, report("one"));
        assert_eq!(results.for_pod("b"), None);
        results.record("b", report("two"), at(299));
        assert!(results.for_pod("a").is_some());
        results.record("b", report("two"), at(300));
        assert_eq!(results.for_pod("a"), None);
        assert!(results.for_pod("b").is_some());
    }

    #[test]
    fn nothing_is_kept_by_a_controller_that_does_not_lead_or_beyond_the_bound() {
        let results = Results::default();
        results.record("a", report("one"), at(0));
        assert!(!results.leads() && results.for_pod("a").is_none());
        results.lead(&Changes::default());
        for pod in 0..MOST {
            results.record(&pod.to_string(), report("one"), at(0));
        }
        results.record("one more", report("one"), at(0));
        assert!(results.for_pod("0").is_some() && results.for_pod("one more").is_none());
    }
}
