//! How many builds run at once, and which waiting build begins next: the one that has waited
//! longest.
//!
//! A build that cannot begin for another reason does not block a slot for those behind it. The
//! condition `InQueue` records since when a build has waited, so the order survives a restart of
//! the controller.

mod leftover;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coral_api::conditions::{Truth, kind};
use coral_api::image_build::ImageBuild;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::decide::has_job;
use super::namespaces::Workload;
use super::reason;
use crate::ObjectKey;
use leftover::LeftoverRuns;

/// How long a run keeps its slot although the cluster does not start its pod.
const START_GRACE: Duration = Duration::from_mins(1);

/// How many builds run at once; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// In the cluster.
    pub(crate) cluster: usize,
    /// In each namespace.
    pub(crate) namespace: usize,
}

/// No further build may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    scope: Scope,
    /// How many run at once.
    bound: usize,
    /// Builds that wait for the same slot and come first.
    ahead: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    Namespace,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scope, flag) = match self.scope {
            Scope::Cluster => ("cluster", "--max-builds"),
            Scope::Namespace => ("namespace", "--max-builds-per-namespace"),
        };
        let bound = self.bound;
        write!(
            f,
            "the {scope} runs as many builds as it may at once ({bound}, {flag} of the controller)"
        )?;
        match self.ahead {
            0 => f.write_str("; this one is next"),
            1 => f.write_str("; 1 has waited longer"),
            // The exact number would change the status of all waiting builds whenever one begins.
            10.. => f.write_str("; 10 or more have waited longer"),
            ahead => write!(f, "; {ahead} have waited longer"),
        }
    }
}

/// The runs whose Job was created but which the status does not show yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    created: BTreeMap<ObjectKey, String>,
}

impl Queue {
    /// The builds in the order in which they are reconciled: those that have begun, then those that
    /// wait, the one that waits longest first. `open` are those whose run has not ended.
    pub(super) fn order(
        &mut self,
        open: &BTreeMap<ObjectKey, Arc<ImageBuild>>,
        now: Timestamp,
    ) -> Vec<ObjectKey> {
        self.created.retain(|key, run| {
            let build = open.get(key);
            build.is_some_and(|build| !has_job(build) && build.spec.run_key() == *run)
        });
        let mut order: Vec<_> = open.keys().cloned().collect();
        order.sort_by_cached_key(|key| {
            let build = &open[key];
            let waits = !self.runs(key, build);
            let since = waits.then(|| queued_since(build).unwrap_or(now));
            let created = build.metadata.creation_timestamp.as_ref().map(|it| it.0);
            (since, created, key.clone())
        });
        order
    }

    /// Whether the current run of a build has begun.
    fn runs(&self, key: &ObjectKey, build: &ImageBuild) -> bool {
        has_job(build) || self.created.contains_key(key)
    }

    /// Records that the Job of a build was created.
    pub(super) fn record_created(&mut self, key: &ObjectKey, build: &ImageBuild) {
        self.created.insert(key.clone(), build.spec.run_key());
    }

    /// The slots that are occupied at the beginning of a pass. `workloads` has the Jobs and pods of
    /// each namespace; `has_ended` returns whether a pod runs nothing any more.
    pub(super) fn slots(
        &self,
        open: &BTreeMap<ObjectKey, Arc<ImageBuild>>,
        workloads: &BTreeMap<String, Workload>,
        has_ended: impl Fn(&Pod) -> bool,
        bounds: Bounds,
        now: Timestamp,
    ) -> RunSlots {
        let running = open.iter().filter(|(key, build)| self.runs(key, build));
        let running: Vec<_> = running.filter(|(_, build)| is_granted(build)).collect();
        let counted = running.iter().filter_map(|(_, build)| {
            let uid = build.metadata.uid.as_deref()?;
            Some((uid, build.spec.run_key()))
        });
        let leftover = LeftoverRuns::find(workloads, &counted.collect(), has_ended, now);
        let mut slots = RunSlots {
            bounds,
            next: leftover.next,
            leftover: leftover.by_namespace,
            ..RunSlots::default()
        };
        for (key, build) in running {
            slots.running.insert(key.clone());
            match kept_from_running_until(build) {
                Some(until) if until <= now => {
                    slots.stuck.insert(key.clone());
                }
                Some(until) => {
                    slots.next = slots.next.into_iter().chain([until]).min();
                }
                None => {}
            }
        }
        slots
    }
}

/// When the run of the current spec began to wait for a slot, according to the status.
fn queued_since(build: &ImageBuild) -> Option<Timestamp> {
    let mut queued = conditions(build).filter(|it| it.type_ == kind::IN_QUEUE);
    let queued = queued.find(|it| it.status == Truth::True.as_str())?;
    Some(queued.last_transition_time.0)
}

