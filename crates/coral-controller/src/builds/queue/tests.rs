//! Order and bounds.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::*;
use crate::store::Store;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

fn condition(kind: &str, reason: &str, since: i64) -> Value {
    let status = if kind == "Queued" { "True" } else { "False" };
    json!({
        "type": kind, "status": status, "reason": reason, "message": "",
        "lastTransitionTime": at(since).to_string(),
    })
}

/// A build of which nothing has begun.
fn build(rerun: &str, created: i64) -> Arc<ImageBuild> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": "x", "creationTimestamp": at(created).to_string()},
            "spec": {
                "source": {"stream": {}}, "rerun": rerun,
                "output": {"registry": {"namespace": "s", "name": "r"}, "tags": ["n/x:1"]},
            },
        }))
        .unwrap(),
    )
}

fn with_status(build: &Arc<ImageBuild>, status: Value) -> Arc<ImageBuild> {
    let mut build = build.as_ref().clone();
    build.status = Some(serde_json::from_value(status).unwrap());
    Arc::new(build)
}

/// The same, waiting for a place since then.
fn queued(build: &Arc<ImageBuild>, since: i64) -> Arc<ImageBuild> {
    // Also one whose last run failed: its condition `Ready` is false for longer.
    let conditions = json!([
        condition("Ready", "Queued", 0),
        condition("Queued", "Queued", since)
    ]);
    with_status(build, json!({"conditions": conditions}))
}

/// One whose Job was made at this time, with this reason of `Ready`.
fn running_since(began: i64, reason: &str) -> Arc<ImageBuild> {
    let build = build("1", 0);
    let run = build.spec.run_key();
    let status = json!({
        "run": run, "job": "x-1", "startTime": at(began).to_string(),
        "conditions": [condition("Ready", reason, began)],
    });
    with_status(&build, status)
}

fn running() -> Arc<ImageBuild> {
    running_since(0, "Running")
}

fn names_of(order: &[ObjectKey]) -> Vec<&str> {
    order.iter().map(|key| key.name.as_str()).collect()
}

fn bounds(cluster: usize, namespace: usize) -> Bounds {
    Bounds { cluster, namespace }
}

type Open = BTreeMap<ObjectKey, Arc<ImageBuild>>;

fn places(open: &Open, bounds: Bounds) -> Places {
    Queue::default().places(open, &BTreeMap::new(), bounds, at(0))
}

#[test]
fn what_runs_comes_first_and_then_what_waits_longest_also_for_a_controller_that_knows_nothing() {
    let open = Open::from([
        (key("n", "a-new"), build("1", 20)),
        (key("n", "b-old"), build("1", 10)),
        (key("n", "c-running"), running()),
        (key("n", "d-waits"), queued(&build("1", 39), 39)),
        // An object that is older asks for a run later.
        (key("n", "e-again"), queued(&build("2", 0), 40)),
    ]);
    let order = Queue::default().order(&open, at(50));
    let expected = ["c-running", "d-waits", "e-again", "b-old", "a-new"];
    assert_eq!(names_of(&order), expected);
}

#[test]
fn a_run_whose_job_was_made_has_begun_before_its_status_says_so() {
    let mut queue = Queue::default();
    let mut open = Open::from([(key("n", "a"), build("1", 10))]);
    queue.has_made(&key("n", "a"), &open[&key("n", "a")]);
    open.insert(key("n", "b"), build("1", 0));
    assert_eq!(names_of(&queue.order(&open, at(20))), ["a", "b"]);
    let full = |queue: &Queue, open: &Open| {
        let places = queue.places(open, &BTreeMap::new(), bounds(1, 0), at(20));
        places.full(&key("n", "b"))
    };
    assert!(full(&queue, &open).is_some());
    open.insert(key("n", "a"), build("2", 10));
    queue.order(&open, at(20));
    assert_eq!(full(&queue, &open), None, "another run");
}

#[test]
fn the_bounds_hold_for_the_cluster_and_for_each_namespace_and_none_is_0() {
    let open = Open::from([
        (key("a", "1"), running()),
        (key("a", "2"), running()),
        (key("a", "3"), build("1", 0)),
    ]);
    let places = |cluster, namespace| places(&open, bounds(cluster, namespace));
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
    let mut open = Open::from([(key("a", "1"), running())]);
    let full = |open: &Open| places(open, bounds(0, 1)).full(&key("a", "x"));
    assert!(full(&open).is_some());
    open.insert(key("a", "1"), running_since(0, reason::NOT_GRANTED));
    assert_eq!(full(&open), None, "the grant was taken back");
    open.remove(&key("a", "1"));
    assert_eq!(full(&open), None, "the run has ended");
}

