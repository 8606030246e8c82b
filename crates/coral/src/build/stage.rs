//! The progress of a run, derived from its objects in the cluster.

use coral_api::conditions;
use coral_api::image_build::{BuildPhase, ImageBuild, ImageBuildStatus, OutputState, reason};
use coral_build::contract::Step;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Whether this reason keeps a run's pod from being created or started. For some of these reasons,
/// the pod itself shows nothing.
fn holds(reason: &str) -> bool {
    reason == reason::APPLY_FAILED || reason::BLOCKS_START.contains(&reason)
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not begun; what it waits for.
    Waiting(Option<String>),
    /// It cannot begin; the text is the message of the condition.
    Blocked(String),
    /// Its Job exists; what keeps the Job's pod from running, once the controller reports it.
    Begun(String, Option<String>),
    /// The object was changed, and another run replaces this one.
    Replaced,
    /// It ended.
    Ended(Ending),
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ending {
    /// Whether everything was pushed.
    pub(super) succeeded: bool,
    /// What was pushed, as `reference@digest`.
    pub(super) pushed: Vec<String>,
    /// What was not pushed, each with the reason.
    pub(super) not_pushed: Vec<String>,
    /// Why it did not succeed.
    pub(super) message: String,
    /// Bytes that were sent, and bytes that the destinations already had.
    pub(super) bytes: Option<(u64, u64)>,
}

/// The progress of the run with this key. `generation` is that of the object with the run's spec; a
/// status of an older generation is not about this run.
pub(super) fn stage(build: &ImageBuild, run: &str, generation: i64) -> Stage {
    let status = build.status.clone().unwrap_or_default();
    let is_own = status.run.as_deref() == Some(run);
    if build.metadata.generation > Some(generation) && build.spec.run_key() != run {
        return Stage::Replaced;
    }
    if status.observed_generation.unwrap_or_default() < generation {
        return Stage::Waiting(None);
    }
    if status.phase.is_some_and(BuildPhase::is_final) {
        return Stage::Ended(ending(&status, is_own));
    }
    let not_ready = not_ready(&status);
    if let Some(job) = status.job.clone().filter(|_| is_own) {
        let held = not_ready.filter(|(reason, _)| holds(reason));
        return Stage::Begun(job, held.map(|(_, message)| message));
    }
    match not_ready {
        Some((reason, message)) if reason::NEEDS_ACTION.contains(&reason.as_str()) => {
            Stage::Blocked(message)
        }
        Some((_, message)) => Stage::Waiting(Some(message)),
        None => Stage::Waiting(None),
    }
}

/// Reason and message of the condition `Ready` while it is not true.
fn not_ready(status: &ImageBuildStatus) -> Option<(String, String)> {
    let conditions = status.conditions.iter().flatten();
    let mut ready = conditions.filter(|c| c.type_ == conditions::kind::READY && c.status != "True");
    let condition = ready.next()?;
    Some((condition.reason.clone(), condition.message.clone()))
}

/// `is_own`: whether the run in the status is this one.
fn ending(status: &ImageBuildStatus, is_own: bool) -> Ending {
    let mut ending = Ending {
        succeeded: status.phase == Some(BuildPhase::Succeeded),
        ..Ending::default()
    };
    if let Some((_, message)) = not_ready(status) {
        ending.message = message;
    } else if let Some(phase) = status.phase.filter(|_| !ending.succeeded) {
        phase.as_str().clone_into(&mut ending.message);
    }
    if !is_own {
        return ending;
    }
    for output in status.outputs.iter().flatten() {
        let reference = &output.reference;
        match (output.state, &output.digest) {
            (OutputState::Pushed, Some(digest)) => {
                ending.pushed.push(format!("{reference}@{digest}"));
            }
            (OutputState::Pushed, None) => ending.pushed.push(reference.clone()),
            _ => {
                let why = output.message.as_deref().unwrap_or("not pushed");
                ending.not_pushed.push(format!("{reference}: {why}"));
            }
        }
    }
    let count = |bytes: Option<i64>| u64::try_from(bytes.unwrap_or_default()).unwrap_or_default();
    ending.bytes = status
        .bytes
        .map(|bytes| (count(bytes.pushed), count(bytes.mounted)));
    ending
}

/// The state of a step's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StepState {
    /// It has not started; what it waits for.
    Waiting(Option<String>),
    /// It runs.
    Running,
    /// It ended with this exit code.
    Ended(i32),
    /// It will never start: its pod has ended.
    Never,
}

