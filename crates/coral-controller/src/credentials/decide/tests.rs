use coral_api::{Registry, names};
use serde_json::{Value, json};

use super::*;

/// A pod in its step `push` and everything it belongs to, as JSON to be changed.
struct World {
    namespace: &'static str,
    step: Step,
    pod: Value,
    job: Value,
    build: Value,
    registry: Value,
    labels: Value,
}

fn object<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    (!value.is_null()).then(|| serde_json::from_value(value.clone()).unwrap())
}

fn controller_of(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!([{
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true,
    }])
}

fn ended(name: &str, code: i32) -> Value {
    json!({
        "name": name, "image": "builder:1", "imageID": "reg/builder@sha256:aa", "ready": false,
        "restartCount": 0,
        "state": {"terminated": {
            "exitCode": code,
            "startedAt": "2026-11-27T09:00:00Z", "finishedAt": "2026-11-27T09:01:00Z",
        }},
    })
}

fn in_state(name: &str, state: &str) -> Value {
    json!({
        "name": name, "image": "coral", "imageID": "", "ready": true, "restartCount": 0,
        "state": {state: {}},
    })
}

impl World {
    fn pushing() -> Self {
        let build = json!({
            "metadata": {"name": "shop", "namespace": "team-a", "uid": "build-1"},
            "spec": {
                "source": {"stream": {}},
                "output": {
                    "registry": {"namespace": "coral-system", "name": "local"},
                    "tags": ["team-a/shop:3"],
                },
            },
        });
        let mut world = Self {
            namespace: "team-a",
            step: Step::Push,
            pod: json!({
                "metadata": {
                    "name": "shop-1-x", "namespace": "team-a", "uid": "pod-1",
                    "labels": {"image.stvz.io/build": "shop"},
                    "ownerReferences": controller_of("batch/v1", "Job", "shop-1", "job-1"),
                },
                "status": {
                    "phase": "Running",
                    "initContainerStatuses": [ended("fetch", 0), ended("build", 0)],
                    "containerStatuses": [in_state("push", "running")],
                },
            }),
            job: json!({
                "metadata": {
                    "name": "shop-1", "namespace": "team-a", "uid": "job-1",
                    "ownerReferences": controller_of("stvz.io/v1", "ImageBuild", "shop", "build-1"),
                },
                "spec": {"template": {}},
            }),
            build,
            registry: json!({
                "metadata": {"name": "local", "namespace": "coral-system", "uid": "r"},
                "spec": {"builds": {"allowFrom": {"matchLabels": {"may": "build"}}}},
            }),
            labels: json!({"may": "build"}),
        };
        let run = object::<ImageBuild>(&world.build).unwrap().spec.run_key();
        world.build["status"] = json!({"job": "shop-1", "run": run, "phase": "Pushing"});
        world
    }

    fn fetching() -> Self {
        let mut world = Self::pushing();
        world.step = Step::Fetch;
        world.pod["status"] = json!({
            "phase": "Pending",
            "initContainerStatuses": [in_state("fetch", "running"), in_state("build", "waiting")],
            "containerStatuses": [in_state("push", "waiting")],
        });
        world
    }

    /// The same with another value at a path of one of the objects.
    fn with(mut self, of: fn(&mut Self) -> &mut Value, path: &str, value: Value) -> Self {
        let (parent, key) = path.rsplit_once('/').unwrap();
        of(&mut self).pointer_mut(parent).unwrap()[key] = value;
        self
    }

    /// The same in another namespace.
    fn in_namespace(mut self, namespace: &'static str) -> Self {
        for object in [&mut self.pod, &mut self.job, &mut self.build] {
            let text = object.to_string().replace("team-a", namespace);
            *object = serde_json::from_str(&text).unwrap();
        }
        let run = object::<ImageBuild>(&self.build).unwrap().spec.run_key();
        self.build["status"]["run"] = json!(run);
        self.namespace = namespace;
        self
    }

