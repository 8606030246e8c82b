//! Derives the state of a run from its Job and pod. Pure.

mod pod;
mod reports;
mod text;

use std::time::Duration;

use coral_api::image_build::BuildPhase;
use coral_build::contract::{self, Step};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::reason;
use crate::advice::{AdviceTarget, in_cluster};
use crate::results::PushResult;
use pod::{
    current_step, disruption, failed_step, last_end, phase_of, pod_condition, unschedulable,
    user_namespaces, waiting,
};
use reports::push_report;
use text::{advised, lines, masked};

pub(super) use pod::{has_ended, has_pushed};
pub(super) use reports::{Reports, duration_text, reports};

/// A running Job has a pod after this time, unless something refuses the pod.
const POD_DEADLINE: Duration = Duration::from_secs(20);
/// A pod on a node has its sandbox after this time, unless the node cannot make it.
const SANDBOX_DEADLINE: Duration = Duration::from_secs(45);

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunState {
    pub(super) phase: BuildPhase,
    /// The reason of the condition `Ready`.
    pub(super) reason: &'static str,
    /// The message of the condition.
    pub(super) message: String,
    /// The last lines of the step that failed.
    pub(super) lines: Option<String>,
    /// When it ended.
    pub(super) ended: Option<Timestamp>,
    /// When to check again even if nothing changes.
    pub(super) next: Option<Timestamp>,
    /// Whether the pod is to be deleted because it can never run.
    pub(super) stop: bool,
}

impl RunState {
    pub(super) fn new(phase: BuildPhase, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            phase,
            reason,
            message: message.into(),
            lines: None,
            ended: None,
            next: None,
            stop: false,
        }
    }

    fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(BuildPhase::Failed, reason, message)
    }
}

/// What is known about a run.
pub(super) struct RunFacts<'a> {
    pub(super) job: &'a Job,
    pub(super) pod: Option<&'a Pod>,
    /// The report of the step `push`, which arrives before the pod shows that the step has ended.
    pub(super) push_result: Option<&'a PushResult>,
    /// The node that the pod is on.
    pub(super) node: Option<&'a Node>,
    /// The previous condition `Ready` of the run.
    pub(super) before: Option<&'a Condition>,
    /// How long the run may take, in words.
    pub(super) timeout: String,
    pub(super) now: Timestamp,
}

