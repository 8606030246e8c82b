//! What a pod may have: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_api::image_build::{BuildPhase, ImageBuild};
use coral_api::names;
use coral_build::contract::Step;
use coral_token::{Action, RepositoryAccess};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt as _};

use super::identity::Identity;
use crate::builds::{accepts_builds_from, is_like_a_host};

/// How long a credential lives.
pub(super) const LIFE: Duration = Duration::from_mins(10);

/// Everything that one decision is made from.
#[derive(Debug, Clone)]
pub(super) struct CredentialFacts {
    /// The pod whose token was sent.
    pub(super) identity: Identity,
    /// For which step a credential is asked.
    pub(super) step: Step,
    /// The pod of that name now.
    pub(super) pod: Option<Pod>,
    /// The Job that the pod says it belongs to.
    pub(super) job: Option<Job>,
    /// The build that the Job says it belongs to.
    pub(super) build: Option<ImageBuild>,
    /// The Registry that the build names.
    pub(super) registry: Option<coral_api::Registry>,
    /// Labels of the build's namespace.
    pub(super) labels: BTreeMap<String, String>,
}

/// What the pod gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    /// The Registry's host.
    pub(super) host: String,
    /// The holder of the credential, for logs: `build/NAMESPACE/NAME/RUN/STEP`.
    pub(super) subject: String,
    /// What it is for.
    pub(super) access: Vec<RepositoryAccess>,
    /// The container that built, for the provenance; `None` before the build has ended.
    pub(super) builder: Option<Builder>,
}

/// The user's container, as the node ran it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Builder {
    /// Its image with the digest that the node resolved.
    pub(super) image: String,
    /// When it began.
    pub(super) started: Option<Timestamp>,
    /// When it ended.
    pub(super) finished: Option<Timestamp>,
}

/// Why the pod gets nothing. Each text says what is wrong, and nothing about other namespaces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    /// The API server does not vouch for the token.
    #[error(
        "the token is not a valid ServiceAccount token for the audience coral.stvz.io: send the one that is mounted into the step"
    )]
    Unauthenticated,
    /// The token is not bound to a pod.
    #[error("the token is not bound to a pod: only steps of builds get a credential")]
    NotAPod,
    /// The pod is not there any more, or another one has its name.
    #[error("the pod that the token belongs to is gone")]
    PodGone,
    /// The pod has ended.
    #[error("the pod has ended")]
    PodEnded,
    /// The pod is not one of a build.
    #[error("the pod is not that of a build: only steps of builds get a credential")]
    NotABuild,
    /// The Job has ended, or is being deleted.
    #[error("the Job of the pod has ended or is being deleted")]
    JobEnded,
    /// The build is being deleted, suspended or over.
    #[error("the build was cancelled, has ended or is being deleted")]
    BuildEnded,
    /// The pod belongs to an earlier run.
    #[error(
        "the build has begun another run, or its spec was changed: this run gets no more \
         credentials"
    )]
    Superseded,
    /// The step has no credential.
    #[error("the step build gets no credential")]
    NoCredential,
    /// The step is over.
    #[error("the step {0} is not the one that runs")]
    Over(&'static str),
    /// The step has not begun, as far as the API server knows.
    #[error("the step {0} does not yet run, according to the API server: ask again in a moment")]
    Early(&'static str),
    /// There is no such Registry.
    #[error("the Registry that the build names does not exist or is being deleted")]
    NoRegistry,
    /// The Registry does not let the namespace build into it.
    #[error(
        "the Registry does not let this namespace build into it: its spec.builds.allowFrom has to select the namespace"
    )]
    NotAllowed,
    /// The name could be that of a registry whose images are mirrored.
    #[error(
        "the name of the namespace could be that of a mirrored registry: its builds would be among \
         mirrored images"
    )]
    HostName,
}