    fn decided(&self) -> Result<Granted, Denied> {
        decide(&CredentialFacts {
            identity: Identity {
                namespace: self.namespace.to_owned(),
                pod: "shop-1-x".to_owned(),
                uid: "pod-1".to_owned(),
            },
            step: self.step,
            pod: object(&self.pod),
            job: object(&self.job),
            build: object(&self.build),
            registry: object(&self.registry),
            labels: object(&self.labels).unwrap(),
        })
    }
}

fn pod(world: &mut World) -> &mut Value {
    &mut world.pod
}

fn job(world: &mut World) -> &mut Value {
    &mut world.job
}

fn build(world: &mut World) -> &mut Value {
    &mut world.build
}

fn registry(world: &mut World) -> &mut Value {
    &mut world.registry
}

fn check(of: fn(&mut World) -> &mut Value, changes: &[(&str, Value, Denied)]) {
    for (path, value, expected) in changes {
        let world = World::pushing().with(of, path, value.clone());
        assert_eq!(world.decided().unwrap_err(), *expected, "{path} {value}");
    }
}

#[test]
fn the_step_push_may_push_below_its_namespace_and_learns_who_built() {
    let granted = World::pushing().decided().unwrap();
    let run = object::<ImageBuild>(&World::pushing().build).unwrap();
    let expected = Granted {
        host: names::registry_host("coral-system", "local"),
        subject: format!("build/team-a/shop/{}/push", run.spec.run_key()),
        access: vec![RepositoryAccess::new(
            "team-a/**",
            &[Action::Pull, Action::Push],
        )],
        builder: Some(Builder {
            image: "reg/builder@sha256:aa".to_owned(),
            started: Some("2026-11-27T09:00:00Z".parse().unwrap()),
            finished: Some("2026-11-27T09:01:00Z".parse().unwrap()),
        }),
    };
    assert_eq!(granted, expected);
}

#[test]
fn the_step_fetch_may_only_pull() {
    let granted = World::fetching().decided().unwrap();
    let only_pull = vec![RepositoryAccess::new("team-a/**", &[Action::Pull])];
    assert_eq!(granted.access, only_pull);
    assert_eq!(granted.builder, None);
}

#[test]
fn the_users_container_gets_nothing() {
    let mut world = World::pushing();
    world.step = Step::Build;
    assert_eq!(world.decided(), Err(Denied::NoCredential));
}

#[test]
fn only_the_very_pod_of_the_token_counts_and_only_while_it_runs() {
    check(
        pod,
        &[
            ("/metadata/uid", json!("pod-2"), Denied::PodGone),
            ("/metadata/namespace", json!("team-b"), Denied::PodGone),
            (
                "/metadata/deletionTimestamp",
                json!("2026-11-27T09:02:00Z"),
                Denied::PodGone,
            ),
            ("/status/phase", json!("Succeeded"), Denied::PodEnded),
            ("/status/phase", json!("Failed"), Denied::PodEnded),
        ],
    );
    let mut world = World::pushing();
    world.pod = Value::Null;
    assert_eq!(world.decided(), Err(Denied::PodGone));
}

#[test]
fn a_pod_that_is_not_that_of_a_build_is_refused() {
    check(
        pod,
        &[
            ("/metadata/labels", json!({}), Denied::NotABuild),
            ("/metadata/ownerReferences", Value::Null, Denied::NotABuild),
            (
                "/metadata/ownerReferences",
                controller_of("apps/v1", "ReplicaSet", "shop-1", "job-1"),
                Denied::NotABuild,
            ),
            (
                "/metadata/ownerReferences",
                controller_of("evil.example/v1", "Job", "shop-1", "job-1"),
                Denied::NotABuild,
            ),
            // Owned, but not controlled.
            (
                "/metadata/ownerReferences/0/controller",
                json!(false),
                Denied::NotABuild,
            ),
        ],
    );
}