/// The state of a step in its pod.
pub(super) fn step_state(pod: &Pod, step: Step) -> StepState {
    let Some(status) = &pod.status else {
        return StepState::Waiting(None);
    };
    let of_init = status.init_container_statuses.iter().flatten();
    let mut containers = of_init.chain(status.container_statuses.iter().flatten());
    let container = containers.find(|container| container.name == step.name());
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        return StepState::Ended(ended.exit_code);
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return StepState::Running;
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
        || pod.metadata.deletion_timestamp.is_some()
    {
        return StepState::Never;
    }
    StepState::Waiting(container.and_then(waiting_for).or_else(|| unscheduled(pod)))
}

/// Why a container waits, unless every container waits for that at first.
fn waiting_for(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if matches!(reason, "PodInitializing" | "ContainerCreating") {
        return None;
    }
    Some(match waiting.message.as_deref() {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    })
}

fn unscheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled")?;
    if scheduled.status == "True" {
        return None;
    }
    scheduled.message.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The object of a run, at generation 2, with a status.
    fn build(status: &Value) -> (ImageBuild, String) {
        let build: ImageBuild = serde_json::from_value(json!({
            "apiVersion": "stvz.io/v1",
            "kind": "ImageBuild",
            "metadata": {"name": "shop", "namespace": "team-a", "generation": 2},
            "spec": {
                "source": {"stream": {}},
                "output": {
                    "registry": {"namespace": "coral-system", "name": "reg"},
                    "tags": ["team-a/shop:3"]
                },
                "rerun": "2",
            },
            "status": status,
        }))
        .unwrap();
        let run = build.spec.run_key();
        (build, run)
    }

    fn stage_of(status: &Value) -> Stage {
        let (build, run) = build(status);
        stage(&build, &run, 2)
    }

    fn ready(status: &str, reason: &str, message: &str) -> Value {
        json!([{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"
        }])
    }

    #[test]
    fn what_is_said_of_an_older_spec_says_nothing_about_the_run() {
        let old = json!({
            "observedGeneration": 1, "phase": "Succeeded", "run": "00000000", "job": "shop-00000000"
        });
        assert_eq!(stage_of(&old), Stage::Waiting(None));
    }

    #[test]
    fn a_run_has_begun_when_its_own_job_is_named() {
        let (_, run) = build(&json!({}));
        let of_run = |run: &str| {
            stage_of(
                &json!({"observedGeneration": 2, "phase": "Fetching", "run": run, "job": "shop-1"}),
            )
        };
        assert_eq!(of_run(&run), Stage::Begun("shop-1".to_owned(), None));
        assert_eq!(of_run("00000000"), Stage::Waiting(None));
    }

    #[test]
    fn a_run_that_a_person_has_to_help_is_told_from_one_that_waits() {
        let with = |reason: &str| {
            let conditions = ready("False", reason, "words of the condition");
            stage_of(
                &json!({"observedGeneration": 2, "phase": "Pending", "conditions": conditions}),
            )
        };
        let words = "words of the condition".to_owned();
        assert_eq!(with("NotGranted"), Stage::Blocked(words.clone()));
        assert_eq!(with("RegistryNotReady"), Stage::Waiting(Some(words)));
    }

    #[test]
    fn a_run_whose_pod_does_not_start_says_what_keeps_it() {
        let (_, run) = build(&json!({}));
        let said = |reason: &str| {
            stage_of(&json!({
                "observedGeneration": 2, "phase": "Pending", "run": run, "job": "shop-1",
                "conditions": ready("False", reason, "the quota is used up"),
            }))
        };
        let begun = |held: Option<&str>| Stage::Begun("shop-1".to_owned(), held.map(str::to_owned));
        let held = reason::BLOCKS_START.into_iter();
        for reason in held.chain([reason::APPLY_FAILED]) {
            assert_eq!(
                said(reason),
                begun(Some("the quota is used up")),
                "{reason}"
            );
        }
        assert_eq!(said("Running"), begun(None));
    }

    #[test]
    fn a_change_of_the_object_ends_the_following_of_a_run() {
        let (build, _) = build(&json!({"observedGeneration": 2}));
        assert_eq!(stage(&build, "00000000", 1), Stage::Replaced);
    }

    #[test]
    fn the_end_has_what_was_pushed_and_what_was_not() {
        let (_, run) = build(&json!({}));
        let status = json!({
            "observedGeneration": 2, "phase": "Failed", "run": run, "job": "shop-1",
            "conditions": ready("False", "AlsoToFailed", "ghcr.io refused it"),
            "outputs": [
                {"reference": "reg:5000/team-a/shop:3", "digest": "sha256:aa", "state": "Pushed"},
                {"reference": "ghcr.io/acme/shop:3", "state": "Failed", "message": "401"}
            ],
            "bytes": {"pushed": 5, "mounted": 7}
        });
        let expected = Ending {
            succeeded: false,
            pushed: vec!["reg:5000/team-a/shop:3@sha256:aa".to_owned()],
            not_pushed: vec!["ghcr.io/acme/shop:3: 401".to_owned()],
            message: "ghcr.io refused it".to_owned(),
            bytes: Some((5, 7)),
        };
        assert_eq!(stage_of(&status), Stage::Ended(expected));
    }

    #[test]
    fn outputs_of_an_earlier_run_are_not_those_of_one_that_failed_to_begin() {
        let status = json!({
            "observedGeneration": 2, "phase": "Failed", "run": "00000000", "job": "shop-0",
            "conditions": ready("False", "Odd", "it cannot begin"),
            "outputs": [{"reference": "reg:5000/team-a/shop:2", "state": "Pushed"}]
        });
        let Stage::Ended(ending) = stage_of(&status) else {
            panic!("{:?}", stage_of(&status));
        };
        assert_eq!(ending.pushed, Vec::<String>::new());
        assert_eq!(ending.message, "it cannot begin");
    }

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "shop-1-x"}, "status": status})).unwrap()
    }

    #[test]
    fn a_step_is_found_among_the_containers_of_both_kinds() {
        let pod = pod(&json!({
            "phase": "Running",
            "initContainerStatuses": [
                {"name": "fetch", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0}}},
                {"name": "build", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 7}}}
            ],
            "containerStatuses": [
                {"name": "push", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "state": {"running": {}}}
            ]
        }));
        let states = Step::ALL.map(|step| step_state(&pod, step));
        let expected = [StepState::Ended(0), StepState::Ended(7), StepState::Running];
        assert_eq!(states, expected);
    }

    #[test]
    fn what_a_step_waits_for_is_told_when_it_is_not_its_turn() {
        let waiting = |reason: &str| {
            let pod = pod(&json!({
                "phase": "Pending",
                "initContainerStatuses": [
                    {"name": "fetch", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                     "state": {"waiting": {"reason": reason, "message": "no such image"}}}
                ]
            }));
            step_state(&pod, Step::Fetch)
        };
        let told = Some("ErrImagePull: no such image".to_owned());
        assert_eq!(waiting("ErrImagePull"), StepState::Waiting(told));
        assert_eq!(waiting("PodInitializing"), StepState::Waiting(None));
        let unscheduled = pod(&json!({
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]
        }));
        let told = StepState::Waiting(Some("no node".to_owned()));
        assert_eq!(step_state(&unscheduled, Step::Fetch), told);
    }

    #[test]
    fn a_step_that_comes_after_a_failed_one_never_starts() {
        let pod = pod(&json!({"phase": "Failed"}));
        assert_eq!(step_state(&pod, Step::Push), StepState::Never);
    }
}
