//! Passes over an API server that answers as a test says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use coral_api::Registry;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

use super::*;
use crate::changes::Subscription;
use crate::gauges::tests::text;
use crate::permission::Rights;
use crate::registry::built;
use crate::scripted::{ReceivedRequest, Server, Writes, context, list, refusal};
use crate::shared::RegistryAccess;
use crate::store::Store;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A build that is allowed to run, in a cluster whose Registry serves.
fn ready_to_run(labels: &Value) -> (Context, Server) {
    let (mut context, server) = context();
    let build = json!({
        "metadata": {"name": "shop", "namespace": "team-a", "uid": "u", "generation": 1},
        "spec": {
            "source": {"stream": {}}, "build": {"image": "b:1"},
            "output": {"registry": {"namespace": "coral-system", "name": "reg"}, "tags": ["team-a/shop:3"]},
        },
    });
    let build: ImageBuild = serde_json::from_value(build).unwrap();
    context.cluster.builds = Store::from_objects([build]);
    let registry = json!({
        "metadata": {"name": "reg", "namespace": "coral-system", "uid": "r"},
        "spec": {"builds": {"allowFrom": {"matchLabels": {"builds": "yes"}}}},
    });
    let registry: Registry = serde_json::from_value(registry).unwrap();
    context.cluster.registries = Store::from_objects([registry]);
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a", "labels": labels},
    });
    let namespace: PartialObjectMeta<Namespace> = serde_json::from_value(namespace).unwrap();
    context.cluster.namespaces = Store::from_objects([namespace]);
    let access = RegistryAccess {
        host: "reg.coral-system.svc:5000".to_owned(),
        endpoint: "https://10.0.0.1:5000".to_owned(),
        ready: true,
        is_observed: true,
        push: None,
        loaded: None,
    };
    let key = ObjectKey::new("coral-system", "reg");
    context
        .shared
        .registries
        .set(BTreeMap::from([(key, access)]));
    context.shared.ca.set("PEM".to_owned());
    context.shared.own_image.set("coral:1".to_owned());
    (context, server)
}

/// The build of [`ready_to_run`].
fn build_of(context: &Context) -> Arc<ImageBuild> {
    let key = ObjectKey::new("team-a", "shop");
    context.cluster.builds.get(&key).unwrap()
}

/// The Registry of [`ready_to_run`].
fn registry_of(context: &Context) -> Arc<Registry> {
    let key = ObjectKey::new("coral-system", "reg");
    context.cluster.registries.get(&key).unwrap()
}

