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
use crate::advice::{Means, in_cluster};
use crate::results::Told;
use pod::{
    current_step, disruption, failed_step, last_end, phase_of, pod_condition, unschedulable,
    user_namespaces, waiting,
};
use reports::push_report;
use text::{advised, lines, masked};

pub(super) use pod::{has_ended, has_pushed};
pub(super) use reports::{Reports, reports, words};

/// A running Job has a pod after this time, unless something refuses the pod.
const UNTIL_POD: Duration = Duration::from_secs(20);
/// A pod on a node has its sandbox after this time, unless the node cannot make it.
const UNTIL_SANDBOX: Duration = Duration::from_secs(45);

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) phase: BuildPhase,
    /// The reason of the condition `Ready`.
    pub(super) reason: &'static str,
    /// The message of the condition.
    pub(super) says: String,
    /// The last lines of the step that failed.
    pub(super) lines: Option<String>,
    /// When it ended.
    pub(super) ended: Option<Timestamp>,
    /// When to check again even if nothing changes.
    pub(super) next: Option<Timestamp>,
    /// Whether the pod is to be deleted because it can never run.
    pub(super) stop: bool,
}

impl Standing {
    pub(super) fn new(phase: BuildPhase, reason: &'static str, says: impl Into<String>) -> Self {
        Self {
            phase,
            reason,
            says: says.into(),
            lines: None,
            ended: None,
            next: None,
            stop: false,
        }
    }

    fn failed(reason: &'static str, says: impl Into<String>) -> Self {
        Self::new(BuildPhase::Failed, reason, says)
    }
}

