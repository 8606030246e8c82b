//! How far a run is, from its Job and pod: pure.

use std::sync::LazyLock;
use std::time::Duration;

use coral_api::conditions::cut;
use coral_api::image_build::{
    BuildBytes, BuildDurations, BuildPhase, BuiltOutput, BuiltSource, OutputState,
};
use coral_build::contract::{self, FetchReport, PushReport, Step};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use regex::Regex;

use super::reason;

/// Bytes of `status.message`.
const MAX_MESSAGE: usize = 2048;
/// Bytes of the message of an output.
const MAX_OUTPUT_MESSAGE: usize = 1024;
/// A Job that runs has a pod after this time, unless something refuses the pod.
const UNTIL_POD: Duration = Duration::from_secs(20);
/// A pod on a node has its sandbox after this time, unless the node cannot make it.
const UNTIL_SANDBOX: Duration = Duration::from_secs(45);

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) phase: BuildPhase,
    /// The reason of the condition `Ready`.
    pub(super) reason: &'static str,
    /// What the condition says.
    pub(super) says: String,
    /// The last lines of the step that failed.
    pub(super) lines: Option<String>,
    /// When it ended.
    pub(super) ended: Option<Timestamp>,
    /// When to look again though nothing changes.
    pub(super) next: Option<Timestamp>,
    /// Whether the pod is to be deleted, since it can never run.
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

/// What the steps reported, as far as they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reports {
    pub(super) source: Option<BuiltSource>,
    pub(super) digest: Option<String>,
    pub(super) outputs: Option<Vec<BuiltOutput>>,
    pub(super) bytes: Option<BuildBytes>,
    pub(super) durations: Option<BuildDurations>,
}

/// A run as it is seen.
pub(super) struct Seen<'a> {
    pub(super) job: &'a Job,
    pub(super) pod: Option<&'a Pod>,
    /// The node that the pod is on.
    pub(super) node: Option<&'a Node>,
    /// What the condition `Ready` said of the run before.
    pub(super) before: Option<&'a Condition>,
    /// How long the run may take, in words.
    pub(super) timeout: String,
    pub(super) now: Timestamp,
}

impl Seen<'_> {
    /// How the run stands.
    pub(super) fn standing(&self) -> Standing {
        let Some(pod) = self.pod else {
            return self.without_pod();
        };
        match phase_of(pod) {
            "Failed" => self.failed(pod),
            "Succeeded" => succeeded(pod),
            // The last container has ended well. The pod's phase and its Job say so seconds later,
            // when the sandbox is gone.
            _ if has_pushed(pod) => succeeded(pod),
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
                "the Job has no pod: `kubectl describe job {name}` says why, such as a quota or a \
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

    /// What a run waited for of which nothing has begun. At the end its pod may be gone.
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

    /// A pod of which nothing ran yet.
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
                    "the node does not start the pod: `kubectl describe pod {name}` says why, such as a \
                     volume that is missing or a runtime without user namespaces"
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

fn phase_of(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|it| it.phase.as_deref())
        .unwrap_or_default()
}

/// The status of a step's container.
fn container(pod: &Pod, step: Step) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = match step {
        Step::Fetch | Step::Build => &status.init_container_statuses,
        Step::Push => &status.container_statuses,
    };
    all.iter().flatten().find(|it| it.name == step.name())
}

fn terminated(pod: &Pod, step: Step) -> Option<&ContainerStateTerminated> {
    container(pod, step)?.state.as_ref()?.terminated.as_ref()
}

/// The step that runs, or that is next once an earlier one has ended.
fn current_step(pod: &Pod) -> Option<Step> {
    let mut has_begun = false;
    for step in Step::ALL {
        let state = container(pod, step).and_then(|it| it.state.as_ref());
        let runs = state.is_some_and(|it| it.running.is_some());
        let has_ended = state.is_some_and(|it| it.terminated.is_some());
        if runs || (has_begun && !has_ended) {
            return Some(step);
        }
        has_begun |= has_ended;
    }
    None
}

