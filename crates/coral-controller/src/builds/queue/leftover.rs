//! Leftover runs: runs that are not the current run of any build. Each occupies a slot until it has
//! ended.
//!
//! Examples are the Job of a deleted build, a Job that a finalizer keeps, and the pod of a run that
//! was cancelled or whose spec was changed, until the node has ended the pod.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::builds::decide::has_job_ended;
use crate::builds::names;
use crate::builds::namespaces::Workload;

/// How long a deleted pod still counts after its grace period has ended. On a lost node the pod
/// stays as long as the node object.
const DELETION_GRACE: Duration = Duration::from_mins(1);

/// How many such runs there are in each namespace.
#[derive(Debug, Default)]
pub(super) struct LeftoverRuns {
    pub(super) by_namespace: BTreeMap<String, usize>,
    /// When the next of them ceases to count, without a change.
    pub(super) next: Option<Timestamp>,
}

impl LeftoverRuns {
    /// `counted` are the runs that their builds count, by the uid of the build and the key of the run.
    pub(super) fn find(
        workloads: &BTreeMap<String, Workload>,
        counted: &BTreeSet<(&str, String)>,
        has_ended: impl Fn(&Pod) -> bool,
        now: Timestamp,
    ) -> Self {
        let is_counted = |job: &Job| {
            let run = names::build_of(job).zip(names::run_of(job));
            run.is_some_and(|(uid, run)| counted.contains(&(uid, run.to_owned())))
        };
        let mut leftover = Self::default();
        for (namespace, workload) in workloads {
            let jobs = workload.jobs().filter(|job| !is_counted(job));
            let of_jobs = jobs.filter(|job| match workload.pod_of(job) {
                Some(pod) => leftover.is_running(pod, &has_ended, now),
                None => names::was_let_run(job) && !has_job_ended(job),
            });
            let of_jobs = of_jobs.count();
            let pods = workload.pods_without_job();
            let pods = pods.filter(|pod| leftover.is_running(pod, &has_ended, now));
            let count = of_jobs + pods.count();
            if count > 0 {
                leftover.by_namespace.insert(namespace.clone(), count);
            }
        }
        leftover
    }

    /// Whether something of a pod still runs, as far as is known.
    fn is_running(&mut self, pod: &Pod, has_ended: impl Fn(&Pod) -> bool, now: Timestamp) -> bool {
        if has_ended(pod) {
            return false;
        }
        let Some(deleted) = &pod.metadata.deletion_timestamp else {
            return true;
        };
        let due = deleted
            .0
            .saturating_add(DELETION_GRACE)
            .unwrap_or(Timestamp::MAX);
        if due > now {
            self.next = self.next.into_iter().chain([due]).min();
        }
        due > now
    }
}