/// What is known about a run.
pub(super) struct RunFacts<'a> {
    pub(super) job: &'a Job,
    pub(super) pod: Option<&'a Pod>,
    /// The report of the step `push`, which arrives before the pod shows that the step has ended.
    pub(super) told: Option<&'a Told>,
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
    pub(super) fn standing(&self) -> Standing {
        let Some(pod) = self.pod else {
            return self.without_pod();
        };
        match phase_of(pod) {
            "Failed" => self.failed(pod),
            "Succeeded" => succeeded(pod, self.told),
            // The last container has succeeded. The container's own status shows that up to a second
            // later; the pod's phase and its Job show it seconds later, when the sandbox is gone.
            _ if has_pushed(pod) || self.told.is_some() => succeeded(pod, self.told),
            _ => match job_failure(self.job) {
                Some(failure) => self.job_failed(failure, Some(pod)),
                None => self.running(pod),
            },
        }
    }

    fn without_pod(&self) -> Standing {
        if let Some(failure) = job_failure(self.job) {
            return self.job_failed(failure, None);
        }
        if has_condition(self.job, "Complete") {
            let says = "the Job completed, but its pod with the report is gone";
            return Standing::failed(reason::POD_LOST, says);
        }
        let began = self
            .job
            .status
            .as_ref()
            .and_then(|it| it.start_time.as_ref());
        let due = began.and_then(|began| began.0.checked_add(UNTIL_POD).ok());
        let name = self.job.metadata.name.as_deref().unwrap_or_default();
        if due.is_some_and(|due| due <= self.now) {
            let says = format!(
                "the Job has no pod: `kubectl describe job {name}` shows why, such as a quota or a \
                 Pod Security level"
            );
            return Standing::new(BuildPhase::Pending, reason::NO_POD, says);
        }
        let mut standing = Standing::new(BuildPhase::Pending, reason::RUNNING, "the Job begins");
        standing.next = due;
        standing
    }

    fn job_failed(&self, failure: &str, pod: Option<&Pod>) -> Standing {
        if failure == "DeadlineExceeded" {
            return self.timed_out(pod);
        }
        let why = pod.and_then(disruption);
        let says = why.unwrap_or_else(|| "the pod of the run is gone".to_owned());
        Standing::failed(reason::POD_LOST, says)
    }

    fn timed_out(&self, pod: Option<&Pod>) -> Standing {
        // The step that ran was killed, and looks like one that failed.
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
        let says = format!("the run did not end within {}{during}{why}", self.timeout);
        Standing {
            lines: killed.and_then(|(_, ended)| lines(ended)),
            ..Standing::failed(reason::TIMED_OUT, says)
        }
    }

    /// What a run waited for that never began. At the end its pod may be gone.
    fn waited_for(&self) -> Option<String> {
        let before = self.before?;
        let is_wait = reason::KEEPS_FROM_RUNNING.contains(&before.reason.as_str());
        is_wait.then(|| before.message.clone())
    }

    fn failed(&self, pod: &Pod) -> Standing {
        let status = pod.status.as_ref();
        let text = |it: Option<&String>| it.cloned().unwrap_or_default();
        let why = text(status.and_then(|it| it.reason.as_ref()));
        let mut standing = match why.as_str() {
            "DeadlineExceeded" => self.timed_out(Some(pod)),
            "Evicted" => {
                let message = masked(&text(status.and_then(|it| it.message.as_ref())));
                Standing::failed(
                    reason::EVICTED,
                    format!("the node evicted the pod: {message}"),
                )
            }
            _ => {
                if let Some((step, ended)) = failed_step(pod) {
                    step_failed(step, ended)
                } else {
                    let message = text(status.and_then(|it| it.message.as_ref()));
                    let said = [why, message].into_iter().filter(|it| !it.is_empty());
                    let said = said.collect::<Vec<_>>().join(": ");
                    let why = disruption(pod).unwrap_or(said);
                    Standing::failed(reason::POD_LOST, format!("the pod failed: {why}"))
                }
            }
        };
        standing.ended = last_end(pod);
        standing
    }

    fn running(&self, pod: &Pod) -> Standing {
        if let Some(step) = current_step(pod) {
            let phase = match step {
                Step::Fetch => BuildPhase::Fetching,
                Step::Build => BuildPhase::Building,
                Step::Push => BuildPhase::Pushing,
            };
            let Some((why, says)) = waiting(pod) else {
                return Standing::new(
                    phase,
                    reason::RUNNING,
                    format!("the step {} runs", step.name()),
                );
            };
            return Standing::new(phase, why, says);
        }
        if let Some(why) = unschedulable(pod) {
            let says = format!("no node can run the pod: {}", masked(why));
            return Standing::new(BuildPhase::Pending, reason::UNSCHEDULABLE, says);
        }
        if let Some((why, says)) = waiting(pod) {
            return Standing::new(BuildPhase::Pending, why, says);
        }
        self.starting(pod)
    }

    /// The state of a run whose pod has not yet run anything.
    fn starting(&self, pod: &Pod) -> Standing {
        let spec = pod.spec.as_ref();
        let wants_users = spec.is_some_and(|spec| spec.host_users == Some(false));
        let has_class = spec.is_some_and(|spec| spec.runtime_class_name.is_some());
        let support = self.node.and_then(user_namespaces);
        if wants_users && !has_class && support == Some(false) {
            let node = spec
                .and_then(|spec| spec.node_name.as_deref())
                .unwrap_or_default();
            let says = format!(
                "the container runtime of node {node} has no user namespaces: choose nodes that have \
                 them with build.nodeSelector, or let the build run as root of the node with \
                 build.hostUsers: true"
            );
            let mut standing = Standing::failed(reason::NO_USER_NAMESPACES, says);
            standing.stop = true;
            return standing;
        }
        let began = pod.status.as_ref().and_then(|it| it.start_time.as_ref());
        let due = began.and_then(|began| began.0.checked_add(UNTIL_SANDBOX).ok());
        if let Some(due) = due
            && pod_condition(pod, "PodReadyToStartContainers").is_none_or(|it| it.status != "True")
        {
            if due <= self.now {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let says = format!(
                    "the node does not start the pod: `kubectl describe pod {name}` shows why, \
                     such as a missing volume or a runtime without user namespaces"
                );
                return Standing::new(BuildPhase::Pending, reason::NOT_STARTED, says);
            }
            let mut standing =
                Standing::new(BuildPhase::Pending, reason::RUNNING, "the pod starts");
            standing.next = Some(due);
            return standing;
        }
        Standing::new(BuildPhase::Pending, reason::RUNNING, "the pod starts")
    }
}

fn step_failed(step: Step, ended: &ContainerStateTerminated) -> Standing {
    let reason = match step {
        Step::Fetch => reason::FETCH_FAILED,
        Step::Build => reason::BUILD_FAILED,
        Step::Push => reason::PUSH_FAILED,
    };
    let name = step.name();
    let code = ended.exit_code;
    let says = match ended.reason.as_deref() {
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
        Step::Fetch | Step::Push => in_cluster(&lines, Means::Build),
        // The words of the user's container.
        Step::Build => lines,
    });
    Standing {
        lines,
        ..Standing::failed(reason, says)
    }
}

fn succeeded(pod: &Pod, told: Option<&Told>) -> Standing {
    let mut standing = match push_report(pod, told) {
        None => Standing::failed(
            reason::PUSH_FAILED,
            "the step push ended without a report of what it pushed",
        ),
        Some(report) => {
            let failed = |it: &&contract::PushedOutput| it.state == contract::OutputState::Failed;
            match report.outputs.iter().find(failed) {
                None => Standing::new(
                    BuildPhase::Succeeded,
                    reason::SUCCEEDED,
                    format!("the image {} is pushed", report.digest),
                ),
                Some(output) => Standing {
                    lines: output.message.as_deref().map(advised),
                    ..Standing::failed(
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
    standing.ended = last_end(pod).max(told.map(|it| it.at));
    standing
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
