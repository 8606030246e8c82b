//! Runs that go their way: phases, reports, cancelling, another spec, history.

use super::*;

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn ended(step: &str, code: i32, message: &str) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    json!({"name": step, "image": "", "imageID": "", "ready": false, "restartCount": 0,
    "state": {"terminated": {
        "exitCode": code, "message": message, "reason": reason,
        "startedAt": "2026-01-01T00:05:00Z", "finishedAt": "2026-01-01T00:07:05Z",
    }}})
}

fn runs(step: &str) -> Value {
    json!({"name": step, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:05:00Z"}}})
}

fn waits(step: &str) -> Value {
    json!({"name": step, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "PodInitializing"}}})
}

/// The status of a pod whose push reported these outputs.
fn pushed(outputs: &Value) -> Value {
    let report =
        json!({"digest": DIGEST, "outputs": outputs, "bytes": {"pushed": 7, "mounted": 2}});
    json!({
        "phase": "Succeeded",
        "initContainerStatuses": [
            ended("fetch", 0, r#"{"commit": "abc", "bytes": 12}"#), ended("build", 0, ""),
        ],
        "containerStatuses": [ended("push", 0, &report.to_string())],
    })
}

fn inside() -> Value {
    let reference = "reg.coral-system.svc:5000/team-a/shop:3";
    json!([{"reference": reference, "digest": DIGEST, "state": "Pushed"}])
}

fn shop() -> BTreeSet<String> {
    BTreeSet::from(["team-a/shop".to_owned()])
}

#[test]
fn the_phase_is_that_of_the_step_that_runs_or_comes_next() {
    let fetched = || ended("fetch", 0, "{}");
    let built = || ended("build", 0, "");
    for (inits, push, expected) in [
        (
            vec![waits("fetch"), waits("build")],
            waits("push"),
            BuildPhase::Pending,
        ),
        (
            vec![runs("fetch"), waits("build")],
            waits("push"),
            BuildPhase::Fetching,
        ),
        (
            vec![fetched(), waits("build")],
            waits("push"),
            BuildPhase::Building,
        ),
        (
            vec![fetched(), runs("build")],
            waits("push"),
            BuildPhase::Building,
        ),
        (vec![fetched(), built()], waits("push"), BuildPhase::Pushing),
        (vec![fetched(), built()], runs("push"), BuildPhase::Pushing),
    ] {
        let mut input = running(input());
        let status = json!({
            "phase": "Pending", "initContainerStatuses": inits, "containerStatuses": [push],
        });
        with_pod(&mut input, &status);
        let plan = decide(&input);
        assert_eq!(plan.status.phase, Some(expected), "{status}");
        // The Registry is told while there is time until the end.
        let publishes = matches!(expected, BuildPhase::Building | BuildPhase::Pushing);
        let push_result = publishes.then(|| Action::Publish(shop()));
        assert_eq!(plan.actions, Vec::from_iter(push_result), "{status}");
        after(&mut input, &plan);
        assert_eq!(decide(&input).actions, []);
    }
}

#[test]
fn a_run_that_pushed_reports_digest_outputs_bytes_times_and_commit() {
    let mut input = running(input());
    input.loaded = Some(Arc::new(shop()));
    with_pod(&mut input, &pushed(&inside()));
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert_ready(&plan, BuildPhase::Succeeded, "Succeeded", DIGEST);
    let status = plan.status;
    assert_eq!(status.digest.as_deref(), Some(DIGEST));
    assert_eq!(status.source.unwrap().commit.as_deref(), Some("abc"));
    assert_eq!(status.bytes.unwrap().pushed, Some(7));
    assert_eq!(status.durations.unwrap().build.as_deref(), Some("2m5s"));
    let completed = status.completion_time.unwrap().0.to_string();
    assert_eq!(completed, "2026-01-01T00:07:05Z");
    assert_eq!(status.outputs.unwrap().len(), 1);
}

#[test]
fn a_run_ends_with_its_last_step_and_not_when_its_pod_is_taken_down() {
    let mut input = running(input());
    input.loaded = Some(Arc::new(shop()));
    let mut status = pushed(&inside());
    status["phase"] = "Running".into();
    with_pod(&mut input, &status);
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert_ready(&plan, BuildPhase::Succeeded, "Succeeded", DIGEST);
    // Another spec leaves its Job, which does not say yet that it is complete.
    after(&mut input, &plan);
    change_spec(&mut input, |build| {
        build.spec.rerun = Some("2".to_owned());
    });
    let run = names::run_of(&input.jobs[0]).unwrap().to_owned();
    (input.pod, input.pushed) = (None, BTreeSet::from([run]));
    let plan = decide(&input);
    let next = created(&plan);
    after(&mut input, &plan);
    input.jobs.push(Arc::new(next));
    let plan = decide(&input);
    assert!(
        matches!(plan.actions[..], [Action::Start { .. }]),
        "{plan:?}"
    );
}

/// The run pushes, and its step `push` has told its result.
fn push_result(input: &mut BuildInput) -> Plan {
    let status = json!({
        "phase": "Running",
        "initContainerStatuses": [
            ended("fetch", 0, r#"{"commit": "abc", "bytes": 12, "milliseconds": 417}"#),
            ended("build", 0, ""),
        ],
        "containerStatuses": [runs("push")],
    });
    with_pod(input, &status);
    let report = json!({
        "digest": DIGEST, "outputs": inside(), "bytes": {"pushed": 7, "mounted": 2},
        "milliseconds": 1234,
    });
    let push_result = PushResult {
        report: serde_json::from_value(report).unwrap(),
        at: now(),
    };
    input.push_result = Some(Arc::new(push_result));
    decide(input)
}

#[test]
fn a_result_that_the_push_told_ends_the_run_before_the_node_says_that_it_ended() {
    let mut input = running(input());
    input.loaded = Some(Arc::new(shop()));
    let plan = push_result(&mut input);
    assert_ready(&plan, BuildPhase::Succeeded, "Succeeded", DIGEST);
    let status = &plan.status;
    assert_eq!(status.digest.as_deref(), Some(DIGEST));
    assert_eq!(status.outputs.as_ref().unwrap().len(), 1);
    let durations = status.durations.clone().unwrap();
    let durations = (durations.fetch, durations.build, durations.push);
    let decide_with_pod = |text: &str| Some(text.to_owned());
    assert_eq!(
        durations,
        (
            decide_with_pod("0.4s"),
            decide_with_pod("2m5s"),
            decide_with_pod("1.2s")
        )
    );
    assert_eq!(status.completion_time.as_ref().unwrap().0, now());
    // What the node says goes before what was told.
    let pod = input.pod.clone();
    let mut node = pushed(&inside());
    let other = DIGEST.replace('a', "b");
    let message = &mut node["containerStatuses"][0]["state"]["terminated"]["message"];
    *message = json!(message.as_str().unwrap().replace(DIGEST, &other));
    with_pod(&mut input, &node);
    assert_eq!(decide(&input).status.digest, Some(other));
    let mut failed = node;
    failed["phase"] = json!("Failed");
    failed["containerStatuses"] = json!([ended("push", 1, "no room")]);
    with_pod(&mut input, &failed);
    assert_ready(&decide(&input), BuildPhase::Failed, "PushFailed", "");
    // A cancelled run stays so.
    input.pod = pod;
    change_spec(&mut input, |build| build.spec.suspend = true);
    assert_ready(&decide(&input), BuildPhase::Cancelled, "Cancelled", "");
}

#[test]
fn an_image_is_public_before_its_build_succeeds_and_a_registry_that_is_down_delays_that_a_minute() {
    let mut input = running(input());
    with_pod(&mut input, &pushed(&inside()));
    input.now = "2026-01-01T00:07:10Z".parse().unwrap();
    let plan = decide(&input);
    assert_eq!(plan.actions, [Action::Publish(shop())]);
    assert_ready(&plan, BuildPhase::Pushing, "Publishing", "every pod");
    assert!(plan.next.is_some());
    after(&mut input, &plan);
    input.loaded = Some(Arc::new(shop()));
    assert_ready(&decide(&input), BuildPhase::Succeeded, "Succeeded", "");
    input.loaded = None;
    input.now = "2026-01-01T00:09:00Z".parse().unwrap();
    let plan = decide(&input);
    assert_eq!(
        plan.actions,
        [Action::Publish(shop())],
        "it is noted all the same"
    );
    assert_ready(
        &plan,
        BuildPhase::Succeeded,
        "Succeeded",
        "is pushed, but its Registry did not confirm within a minute",
    );
}

#[test]
fn an_output_outside_that_failed_fails_the_run_and_keeps_the_result_inside() {
    let mut input = running(input());
    let mut outputs = inside();
    outputs.as_array_mut().unwrap().push(json!({
        "reference": "ghcr.io/acme/shop:3", "state": "Failed",
        "message": "401: Authorization: Bearer abcdef refused",
    }));
    with_pod(&mut input, &pushed(&outputs));
    let plan = decide(&input);
    assert_ready(
        &plan,
        BuildPhase::Failed,
        "AlsoToFailed",
        "not to ghcr.io/acme/shop:3",
    );
    assert_eq!(plan.status.digest.as_deref(), Some(DIGEST));
    let message = plan.status.message.as_deref();
    assert_eq!(message, Some("401: Authorization: Bearer *** refused"));
    assert!(matches!(plan.actions[..], [Action::Publish(_)]), "{plan:?}");
}

#[test]
fn a_push_that_is_killed_while_it_pushes_outside_keeps_the_result_inside() {
    let mut input = running(input());
    let mut outputs = inside();
    let waits =
        json!({"reference": "slow.example/shop:3", "state": "Failed", "message": "not yet"});
    outputs.as_array_mut().unwrap().push(waits);
    let mut status = pushed(&outputs);
    status["phase"] = json!("Failed");
    status["reason"] = json!("DeadlineExceeded");
    status["containerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(137);
    with_pod(&mut input, &status);
    let plan = decide(&input);
    assert_ready(&plan, BuildPhase::Failed, "TimedOut", "in the step push");
    assert!(matches!(plan.actions[..], [Action::Publish(_)]), "{plan:?}");
    let status = plan.status;
    assert_eq!(status.digest.as_deref(), Some(DIGEST));
    assert_eq!(status.outputs.unwrap().len(), 2);
    assert_eq!(status.message, None);
}

#[test]
fn suspending_cancels_a_run_once_and_it_stays_so() {
    let mut input = running(input());
    let plan = decide(&input);
    after(&mut input, &plan);
    change_spec(&mut input, |build| {
        build.spec.suspend = true;
    });
    let plan = decide(&input);
    assert!(matches!(plan.actions[..], [Action::Suspend(_)]), "{plan:?}");
    assert_ready(&plan, BuildPhase::Cancelled, "Cancelled", "change rerun");
    // A controller that was killed before it said so.
    change_job(&mut input, |job| {
        job.spec.as_mut().unwrap().suspend = Some(true);
    });
    let again = decide(&input);
    assert_eq!(again.actions, []);
    assert_ready(&again, BuildPhase::Cancelled, "Cancelled", "");
    after(&mut input, &again);
    change_spec(&mut input, |build| {
        build.spec.suspend = false;
    });
    let plan = decide(&input);
    assert_eq!(plan.actions, []);
    assert_eq!(plan.status.phase, Some(BuildPhase::Cancelled));
}

#[test]
fn suspending_a_run_that_has_ended_changes_nothing() {
    let mut input = running(input());
    with_pod(&mut input, &pushed(&inside()));
    input.loaded = Some(Arc::new(shop()));
    change_job(&mut input, |job| *job = with_condition(job, "Complete", ""));
    change_spec(&mut input, |build| {
        build.spec.suspend = true;
    });
    assert_ready(&decide(&input), BuildPhase::Succeeded, "Succeeded", "");
}

#[test]
fn another_spec_takes_the_run_before_away_first() {
    let mut input = running(input());
    let plan = decide(&input);
    after(&mut input, &plan);
    change_spec(&mut input, |build| {
        build.spec.rerun = Some("2".to_owned());
    });
    let plan = decide(&input);
    let [Action::Delete(key, uid)] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    let job = input.jobs[0].metadata.name.as_deref();
    assert_eq!((Some(key.name.as_str()), uid.as_str()), (job, JOB_UID));
    assert_ready(&plan, BuildPhase::Pending, "Superseded", "");
    after(&mut input, &plan);
    input.jobs.clear();
    created(&decide(&input));
}

#[test]
fn a_spec_that_is_put_back_is_run_anew_and_not_reported_from_its_earlier_run() {
    let complete = |input: &mut BuildInput| {
        with_pod(input, &pushed(&inside()));
        change_job(input, |job| *job = with_condition(job, "Complete", ""));
        input.loaded = Some(Arc::new(shop()));
        let plan = decide(input);
        assert_ready(&plan, BuildPhase::Succeeded, "Succeeded", "");
        after(input, &plan);
    };
    let rerun = |input: &mut BuildInput, with: Option<&str>| {
        change_spec(input, |build| build.spec.rerun = with.map(str::to_owned));
    };
    let mut input = running(input());
    complete(&mut input);
    let first = input.jobs.clone();
    rerun(&mut input, Some("2"));
    (input.jobs, input.pod) = (Vec::new(), None);
    let mut input = running(input);
    complete(&mut input);
    rerun(&mut input, None);
    input.jobs.extend(first);
    let plan = decide(&input);
    assert_ready(&plan, BuildPhase::Pending, "Superseded", "earlier run");
    assert!(matches!(plan.actions[..], [Action::Delete(..)]), "{plan:?}");
    after(&mut input, &plan);
    input.jobs.pop();
    input.pod = None;
    created(&decide(&input));
}

pub(super) fn with_condition(job: &Job, kind: &str, reason: &str) -> Job {
    let mut json = serde_json::to_value(job).unwrap();
    json["status"]["conditions"] = json!([{"type": kind, "status": "True", "reason": reason}]);
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_job_that_never_ran_is_no_failed_run_of_the_history() {
    let suspended = |input: &mut BuildInput| {
        change_job(input, |job| {
            *job = with_condition(job, "Suspended", "JobSuspended");
        });
    };
    let another_spec = |input: &mut BuildInput| {
        let plan = decide(input);
        after(input, &plan);
        change_spec(input, |build| build.spec.rerun = Some("2".to_owned()));
        decide(input)
    };
    let mut waits = begun(input());
    suspended(&mut waits);
    let plan = another_spec(&mut waits);
    assert_ready(&plan, BuildPhase::Pending, "Superseded", "");
    assert!(matches!(plan.actions[..], [Action::Delete(..)]), "{plan:?}");

    let mut cancelled = begun(input());
    suspended(&mut cancelled);
    change_job(&mut cancelled, |job| {
        let annotations = job.metadata.annotations.as_mut().unwrap();
        annotations.insert("image.stvz.io/build-begun".to_owned(), "true".to_owned());
    });
    created(&another_spec(&mut cancelled));
}

#[test]
fn the_oldest_runs_go_and_the_present_one_stays() {
    let history = json!({"history": {"succeeded": 2, "failed": 0}});
    let mut input = running(ready_for(build_with(&history)));
    with_pod(&mut input, &pushed(&inside()));
    input.loaded = Some(Arc::new(shop()));
    for (day, kind) in [(1, "Complete"), (2, "Failed"), (3, "Complete")] {
        let mut job = with_condition(&input.jobs[0], kind, "");
        let at: Timestamp = format!("2025-12-0{day}T00:00:00Z").parse().unwrap();
        job.metadata.creation_timestamp = Some(time(at));
        job.metadata.uid = Some(format!("uid-{day}"));
        let labels = job.metadata.labels.as_mut().unwrap();
        labels.insert("image.stvz.io/run".to_owned(), format!("0000000{day}"));
        input.jobs.push(Arc::new(job));
    }
    let plan = decide(&input);
    assert_ready(&plan, BuildPhase::Succeeded, "Succeeded", "");
    let uid = |action: &Action| match action {
        Action::Delete(_, uid) => uid.clone(),
        other => panic!("{other:?}"),
    };
    let deleted: Vec<String> = plan.actions.iter().map(uid).collect();
    assert_eq!(deleted, ["uid-2", "uid-1"]);
}