impl RunFacts<'_> {
    /// The state of the run.
    pub(super) fn state(&self) -> RunState {
        let Some(pod) = self.pod else {
            return self.without_pod();
        };
        match phase_of(pod) {
            "Failed" => self.failed(pod),
            "Succeeded" => succeeded(pod, self.push_result),
            // The last container has succeeded. The container's own status shows that up to a second
            // later; the pod's phase and its Job show it seconds later, when the sandbox is gone.
            _ if has_pushed(pod) || self.push_result.is_some() => succeeded(pod, self.push_result),
            _ => match job_failure(self.job) {
                Some(failure) => self.job_failed(failure, Some(pod)),
                None => self.running(pod),
            },
        }
    }

    fn without_pod(&self) -> RunState {
        if let Some(failure) = job_failure(self.job) {
            return self.job_failed(failure, None);
        }
        if has_condition(self.job, "Complete") {
            let message = "the Job completed, but its pod with the report is gone";
            return RunState::failed(reason::POD_LOST, message);
        }
        let began = self
            .job
            .status
            .as_ref()
            .and_then(|it| it.start_time.as_ref());
        let due = began.and_then(|began| began.0.checked_add(POD_DEADLINE).ok());
        let name = self.job.metadata.name.as_deref().unwrap_or_default();
        if due.is_some_and(|due| due <= self.now) {
            let message = format!(
                "the Job has no pod: `kubectl describe job {name}` shows why, such as a quota or a \
                 Pod Security level"
            );
            return RunState::new(BuildPhase::Pending, reason::NO_POD, message);
        }
        let mut state = RunState::new(BuildPhase::Pending, reason::RUNNING, "the Job begins");
        state.next = due;
        state
    }

    fn job_failed(&self, failure: &str, pod: Option<&Pod>) -> RunState {
        if failure == "DeadlineExceeded" {
            return self.timed_out(pod);
        }
        let why = pod.and_then(disruption);
        let message = why.unwrap_or_else(|| "the pod of the run is gone".to_owned());
        RunState::failed(reason::POD_LOST, message)
    }

    fn timed_out(&self, pod: Option<&Pod>) -> RunState {
        // The deadline killed the running step, which therefore looks like a failed one.
        let killed = pod.and_then(failed_step);
        let step = killed.map(|(step, _)| step);
        let step = step.or_else(|| pod.and_then(current_step));
        let during = step.map_or_else(String::new, |step| format!(", in the step {}", step.name()));
        let why = pod.and_then(waiting).map(|(_, why)| why);
        let unscheduled = || {
            Some(format!(
                "no node can run the pod: {}",
                masked(unschedulable(pod?)?)
            ))
        };
        let why = why.filter(|_| killed.is_none()).or_else(unscheduled);
        let why = why.or_else(|| self.waited_for().filter(|_| step.is_none()));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let message = format!("the run did not end within {}{during}{why}", self.timeout);
        RunState {
            lines: killed.and_then(|(_, ended)| lines(ended)),
            ..RunState::failed(reason::TIMED_OUT, message)
        }
    }

    /// What kept the run from starting, taken from the previous condition: at the end its pod may
    /// be gone.
    fn waited_for(&self) -> Option<String> {
        let before = self.before?;
        let is_wait = reason::BLOCKS_START.contains(&before.reason.as_str());
        is_wait.then(|| before.message.clone())
    }

    fn failed(&self, pod: &Pod) -> RunState {
        let status = pod.status.as_ref();
        let text = |it: Option<&String>| it.cloned().unwrap_or_default();
        let why = text(status.and_then(|it| it.reason.as_ref()));
        let mut state = match why.as_str() {
            "DeadlineExceeded" => self.timed_out(Some(pod)),
            "Evicted" => {
                let message = masked(&text(status.and_then(|it| it.message.as_ref())));
                RunState::failed(
                    reason::EVICTED,
                    format!("the node evicted the pod: {message}"),
                )
            }
            _ => {
                if let Some((step, ended)) = failed_step(pod) {
                    step_failed(step, ended)
                } else {
                    let message = text(status.and_then(|it| it.message.as_ref()));
                    let new_status = [why, message].into_iter().filter(|it| !it.is_empty());
                    let new_status = new_status.collect::<Vec<_>>().join(": ");
                    let why = disruption(pod).unwrap_or(new_status);
                    RunState::failed(reason::POD_LOST, format!("the pod failed: {why}"))
                }
            }
        };
        state.ended = last_end(pod);
        state
    }

    fn running(&self, pod: &Pod) -> RunState {
        if let Some(step) = current_step(pod) {
            let phase = match step {
                Step::Fetch => BuildPhase::Fetching,
                Step::Build => BuildPhase::Building,
                Step::Push => BuildPhase::Pushing,
            };
            let Some((why, message)) = waiting(pod) else {
                return RunState::new(
                    phase,
                    reason::RUNNING,
                    format!("the step {} runs", step.name()),
                );
            };
            return RunState::new(phase, why, message);
        }
        if let Some(why) = unschedulable(pod) {
            let message = format!("no node can run the pod: {}", masked(why));
            return RunState::new(BuildPhase::Pending, reason::UNSCHEDULABLE, message);
        }
        if let Some((why, message)) = waiting(pod) {
            return RunState::new(BuildPhase::Pending, why, message);
        }
        self.starting(pod)
    }

    /// The state of a run whose pod has not yet run anything.
    fn starting(&self, pod: &Pod) -> RunState {
        let spec = pod.spec.as_ref();
        let wants_users = spec.is_some_and(|spec| spec.host_users == Some(false));
        let has_class = spec.is_some_and(|spec| spec.runtime_class_name.is_some());
        let support = self.node.and_then(user_namespaces);
        if wants_users && !has_class && support == Some(false) {
            let node = spec
                .and_then(|spec| spec.node_name.as_deref())
                .unwrap_or_default();
            let message = format!(
                "the container runtime of node {node} has no user namespaces: choose nodes that have \
                 them with build.nodeSelector, or let the build run as root of the node with \
                 build.hostUsers: true"
            );
            let mut state = RunState::failed(reason::NO_USER_NAMESPACES, message);
            state.stop = true;
            return state;
        }
        let began = pod.status.as_ref().and_then(|it| it.start_time.as_ref());
        let due = began.and_then(|began| began.0.checked_add(SANDBOX_DEADLINE).ok());
        if let Some(due) = due
            && pod_condition(pod, "PodReadyToStartContainers").is_none_or(|it| it.status != "True")
        {
            if due <= self.now {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let message = format!(
                    "the node does not start the pod: `kubectl describe pod {name}` shows why, \
                     such as a missing volume or a runtime without user namespaces"
                );
                return RunState::new(BuildPhase::Pending, reason::NOT_STARTED, message);
            }
            let mut state = RunState::new(BuildPhase::Pending, reason::RUNNING, "the pod starts");
            state.next = Some(due);
            return state;
        }
        RunState::new(BuildPhase::Pending, reason::RUNNING, "the pod starts")
    }
}

