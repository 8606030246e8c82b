//! Runs that fail: each ends once, with the truth in the status.

use super::running::with_condition;
use super::*;

fn container(name: &str, state: &Value) -> Value {
    json!({
        "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    })
}

fn died(name: &str, code: i32, reason: &str, message: &str) -> Value {
    let state = json!({"terminated": {"exitCode": code, "reason": reason, "message": message}});
    container(name, &state)
}

fn went_well(name: &str) -> Value {
    died(name, 0, "Completed", "")
}

/// What is said of a run whose pod has this status.
fn said(status: &Value) -> Plan {
    let mut seen = running(seen());
    with_pod(&mut seen, status);
    decide(&seen)
}

#[test]
fn a_step_that_fails_is_named_with_its_last_lines_masked_and_cut() {
    let end = "fatal: https://me:hunter2@git.example/x not found";
    let long = format!("{}\n{end}", "x".repeat(3000));
    let failed = |step: &str| died(step, 1, "Error", &long);
    let fetched = || went_well("fetch");
    for (inits, push, reason) in [
        (vec![failed("fetch")], vec![], "FetchFailed"),
        (vec![fetched(), failed("build")], vec![], "BuildFailed"),
        (
            vec![fetched(), went_well("build")],
            vec![failed("push")],
            "PushFailed",
        ),
    ] {
        let plan = said(&json!({
            "phase": "Failed", "initContainerStatuses": inits, "containerStatuses": push,
        }));
        says(&plan, BuildPhase::Failed, reason, "ended with exit code 1");
        let lines = plan.status.message.unwrap();
        assert!(lines.len() <= 2048 && lines.starts_with('…'), "{lines}");
        assert!(
            lines.ends_with("https://***@git.example/x not found"),
            "{lines}"
        );
        assert!(plan.status.completion_time.is_some());
        assert_eq!(plan.actions, [], "nothing is tried again");
    }
}

/// Regression: the status of an ImageBuild named flags of the command line.
#[test]
fn corals_own_steps_name_fields_and_no_flags_and_the_users_step_is_quoted() {
    let end = "if r.example:5000 speaks plain HTTP, use --plain-http r.example:5000";
    let lines = |inits: Value| {
        let plan = said(&json!({"phase": "Failed", "initContainerStatuses": inits}));
        plan.status.message.unwrap()
    };
    let fetch = lines(json!([died("fetch", 1, "Error", end)]));
    assert!(
        !fetch.contains("--") && fetch.contains("output.alsoTo"),
        "{fetch}"
    );
    let build = lines(json!([went_well("fetch"), died("build", 1, "Error", end)]));
    assert_eq!(build, end);
}

#[test]
fn a_build_that_is_killed_for_its_memory_says_so() {
    let inits = json!([went_well("fetch"), died("build", 137, "OOMKilled", "")]);
    let plan = said(&json!({"phase": "Failed", "initContainerStatuses": inits}));
    says(
        &plan,
        BuildPhase::Failed,
        "BuildFailed",
        "build.resources.limits.memory",
    );
    let inits = json!([went_well("fetch"), went_well("build")]);
    let push = json!([died("push", 137, "OOMKilled", "")]);
    let plan = said(&json!({
        "phase": "Failed", "initContainerStatuses": inits, "containerStatuses": push,
    }));
    let own = "the step push, which is Coral's own";
    says(&plan, BuildPhase::Failed, "PushFailed", own);
}

#[test]
fn a_build_that_fills_the_disk_is_evicted_with_the_words_of_the_node() {
    let plan = said(&json!({
        "phase": "Failed", "reason": "Evicted",
        "message": "Usage of EmptyDir volume \"output\" exceeds the limit \"10Gi\".",
    }));
    says(&plan, BuildPhase::Failed, "Evicted", "exceeds the limit");
}

#[test]
fn a_build_that_never_ends_is_ended_by_its_timeout_and_says_in_which_step() {
    let killed = died("build", 137, "Error", "line 7");
    let waits = container("push", &json!({"waiting": {"reason": "PodInitializing"}}));
    let plan = said(&json!({
        "phase": "Failed", "reason": "DeadlineExceeded",
        "initContainerStatuses": [went_well("fetch"), killed], "containerStatuses": [waits],
    }));
    says(
        &plan,
        BuildPhase::Failed,
        "TimedOut",
        "within 30m0s, in the step build",
    );
    assert_eq!(plan.status.message.as_deref(), Some("line 7"));
    let pulling = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
    let plan = said(&json!({
        "phase": "Failed", "reason": "DeadlineExceeded",
        "initContainerStatuses": [went_well("fetch"), container("build", &pulling)],
    }));
    let part = "in the step build: the image of the step build cannot be pulled";
    says(&plan, BuildPhase::Failed, "TimedOut", part);
    // The Job's own deadline takes the pod away.
    let mut gone = running(seen());
    change_job(&mut gone, |job| {
        *job = with_condition(job, "Failed", "DeadlineExceeded");
    });
    says(
        &decide(&gone),
        BuildPhase::Failed,
        "TimedOut",
        "did not end within 30m0s",
    );
}

#[test]
fn a_run_that_never_had_a_pod_says_in_the_end_what_it_waited_for() {
    let mut seen = running(seen());
    change_job(&mut seen, |job| {
        let mut json = serde_json::to_value(&*job).unwrap();
        json["status"]["startTime"] = json!("2026-01-01T00:00:00Z");
        *job = serde_json::from_value(json).unwrap();
    });
    let plan = decide(&seen);
    says(&plan, BuildPhase::Pending, "NoPod", "such as a quota");
    after(&mut seen, &plan);
    change_job(&mut seen, |job| {
        *job = with_condition(job, "Failed", "DeadlineExceeded");
    });
    let plan = decide(&seen);
    says(&plan, BuildPhase::Failed, "TimedOut", "such as a quota");
}

#[test]
fn a_pod_that_no_node_takes_waits_and_says_why() {
    let mut seen = running(seen());
    let status = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/2 nodes are available: persistentvolumeclaim \"src\" not found.",
    }]});
    with_pod(&mut seen, &status);
    says(
        &decide(&seen),
        BuildPhase::Pending,
        "Unschedulable",
        "\"src\" not found",
    );
    change_job(&mut seen, |job| {
        *job = with_condition(job, "Failed", "DeadlineExceeded");
    });
    says(
        &decide(&seen),
        BuildPhase::Failed,
        "TimedOut",
        "\"src\" not found",
    );
}