/// Makes passes until one wrote to such a path.
async fn passes_until(part: &mut BuildsPart, writes: &Writes, end: &str) -> Vec<Value> {
    let changes = part.context.changes.clone();
    let mut subscription: Subscription = changes.subscribe(BuildsPart::TOPICS);
    loop {
        subscription.mark_seen();
        part.pass(at(0)).await.unwrap();
        let found = writes.to(end);
        if !found.is_empty() {
            return found;
        }
        subscription.changed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_build_becomes_one_job_once_the_right_is_there() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let writes = server.serve(|_| None);
    let mut part = BuildsPart::new(&context, &Metrics::default());
    let jobs = passes_until(&mut part, &writes, "/namespaces/team-a/jobs").await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0]["spec"]["suspend"], true);
    let review = &writes.to("/selfsubjectaccessreviews")[0]["spec"]["resourceAttributes"];
    let expected = json!({
        "group": "stvz.io", "resource": "imagebuilds", "verb": "run", "namespace": "team-a",
    });
    assert_eq!(review, &expected);
    let new_status = writes.to("/imagebuilds/shop/status").pop().unwrap();
    assert_eq!(new_status["status"]["job"], jobs[0]["metadata"]["name"]);
    // It is looked at and let run by the same pass.
    let name = jobs[0]["metadata"]["name"].as_str().unwrap();
    let changes = writes.to(&format!("/jobs/{name}"));
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0]["spec"]["suspend"], false);
    assert_eq!(writes.to(&format!("/configmaps/{name}")).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_of_which_the_api_server_dropped_the_user_namespace_is_not_let_run() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let writes = server.serve(|asked: &ReceivedRequest| {
        let is_create = asked.method == http::Method::POST && asked.uri.contains("/jobs");
        let mut stored = asked.body.clone();
        if let Some(pod) = stored.pointer_mut("/spec/template/spec") {
            pod["hostUsers"] = Value::Null;
        }
        is_create.then_some((201, stored))
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    let jobs = passes_until(&mut part, &writes, "/namespaces/team-a/jobs").await;
    let new_status = writes.to("/imagebuilds/shop/status").pop().unwrap();
    assert_eq!(new_status["status"]["phase"], "Failed", "{new_status}");
    let ready = &new_status["status"]["conditions"][0];
    assert_eq!(ready["reason"], "UserNamespacesUnsupported", "{new_status}");
    let name = jobs[0]["metadata"]["name"].as_str().unwrap();
    assert_eq!(writes.to(&format!("/jobs/{name}")), Vec::<Value>::new());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_could_not_be_let_run_is_in_the_status_and_let_run_later() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let is_down = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let down = is_down.clone();
    let created = Arc::new(std::sync::Mutex::new(None));
    let writes = server.serve(move |asked: &ReceivedRequest| {
        let is_job = asked.uri.contains("/jobs");
        if is_job && asked.method == http::Method::POST {
            *created.lock().unwrap() = Some(asked.body.clone());
        }
        let is_read = asked.method == http::Method::GET && asked.uri.contains("/jobs/");
        if let Some(job) = created.lock().unwrap().clone().filter(|_| is_read) {
            return Some((200, job));
        }
        let is_start = asked.method == http::Method::PATCH && is_job;
        let fails = is_start && down.load(Ordering::Relaxed);
        fails.then(|| (500, refusal(500, "InternalError")))
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    let jobs = passes_until(&mut part, &writes, "/namespaces/team-a/jobs").await;
    let name = jobs[0]["metadata"]["name"].as_str().unwrap();
    let new_status = writes.to("/imagebuilds/shop/status").pop().unwrap();
    assert_eq!(new_status["status"]["job"], name);
    assert_eq!(writes.to(&format!("/jobs/{name}")).len(), 1);
    is_down.store(false, Ordering::Relaxed);
    part.pass(at(1)).await.unwrap();
    assert_eq!(writes.to(&format!("/jobs/{name}")).len(), 2);
    assert_eq!(writes.to("/namespaces/team-a/jobs").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn as_many_builds_begin_as_may_run_at_once_and_the_others_say_their_place() {
    let (mut context, server) = ready_to_run(&json!({"builds": "yes"}));
    Arc::make_mut(&mut context.config).max_builds = 1;
    let first = build_of(&context);
    let named = |name: &str| {
        let mut build = first.as_ref().clone();
        build.metadata.name = Some(name.to_owned());
        build.metadata.uid = Some(name.to_owned());
        build
    };
    let builds = ["a", "b", "c"].map(named);
    context.cluster.builds = Store::from_objects(builds);
    let writes = server.serve(|_| None);
    let mut part = BuildsPart::new(&context, &Metrics::default());
    passes_until(&mut part, &writes, "/namespaces/team-a/jobs").await;
    part.pass(at(1)).await.unwrap();
    let jobs = writes.to("/namespaces/team-a/jobs");
    let owners = jobs
        .iter()
        .map(|job| &job["metadata"]["ownerReferences"][0]["name"]);
    let owners: BTreeSet<&str> = owners.filter_map(Value::as_str).collect();
    assert_eq!(owners.len(), 1, "{owners:?}");
    let mut others = ["a", "b", "c"]
        .into_iter()
        .filter(|name| !owners.contains(name));
    for place in ["this one is next", "1 has waited longer"] {
        let path = format!("/imagebuilds/{}/status", others.next().unwrap());
        let status = writes.to(&path).pop().unwrap();
        let ready = &status["status"]["conditions"][0];
        assert_eq!(ready["reason"], "Queued", "{ready}");
        assert!(
            ready["message"].as_str().unwrap().ends_with(place),
            "{ready}"
        );
    }
    let events = json!(writes.to("/events")).to_string();
    assert!(!events.contains("Queued"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn without_the_right_nothing_is_read_or_made_in_the_namespace() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let writes = server.serve(|asked: &ReceivedRequest| {
        assert!(!asked.uri.contains("/jobs"), "{}", asked.uri);
        assert!(!asked.uri.contains("/pods"), "{}", asked.uri);
        let review = asked.uri.contains("selfsubjectaccessreviews");
        let no = json!({"spec": {}, "status": {"allowed": false}});
        review.then_some((201, no))
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    let mut new_status = Value::Null;
    while !new_status.to_string().contains("NotGranted") {
        let mut subscription = context.changes.subscribe(BuildsPart::TOPICS);
        part.pass(at(0)).await.unwrap();
        new_status = json!(writes.to("/imagebuilds/shop/status"));
        if !new_status.to_string().contains("NotGranted") {
            subscription.changed().await;
        }
    }
    assert!(
        new_status
            .to_string()
            .contains("coral grant --builds team-a"),
        "{new_status}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_takes_the_namespaces_that_it_selects_and_its_own() {
    let (context, server) = ready_to_run(&json!({"builds": "no"}));
    let writes = server.serve(|_| None);
    let mut part = BuildsPart::new(&context, &Metrics::default());
    part.pass(at(0)).await.unwrap();
    let new_status = json!(writes.to("/imagebuilds/shop/status")).to_string();
    assert!(new_status.contains("NotAllowed"), "{new_status}");
    let registry = registry_of(&context);
    let labels = |value: &str| BTreeMap::from([("builds".to_owned(), value.to_owned())]);
    assert!(observe::accepts_builds_from(
        &registry,
        "team-a",
        &labels("yes")
    ));
    assert!(!observe::accepts_builds_from(
        &registry,
        "team-a",
        &labels("no")
    ));
    assert!(observe::accepts_builds_from(
        &registry,
        "coral-system",
        &labels("no")
    ));
}

#[tokio::test(start_paused = true)]
async fn a_build_that_waits_for_its_registry_costs_no_question_at_each_pass() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let output = ObjectKey::new("coral-system", "reg");
    let mut registries = context.shared.registries.get().unwrap().as_ref().clone();
    registries.get_mut(&output).unwrap().ready = false;
    context.shared.registries.set(registries);
    let asked_for_jobs = Arc::<AtomicUsize>::default();
    let counted = asked_for_jobs.clone();
    let writes = server.serve(move |asked: &ReceivedRequest| {
        let is_of_job = asked.uri.contains("/jobs/");
        counted.fetch_add(usize::from(is_of_job), Ordering::Relaxed);
        None
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    loop {
        let mut subscription = context.changes.subscribe(BuildsPart::TOPICS);
        part.pass(at(0)).await.unwrap();
        if part.namespaces.snapshot()["team-a"].rights == Rights::Granted {
            break;
        }
        subscription.changed().await;
    }
    for _ in 0..3 {
        part.pass(at(0)).await.unwrap();
    }
    let new_status = json!(writes.to("/imagebuilds/shop/status")).to_string();
    assert!(new_status.contains("RegistryNotReady"), "{new_status}");
    assert_eq!(asked_for_jobs.load(Ordering::Relaxed), 0);
}

/// What the API server says, with 403, of a Job that may not be made.
fn forbidden(why: &str) -> Value {
    let mut refusal = refusal(403, "Forbidden");
    refusal["message"] = json!(format!("jobs.batch is forbidden: {why}"));
    refusal
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_no_grant_helps_against_is_not_blamed_on_one() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let writes = server.serve(|asked: &ReceivedRequest| {
        let is_create = asked.method == http::Method::POST && asked.uri.contains("/jobs");
        is_create.then(|| (403, forbidden("exceeded quota: jobs, used: 3, limited: 3")))
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    passes_until(&mut part, &writes, "/namespaces/team-a/jobs").await;
    let new_status = writes.to("/imagebuilds/shop/status").pop().unwrap();
    let message = new_status["status"]["conditions"][0]["message"]
        .as_str()
        .unwrap();
    assert!(
        message.ends_with("exceeded quota: jobs, used: 3, limited: 3"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_grant_without_the_reading_of_jobs_is_said_on_the_build() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let writes = server.serve(|asked: &ReceivedRequest| {
        let is_read = asked.method == http::Method::GET && asked.uri.contains("/jobs/");
        is_read.then(|| (403, forbidden(r#"User "c" cannot get resource "jobs""#)))
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    let mut new_status = String::new();
    for _ in 0..10 {
        let mut subscription = context.changes.subscribe(BuildsPart::TOPICS);
        part.pass(at(0)).await.unwrap();
        new_status = json!(writes.to("/imagebuilds/shop/status")).to_string();
        if new_status.contains("ApplyFailed") {
            break;
        }
        let changed = tokio::time::timeout(BACKOFF.longest, subscription.changed());
        let _ = changed.await;
    }
    assert!(new_status.contains("cannot get resource"), "{new_status}");
    assert!(
        new_status.contains("coral grant --builds team-a"),
        "{new_status}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_is_reported_though_an_old_job_of_its_history_cannot_be_deleted() {
    let (mut context, server) = ready_to_run(&json!({"builds": "yes"}));
    let builds = context.cluster.builds.snapshot();
    let mut build = builds.values().next().unwrap().as_ref().clone();
    build.spec.history = serde_json::from_value(json!({"succeeded": 0, "failed": 0})).unwrap();
    let run = build.spec.run_key();
    context.cluster.builds = Store::from_objects([build]);
    let job = move |key: &str, uid: &str| {
        json!({
            "metadata": {
                "name": format!("shop-{key}"), "namespace": "team-a", "uid": uid,
                "labels": {"image.stvz.io/run": key},
                "ownerReferences": [{"apiVersion": "stvz.io/v1", "kind": "ImageBuild",
                    "name": "shop", "uid": "u", "controller": true}],
            },
            "spec": {"suspend": false, "template": {"spec": {"containers": []}}},
            "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "x"}]},
        })
    };
    let jobs = [job(&run, "1"), job("00000000", "2")];
    let writes = server.serve(move |asked: &ReceivedRequest| {
        if asked.method == http::Method::DELETE {
            return Some((403, forbidden(r#"User "c" cannot delete resource "jobs""#)));
        }
        let is_list = asked.uri.contains("/jobs?") && asked.uri.contains("limit=");
        is_list.then(|| (200, list(&jobs)))
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    passes_until(&mut part, &writes, "/namespaces/team-a/jobs/shop-00000000").await;
    let new_status = writes.to("/imagebuilds/shop/status").pop().unwrap();
    assert_eq!(new_status["status"]["phase"], "Failed", "{new_status}");
    assert_eq!(
        new_status["status"]["conditions"][0]["reason"], "PodLost",
        "{new_status}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_that_cannot_be_made_is_tried_again_later_and_the_status_does_not_claim_it() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let writes = server.serve(|asked: &ReceivedRequest| {
        let is_create = asked.method == http::Method::POST && asked.uri.contains("/jobs");
        is_create.then(|| (403, forbidden(r#"User "c" cannot create resource "jobs""#)))
    });
    let mut part = BuildsPart::new(&context, &Metrics::default());
    let jobs = passes_until(&mut part, &writes, "/namespaces/team-a/jobs").await;
    assert_eq!(jobs.len(), 1);
    let Wake::At(next) = part.pass(at(0)).await.unwrap() else {
        panic!("it is tried again");
    };
    assert!(next > at(0));
    assert_eq!(
        writes.to("/namespaces/team-a/jobs").len(),
        1,
        "not before its time"
    );
    let new_status = writes.to("/imagebuilds/shop/status").pop().unwrap();
    assert_eq!(new_status["status"]["phase"], "Pending");
    assert_eq!(new_status["status"]["job"], Value::Null);
    let ready = &new_status["status"]["conditions"][0];
    assert_eq!(ready["reason"], "ApplyFailed");
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("cannot create resource"), "{message}");
    assert!(message.contains("coral grant --builds team-a"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_a_build_pushed_joins_the_public_paths_of_its_registry() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let record = "/namespaces/coral-system/configmaps/reg-built";
    let known = BTreeSet::from(["team-b/old".to_owned()]);
    let before = built::record(&registry_of(&context), &known);
    let writes = server.serve(move |asked: &ReceivedRequest| {
        let is_read = asked.method == http::Method::GET && asked.uri.ends_with(record);
        is_read.then(|| (200, before.clone()))
    });
    let part = BuildsPart::new(&context, &Metrics::default());
    let build = build_of(&context);
    let paths = BTreeSet::from(["team-a/shop".to_owned()]);
    part.make_public(&build, &paths).await.unwrap();
    let written = writes.to(record).pop().unwrap();
    assert_eq!(
        written["data"]["paths.json"],
        r#"["team-a/shop","team-b/old"]"#
    );
}

#[tokio::test(start_paused = true)]
async fn a_config_map_of_another_owner_is_not_overwritten_and_an_event_says_so() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let record = "/namespaces/coral-system/configmaps/reg-built";
    let writes = server.serve(move |asked: &ReceivedRequest| {
        let is_read = asked.method == http::Method::GET && asked.uri.ends_with(record);
        let foreign = json!({"metadata": {"name": "reg-built", "namespace": "coral-system"}});
        is_read.then_some((200, foreign))
    });
    let part = BuildsPart::new(&context, &Metrics::default());
    let paths = BTreeSet::from(["team-a/shop".to_owned()]);
    part.make_public(&build_of(&context), &paths).await.unwrap();
    assert_eq!(writes.to(record), Vec::<Value>::new());
    let events = json!(writes.to("/events")).to_string();
    assert!(events.contains("NotPublic"), "{events}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_is_one_event_and_is_measured_once() {
    let (context, server) = ready_to_run(&json!({"builds": "yes"}));
    let writes = server.serve(|_| None);
    let metrics = Metrics::default();
    let part = BuildsPart::new(&context, &metrics);
    let (key, build) = (ObjectKey::new("team-a", "shop"), build_of(&context));
    let ended: ImageBuildStatus = serde_json::from_value(json!({
        "phase": "Succeeded", "run": "0123abcd", "durations": {"build": "7s"},
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Succeeded", "message": "it is pushed",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }))
    .unwrap();
    part.publish(&key, &build, &ended).await.unwrap();
    let again = ImageBuild {
        status: Some(ended.clone()),
        ..ImageBuild::clone(&build)
    };
    part.publish(&key, &again, &ended).await.unwrap();
    assert_eq!(writes.to("/events").len(), 1);
    let text = text(&metrics);
    let count = r#"coral_build_step_duration_seconds_count{step="build"} 1"#;
    assert!(text.contains(count), "{text}");
}
