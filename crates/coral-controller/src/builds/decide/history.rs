//! Which Jobs of ended runs are kept.

use std::sync::Arc;

use coral_api::image_build::BuildPhase;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt as _;

use super::{Action, Planner, is_suspended};
use crate::ObjectKey;
use crate::builds::{names, outcome};

impl Planner<'_> {
    /// Deletes the oldest Jobs beyond those that are kept. The Job of the current run is always kept.
    pub(super) fn forget_history(&mut self, phase: Option<BuildPhase>) {
        let (kept_succeeded, kept_failed) = self.input.build.spec.kept_runs();
        let others = self.input.jobs.iter();
        let others = others.filter(|job| names::run_of(job) != Some(self.key));
        let mut others: Vec<&Arc<Job>> = others.filter(|job| has_job_ended(job)).collect();
        others.sort_by_key(|job| {
            std::cmp::Reverse(job.metadata.creation_timestamp.as_ref().map(|it| it.0))
        });
        let succeeded = phase == Some(BuildPhase::Succeeded);
        let mut room = [
            kept_succeeded.saturating_sub(usize::from(succeeded)),
            kept_failed.saturating_sub(usize::from(!succeeded)),
        ];
        for job in others {
            let room = &mut room[usize::from(!outcome::has_condition(job, "Complete"))];
            match room.checked_sub(1) {
                Some(rest) => *room = rest,
                None => self.actions.push(delete(job)),
            }
        }
    }
}

/// Whether a Job will not run any more. A Job that is suspended after it ran was cancelled. A Job that
/// never ran has the condition `Suspended` as well, and does not count as a run.
pub(in crate::builds) fn has_job_ended(job: &Job) -> bool {
    has_job_ended_by_itself(job) || (is_suspended(job) && names::was_let_run(job))
}

pub(super) fn has_job_ended_by_itself(job: &Job) -> bool {
    outcome::has_condition(job, "Complete") || outcome::has_condition(job, "Failed")
}

/// Deletes exactly this Job, and not one that has its name later.
pub(super) fn delete(job: &Arc<Job>) -> Action {
    let uid = job.uid().unwrap_or_default();
    Action::Delete(ObjectKey::from_object(job.as_ref()), uid)
}