#[test]
fn a_builder_that_cannot_be_pulled_is_named_while_it_is_waited_for() {
    let pulling = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
    let inits = json!([went_well("fetch"), container("build", &pulling)]);
    let plan = said(&json!({"phase": "Pending", "initContainerStatuses": inits}));
    says(
        &plan,
        BuildPhase::Building,
        "ImagePullFailed",
        "the image of the step build",
    );
}

#[test]
fn a_node_that_is_lost_ends_the_run_with_what_took_the_pod_away() {
    let lost = json!([{
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
    }]);
    let mut seen = running(seen());
    let failed = with_condition(&seen.jobs[0], "Failed", "BackoffLimitExceeded");
    let runs = json!({"running": {"startedAt": "2026-01-01T00:05:00Z"}});
    let fetches = container("fetch", &runs);
    let builds = container("build", &runs);
    let pushes = container("push", &runs);
    for (inits, last, phase) in [
        (json!([]), json!([]), BuildPhase::Pending),
        (json!([fetches]), json!([]), BuildPhase::Fetching),
        (
            json!([went_well("fetch"), builds]),
            json!([]),
            BuildPhase::Building,
        ),
        (
            json!([went_well("fetch"), went_well("build")]),
            json!([pushes]),
            BuildPhase::Pushing,
        ),
    ] {
        let mut seen = seen.clone();
        let status = json!({
            "phase": "Running", "conditions": lost,
            "initContainerStatuses": inits, "containerStatuses": last,
        });
        with_pod(&mut seen, &status);
        assert_eq!(decide(&seen).status.phase, Some(phase), "not yet");
        change_job(&mut seen, |job| *job = failed.clone());
        says(
            &decide(&seen),
            BuildPhase::Failed,
            "PodLost",
            "on node node1 was ended from outside",
        );
    }
    change_job(&mut seen, |job| *job = failed);
    seen.pod = None;
    says(
        &decide(&seen),
        BuildPhase::Failed,
        "PodLost",
        "the pod of the run is gone",
    );
}

