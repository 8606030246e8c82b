//! Decides what a run with a Job needs next.

use std::sync::Arc;

use coral_api::image_build::{BuildPhase, BuildSettings};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;

use super::history::has_job_ended_by_itself;
use super::obstacle::not_granted;
use super::{Action, Come, Deciding, is_suspended};
use crate::ObjectKey;
use crate::builds::outcome::{self, Reports, RunFacts, Standing};
use crate::builds::reason;
use crate::permission::Rights;

impl Deciding<'_> {
    pub(super) fn with_job(&mut self, job: &Arc<Job>, settings: &BuildSettings) -> Come {
        let seen = self.seen;
        let at = ObjectKey::from_object(job.as_ref());
        let created = job.metadata.creation_timestamp.as_ref().map(|it| it.0);
        let (pod, told) = (seen.pod.as_deref(), seen.told.as_deref());
        let come = |standing| Come {
            job: Some(at.name.clone()),
            started: created,
            reports: pod
                .map(|pod| outcome::reports(pod, told))
                .unwrap_or_default(),
            standing,
        };
        if seen.build.spec.suspend && !has_job_ended_by_itself(job) {
            if !is_suspended(job) {
                self.actions.push(Action::Suspend(at.clone()));
            }
            let says = "suspend is true: set it to false and change rerun to run it again";
            let standing = Standing::new(BuildPhase::Cancelled, reason::CANCELLED, says);
            return come(standing);
        }
        if is_suspended(job) {
            return come(self.start(job, settings));
        }
        let standing = RunFacts {
            job,
            pod,
            told,
            node: seen.node.as_deref(),
            before: self.said_before(),
            timeout: outcome::words(settings.timeout.as_secs()),
            now: seen.now,
        }
        .standing();
        if standing.stop {
            self.actions.push(Action::Suspend(at.clone()));
        }
        let mut come = come(standing);
        self.publish(settings, &mut come);
        come
    }

    /// Starts a Job if its pod is stored as it was requested.
    fn start(&mut self, job: &Arc<Job>, settings: &BuildSettings) -> Standing {
        let seen = self.seen;
        let wants_host = seen
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
            let says = "the API server has no user namespaces, so the build would run as root of its \
                        node: allow that with build.hostUsers: true";
            return Standing::new(BuildPhase::Failed, reason::NO_USER_NAMESPACES, says);
        }
        let (Some(around), Some(ca)) = (&seen.around, &seen.ca) else {
            let says = "Coral has no certificates yet";
            return Standing::new(BuildPhase::Pending, reason::WAITING, says);
        };
        let run = self.run(settings, around);
        let config_map = run.config_map(job, &seen.registries_conf, ca);
        self.actions.push(Action::Start {
            job: ObjectKey::from_object(job.as_ref()),
            config_map: Box::new(config_map),
        });
        Standing::new(BuildPhase::Pending, reason::RUNNING, "the Job begins")
    }

    /// The state of a run that has begun and whose Job is missing or cannot be read.
    pub(super) fn job_is_not_there(&self) -> Option<Come> {
        let status = self.status()?;
        let (phase, reason, says) = match self.seen.rights {
            Rights::Unknown => return None,
            Rights::Refused => {
                let namespace = self.seen.build.namespace().unwrap_or_default();
                let phase = status.phase.unwrap_or(BuildPhase::Pending);
                (phase, reason::NOT_GRANTED, not_granted(&namespace))
            }
            Rights::Granted => {
                let says = "the Job of the run was deleted: change rerun to run it again";
                (BuildPhase::Failed, reason::POD_LOST, says.to_owned())
            }
        };
        Some(Come {
            job: status.job.clone(),
            reports: Reports {
                source: status.source.clone(),
                digest: status.digest.clone(),
                outputs: status.outputs.clone(),
                bytes: status.bytes,
                durations: status.durations.clone(),
            },
            ..Come::without_job(Standing::new(phase, reason, says))
        })
    }
}
