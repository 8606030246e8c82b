//! What keeps a build from becoming a Job.

use std::time::Duration;

use coral_api::image_build::BuildSettings;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;

use super::{Planner, RegistryReadiness, RunDecision};
use crate::builds::job::PodSecurity;
use crate::builds::names::is_like_a_host;
use crate::builds::reason;
use crate::permission::Rights;

/// The label by which a namespace says which pods it admits.
pub(super) const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Pause before another look at a build that waits for an object that no watch covers.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

impl Planner<'_> {
    /// What stands in the way of a run.
    pub(super) fn obstacle(&self, settings: &BuildSettings) -> Option<RunDecision> {
        let input = self.input;
        let namespace = input.build.namespace().unwrap_or_default();
        let (of, name) = &settings.registry;
        if is_like_a_host(&namespace) {
            let message = format!(
                "{namespace}/ is reserved for images of a mirrored registry with that name: build \
                 in a namespace whose name cannot be a host"
            );
            return Some(RunDecision::pending(reason::NOT_ALLOWED, message));
        }
        let (reason, message) = match input.registry {
            RegistryReadiness::Missing => (
                reason::NO_REGISTRY,
                format!("there is no Registry {name} in namespace {of}"),
            ),
            RegistryReadiness::NotAllowed => (
                reason::NOT_ALLOWED,
                format!(
                    "the Registry {of}/{name} accepts no builds from namespace {namespace}: its \
                     builds.allowFrom has to select the namespace"
                ),
            ),
            _ if input.rights == Rights::Refused => (reason::NOT_GRANTED, not_granted(&namespace)),
            RegistryReadiness::NotReady => (
                reason::REGISTRY_NOT_READY,
                format!("the Registry {of}/{name} is not ready"),
            ),
            RegistryReadiness::Ready => {
                return self.other_obstacle();
            }
        };
        Some(RunDecision::pending(reason, message))
    }

    /// The Pod Security level that the namespace enforces.
    pub(super) fn level(&self) -> PodSecurity {
        match self.input.labels.get(POD_SECURITY).map(String::as_str) {
            Some("restricted") => PodSecurity::Restricted,
            _ => PodSecurity::Baseline,
        }
    }

    fn other_obstacle(&self) -> Option<RunDecision> {
        let input = self.input;
        let step = input.build.spec.build.as_ref();
        let names_image = step.is_some_and(|step| step.image.is_some());
        if self.level() == PodSecurity::Restricted && !names_image {
            let message = "the namespace enforces the Pod Security level restricted, and the offered builder \
                        needs baseline: name a build.image that builds without root, or build in \
                        another namespace";
            return Some(RunDecision::pending(reason::POD_SECURITY, message));
        }
        if input.rights == Rights::Unknown {
            let message = "Coral does not know yet whether it may run builds in the namespace";
            return Some(RunDecision::pending(reason::WAITING, message));
        }
        if input.ca.is_none() {
            return Some(RunDecision::pending(
                reason::WAITING,
                "Coral has no certificates yet",
            ));
        }
        let foreign = input.foreign.as_ref()?;
        let name = foreign.name_any();
        let message = if foreign.metadata.deletion_timestamp.is_some() || is_of_a_build(foreign) {
            format!("the Job {name} of an earlier build with this name still exists")
        } else {
            format!(
                "the Job {name} was not made for this build: delete that Job, or rename the build"
            )
        };
        let mut decision = RunDecision::pending(reason::NAME_TAKEN, message);
        decision.state.next = input.now.checked_add(RECHECK_INTERVAL).ok();
        Some(decision)
    }
}

pub(super) fn not_granted(namespace: &str) -> String {
    format!(
        "Coral may not run builds in namespace {namespace}: an administrator of the cluster allows it \
         with `coral grant --builds {namespace} | kubectl apply -f -`"
    )
}

/// Whether a Job's owner is an ImageBuild, whichever one.
fn is_of_a_build(job: &Job) -> bool {
    let mut owners = job.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == coral_api::names::kind::IMAGE_BUILD)
}