#[test]
fn a_node_without_user_namespaces_ends_the_run_with_what_to_choose() {
    let node = |features: &Value| {
        let other = json!({"name": "other", "features": {"userNamespaces": true}});
        let handlers = json!([{"name": "", "features": features}, other]);
        let node = json!({"metadata": {"name": "node1"}, "status": {"runtimeHandlers": handlers}});
        Some(Arc::new(serde_json::from_value(node).unwrap()))
    };
    let mut seen = running(seen());
    with_pod(&mut seen, &json!({"phase": "Pending"}));
    seen.node = node(&json!({"userNamespaces": true}));
    assert_eq!(decide(&seen).status.phase, Some(BuildPhase::Pending));
    seen.node = node(&json!({"recursiveReadOnlyMounts": true}));
    let plan = decide(&seen);
    assert!(matches!(plan.actions[..], [Action::Suspend(_)]), "{plan:?}");
    says(
        &plan,
        BuildPhase::Failed,
        "UserNamespacesUnsupported",
        "node1",
    );
}

#[test]
fn a_pod_that_is_not_made_or_does_not_start_is_told_of_after_a_while() {
    let mut seen = running(seen());
    change_job(&mut seen, |job| {
        let mut json = serde_json::to_value(&*job).unwrap();
        json["status"]["startTime"] = json!("2026-01-01T00:09:55Z");
        *job = serde_json::from_value(json).unwrap();
    });
    let plan = decide(&seen);
    says(&plan, BuildPhase::Pending, "Running", "");
    seen.now = plan.next.unwrap();
    says(
        &decide(&seen),
        BuildPhase::Pending,
        "NoPod",
        "kubectl describe job",
    );
    let status = json!({"phase": "Pending", "startTime": "2026-01-01T00:10:00Z"});
    with_pod(&mut seen, &status);
    let plan = decide(&seen);
    says(&plan, BuildPhase::Pending, "Running", "the pod starts");
    seen.now = plan.next.unwrap();
    says(
        &decide(&seen),
        BuildPhase::Pending,
        "NotStarted",
        "kubectl describe pod",
    );
}

#[test]
fn a_push_without_a_report_is_no_success() {
    let push = json!([died("push", 0, "Completed", "not JSON")]);
    let plan = said(&json!({"phase": "Succeeded", "containerStatuses": push}));
    says(&plan, BuildPhase::Failed, "PushFailed", "without a report");
    let mut gone = running(seen());
    change_job(&mut gone, |job| *job = with_condition(job, "Complete", ""));
    says(
        &decide(&gone),
        BuildPhase::Failed,
        "PodLost",
        "report is gone",
    );
}

#[test]
fn a_job_that_was_deleted_ends_the_run_and_a_grant_that_was_taken_back_does_not() {
    let mut seen = running(seen());
    let plan = decide(&seen);
    after(&mut seen, &plan);
    seen.jobs.clear();
    says(
        &decide(&seen),
        BuildPhase::Failed,
        "PodLost",
        "the Job of the run was deleted",
    );
    seen.rights = Rights::Unknown;
    assert_eq!(
        decide(&seen).status.phase,
        Some(BuildPhase::Pending),
        "as it was"
    );
    seen.rights = Rights::Refused;
    says(
        &decide(&seen),
        BuildPhase::Pending,
        "NotGranted",
        "coral grant --builds team-a",
    );
}

#[test]
fn a_registry_that_is_down_stops_no_run_that_has_begun() {
    let mut seen = begun(seen());
    seen.registry = RegistrySeen::NotReady;
    let plan = decide(&seen);
    assert!(
        matches!(plan.actions[..], [Action::Start { .. }]),
        "{plan:?}"
    );
}
