//! The status that follows from a decision.

use coral_api::conditions::{self, ConditionUpdate, Truth, cut, kind};
use coral_api::image_build::{BuildPhase, ImageBuild, ImageBuildStatus};
use coral_api::metadata::time;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Planner, RunDecision};
use crate::builds::reason;

/// Bytes of `status.message`.
const MAX_MESSAGE: usize = 2048;

impl Planner<'_> {
    /// Updates the condition that records since when the run has waited for a slot. A run keeps its
    /// place in the queue while it waits for something else, and when its spec changes. A suspended
    /// build gives up its place.
    fn update_queue_condition(&self, conditions: &mut Vec<Condition>, decision: &RunDecision) {
        let state = &decision.state;
        let may_queue = decision.job.is_none() && !state.phase.is_final();
        if !may_queue || self.input.build.spec.suspend {
            conditions.retain(|it| it.type_ != kind::IN_QUEUE);
        } else if state.reason == reason::QUEUED {
            let update = ConditionUpdate {
                kind: kind::IN_QUEUE,
                truth: Truth::True,
                reason: reason::QUEUED,
                message: "the run has waited since this time; the run that has waited longest \
                          begins next",
            };
            let generation = self.input.build.metadata.generation;
            conditions::set(conditions, &update, generation, self.input.now);
        }
    }

    pub(super) fn new_status(&self, decision: &RunDecision) -> ImageBuildStatus {
        let input = self.input;
        let generation = input.build.metadata.generation;
        let before = self.status();
        let same_run = before.filter(|it| it.run.as_deref() == Some(self.key));
        let state = &decision.state;
        let mut conditions = before
            .and_then(|it| it.conditions.clone())
            .unwrap_or_default();
        let update = ConditionUpdate {
            kind: kind::READY,
            truth: Truth::from(state.phase == BuildPhase::Succeeded),
            reason: state.reason,
            message: &state.message,
        };
        conditions::set(&mut conditions, &update, generation, input.now);
        self.update_queue_condition(&mut conditions, decision);
        let started = same_run.and_then(|it| it.start_time.clone());
        let started = started.or_else(|| decision.started.map(time));
        let completed = same_run.and_then(|it| it.completion_time.clone());
        let ended = state.ended.unwrap_or(input.now);
        let completed = completed.or_else(|| state.phase.is_final().then(|| time(ended)));
        let reports = decision.reports.clone();
        ImageBuildStatus {
            observed_generation: generation,
            phase: Some(state.phase),
            // No run is recorded before it begins: the spec of a waiting build may still change.
            run: (decision.job.is_some() || state.phase.is_final()).then(|| self.key.to_owned()),
            job: decision.job.clone(),
            digest: reports.digest,
            source: reports.source,
            outputs: reports.outputs,
            bytes: reports.bytes,
            durations: reports.durations,
            start_time: started,
            completion_time: completed,
            message: state.lines.as_deref().map(|it| cut(it, MAX_MESSAGE)),
            conditions: Some(conditions),
        }
    }
}

/// The status after a refused request: the progress of the run stays, with the failure as its
/// condition.
pub(in crate::builds) fn failure_status(
    build: &ImageBuild,
    message: &str,
    now: Timestamp,
) -> ImageBuildStatus {
    let key = build.spec.run_key();
    let before = build.status.clone().unwrap_or_default();
    let is_of_run = before.run.as_ref() == Some(&key);
    let mut status = if is_of_run {
        before
    } else {
        ImageBuildStatus {
            conditions: before.conditions,
            ..ImageBuildStatus::default()
        }
    };
    let generation = build.metadata.generation;
    status.observed_generation = generation;
    status.phase = status.phase.or(Some(BuildPhase::Pending));
    let mut conditions = status.conditions.take().unwrap_or_default();
    let update = ConditionUpdate {
        kind: kind::READY,
        truth: Truth::False,
        reason: reason::APPLY_FAILED,
        message,
    };
    conditions::set(&mut conditions, &update, generation, now);
    status.conditions = Some(conditions);
    status
}