/// Decides what the pod gets.
pub(super) fn decide(facts: &CredentialFacts) -> Result<Granted, Denied> {
    let pod = pod(facts)?;
    let job = job(facts, pod)?;
    let build = build(facts, job)?;
    slot(facts.step, pod)?;
    let host = host(facts, build)?;
    let namespace = &facts.identity.namespace;
    if is_like_a_host(namespace) {
        return Err(Denied::HostName);
    }
    let actions: &[Action] = match facts.step {
        Step::Fetch => &[Action::Pull],
        Step::Push => &[Action::Pull, Action::Push],
        Step::Build => return Err(Denied::NoCredential),
    };
    let run = build.spec.run_key();
    Ok(Granted {
        host,
        subject: format!(
            "build/{namespace}/{}/{run}/{}",
            build.name_any(),
            facts.step.name()
        ),
        access: vec![RepositoryAccess::new(format!("{namespace}/**"), actions)],
        builder: builder(pod),
    })
}

/// The running pod that the token was made for, if it says that it belongs to a build.
fn pod(facts: &CredentialFacts) -> Result<&Pod, Denied> {
    let pod = facts.pod.as_ref().ok_or(Denied::PodGone)?;
    let is_same = pod.metadata.uid.as_deref() == Some(&facts.identity.uid)
        && pod.namespace().as_deref() == Some(&facts.identity.namespace);
    if !is_same || pod.metadata.deletion_timestamp.is_some() {
        return Err(Denied::PodGone);
    }
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Err(Denied::PodEnded);
    }
    if !pod.labels().contains_key(names::build::NAME) {
        return Err(Denied::NotABuild);
    }
    Ok(pod)
}

/// The Job that controls the pod.
fn job<'a>(facts: &'a CredentialFacts, pod: &Pod) -> Result<&'a Job, Denied> {
    let owner = job_of(pod).ok_or(Denied::NotABuild)?;
    let job = facts.job.as_ref().ok_or(Denied::JobEnded)?;
    let is_same = job.metadata.uid.as_deref() == Some(&owner.uid)
        && job.name_any() == owner.name
        && job.namespace().as_deref() == Some(&facts.identity.namespace);
    if !is_same {
        return Err(Denied::NotABuild);
    }
    let conditions = job.status.iter().flat_map(|it| &it.conditions).flatten();
    let has_ended = conditions.into_iter().any(|condition| {
        let is_end = matches!(
            condition.type_.as_str(),
            "Complete" | "Failed" | "SuccessCriteriaMet" | "FailureTarget"
        );
        is_end && condition.status == "True"
    });
    let is_suspended = job.spec.as_ref().and_then(|it| it.suspend) == Some(true);
    if has_ended || is_suspended || job.metadata.deletion_timestamp.is_some() {
        return Err(Denied::JobEnded);
    }
    Ok(job)
}

/// The build whose run the Job is.
fn build<'a>(facts: &'a CredentialFacts, job: &Job) -> Result<&'a ImageBuild, Denied> {
    let owner = build_of(job).ok_or(Denied::NotABuild)?;
    let build = facts.build.as_ref().ok_or(Denied::BuildEnded)?;
    let is_same = build.metadata.uid.as_deref() == Some(&owner.uid)
        && build.name_any() == owner.name
        && build.namespace().as_deref() == Some(&facts.identity.namespace);
    if !is_same {
        return Err(Denied::NotABuild);
    }
    if build.metadata.deletion_timestamp.is_some() || build.spec.suspend {
        return Err(Denied::BuildEnded);
    }
    is_current(facts.step, build, &job.name_any())?;
    match build.status.as_ref().and_then(|status| status.phase) {
        Some(BuildPhase::Succeeded | BuildPhase::Failed | BuildPhase::Cancelled) => {
            Err(Denied::BuildEnded)
        }
        _ => Ok(build),
    }
}