/// Whether the controller may read the run of a build. A run that it may not read holds no slot,
/// because it may have ended.
fn is_granted(build: &ImageBuild) -> bool {
    reason_of(build) != Some(reason::NOT_GRANTED)
}

/// Until when a run keeps its slot if the cluster does not start its pod.
fn kept_from_running_until(build: &ImageBuild) -> Option<Timestamp> {
    let is_kept = reason_of(build).is_some_and(|it| reason::BLOCKS_START.contains(&it));
    let began = build.status.as_ref()?.start_time.as_ref()?.0;
    is_kept.then(|| began.saturating_add(START_GRACE).unwrap_or(Timestamp::MAX))
}

/// The reason of the condition `Ready`.
fn reason_of(build: &ImageBuild) -> Option<&str> {
    let mut ready = conditions(build).filter(|it| it.type_ == kind::READY);
    ready.next().map(|it| it.reason.as_str())
}

fn conditions(build: &ImageBuild) -> impl Iterator<Item = &Condition> {
    build.status.iter().flat_map(|it| &it.conditions).flatten()
}

/// Which builds run and which wait for a slot, in one pass.
#[derive(Debug, Default)]
pub(super) struct RunSlots {
    bounds: Bounds,
    running: BTreeSet<ObjectKey>,
    /// Those of `running` whose pod the cluster does not start.
    stuck: BTreeSet<ObjectKey>,
    /// Runs that are not the current run of any build, by namespace.
    leftover: BTreeMap<String, usize>,
    queued: BTreeMap<ObjectKey, Scope>,
    /// When the next run begins or ceases to count as stuck.
    next: Option<Timestamp>,
}

/// Runs that count against a limit.
#[derive(Debug, Clone, Copy)]
struct RunCount {
    all: usize,
    stuck: usize,
}

impl RunCount {
    /// A pod that does not start uses no resources, so it does not fill a slot. Such pods are
    /// limited as well: should they all start after all, at most twice the limit runs at once.
    fn fills(self, bound: usize) -> bool {
        bound != 0 && (self.all - self.stuck >= bound || self.all >= bound.saturating_mul(2))
    }
}

impl RunSlots {
    /// Why a build may not begin now; `None` if it may, or has begun already.
    pub(super) fn full(&self, build: &ObjectKey) -> Option<Full> {
        if self.running.contains(build) {
            return None;
        }
        let here = self.count_in(&build.namespace);
        let full = |scope, bound, runs: RunCount, ahead| {
            runs.fills(bound).then_some(Full {
                scope,
                bound,
                ahead,
            })
        };
        let Bounds { cluster, namespace } = self.bounds;
        // Builds that wait for a slot of their own namespace do not come before a build of another
        // one.
        let queued = self.queued.iter();
        let ahead = queued.filter(|(_, scope)| **scope == Scope::Cluster);
        let ahead_here = self
            .queued
            .keys()
            .filter(|it| it.namespace == build.namespace);
        // A namespace without a running build may begin one, so that others cannot occupy all
        // slots.
        full(Scope::Cluster, cluster, self.count(), ahead.count())
            .filter(|_| here.all > 0)
            .or_else(|| full(Scope::Namespace, namespace, here, ahead_here.count()))
    }

    fn count_in(&self, namespace: &str) -> RunCount {
        let count = |of: &BTreeSet<ObjectKey>| {
            let inside = of.iter().filter(|key| key.namespace == namespace);
            inside.count()
        };
        let running = count(&self.running);
        RunCount {
            all: running + self.leftover_in(namespace, running),
            stuck: count(&self.stuck),
        }
    }

    fn count(&self) -> RunCount {
        let namespaces = self.running.iter().map(|key| &key.namespace);
        let namespaces: BTreeSet<&String> = namespaces.chain(self.leftover.keys()).collect();
        let all = namespaces.into_iter().map(|it| self.count_in(it));
        all.fold(RunCount { all: 0, stuck: 0 }, |sum, it| RunCount {
            all: sum.all + it.all,
            stuck: sum.stuck + it.stuck,
        })
    }

    /// How many leftover runs count against the limit. Jobs that only resemble those of builds must
    /// not take more slots from other namespaces than builds of this one could.
    fn leftover_in(&self, namespace: &str, running: usize) -> usize {
        let leftover = self.leftover.get(namespace).copied().unwrap_or_default();
        match self.bounds.namespace {
            0 => leftover,
            bound => leftover.min(bound.saturating_sub(running)),
        }
    }

    /// Records that a build has begun.
    pub(super) fn begins(&mut self, key: &ObjectKey) {
        self.running.insert(key.clone());
    }

    /// Records that a build waits for a slot.
    pub(super) fn waits(&mut self, key: &ObjectKey, full: Full) {
        self.queued.insert(key.clone(), full.scope);
    }

    /// When a slot becomes free without a change, if a build waits for one.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next.filter(|_| !self.queued.is_empty())
    }
}

#[cfg(test)]
mod tests;