#[test]
fn a_pod_that_does_not_start_frees_its_place_after_a_minute_and_not_without_end() {
    let mut open = Open::from([(key("a", "1"), running_since(0, reason::UNSCHEDULABLE))]);
    let places = |open: &Open, now| {
        let mut places = Queue::default().places(open, &BTreeMap::new(), bounds(0, 1), at(now));
        let full = places.full(&key("a", "x"));
        if let Some(full) = full {
            places.waits(&key("a", "x"), full);
        }
        (full.is_some(), places.next())
    };
    assert_eq!(places(&open, 59), (true, Some(at(60))));
    assert_eq!(places(&open, 60), (false, None));
    open.insert(key("a", "2"), running_since(0, reason::IMAGE_PULL));
    assert_eq!(places(&open, 60), (true, None), "twice as many as may run");
    open.insert(key("a", "2"), running_since(0, "Running"));
    assert_eq!(places(&open, 60), (true, None), "one does run");
}

#[test]
fn a_build_that_waits_is_told_the_bound_and_how_many_are_ahead() {
    let open = Open::from([(key("a", "1"), running())]);
    let mut waiting = places(&open, bounds(0, 1));
    let full = |places: &Places| places.full(&key("a", "x")).unwrap();
    assert!(full(&waiting).to_string().ends_with("this one is next"));
    let here = full(&waiting);
    waiting.waits(&key("b", "1"), here);
    waiting.waits(&key("a", "2"), here);
    assert_eq!(
        full(&waiting).to_string(),
        "as many builds run in the namespace as may at once (1, --max-builds-per-namespace of the \
         controller); 1 waits longer"
    );
    waiting.waits(&key("a", "3"), here);
    assert!(full(&waiting).to_string().ends_with("2 wait longer"));
    (4..20).for_each(|number| waiting.waits(&key("a", &number.to_string()), here));
    assert!(
        full(&waiting)
            .to_string()
            .ends_with("10 or more wait longer")
    );
    // Those that wait for a place in their namespace are not before those that wait for the cluster.
    let mut waiting = places(&open, bounds(1, 1));
    waiting.waits(&key("b", "1"), here);
    assert!(full(&waiting).to_string().ends_with("this one is next"));
}

/// A namespace with such a Job.
fn with_job(more: &Value) -> BTreeMap<String, Workload> {
    let mut job = json!({
        "metadata": {
            "name": "x-1", "namespace": "a", "uid": "j",
            "annotations": {"image.stvz.io/build-uid": "gone", "image.stvz.io/build-begun": "true"},
        },
        "spec": {"suspend": false, "template": {"spec": {"containers": []}}},
    });
    for (path, value) in more.as_object().into_iter().flatten() {
        let (parent, field) = path.rsplit_once('/').unwrap();
        job.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    let job: Job = serde_json::from_value(job).unwrap();
    let mut workload = Workload::default();
    workload.add_job(&Arc::new(job));
    BTreeMap::from([("a".to_owned(), workload)])
}

#[test]
fn a_job_that_outlives_its_build_keeps_its_place_until_it_has_ended() {
    let mut known = build("1", 0).as_ref().clone();
    known.metadata.uid = Some("known".to_owned());
    let builds = Store::from_objects([known]).snapshot();
    let left = |more: Value| left_behind(&with_job(&more), &builds);
    let one = BTreeMap::from([("a".to_owned(), 1)]);
    let none = BTreeMap::new();
    assert_eq!(left(json!({})), one);
    let ended = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    assert_eq!(left(json!({"/status": ended})), none);
    assert_eq!(left(json!({"/spec/suspend": true})), none);
    let of_known = json!({"image.stvz.io/build-uid": "known", "image.stvz.io/build-begun": "true"});
    let of_known = |more: Value| {
        let mut all = json!({"/metadata/annotations": of_known});
        for (path, value) in more.as_object().unwrap() {
            all[path] = value.clone();
        }
        left(all)
    };
    assert_eq!(of_known(json!({})), none, "the build counts itself");
    let deleted = json!({"/metadata/deletionTimestamp": at(0).to_string()});
    assert_eq!(of_known(deleted), one, "a finalizer keeps it");

    let places = |bounds| Queue::default().places(&Open::new(), &one, bounds, at(0));
    assert!(places(bounds(1, 0)).full(&key("a", "x")).is_some());
    assert!(places(bounds(0, 1)).full(&key("a", "x")).is_some());
    assert_eq!(places(bounds(0, 2)).full(&key("a", "x")), None);
    // Jobs that only look like those of builds take no more than builds may.
    let many = BTreeMap::from([("a".to_owned(), 50)]);
    let places = |bounds| Queue::default().places(&Open::new(), &many, bounds, at(0));
    let mut some = places(bounds(3, 2));
    some.begins(&key("b", "1"));
    assert!(some.full(&key("b", "2")).is_some());
    assert_eq!(places(bounds(4, 2)).full(&key("b", "2")), None);
}
