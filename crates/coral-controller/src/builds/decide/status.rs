//! The status that follows from a decision.

use coral_api::conditions::{self, ConditionUpdate, Truth, cut, kind};
use coral_api::image_build::{BuildPhase, ImageBuild, ImageBuildStatus};
use coral_api::metadata::time;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Come, Deciding};
use crate::builds::reason;

/// Bytes of `status.message`.
const MAX_MESSAGE: usize = 2048;

impl Deciding<'_> {
    /// Since when the run waits for a slot. It keeps its place in the queue when it waits for something
    /// else in between, or when its spec is changed. A suspended build gives its place up.
    fn note_queue(&self, conditions: &mut Vec<Condition>, come: &Come) {
        let standing = &come.standing;
        let has_turn = come.job.is_none() && !standing.phase.is_final();
        if !has_turn || self.seen.build.spec.suspend {
            conditions.retain(|it| it.type_ != kind::IN_QUEUE);
        } else if standing.reason == reason::QUEUED {
            let saying = ConditionUpdate {
                kind: kind::IN_QUEUE,
                truth: Truth::True,
                reason: reason::QUEUED,
                message: "the run has waited since this time; the run that has waited longest \
                          begins next",
            };
            let generation = self.seen.build.metadata.generation;
            conditions::set(conditions, &saying, generation, self.seen.now);
        }
    }

    pub(super) fn said(&self, come: &Come) -> ImageBuildStatus {
        let seen = self.seen;
        let generation = seen.build.metadata.generation;
        let before = self.status();
        let same_run = before.filter(|it| it.run.as_deref() == Some(self.key));
        let standing = &come.standing;
        let mut conditions = before
            .and_then(|it| it.conditions.clone())
            .unwrap_or_default();
        let saying = ConditionUpdate {
            kind: kind::READY,
            truth: Truth::from(standing.phase == BuildPhase::Succeeded),
            reason: standing.reason,
            message: &standing.says,
        };
        conditions::set(&mut conditions, &saying, generation, seen.now);
        self.note_queue(&mut conditions, come);
        let started = same_run.and_then(|it| it.start_time.clone());
        let started = started.or_else(|| come.started.map(time));
        let completed = same_run.and_then(|it| it.completion_time.clone());
        let ended = standing.ended.unwrap_or(seen.now);
        let completed = completed.or_else(|| standing.phase.is_final().then(|| time(ended)));
        let reports = come.reports.clone();
        ImageBuildStatus {
            observed_generation: generation,
            phase: Some(standing.phase),
            // No run is recorded before it begins: the spec of a waiting build may still change.
            run: (come.job.is_some() || standing.phase.is_final()).then(|| self.key.to_owned()),
            job: come.job.clone(),
            digest: reports.digest,
            source: reports.source,
            outputs: reports.outputs,
            bytes: reports.bytes,
            durations: reports.durations,
            start_time: started,
            completion_time: completed,
            message: standing.lines.as_deref().map(|it| cut(it, MAX_MESSAGE)),
            conditions: Some(conditions),
        }
    }
}

/// The status after a refused request: the run is as far as it was before.
pub(in crate::builds) fn troubled(
    build: &ImageBuild,
    says: &str,
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
    let saying = ConditionUpdate {
        kind: kind::READY,
        truth: Truth::False,
        reason: reason::APPLY_FAILED,
        message: says,
    };
    conditions::set(&mut conditions, &saying, generation, now);
    status.conditions = Some(conditions);
    status
}