fn step_failed(step: Step, ended: &ContainerStateTerminated) -> RunState {
    let reason = match step {
        Step::Fetch => reason::FETCH_FAILED,
        Step::Build => reason::BUILD_FAILED,
        Step::Push => reason::PUSH_FAILED,
    };
    let name = step.name();
    let code = ended.exit_code;
    let message = match ended.reason.as_deref() {
        Some("OOMKilled") if step == Step::Build => "the step build used more memory than it may: \
             raise build.resources.limits.memory"
            .to_owned(),
        Some("OOMKilled") => {
            format!("the step {name}, which is Coral's own, used too much memory: report it")
        }
        Some("Error" | "Completed") | None => {
            format!("the step {name} ended with exit code {code}")
        }
        Some(why) => format!("the step {name} ended with exit code {code}: {why}"),
    };
    let lines = lines(ended).map(|lines| match step {
        Step::Fetch | Step::Push => in_cluster(&lines, AdviceTarget::Build),
        // The words of the user's container.
        Step::Build => lines,
    });
    RunState {
        lines,
        ..RunState::failed(reason, message)
    }
}

fn succeeded(pod: &Pod, push_result: Option<&PushResult>) -> RunState {
    let mut state = match push_report(pod, push_result) {
        None => RunState::failed(
            reason::PUSH_FAILED,
            "the step push ended without a report of what it pushed",
        ),
        Some(report) => {
            let failed = |it: &&contract::PushedOutput| it.state == contract::OutputState::Failed;
            match report.outputs.iter().find(failed) {
                None => RunState::new(
                    BuildPhase::Succeeded,
                    reason::SUCCEEDED,
                    format!("the image {} is pushed", report.digest),
                ),
                Some(output) => RunState {
                    lines: output.message.as_deref().map(advised),
                    ..RunState::failed(
                        reason::ALSO_TO_FAILED,
                        format!(
                            "the image {} is pushed inside the cluster, but not to {}",
                            report.digest, output.reference
                        ),
                    )
                },
            }
        }
    };
    state.ended = last_end(pod).max(push_result.map(|it| it.at));
    state
}

/// The reason of a Job that failed.
fn job_failure(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let is_failure = |it: &str| matches!(it, "Failed" | "FailureTarget");
    let failed = conditions
        .iter()
        .find(|it| is_failure(&it.type_) && it.status == "True")?;
    Some(failed.reason.as_deref().unwrap_or_default())
}

pub(super) fn has_condition(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|it| it.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it.type_ == kind && it.status == "True")
}