/// Why a container waits, if it does for a reason that a person can do something about.
fn waiting(pod: &Pod) -> Option<(&'static str, String)> {
    for step in Step::ALL {
        let state = container(pod, step).and_then(|it| it.state.as_ref());
        let Some(waiting) = state.and_then(|it| it.waiting.as_ref()) else {
            continue;
        };
        let why = waiting.reason.as_deref().unwrap_or_default();
        let message = masked(waiting.message.as_deref().unwrap_or_default());
        let name = step.name();
        match why {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                let says =
                    format!("the image of the step {name} cannot be pulled: {why}: {message}");
                return Some((reason::IMAGE_PULL, says));
            }
            "" | "PodInitializing" | "ContainerCreating" => {}
            _ => {
                let says = format!("the step {name} cannot start: {why}: {message}");
                return Some((reason::NOT_STARTED, says));
            }
        }
    }
    None
}

fn unschedulable(pod: &Pod) -> Option<&str> {
    let condition = pod_condition(pod, "PodScheduled")?;
    let is_so = condition.status == "False";
    is_so.then(|| condition.message.as_deref().unwrap_or_default())
}

fn pod_condition<'a>(
    pod: &'a Pod,
    kind: &str,
) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|it| it.type_ == kind)
}

/// Why something other than the build ended the pod.
fn disruption(pod: &Pod) -> Option<String> {
    let condition = pod_condition(pod, "DisruptionTarget").filter(|it| it.status == "True")?;
    let why = condition.reason.as_deref().unwrap_or_default();
    let message = condition.message.as_deref().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node = node.map_or_else(String::new, |node| format!(" on node {node}"));
    Some(format!(
        "the pod{node} was ended from outside: {why}: {message}"
    ))
}

/// The first step that failed.
fn failed_step(pod: &Pod) -> Option<(Step, &ContainerStateTerminated)> {
    let mut ended = Step::ALL
        .into_iter()
        .filter_map(|step| Some((step, terminated(pod, step)?)));
    ended.find(|(_, it)| it.exit_code != 0)
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
    Standing {
        lines: lines(ended),
        ..Standing::failed(reason, says)
    }
}

/// The last lines of a step, without what looks like a credential. The report of a push that was killed
/// is none.
fn lines(ended: &ContainerStateTerminated) -> Option<String> {
    let message = ended.message.as_deref().unwrap_or_default();
    if serde_json::from_str::<PushReport>(message).is_ok() {
        return None;
    }
    let lines = masked(message);
    let lines = last(lines.trim(), MAX_MESSAGE);
    (!lines.is_empty()).then_some(lines)
}

fn succeeded(pod: &Pod) -> Standing {
    let mut standing = match push_report(pod) {
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
                    lines: output.message.as_deref().map(masked),
                    ..Standing::failed(
                        reason::ALSO_TO_FAILED,
                        format!(
                            "the image {} is pushed inside, but not to {}",
                            report.digest, output.reference
                        ),
                    )
                },
            }
        }
    };
    standing.ended = last_end(pod);
    standing
}

/// Whether the last step has ended without an error.
pub(super) fn has_pushed(pod: &Pod) -> bool {
    terminated(pod, Step::Push).is_some_and(|ended| ended.exit_code == 0)
}

fn push_report(pod: &Pod) -> Option<PushReport> {
    let message = terminated(pod, Step::Push)?.message.as_deref()?;
    serde_json::from_str(message).ok()
}

/// When the last of the steps ended that did.
fn last_end(pod: &Pod) -> Option<Timestamp> {
    let ends = Step::ALL
        .into_iter()
        .filter_map(|step| terminated(pod, step));
    ends.filter_map(|it| it.finished_at.as_ref().map(|at| at.0))
        .max()
}