/// A pod may name any Job as its owner: its uid has to be right, and the Job to be a build's.
#[test]
fn forged_owner_references_are_refused() {
    check(
        pod,
        &[
            (
                "/metadata/ownerReferences/0/uid",
                json!("job-2"),
                Denied::NotABuild,
            ),
            (
                "/metadata/ownerReferences/0/name",
                json!("shop-2"),
                Denied::NotABuild,
            ),
        ],
    );
    check(
        job,
        &[
            ("/metadata/ownerReferences", Value::Null, Denied::NotABuild),
            (
                "/metadata/ownerReferences",
                controller_of("batch/v1", "CronJob", "shop", "build-1"),
                Denied::NotABuild,
            ),
            (
                "/metadata/ownerReferences/0/uid",
                json!("build-2"),
                Denied::NotABuild,
            ),
            (
                "/metadata/ownerReferences/0/name",
                json!("other"),
                Denied::NotABuild,
            ),
            (
                "/metadata/ownerReferences/0/apiVersion",
                json!("evil.example/v1"),
                Denied::NotABuild,
            ),
            ("/metadata/namespace", json!("team-b"), Denied::NotABuild),
        ],
    );
    check(
        build,
        &[("/metadata/namespace", json!("team-b"), Denied::NotABuild)],
    );
}

/// A Job with the right owner that the controller did not make stands in no status.
#[test]
fn a_job_that_the_status_does_not_name_is_refused() {
    check(
        build,
        &[
            ("/status/job", json!("shop-0"), Denied::Superseded),
            ("/status/job", Value::Null, Denied::Superseded),
            ("/status", Value::Null, Denied::Superseded),
        ],
    );
}

/// The controller begins a Job and then writes the status: the pod may be quicker.
#[test]
fn a_run_that_the_status_does_not_name_yet_asks_again() {
    let world = World::pushing();
    let key = object::<ImageBuild>(&world.build).unwrap().spec.run_key();
    let job_name = json!(format!("shop-{key}"));
    let named = world.with(job, "/metadata/name", job_name.clone()).with(
        pod,
        "/metadata/ownerReferences/0/name",
        job_name.clone(),
    );
    let early = named.with(build, "/status/job", json!("shop-00000000"));
    assert_eq!(early.decided(), Err(Denied::Early("push")));
    let early = early.with(build, "/status", Value::Null);
    assert_eq!(early.decided(), Err(Denied::Early("push")));
    let world = early.with(build, "/status", json!({"job": job_name, "run": key}));
    assert!(world.decided().is_ok());
}

#[test]
fn a_run_whose_spec_was_changed_since_is_refused() {
    check(
        build,
        &[
            ("/spec/rerun", json!("again"), Denied::Superseded),
            (
                "/spec/output/tags",
                json!(["team-a/other:1"]),
                Denied::Superseded,
            ),
            ("/status/run", json!("00000000"), Denied::Superseded),
            ("/status/run", Value::Null, Denied::Superseded),
        ],
    );
}

#[test]
fn a_build_that_was_cancelled_deleted_or_is_over_is_refused() {
    check(
        build,
        &[
            ("/spec/suspend", json!(true), Denied::BuildEnded),
            (
                "/metadata/deletionTimestamp",
                json!("2026-11-27T09:02:00Z"),
                Denied::BuildEnded,
            ),
            ("/status/phase", json!("Cancelled"), Denied::BuildEnded),
            ("/status/phase", json!("Failed"), Denied::BuildEnded),
            ("/status/phase", json!("Succeeded"), Denied::BuildEnded),
        ],
    );
    let mut world = World::pushing();
    world.build = Value::Null;
    assert_eq!(world.decided(), Err(Denied::BuildEnded));
}

#[test]
fn a_job_that_has_ended_or_goes_is_refused() {
    let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True"}]});
    check(
        job,
        &[
            ("/status", condition("Failed"), Denied::JobEnded),
            ("/status", condition("Complete"), Denied::JobEnded),
            ("/spec/suspend", json!(true), Denied::JobEnded),
            (
                "/metadata/deletionTimestamp",
                json!("2026-11-27T09:02:00Z"),
                Denied::JobEnded,
            ),
        ],
    );
    let mut world = World::pushing();
    world.job = Value::Null;
    assert_eq!(world.decided(), Err(Denied::JobEnded));
    let started = json!({"conditions": [{"type": "Suspended", "status": "False"}]});
    let world = World::pushing().with(job, "/status", started);
    assert!(world.decided().is_ok());
}