/// Whether the Job is the build's current run. Only the controller writes the status, and it accepts no
/// Job of another name as a run. The status may not show a Job yet that has just begun.
fn is_current(step: Step, build: &ImageBuild, job: &str) -> Result<(), Denied> {
    let key = build.spec.run_key();
    let (named, run) = build.status.as_ref().map_or((None, None), |status| {
        (status.job.as_deref(), status.run.as_deref())
    });
    if named == Some(job) && run == Some(&*key) {
        return Ok(());
    }
    let is_of_this_spec = job.rsplit_once('-').is_some_and(|(_, of)| of == key);
    Err(if is_of_this_spec {
        Denied::Early(step.name())
    } else {
        Denied::Superseded
    })
}

/// The Job that controls this pod, as the pod says.
pub(super) fn job_of(pod: &Pod) -> Option<&OwnerReference> {
    controller(pod, "batch/v1", "Job")
}

/// The build that controls this Job, as the Job says.
pub(super) fn build_of(job: &Job) -> Option<&OwnerReference> {
    controller(job, names::API_VERSION, names::kind::IMAGE_BUILD)
}

fn controller<'a>(
    object: &'a impl Resource,
    api_version: &str,
    kind: &str,
) -> Option<&'a OwnerReference> {
    let mut owners = object.meta().owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true))?;
    let is_of_kind = controller.api_version == api_version && controller.kind == kind;
    is_of_kind.then_some(controller)
}

/// Checks the order of the steps: a step has rights only from its start to its end. The API server
/// may lag behind the node.
fn slot(step: Step, pod: &Pod) -> Result<(), Denied> {
    let name = step.name();
    let fetched = has_ended(initial(pod, Step::Fetch.name()));
    let built = has_ended(initial(pod, Step::Build.name()));
    match step {
        Step::Build => Err(Denied::NoCredential),
        Step::Fetch if fetched.is_some() => Err(Denied::Over(name)),
        Step::Fetch => Ok(()),
        Step::Push => {
            let pushing = pod.status.as_ref().and_then(|status| {
                let containers = status.container_statuses.as_ref()?;
                containers.iter().find(|it| it.name == name)
            });
            if has_ended(pushing).is_some() {
                return Err(Denied::Over(name));
            }
            match (fetched, built) {
                (Some(fetched), Some(built)) if fetched.exit_code == 0 && built.exit_code == 0 => {
                    Ok(())
                }
                (Some(ended), _) | (_, Some(ended)) if ended.exit_code != 0 => {
                    Err(Denied::Over(name))
                }
                _ => Err(Denied::Early(name)),
            }
        }
    }
}

fn initial<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses.iter().find(|it| it.name == name)
}

fn has_ended(status: Option<&ContainerStatus>) -> Option<&ContainerStateTerminated> {
    let ContainerState { terminated, .. } = status?.state.as_ref()?;
    terminated.as_ref()
}

/// The Registry's host, if the namespace may build into it.
fn host(facts: &CredentialFacts, build: &ImageBuild) -> Result<String, Denied> {
    let named = &build.spec.output.registry;
    let registry = facts.registry.as_ref().ok_or(Denied::NoRegistry)?;
    let is_same = registry.name_any() == named.name
        && registry.namespace().as_deref() == Some(&named.namespace);
    if !is_same || registry.metadata.deletion_timestamp.is_some() {
        return Err(Denied::NoRegistry);
    }
    if !accepts_builds_from(registry, &facts.identity.namespace, &facts.labels) {
        return Err(Denied::NotAllowed);
    }
    Ok(names::registry_host(&named.namespace, &named.name))
}

fn builder(pod: &Pod) -> Option<Builder> {
    let status = initial(pod, Step::Build.name())?;
    let ended = has_ended(Some(status))?;
    Some(Builder {
        image: status.image_id.clone(),
        started: ended.started_at.as_ref().map(|it| it.0),
        finished: ended.finished_at.as_ref().map(|it| it.0),
    })
}

#[cfg(test)]
mod tests;