/// What the steps of the pod reported.
pub(super) fn reports(pod: &Pod) -> Reports {
    let fetched = terminated(pod, Step::Fetch).filter(|it| it.exit_code == 0);
    let fetched = fetched.and_then(|it| it.message.as_deref());
    let fetched = fetched.and_then(|text| serde_json::from_str::<FetchReport>(text).ok());
    let pushed = push_report(pod);
    Reports {
        source: fetched.map(|it| BuiltSource {
            commit: it.commit.map(|commit| cut(&commit, 64)),
            bytes: i64::try_from(it.bytes).ok(),
        }),
        digest: pushed.as_ref().map(|it| cut(&it.digest, 200)),
        bytes: pushed.as_ref().map(|it| BuildBytes {
            pushed: i64::try_from(it.bytes.pushed).ok(),
            mounted: i64::try_from(it.bytes.mounted).ok(),
        }),
        outputs: pushed.map(|it| it.outputs.into_iter().map(output).collect()),
        durations: durations(pod),
    }
}

fn output(pushed: contract::PushedOutput) -> BuiltOutput {
    BuiltOutput {
        reference: cut(&pushed.reference, 700),
        digest: pushed.digest.map(|digest| cut(&digest, 200)),
        state: match pushed.state {
            contract::OutputState::Pushed => OutputState::Pushed,
            contract::OutputState::Failed => OutputState::Failed,
        },
        message: pushed
            .message
            .map(|message| cut(&masked(&message), MAX_OUTPUT_MESSAGE)),
    }
}

fn durations(pod: &Pod) -> Option<BuildDurations> {
    let took = |step| {
        let ended = terminated(pod, step)?;
        let (began, ended) = (ended.started_at.as_ref()?, ended.finished_at.as_ref()?);
        // A container that never started is said to have in 1970.
        (began.0 > Timestamp::UNIX_EPOCH).then_some(())?;
        let seconds = ended.0.as_second().saturating_sub(began.0.as_second());
        Some(words(u64::try_from(seconds).unwrap_or_default()))
    };
    let durations = BuildDurations {
        fetch: took(Step::Fetch),
        build: took(Step::Build),
        push: took(Step::Push),
    };
    (durations != BuildDurations::default()).then_some(durations)
}

/// `3s`, `2m5s`, `1h0m3s`.
pub(super) fn words(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
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

/// Whether the default runtime of the node has user namespaces; `None` if the node does not say.
fn user_namespaces(node: &Node) -> Option<bool> {
    let handlers = node.status.as_ref()?.runtime_handlers.as_ref()?;
    let is_default = |name: Option<&str>| name.unwrap_or_default().is_empty();
    let default = handlers.iter().find(|it| is_default(it.name.as_deref()))?;
    let features = default.features.as_ref()?;
    Some(features.user_namespaces.unwrap_or_default())
}

/// Text without what looks like a credential, since a step's output is shown to everybody who may read the
/// object, and without control characters, since it is shown on terminals.
pub(super) fn masked(text: &str) -> String {
    static SECRETS: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
        let compiled = |pattern| Regex::new(pattern).expect("a fixed pattern");
        [
            (compiled(r"(://)[^/\s@]*:[^/\s@]*@"), "${1}***@"),
            (
                compiled(
                    r#"(?i)((?:authorization|password|passwd|token|secret)["']?\s*[:=]\s*["']?(?:bearer |basic )?)[^\s"',;&]+"#,
                ),
                "${1}***",
            ),
            (
                compiled(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
                "***",
            ),
        ]
    });
    let shown = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    let mut text: String = text.chars().map(shown).collect();
    for (pattern, instead) in SECRETS.iter() {
        text = pattern.replace_all(&text, *instead).into_owned();
    }
    text
}

/// The end of the text, at most `most` bytes of it.
fn last(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let from = text.ceil_char_boundary(text.len() - most + '…'.len_utf8());
    format!("…{}", &text[from..])
}

#[cfg(test)]
mod tests;