/// The token is the same in all steps: `fetch` must not push, and `push` gets nothing of `fetch`.
#[test]
fn a_step_gets_its_credential_in_its_turn() {
    let initial = "/status/initContainerStatuses";
    let push = "/status/containerStatuses";
    for (step, initial_statuses, push_statuses, expected) in [
        (
            Step::Push,
            json!([in_state("fetch", "running")]),
            json!([]),
            Err(Denied::Early("push")),
        ),
        (
            Step::Push,
            json!([ended("fetch", 0), in_state("build", "running")]),
            json!([in_state("push", "waiting")]),
            Err(Denied::Early("push")),
        ),
        (
            Step::Push,
            Value::Null,
            Value::Null,
            Err(Denied::Early("push")),
        ),
        (
            Step::Push,
            json!([ended("fetch", 0), ended("build", 1)]),
            json!([in_state("push", "waiting")]),
            Err(Denied::Over("push")),
        ),
        (
            Step::Push,
            json!([ended("fetch", 0), ended("build", 0)]),
            json!([ended("push", 0)]),
            Err(Denied::Over("push")),
        ),
        // The node is ahead of what the API server knows.
        (
            Step::Push,
            json!([ended("fetch", 0), ended("build", 0)]),
            json!([in_state("push", "waiting")]),
            Ok(()),
        ),
        (
            Step::Fetch,
            json!([in_state("fetch", "waiting")]),
            json!([]),
            Ok(()),
        ),
        (
            Step::Fetch,
            json!([in_state("fetch", "running")]),
            json!([]),
            Ok(()),
        ),
        (
            Step::Fetch,
            json!([ended("fetch", 0), in_state("build", "running")]),
            json!([]),
            Err(Denied::Over("fetch")),
        ),
    ] {
        let mut world = World::pushing()
            .with(pod, initial, initial_statuses.clone())
            .with(pod, push, push_statuses);
        world.step = step;
        let decided = world.decided().map(drop);
        assert_eq!(decided, expected, "{step:?} {initial_statuses}");
    }
}

#[test]
fn a_registry_says_which_namespaces_build_into_it() {
    check(
        registry,
        &[
            ("/spec/builds", Value::Null, Denied::NotAllowed),
            ("/spec/builds", json!({}), Denied::NotAllowed),
            (
                "/spec/builds/allowFrom/matchLabels",
                json!({"may": "not"}),
                Denied::NotAllowed,
            ),
            ("/metadata/name", json!("other"), Denied::NoRegistry),
            (
                "/metadata/deletionTimestamp",
                json!("2026-11-27T09:02:00Z"),
                Denied::NoRegistry,
            ),
        ],
    );
    let every = World::pushing().with(registry, "/spec/builds", json!({"allowFrom": {}}));
    assert!(every.decided().is_ok());
    let mut none = World::pushing();
    none.registry = Value::Null;
    assert_eq!(none.decided(), Err(Denied::NoRegistry));
}

#[test]
fn a_registry_of_the_builds_own_namespace_needs_no_permission() {
    let named = json!({"namespace": "team-a", "name": "own"});
    let mut world = World::pushing().with(build, "/spec/output/registry", named);
    let run = object::<ImageBuild>(&world.build).unwrap().spec.run_key();
    world.build["status"]["run"] = json!(run);
    world.registry = json!({"metadata": {"name": "own", "namespace": "team-a"}, "spec": {}});
    world.labels = json!({});
    let granted = world.decided().unwrap();
    assert_eq!(granted.host, names::registry_host("team-a", "own"));
}

#[test]
fn a_namespace_with_the_name_of_a_mirrored_registry_gets_no_credential() {
    let world = World::pushing().in_namespace("localhost");
    assert_eq!(world.decided().unwrap_err(), Denied::HostName);
    assert!(World::pushing().in_namespace("team-b").decided().is_ok());
}

/// An object of a newer Coral is a refusal, not a panic.
#[test]
fn nothing_at_all_is_refused() {
    let mut world = World::pushing();
    world.pod = json!({"metadata": {}});
    assert_eq!(world.decided(), Err(Denied::PodGone));
    let _: Option<Registry> = object(&Value::Null);
}
