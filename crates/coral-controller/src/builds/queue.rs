//! How many builds run at once, and which of those that wait begins next: the one that waits longest.
//!
//! A build that cannot begin for another reason keeps no place from those behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use coral_api::conditions::kind;
use coral_api::image_build::ImageBuild;
use jiff::Timestamp;

use super::decide::has_begun;
use super::reason;
use crate::ObjectKey;

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

/// What is known of builds from one pass to the next.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Runs that have not begun, and since when they wait. A controller that was started anew knows
    /// only the age of their builds.
    waiting: BTreeMap<ObjectKey, (String, Timestamp)>,
    /// Runs whose Job was made, until the status says so.
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
            build.is_some_and(|build| !has_begun(build) && build.spec.run_key() == *run)
        });
        self.waiting
            .retain(|key, _| open.get(key).is_some_and(|build| !has_begun(build)));
        let mut order: Vec<_> = open.keys().cloned().collect();
        order.sort_by_cached_key(|key| {
            let build = &open[key];
            let since = (!self.runs(key, build)).then(|| self.since(key, build, now));
            let created = build.metadata.creation_timestamp.as_ref().map(|it| it.0);
            (since, created, key.clone())
        });
        order
    }

    /// Whether the present run of a build has begun.
    fn runs(&self, key: &ObjectKey, build: &ImageBuild) -> bool {
        has_begun(build) || self.made.contains_key(key)
    }

    /// Since when the present run of a build waits.
    fn since(&mut self, key: &ObjectKey, build: &ImageBuild, now: Timestamp) -> Timestamp {
        let run = build.spec.run_key();
        let known = self.waiting.get(key);
        let known = known.filter(|(of, _)| *of == run).map(|(_, since)| *since);
        let since = known.unwrap_or(now);
        self.waiting.insert(key.clone(), (run, since));
        since
    }

    /// The Job of a build was made.
    pub(super) fn has_made(&mut self, key: &ObjectKey, build: &ImageBuild) {
        self.made.insert(key.clone(), build.spec.run_key());
    }

    /// The places that are taken at the beginning of a pass.
    pub(super) fn places(
        &self,
        open: &BTreeMap<ObjectKey, Arc<ImageBuild>>,
        bounds: Bounds,
    ) -> Places {
        let running = open.iter();
        let running = running.filter(|(key, build)| self.runs(key, build) && is_granted(build));
        let running = running.map(|(key, _)| key.clone()).collect();
        Places {
            bounds,
            running,
            queued: BTreeSet::new(),
        }
    }
}

/// Whether the controller may look at the run of a build. One that it may not look at holds no
/// place: it has perhaps ended.
fn is_granted(build: &ImageBuild) -> bool {
    let conditions = build.status.iter().flat_map(|it| &it.conditions).flatten();
    let mut ready = conditions.filter(|it| it.type_ == kind::READY);
    ready.all(|it| it.reason != reason::NOT_GRANTED)
}

/// Who runs and who waits for a place, in one pass.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    running: BTreeSet<ObjectKey>,
    queued: BTreeSet<ObjectKey>,
}

impl Places {
    /// Whether a build may begin now, or has; if not, why.
    pub(super) fn full(&self, build: &ObjectKey) -> Option<Full> {
        if self.running.contains(build) {
            return None;
        }
        let count = |of: &BTreeSet<ObjectKey>| {
            let inside = of.iter().filter(|key| key.namespace == build.namespace);
            inside.count()
        };
        let full = |scope, bound, running, ahead| {
            let is_full = bound != 0 && running >= bound;
            is_full.then_some(Full {
                scope,
                bound,
                ahead,
            })
        };
        let Bounds { cluster, namespace } = self.bounds;
        let (running, queued) = (self.running.len(), self.queued.len());
        let (running_here, queued_here) = (count(&self.running), count(&self.queued));
        // A namespace of which none runs may begin one: others cannot keep all places to themselves.
        full(Scope::Cluster, cluster, running, queued)
            .filter(|_| running_here > 0)
            .or_else(|| full(Scope::Namespace, namespace, running_here, queued_here))
    }

    /// A build has begun.
    pub(super) fn begins(&mut self, key: &ObjectKey) {
        self.running.insert(key.clone());
    }

