//! Decisions about builds.

use coral_api::metadata::time;
use serde_json::{Value, json};

use super::*;

mod faults;
mod running;

const UID: &str = "11111111-1111-1111-1111-111111111111";
const JOB_UID: &str = "22222222-2222-2222-2222-222222222222";

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

/// The smallest build that can run, with `more` merged into its spec.
fn build_with(more: &Value) -> ImageBuild {
    let mut spec = json!({
        "source": {"stream": {}},
        "build": {"image": "builder.example/b:1"},
        "output": {"registry": {"namespace": "coral-system", "name": "reg"}, "tags": ["team-a/shop:3"]},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "stvz.io/v1", "kind": "ImageBuild",
        "metadata": {"name": "shop", "namespace": "team-a", "uid": UID, "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

/// A build that may run, of which nothing is there yet.
fn ready_for(build: ImageBuild) -> BuildInput {
    BuildInput {
        build: Arc::new(build),
        rights: Rights::Granted,
        registry: RegistryReadiness::Ready,
        labels: BTreeMap::new(),
        jobs: Vec::new(),
        foreign: None,
        pod: None,
        push_result: None,
        pushed: BTreeSet::new(),
        node: None,
        installation: Some(Installation {
            image: "coral:1".to_owned(),
            builder: None,
            controller: "https://coral-controller.coral-system.svc:443".to_owned(),
        }),
        ca: Some(Arc::new("PEM".to_owned())),
        loaded: None,
        full: None,
        registries_conf: "routes".to_owned(),
        now: now(),
    }
}

fn input() -> BuildInput {
    ready_for(build_with(&json!({})))
}

/// The Job that the plan makes, as an API server stores it.
fn created(plan: &Plan) -> Job {
    let [Action::Create(job)] = &plan.actions[..] else {
        panic!("{:?}", plan.actions);
    };
    let mut job = job.as_ref().clone();
    job.metadata.uid = Some(JOB_UID.to_owned());
    job.metadata.creation_timestamp = Some(time(now()));
    job
}

/// The build whose Job is there, as after the first pass.
fn begun(mut input: BuildInput) -> BuildInput {
    let plan = decide(&input);
    let job = created(&plan);
    after(&mut input, &plan);
    input.jobs = vec![Arc::new(job)];
    input
}

/// The build whose Job runs.
fn running(input: BuildInput) -> BuildInput {
    let mut input = begun(input);
    change_job(&mut input, |job| {
        job.spec.as_mut().unwrap().suspend = Some(false);
    });
    input
}

fn change_job(input: &mut BuildInput, change: impl FnOnce(&mut Job)) {
    let mut job = input.jobs[0].as_ref().clone();
    change(&mut job);
    input.jobs[0] = Arc::new(job);
}

/// Has the object say what the plan says.
fn after(input: &mut BuildInput, plan: &Plan) {
    let mut build = input.build.as_ref().clone();
    build.status = Some(plan.status.clone());
    input.build = Arc::new(build);
}

/// A change of the spec, as the API server notes it.
fn change_spec(input: &mut BuildInput, change: impl FnOnce(&mut ImageBuild)) {
    let mut build = input.build.as_ref().clone();
    change(&mut build);
    build.metadata.generation = build.metadata.generation.map(|it| it + 1);
    input.build = Arc::new(build);
}

fn with_pod(input: &mut BuildInput, status: &Value) {
    let pod = json!({
        "metadata": {"name": "shop-x", "namespace": "team-a"},
        "spec": {"containers": [], "hostUsers": false, "nodeName": "node1"},
        "status": status,
    });
    input.pod = Some(Arc::new(serde_json::from_value(pod).unwrap()));
}

/// The reason and message of the condition `Ready`.
fn ready(plan: &Plan) -> (BuildPhase, String, String) {
    let conditions = plan.status.conditions.as_ref().unwrap();
    let ready = conditions.iter().find(|it| it.type_ == "Ready").unwrap();
    let phase = plan.status.phase.unwrap();
    (phase, ready.reason.clone(), ready.message.clone())
}

#[track_caller]
fn assert_ready(plan: &Plan, phase: BuildPhase, reason: &str, part: &str) {
    let found = ready(plan);
    assert_eq!((found.0, found.1.as_str()), (phase, reason), "{}", found.2);
    assert!(found.2.contains(part), "{}", found.2);
}

#[test]
fn a_build_that_may_run_becomes_a_job_that_waits_to_be_looked_at() {
    let plan = decide(&input());
    let job = created(&plan);
    let spec = job.spec.unwrap();
    assert_eq!(spec.suspend, Some(true));
    assert_eq!(spec.backoff_limit, Some(0));
    assert_eq!(spec.template.spec.unwrap().host_users, Some(false));
    let owner = &job.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.uid.as_str(), owner.controller), (UID, Some(true)));
    assert_eq!(plan.status.job, job.metadata.name);
    assert_eq!(plan.status.run, Some(input().build.spec.run_key()));
    assert_ready(&plan, BuildPhase::Pending, "Running", "the Job");
}

#[test]
fn a_job_that_is_as_it_was_asked_for_is_started_with_what_its_steps_read() {
    let plan = decide(&begun(input()));
    let [Action::Start { job, config_map }] = &plan.actions[..] else {
        panic!("{:?}", plan.actions);
    };
    assert_eq!(Some(&job.name), plan.status.job.as_ref());
    assert_eq!(config_map["metadata"]["ownerReferences"][0]["uid"], JOB_UID);
    let data = &config_map["data"];
    assert_eq!(
        (&data["ca.crt"], &data["registries.conf"]),
        (&json!("PEM"), &json!("routes"))
    );
    let description: coral_build::contract::BuildJson =
        serde_json::from_str(data["build.json"].as_str().unwrap()).unwrap();
    assert_eq!(description.uid, UID);
    assert_eq!(description.output.registry, "reg.coral-system.svc:5000");
    assert_eq!(description.output.tags, ["team-a/shop:3"]);
}

#[test]
fn a_job_without_its_user_namespace_does_not_run_unless_the_build_asks_for_it() {
    let drop_field = |job: &mut Job| {
        let template = &mut job.spec.as_mut().unwrap().template;
        template.spec.as_mut().unwrap().host_users = None;
    };
    let mut dropped = begun(input());
    change_job(&mut dropped, drop_field);
    let plan = decide(&dropped);
    assert_eq!(plan.actions, []);
    assert_ready(
        &plan,
        BuildPhase::Failed,
        "UserNamespacesUnsupported",
        "build.hostUsers: true",
    );
    // The same again, for a controller that was killed before it said so.
    assert_eq!(ready(&decide(&dropped)), ready(&plan));

    let asks = json!({"build": {"image": "b:1", "hostUsers": true}});
    let mut asked = begun(ready_for(build_with(&asks)));
    change_job(&mut asked, drop_field);
    let plan = decide(&asked);
    assert!(
        matches!(plan.actions[..], [Action::Start { .. }]),
        "{plan:?}"
    );
}

type Change = fn(&mut BuildInput);

#[test]
fn what_stands_in_the_way_is_said_with_what_to_do_and_nothing_is_made() {
    let restricted = BTreeMap::from([(obstacle::POD_SECURITY.to_owned(), "restricted".to_owned())]);
    let cases: [(Change, &str, &str); 7] = [
        (
            |it| it.registry = RegistryReadiness::Missing,
            "NoRegistry",
            "no Registry reg in namespace coral-system",
        ),
        (
            |it| it.registry = RegistryReadiness::NotAllowed,
            "NotAllowed",
            "builds.allowFrom",
        ),
        (
            |it| it.registry = RegistryReadiness::NotReady,
            "RegistryNotReady",
            "coral-system/reg",
        ),
        (
            |it| it.rights = Rights::Refused,
            "NotGranted",
            "`coral grant --builds team-a | kubectl apply -f -`",
        ),
        (
            |it| it.rights = Rights::Unknown,
            "Waiting",
            "whether it may run",
        ),
        (|it| it.ca = None, "Waiting", "certificates"),
        (|it| it.installation = None, "Waiting", "image"),
    ];
    for (change, reason, part) in cases {
        let mut input = input();
        change(&mut input);
        let plan = decide(&input);
        assert_eq!(plan.actions, [], "{reason}");
        assert_ready(&plan, BuildPhase::Pending, reason, part);
        assert_eq!(plan.status.run, None, "{reason}: it may still run");
    }
    let mut offered = ready_for(build_with(&json!({"build": {}})));
    offered.installation.as_mut().unwrap().builder = Some("coral-builder:1".to_owned());
    offered.labels = restricted.clone();
    let plan = decide(&offered);
    assert_eq!(plan.actions, []);
    let part = "name a build.image that builds without root";
    assert_ready(&plan, BuildPhase::Pending, "PodSecurity", part);
    let mut named = input();
    named.labels = restricted;
    let pod = created(&decide(&named))
        .spec
        .unwrap()
        .template
        .spec
        .unwrap();
    let user = pod.security_context.and_then(|it| it.run_as_user);
    assert_eq!(user, Some(65532));
}

#[test]
fn a_namespace_with_the_name_of_a_mirrored_registry_runs_no_build() {
    let mut input = input();
    let mut build = input.build.as_ref().clone();
    build.metadata.namespace = Some("localhost".to_owned());
    build.spec.output.tags = vec!["localhost/shop:3".to_owned()];
    input.build = Arc::new(build);
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert_ready(
        &plan,
        BuildPhase::Pending,
        "NotAllowed",
        "localhost/ is reserved",
    );
}

#[test]
fn a_build_beyond_the_bound_waits_and_one_that_has_begun_goes_on() {
    let one = crate::builds::Bounds {
        cluster: 1,
        namespace: 0,
    };
    let at = ObjectKey::new("team-a", "shop");
    let (open, workloads) = (BTreeMap::new(), BTreeMap::new());
    let queue = crate::builds::Queue::default();
    let mut slots = queue.slots(&open, &workloads, |_| false, one, now());
    assert_eq!(slots.full(&at), None);
    slots.begins(&ObjectKey::new("team-a", "other"));
    let full = slots.full(&at);

    let mut waits = input();
    waits.full = full;
    let plan = decide(&waits);
    assert_eq!(plan.actions, []);
    assert_ready(&plan, BuildPhase::Pending, "Queued", "--max-builds");
    assert!(is_queued(Some(&plan.status)) && !plan.begins());
    assert_eq!(plan.status.run, None);
    let since = |plan: &Plan| {
        let mut conditions = plan.status.conditions.iter().flatten();
        let queued = conditions.find(|it| it.type_ == "InQueue");
        queued.map(|it| it.last_transition_time.0)
    };
    assert_eq!(since(&plan), Some(now()));
    // It keeps its turn while it waits for something else, and loses it when it begins.
    after(&mut waits, &plan);
    waits.now = now()
        .saturating_add(std::time::Duration::from_mins(1))
        .unwrap();
    waits.registry = RegistryReadiness::NotReady;
    let plan = decide(&waits);
    assert_eq!(since(&plan), Some(now()));
    assert!(!is_queued(Some(&plan.status)));
    after(&mut waits, &plan);
    // One that is suspended leaves the queue, whatever else it would wait for.
    let mut leaves = waits.clone();
    change_spec(&mut leaves, |build| build.spec.suspend = true);
    assert_eq!(since(&decide(&leaves)), None);
    leaves.registry = RegistryReadiness::Ready;
    assert_eq!(since(&decide(&leaves)), None);
    (waits.registry, waits.full) = (RegistryReadiness::Ready, None);
    assert_eq!(since(&decide(&waits)), None);

    let mut runs = begun(input());
    runs.full = full;
    assert!(matches!(decide(&runs).actions[..], [Action::Start { .. }]));
    let mut suspended = ready_for(build_with(&json!({"suspend": true})));
    suspended.full = full;
    assert_ready(&decide(&suspended), BuildPhase::Pending, "Suspended", "");
}

#[test]
fn a_build_that_names_no_builder_has_the_one_of_the_installation() {
    let mut input = ready_for(build_with(&json!({"build": {}})));
    assert_ready(
        &decide(&input),
        BuildPhase::Pending,
        "NoBuilderImage",
        "--builder-image",
    );
    input.installation.as_mut().unwrap().builder = Some("coral-builder:1".to_owned());
    let pod = created(&decide(&input))
        .spec
        .unwrap()
        .template
        .spec
        .unwrap();
    let build = &pod.init_containers.unwrap()[1];
    assert_eq!(build.image.as_deref(), Some("coral-builder:1"));
}

#[test]
fn a_spec_that_means_nothing_ends_at_once_with_the_first_problem() {
    let output = json!({"registry": {"namespace": "coral-system", "name": "reg"}, "tags": ["team-b/shop:3"]});
    let wrong = ready_for(build_with(&json!({"output": output, "timeout": "soon"})));
    let plan = decide(&wrong);
    assert_eq!(plan.actions, []);
    assert_ready(&plan, BuildPhase::Failed, "InvalidSpec", "(and 1 more)");
    let mut settled = wrong.clone();
    after(&mut settled, &plan);
    assert!(is_settled(&settled.build));
}

#[test]
fn a_job_of_another_owner_is_not_touched() {
    let mut input = input();
    let mut job = created(&decide(&input));
    job.metadata.owner_references = None;
    input.foreign = Some(Arc::new(job));
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert_ready(
        &plan,
        BuildPhase::Pending,
        "NameTaken",
        "was not made for this build",
    );
    assert!(plan.next.is_some(), "no watch tells when it is gone");
}

#[test]
fn a_build_that_is_suspended_from_the_start_runs_nothing_until_it_no_longer_is() {
    let mut input = ready_for(build_with(&json!({"suspend": true})));
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert_ready(&plan, BuildPhase::Pending, "Suspended", "suspend is true");
    after(&mut input, &plan);
    change_spec(&mut input, |build| {
        build.spec.suspend = false;
    });
    created(&decide(&input));
}

#[test]
fn a_run_that_has_ended_is_never_begun_again_though_its_job_is_gone() {
    let mut input = running(input());
    let plan = decide(&input);
    let mut ended = plan.clone();
    ended.status.phase = Some(BuildPhase::Succeeded);
    after(&mut input, &ended);
    input.jobs.clear();
    assert!(is_settled(&input.build));
    change_spec(&mut input, |build| {
        build.spec.timeout = Some("1h".to_owned());
    });
    assert!(!is_settled(&input.build));
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert_eq!(plan.status.phase, Some(BuildPhase::Succeeded));
    assert_eq!(plan.status.observed_generation, Some(2));
    after(&mut input, &plan);
    assert!(is_settled(&input.build));
    change_spec(&mut input, |build| {
        build.spec.rerun = Some("again".to_owned());
    });
    let again = decide(&input);
    created(&again);
    assert_eq!(again.status.phase, Some(BuildPhase::Pending));
    assert_eq!(again.status.digest, None, "nothing of the run before");
    assert_eq!(again.status.completion_time, None);
}
