//! How many builds run at once, and which of those that wait begins next: the one that waits longest.
//!
//! A build that cannot begin for another reason keeps no place from those behind it. Since when one waits
//! is its condition `Queued`, so the order is the same for a controller that was started anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coral_api::conditions::{Truth, kind};
use coral_api::image_build::ImageBuild;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::decide::{has_job, has_job_ended};
use super::namespaces::Workload;
use super::outcome::has_ended;
use super::{names, reason};
use crate::ObjectKey;
use crate::store::Snapshot;

/// How long after its beginning a run keeps its place though the cluster does not start its pod.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many builds run at once; 0: any number.
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
    /// Builds that wait for the same, and begin before.
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
            "as many builds run in the {scope} as may at once ({bound}, {flag} of the controller)"
        )?;
        match self.ahead {
            0 => f.write_str("; this one is next"),
            1 => f.write_str("; 1 waits longer"),
            // The exact number would change the status of all that wait with each that begins.
            10.. => f.write_str("; 10 or more wait longer"),
            ahead => write!(f, "; {ahead} wait longer"),
        }
    }
}

/// Runs whose Job was made, until the status says so.
#[derive(Debug, Default)]
pub(super) struct Queue {
    made: BTreeMap<ObjectKey, String>,
}

impl Queue {
    /// The builds in the order in which they are looked at: those that have begun, then those that
    /// wait, the one that waits longest first. `open` are those whose run has not ended.
    pub(super) fn order(
        &mut self,
        open: &BTreeMap<ObjectKey, Arc<ImageBuild>>,
        now: Timestamp,
    ) -> Vec<ObjectKey> {
        self.made.retain(|key, run| {
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

    /// Whether the present run of a build has begun.
    fn runs(&self, key: &ObjectKey, build: &ImageBuild) -> bool {
        has_job(build) || self.made.contains_key(key)
    }

    /// The Job of a build was made.
    pub(super) fn has_made(&mut self, key: &ObjectKey, build: &ImageBuild) {
        self.made.insert(key.clone(), build.spec.run_key());
    }

    /// The places that are taken at the beginning of a pass. `left` are Jobs that run for no build, by
    /// namespace.
    pub(super) fn places(
        &self,
        open: &BTreeMap<ObjectKey, Arc<ImageBuild>>,
        left: &BTreeMap<String, usize>,
        bounds: Bounds,
        now: Timestamp,
    ) -> Places {
        let mut places = Places {
            bounds,
            left: left.clone(),
            ..Places::default()
        };
        let running = open.iter();
        for (key, build) in running.filter(|(key, build)| self.runs(key, build)) {
            if !is_granted(build) {
                continue;
            }
            places.running.insert(key.clone());
            match kept_from_running_until(build) {
                Some(until) if until <= now => {
                    places.stuck.insert(key.clone());
                }
                Some(until) => {
                    places.next = places.next.into_iter().chain([until]).min();
                }
                None => {}
            }
        }
        places
    }
}

/// Since when the run that the spec asks for waits for a place, as the status says.
fn queued_since(build: &ImageBuild) -> Option<Timestamp> {
    let mut queued = conditions(build).filter(|it| it.type_ == kind::QUEUED);
    let queued = queued.find(|it| it.status == Truth::True.as_str())?;
    Some(queued.last_transition_time.0)
}

/// Whether the controller may look at the run of a build. One that it may not look at holds no
/// place: it has perhaps ended.
fn is_granted(build: &ImageBuild) -> bool {
    reason_of(build) != Some(reason::NOT_GRANTED)
}

/// Until when a run keeps its place whose pod the cluster does not start.
fn kept_from_running_until(build: &ImageBuild) -> Option<Timestamp> {
    let is_kept = reason_of(build).is_some_and(|it| reason::KEEPS_FROM_RUNNING.contains(&it));
    let began = build.status.as_ref()?.start_time.as_ref()?.0;
    is_kept.then(|| began.saturating_add(PATIENCE).unwrap_or(Timestamp::MAX))
}

/// The reason of the condition `Ready`.
fn reason_of(build: &ImageBuild) -> Option<&str> {
    let mut ready = conditions(build).filter(|it| it.type_ == kind::READY);
    ready.next().map(|it| it.reason.as_str())
}

fn conditions(build: &ImageBuild) -> impl Iterator<Item = &Condition> {
    build.status.iter().flat_map(|it| &it.conditions).flatten()
}

/// Who runs and who waits for a place, in one pass.
#[derive(Debug, Default)]
pub(super) struct Places {
    bounds: Bounds,
    running: BTreeSet<ObjectKey>,
    /// Those of `running` whose pod the cluster does not start.
    stuck: BTreeSet<ObjectKey>,
    /// Jobs that run for no build, by namespace.
    left: BTreeMap<String, usize>,
    queued: BTreeMap<ObjectKey, Scope>,
    /// When another one counts as stuck.
    next: Option<Timestamp>,
}

/// What is counted against a bound.
#[derive(Debug, Clone, Copy)]
struct Taken {
    all: usize,
    stuck: usize,
}

impl Taken {
    /// A pod that does not start takes nothing, but there may not be any number of them: when they
    /// start after all, twice as many run as may at once, and no more.
    fn fills(self, bound: usize) -> bool {
        bound != 0 && (self.all - self.stuck >= bound || self.all >= bound.saturating_mul(2))
    }
}

impl Places {
    /// Whether a build may begin now, or has; if not, why.
    pub(super) fn full(&self, build: &ObjectKey) -> Option<Full> {
        if self.running.contains(build) {
            return None;
        }
        let here = self.taken_in(&build.namespace);
        let full = |scope, bound, taken: Taken, ahead| {
            taken.fills(bound).then_some(Full {
                scope,
                bound,
                ahead,
            })
        };
        let Bounds { cluster, namespace } = self.bounds;
        // Those that wait for a place in their namespace are not before one of another.
        let queued = self.queued.iter();
        let ahead = queued.filter(|(_, scope)| **scope == Scope::Cluster);
        let ahead_here = self
            .queued
            .keys()
            .filter(|it| it.namespace == build.namespace);
        // A namespace of which none runs may begin one: others cannot keep all places to themselves.
        full(Scope::Cluster, cluster, self.taken(), ahead.count())
            .filter(|_| here.all > 0)
            .or_else(|| full(Scope::Namespace, namespace, here, ahead_here.count()))
    }

    fn taken_in(&self, namespace: &str) -> Taken {
        let count = |of: &BTreeSet<ObjectKey>| {
            let inside = of.iter().filter(|key| key.namespace == namespace);
            inside.count()
        };
        let running = count(&self.running);
        Taken {
            all: running + self.left_in(namespace, running),
            stuck: count(&self.stuck),
        }
    }

    fn taken(&self) -> Taken {
        let namespaces = self.running.iter().map(|key| &key.namespace);
        let namespaces: BTreeSet<&String> = namespaces.chain(self.left.keys()).collect();
        let all = namespaces.into_iter().map(|it| self.taken_in(it));
        all.fold(Taken { all: 0, stuck: 0 }, |sum, it| Taken {
            all: sum.all + it.all,
            stuck: sum.stuck + it.stuck,
        })
    }

    /// How many of the Jobs count that run for no build. A namespace with Jobs that only look like such
    /// ones takes no more from others than its own builds could.
    fn left_in(&self, namespace: &str, running: usize) -> usize {
        let left = self.left.get(namespace).copied().unwrap_or_default();
        match self.bounds.namespace {
            0 => left,
            bound => left.min(bound.saturating_sub(running)),
        }
    }

    /// A build has begun.
    pub(super) fn begins(&mut self, key: &ObjectKey) {
        self.running.insert(key.clone());
    }

    /// A build waits for a place.
    pub(super) fn waits(&mut self, key: &ObjectKey, full: Full) {
        self.queued.insert(key.clone(), full.scope);
    }

    /// When a place becomes free though nothing changes, for those that wait for one.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next.filter(|_| !self.queued.is_empty())
    }
}

/// How many Jobs run in each namespace for no build: since the build was deleted without them, or a
/// finalizer keeps one that is being deleted. `builds` are all.
pub(super) fn left_behind(
    found: &BTreeMap<String, Workload>,
    builds: &Snapshot<ImageBuild>,
) -> BTreeMap<String, usize> {
    let uids = builds.values().filter_map(|it| it.metadata.uid.as_deref());
    let uids: BTreeSet<&str> = uids.collect();
    let counts = found.iter().map(|(namespace, workload)| {
        let running = workload.jobs().filter(|job| {
            let build = names::build_of(job);
            let is_left = build.is_none_or(|uid| !uids.contains(uid));
            let runs = names::was_let_run(job) && !has_job_ended(job);
            let has_pushed = || workload.pod_of(job).is_some_and(|pod| has_ended(pod));
            (is_left || job.metadata.deletion_timestamp.is_some()) && runs && !has_pushed()
        });
        (namespace.clone(), running.count())
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests;
