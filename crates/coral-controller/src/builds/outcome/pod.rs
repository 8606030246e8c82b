//! The state of the steps, read from a pod.

use coral_build::contract::Step;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStatus, Node, Pod, PodCondition,
};

use super::text::masked;
use crate::builds::reason;

pub(super) fn phase_of(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|it| it.phase.as_deref())
        .unwrap_or_default()
}

/// The status of a step's container.
pub(super) fn container(pod: &Pod, step: Step) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = match step {
        Step::Fetch | Step::Build => &status.init_container_statuses,
        Step::Push => &status.container_statuses,
    };
    all.iter().flatten().find(|it| it.name == step.name())
}

pub(super) fn terminated(pod: &Pod, step: Step) -> Option<&ContainerStateTerminated> {
    container(pod, step)?.state.as_ref()?.terminated.as_ref()
}

/// The step that runs, or that is next once an earlier one has ended.
pub(super) fn current_step(pod: &Pod) -> Option<Step> {
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

/// Why a container waits, if it waits for something that a person can change.
pub(super) fn waiting(pod: &Pod) -> Option<(&'static str, String)> {
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
                let message =
                    format!("the image of the step {name} cannot be pulled: {why}: {message}");
                return Some((reason::IMAGE_PULL, message));
            }
            "" | "PodInitializing" | "ContainerCreating" => {}
            _ => {
                let message = format!("the step {name} cannot start: {why}: {message}");
                return Some((reason::NOT_STARTED, message));
            }
        }
    }
    None
}

pub(super) fn unschedulable(pod: &Pod) -> Option<&str> {
    let condition = pod_condition(pod, "PodScheduled")?;
    let is_so = condition.status == "False";
    is_so.then(|| condition.message.as_deref().unwrap_or_default())
}

pub(super) fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|it| it.type_ == kind)
}

/// Why something other than the build ended the pod.
pub(super) fn disruption(pod: &Pod) -> Option<String> {
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
pub(super) fn failed_step(pod: &Pod) -> Option<(Step, &ContainerStateTerminated)> {
    let mut ended = Step::ALL
        .into_iter()
        .filter_map(|step| Some((step, terminated(pod, step)?)));
    ended.find(|(_, it)| it.exit_code != 0)
}

/// When the last step that has ended did so.
pub(super) fn last_end(pod: &Pod) -> Option<Timestamp> {
    let ends = Step::ALL
        .into_iter()
        .filter_map(|step| terminated(pod, step));
    ends.filter_map(|it| it.finished_at.as_ref().map(|at| at.0))
        .max()
}

/// Whether nothing of the pod runs any more.
pub(in crate::builds) fn has_ended(pod: &Pod) -> bool {
    matches!(phase_of(pod), "Succeeded" | "Failed") || has_pushed(pod)
}

/// Whether the last step has ended without an error.
pub(in crate::builds) fn has_pushed(pod: &Pod) -> bool {
    terminated(pod, Step::Push).is_some_and(|ended| ended.exit_code == 0)
}

/// Whether the default runtime of the node has user namespaces; `None` if the node does not say.
pub(super) fn user_namespaces(node: &Node) -> Option<bool> {
    let handlers = node.status.as_ref()?.runtime_handlers.as_ref()?;
    let is_default = |name: Option<&str>| name.unwrap_or_default().is_empty();
    let default = handlers.iter().find(|it| is_default(it.name.as_deref()))?;
    let features = default.features.as_ref()?;
    Some(features.user_namespaces.unwrap_or_default())
}
