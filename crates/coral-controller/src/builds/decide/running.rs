//! Decides what a run with a Job needs next.

use std::sync::Arc;

use coral_api::image_build::{BuildPhase, BuildSettings};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;

use super::history::has_job_ended_by_itself;
use super::obstacle::not_granted;
use super::{Action, Planner, RunDecision, is_suspended};
use crate::ObjectKey;
use crate::builds::outcome::{self, Reports, RunFacts, RunState};
use crate::builds::reason;
use crate::permission::Rights;

impl Planner<'_> {
    pub(super) fn with_job(&mut self, job: &Arc<Job>, settings: &BuildSettings) -> RunDecision {
        let input = self.input;
        let at = ObjectKey::from_object(job.as_ref());
        let created = job.metadata.creation_timestamp.as_ref().map(|it| it.0);
        let (pod, push_result) = (input.pod.as_deref(), input.push_result.as_deref());
        let decision = |state| RunDecision {
            job: Some(at.name.clone()),
            started: created,
            reports: pod
                .map(|pod| outcome::reports(pod, push_result))
                .unwrap_or_default(),
            state,
        };
        if input.build.spec.suspend && !has_job_ended_by_itself(job) {
            if !is_suspended(job) {
                self.actions.push(Action::Suspend(at.clone()));
            }
            let message = "suspend is true: set it to false and change rerun to run it again";
            let state = RunState::new(BuildPhase::Cancelled, reason::CANCELLED, message);
            return decision(state);
        }
        if is_suspended(job) {
            return decision(self.start(job, settings));
        }
        let state = RunFacts {
            job,
            pod,
            push_result,
            node: input.node.as_deref(),
            before: self.previous_ready(),
            timeout: outcome::duration_text(settings.timeout.as_secs()),
            now: input.now,
        }
        .state();
        if state.stop {
            self.actions.push(Action::Suspend(at.clone()));
        }
        let mut decision = decision(state);
        self.publish(settings, &mut decision);
        decision
    }

    /// Starts a Job if its pod is stored as it was requested.
    fn start(&mut self, job: &Arc<Job>, settings: &BuildSettings) -> RunState {
        let input = self.input;
        let wants_host = input
            .build
            .spec
            .build
            .as_ref()
            .is_some_and(|it| it.host_users);
        let pod = job
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        let host_users = pod.and_then(|pod| pod.host_users);
        if !wants_host && host_users != Some(false) {
            let message = "the API server has no user namespaces, so the build would run as root of its \
                        node: allow that with build.hostUsers: true";
            return RunState::new(BuildPhase::Failed, reason::NO_USER_NAMESPACES, message);
        }
        let (Some(installation), Some(ca)) = (&input.installation, &input.ca) else {
            let message = "Coral has no certificates yet";
            return RunState::new(BuildPhase::Pending, reason::WAITING, message);
        };
        let run = self.run(settings, installation);
        let config_map = run.config_map(job, &input.registries_conf, ca);
        self.actions.push(Action::Start {
            job: ObjectKey::from_object(job.as_ref()),
            config_map: Box::new(config_map),
        });
        RunState::new(BuildPhase::Pending, reason::RUNNING, "the Job begins")
    }

    /// The state of a run that has begun and whose Job is missing or cannot be read.
    pub(super) fn without_known_job(&self) -> Option<RunDecision> {
        let status = self.status()?;
        let (phase, reason, message) = match self.input.rights {
            Rights::Unknown => return None,
            Rights::Refused => {
                let namespace = self.input.build.namespace().unwrap_or_default();
                let phase = status.phase.unwrap_or(BuildPhase::Pending);
                (phase, reason::NOT_GRANTED, not_granted(&namespace))
            }
            Rights::Granted => {
                let message = "the Job of the run was deleted: change rerun to run it again";
                (BuildPhase::Failed, reason::POD_LOST, message.to_owned())
            }
        };
        Some(RunDecision {
            job: status.job.clone(),
            reports: Reports {
                source: status.source.clone(),
                digest: status.digest.clone(),
                outputs: status.outputs.clone(),
                bytes: status.bytes,
                durations: status.durations.clone(),
            },
            ..RunDecision::without_job(RunState::new(phase, reason, message))
        })
    }
}
