//! Order and bounds.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

fn condition(kind: &str, reason: &str, since: i64) -> Value {
    let status = if kind == "InQueue" { "True" } else { "False" };
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

/// The same, waiting for a slot since then.
fn queued(build: &Arc<ImageBuild>, since: i64) -> Arc<ImageBuild> {
    // Also one whose last run failed: its condition `Ready` is false for longer.
    let conditions = json!([
        condition("Ready", "Queued", 0),
        condition("InQueue", "Queued", since)
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

fn slots(open: &Open, bounds: Bounds) -> RunSlots {
    slots_at(&Queue::default(), open, bounds, 0)
}

/// The slots of a cluster with nothing but what runs for its builds.
fn slots_at(queue: &Queue, open: &Open, bounds: Bounds, now: i64) -> RunSlots {
    queue.slots(open, &BTreeMap::new(), |_| false, bounds, at(now))
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
    queue.record_created(&key("n", "a"), &open[&key("n", "a")]);
    open.insert(key("n", "b"), build("1", 0));
    assert_eq!(names_of(&queue.order(&open, at(20))), ["a", "b"]);
    let full = |queue: &Queue, open: &Open| {
        let slots = slots_at(queue, open, bounds(1, 0), 20);
        slots.full(&key("n", "b"))
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
    let slots = |cluster, namespace| slots(&open, bounds(cluster, namespace));
    let scope =
        |slots: &RunSlots, namespace: &str| slots.full(&key(namespace, "x")).map(|it| it.scope);
    assert_eq!(scope(&slots(0, 0), "a"), None);
    assert_eq!(scope(&slots(3, 3), "a"), None);
    assert_eq!(scope(&slots(2, 3), "a"), Some(Scope::Cluster));
    assert_eq!(scope(&slots(2, 3), "b"), None, "its first one");
    assert_eq!(scope(&slots(3, 2), "a"), Some(Scope::Namespace));
    assert_eq!(scope(&slots(3, 2), "b"), None);
    assert_eq!(slots(2, 2).full(&key("a", "2")), None, "it has begun");
    let mut filled = slots(3, 2);
    filled.begins(&key("b", "1"));
    assert_eq!(scope(&filled, "b"), Some(Scope::Cluster));
}

#[test]
fn a_place_is_free_once_a_run_has_ended_or_may_not_be_looked_at() {
    let mut open = Open::from([(key("a", "1"), running())]);
    let full = |open: &Open| slots(open, bounds(0, 1)).full(&key("a", "x"));
    assert!(full(&open).is_some());
    open.insert(key("a", "1"), running_since(0, reason::NOT_GRANTED));
    assert_eq!(full(&open), None, "the grant was taken back");
    open.remove(&key("a", "1"));
    assert_eq!(full(&open), None, "the run has ended");
}

#[test]
fn a_pod_that_does_not_start_frees_its_place_after_a_minute_and_not_without_end() {
    let mut open = Open::from([(key("a", "1"), running_since(0, reason::UNSCHEDULABLE))]);
    let slots = |open: &Open, now| {
        let mut slots = slots_at(&Queue::default(), open, bounds(0, 1), now);
        let full = slots.full(&key("a", "x"));
        if let Some(full) = full {
            slots.waits(&key("a", "x"), full);
        }
        (full.is_some(), slots.next())
    };
    assert_eq!(slots(&open, 59), (true, Some(at(60))));
    assert_eq!(slots(&open, 60), (false, None));
    open.insert(key("a", "2"), running_since(0, reason::IMAGE_PULL));
    assert_eq!(slots(&open, 60), (true, None), "twice as many as may run");
    open.insert(key("a", "2"), running_since(0, "Running"));
    assert_eq!(slots(&open, 60), (true, None), "one does run");
}

#[test]
fn a_build_that_waits_is_told_the_bound_and_how_many_are_ahead() {
    let open = Open::from([(key("a", "1"), running())]);
    let mut waiting = slots(&open, bounds(0, 1));
    let full = |slots: &RunSlots| slots.full(&key("a", "x")).unwrap();
    assert!(full(&waiting).to_string().ends_with("this one is next"));
    let here = full(&waiting);
    waiting.waits(&key("b", "1"), here);
    waiting.waits(&key("a", "2"), here);
    assert_eq!(
        full(&waiting).to_string(),
        "the namespace runs as many builds as it may at once (1, --max-builds-per-namespace of the \
         controller); 1 has waited longer"
    );
    waiting.waits(&key("a", "3"), here);
    assert!(full(&waiting).to_string().ends_with("2 have waited longer"));
    (4..20).for_each(|number| waiting.waits(&key("a", &number.to_string()), here));
    assert!(
        full(&waiting)
            .to_string()
            .ends_with("10 or more have waited longer")
    );
    // Those that wait for a slot in their namespace are not before those that wait for the cluster.
    let mut waiting = slots(&open, bounds(1, 1));
    waiting.waits(&key("b", "1"), here);
    assert!(full(&waiting).to_string().ends_with("this one is next"));
}

/// A namespace with these Jobs and pods.
fn workloads(jobs: &[Value], pods: &[Value]) -> BTreeMap<String, Workload> {
    let mut workload = Workload::default();
    for job in jobs {
        let job: Job = serde_json::from_value(job.clone()).unwrap();
        workload.add_job(&Arc::new(job));
    }
    for pod in pods {
        let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
        workload.add_pod(&Arc::new(pod));
    }
    BTreeMap::from([("a".to_owned(), workload)])
}

/// An object with other values at these paths.
fn with(mut object: Value, more: &Value) -> Value {
    for (path, value) in more.as_object().into_iter().flatten() {
        let (parent, field) = path.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    object
}

/// The Job of a run of the build with the uid `b`, which was let run.
fn job_of(run: &str) -> Value {
    json!({
        "metadata": {
            "name": "x-1", "namespace": "a", "uid": "j", "labels": {"image.stvz.io/run": run},
            "annotations": {"image.stvz.io/build-uid": "b", "image.stvz.io/build-begun": "true"},
        },
        "spec": {"suspend": false, "template": {"spec": {"containers": []}}},
    })
}

/// The pod of [`job_of`], in this phase.
fn pod(phase: &str) -> Value {
    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "x-1", "uid": "j"});
    json!({
        "metadata": {"name": "x-1-p", "namespace": "a", "ownerReferences": [owner]},
        "status": {"phase": phase},
    })
}

/// What is left, and when that changes, beside the present run of a build of which only the run is known.
fn leftover(
    jobs: &[Value],
    pods: &[Value],
    present: Option<&str>,
    now: i64,
) -> (usize, Option<i64>) {
    let counted = present.map(|run| ("b", run.to_owned()));
    let ended = |pod: &Pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Failed");
    let (found, counted) = (workloads(jobs, pods), counted.into_iter().collect());
    let leftover = LeftoverRuns::find(&found, &counted, ended, at(now));
    let next = leftover.next.map(|it| it.as_second() - at(0).as_second());
    (
        leftover.by_namespace.get("a").copied().unwrap_or_default(),
        next,
    )
}

#[test]
fn a_job_that_outlives_its_build_keeps_its_slot_until_it_has_ended() {
    let leftover = |more: &Value| leftover(&[with(job_of("1"), more)], &[], None, 0).0;
    assert_eq!(leftover(&json!({})), 1);
    let ended = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    assert_eq!(leftover(&json!({"/status": ended})), 0);
    assert_eq!(leftover(&json!({"/spec/suspend": true})), 0);
    let deleted = json!({"/metadata/deletionTimestamp": at(0).to_string()});
    assert_eq!(leftover(&deleted), 1, "a finalizer keeps it");

    let found = workloads(&[job_of("1")], &[]);
    let slots = |bounds| Queue::default().slots(&Open::new(), &found, |_| false, bounds, at(0));
    assert!(slots(bounds(1, 0)).full(&key("a", "x")).is_some());
    assert!(slots(bounds(0, 1)).full(&key("a", "x")).is_some());
    assert_eq!(slots(bounds(0, 2)).full(&key("a", "x")), None);
    // Jobs that only look like those of builds take no more than builds may.
    let found = workloads(&vec![job_of("1"); 50], &[]);
    let slots = |bounds| Queue::default().slots(&Open::new(), &found, |_| false, bounds, at(0));
    let mut some = slots(bounds(3, 2));
    some.begins(&key("b", "1"));
    assert!(some.full(&key("b", "2")).is_some());
    assert_eq!(slots(bounds(4, 2)).full(&key("b", "2")), None);
}

#[test]
fn the_run_of_an_earlier_spec_keeps_its_slot_until_the_node_has_ended_its_pod() {
    let job = job_of("1");
    for (pods, what) in [
        (vec![], "no pod yet"),
        (vec![pod("Running")], "its pod runs"),
    ] {
        let job = std::slice::from_ref(&job);
        assert_eq!(
            leftover(job, &pods, Some("1"), 0),
            (0, None),
            "it is counted: {what}"
        );
        assert_eq!(
            leftover(job, &pods, Some("2"), 0),
            (1, None),
            "another spec: {what}"
        );
    }
    assert_eq!(
        leftover(std::slice::from_ref(&job), &[pod("Failed")], None, 0),
        (0, None)
    );
    // Its Job is gone, or was suspended, and the node ends the pod.
    let ends = json!({"/metadata/deletionTimestamp": at(10).to_string()});
    let ends = with(pod("Running"), &ends);
    let suspended = with(job, &json!({"/spec/suspend": true}));
    for jobs in [vec![], vec![suspended]] {
        let leftover = |now| leftover(&jobs, std::slice::from_ref(&ends), None, now);
        assert_eq!(leftover(0), (1, Some(70)));
        assert_eq!(leftover(69), (1, Some(70)));
        assert_eq!(leftover(70), (0, None), "a node that is lost ends nothing");
    }
    // The build whose spec was changed: its next run waits for the one before.
    let mut changed = build("2", 0).as_ref().clone();
    changed.metadata.uid = Some("b".to_owned());
    let open = Open::from([(key("a", "x"), Arc::new(changed))]);
    let found = workloads(&[], &[pod("Running")]);
    let slots = Queue::default().slots(&open, &found, |_| false, bounds(0, 1), at(0));
    assert!(slots.full(&key("a", "x")).is_some());
    let slots = Queue::default().slots(&open, &found, |_| true, bounds(0, 1), at(0));
    assert_eq!(slots.full(&key("a", "x")), None);
}

#[test]
fn those_that_wait_are_looked_at_when_a_deleted_pod_counts_no_longer() {
    let ends = json!({"/metadata/deletionTimestamp": at(10).to_string()});
    let found = workloads(&[], &[with(pod("Running"), &ends)]);
    let mut slots = Queue::default().slots(&Open::new(), &found, |_| false, bounds(0, 1), at(0));
    let full = slots.full(&key("a", "x")).unwrap();
    slots.waits(&key("a", "x"), full);
    assert_eq!(slots.next(), Some(at(70)));
}