    /// A build waits for a place.
    pub(super) fn waits(&mut self, key: &ObjectKey) {
        self.queued.insert(key.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn key(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::new(namespace, name)
    }

    fn build(rerun: &str, created: i64, has_begun: bool) -> Arc<ImageBuild> {
        let mut build: ImageBuild = serde_json::from_value(json!({
            "metadata": {"name": "x", "creationTimestamp": at(created).to_string()},
            "spec": {
                "source": {"stream": {}}, "rerun": rerun,
                "output": {"registry": {"namespace": "s", "name": "r"}, "tags": ["n/x:1"]},
            },
        }))
        .unwrap();
        if has_begun {
            let status: Value = json!({"run": build.spec.run_key(), "job": "x-1"});
            build.status = Some(serde_json::from_value(status).unwrap());
        }
        Arc::new(build)
    }

    fn names(order: &[ObjectKey]) -> Vec<&str> {
        order.iter().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn what_runs_comes_first_and_then_what_waits_longest() {
        let mut queue = Queue::default();
        let mut open = BTreeMap::from([
            (key("n", "a-new"), build("1", 20, false)),
            (key("n", "b-old"), build("1", 10, false)),
            (key("n", "c-running"), build("1", 30, true)),
        ]);
        let expected = ["c-running", "b-old", "a-new"];
        assert_eq!(names(&queue.order(&open, at(40))), expected);
        // An object that is older asks for a run later.
        open.insert(key("n", "again"), build("2", 0, false));
        let expected = ["c-running", "b-old", "a-new", "again"];
        assert_eq!(names(&queue.order(&open, at(50))), expected);
        // A change of its spec is another run, which waits from now on.
        open.insert(key("n", "b-old"), build("2", 10, false));
        let expected = ["c-running", "a-new", "again", "b-old"];
        assert_eq!(names(&queue.order(&open, at(60))), expected);
    }

    #[test]
    fn a_run_whose_job_was_made_has_begun_before_its_status_says_so() {
        let mut queue = Queue::default();
        let mut open = BTreeMap::from([(key("n", "a"), build("1", 10, false))]);
        queue.has_made(&key("n", "a"), &open[&key("n", "a")]);
        open.insert(key("n", "b"), build("1", 0, false));
        assert_eq!(names(&queue.order(&open, at(20))), ["a", "b"]);
        let one = Bounds {
            cluster: 1,
            namespace: 0,
        };
        assert!(queue.places(&open, one).full(&key("n", "b")).is_some());
        open.insert(key("n", "a"), build("2", 10, false));
        queue.order(&open, at(20));
        let places = queue.places(&open, one);
        assert_eq!(places.full(&key("n", "b")), None, "another run");
    }

    #[test]
    fn the_bounds_hold_for_the_cluster_and_for_each_namespace_and_none_is_0() {
        let queue = Queue::default();
        let open = BTreeMap::from([
            (key("a", "1"), build("1", 0, true)),
            (key("a", "2"), build("1", 0, true)),
            (key("a", "3"), build("1", 0, false)),
        ]);
        let places = |cluster, namespace| queue.places(&open, Bounds { cluster, namespace });
        let scope =
            |places: &Places, namespace: &str| places.full(&key(namespace, "x")).map(|it| it.scope);
        assert_eq!(scope(&places(0, 0), "a"), None);
        assert_eq!(scope(&places(3, 3), "a"), None);
        assert_eq!(scope(&places(2, 3), "a"), Some(Scope::Cluster));
        assert_eq!(scope(&places(2, 3), "b"), None, "its first one");
        assert_eq!(scope(&places(3, 2), "a"), Some(Scope::Namespace));
        assert_eq!(scope(&places(3, 2), "b"), None);
        assert_eq!(places(2, 2).full(&key("a", "2")), None, "it has begun");
        let mut filled = places(3, 2);
        filled.begins(&key("b", "1"));
        assert_eq!(scope(&filled, "b"), Some(Scope::Cluster));
    }

    #[test]
    fn a_place_is_free_once_a_run_has_ended_or_may_not_be_looked_at() {
        let one = Bounds {
            cluster: 0,
            namespace: 1,
        };
        let runs = build("1", 0, true);
        let mut open = BTreeMap::from([(key("a", "1"), runs.clone())]);
        let full = |open: &_| Queue::default().places(open, one).full(&key("a", "x"));
        assert!(full(&open).is_some());
        let mut refused = runs.as_ref().clone();
        let condition = json!({
            "type": "Ready", "status": "False", "reason": reason::NOT_GRANTED, "message": "",
            "lastTransitionTime": at(0).to_string(),
        });
        refused.status.as_mut().unwrap().conditions =
            Some(vec![serde_json::from_value(condition).unwrap()]);
        open.insert(key("a", "1"), Arc::new(refused));
        assert_eq!(full(&open), None, "the grant was taken back");
        open.insert(key("a", "1"), runs);
        open.remove(&key("a", "1"));
        assert_eq!(full(&open), None, "the run has ended");
    }

    #[test]
    fn a_build_that_waits_is_told_the_bound_and_how_many_are_ahead() {
        let queue = Queue::default();
        let open = BTreeMap::from([(key("a", "1"), build("1", 0, true))]);
        let bounds = Bounds {
            cluster: 0,
            namespace: 1,
        };
        let mut places = queue.places(&open, bounds);
        let said = |places: &Places| places.full(&key("a", "x")).unwrap().to_string();
        assert!(said(&places).ends_with("this one is next"));
        places.waits(&key("b", "1"));
        places.waits(&key("a", "2"));
        assert_eq!(
            said(&places),
            "as many builds run in the namespace as may at once (1, --max-builds-per-namespace of the \
             controller); 1 waits longer"
        );
        places.waits(&key("a", "3"));
        assert!(said(&places).ends_with("2 wait longer"));
        (4..20).for_each(|number| places.waits(&key("a", &number.to_string())));
        assert!(said(&places).ends_with("10 or more wait longer"));
    }
}
