//! Decides what a build needs next. Pure.

mod history;
mod obstacle;
mod publish;
mod running;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::Problem;
use coral_api::conditions::kind;
use coral_api::image_build::{BuildPhase, BuildSettings, ImageBuild, ImageBuildStatus};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde_json::Value;

pub(super) use history::has_job_ended;
pub(super) use status::failure_status;

use history::delete;

use super::job::{Installation, Run};
use super::names;
use super::outcome::{Reports, RunState};
use super::queue::Full;
use super::reason;
use crate::ObjectKey;
use crate::permission::Rights;
use crate::results::PushResult;

/// The input of one decision.
#[derive(Debug, Clone)]
pub(super) struct BuildInput {
    pub(super) build: Arc<ImageBuild>,
    pub(super) rights: Rights,
    /// The Registry that the image goes to.
    pub(super) registry: RegistryReadiness,
    /// The labels of the build's namespace.
    pub(super) labels: BTreeMap<String, String>,
    /// The Jobs that were made for this build.
    pub(super) jobs: Vec<Arc<Job>>,
    /// A Job with the run's name that was not made for this build.
    pub(super) foreign: Option<Arc<Job>>,
    /// The pod of the current run.
    pub(super) pod: Option<Arc<Pod>>,
    /// What the step `push` of that pod reported.
    pub(super) push_result: Option<Arc<PushResult>>,
    /// Runs whose last step has succeeded, even if the Job does not yet show that it is complete.
    pub(super) pushed: BTreeSet<String>,
    /// The node that the pod is on.
    pub(super) node: Option<Arc<Node>>,
    /// The installation's part of a Job; `None` until it is known.
    pub(super) installation: Option<Installation>,
    /// The certificates of Coral's CA; `None` until they are known.
    pub(super) ca: Option<Arc<String>>,
    /// The public paths that the Registry has reported as loaded.
    pub(super) loaded: Option<Arc<BTreeSet<String>>>,
    /// Why no further build may begin.
    pub(super) full: Option<Full>,
    /// Where base images are found.
    pub(super) registries_conf: String,
    pub(super) now: Timestamp,
}

/// The Registry of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegistryReadiness {
    /// It does not exist.
    Missing,
    /// Its `builds.allowFrom` does not select the namespace.
    NotAllowed,
    /// It is not ready.
    NotReady,
    /// It is ready.
    Ready,
}

/// What to do for a build, and its status afterwards.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: ImageBuildStatus,
    /// When to reconcile again even if nothing changes.
    pub(super) next: Option<Timestamp>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Makes the Job, which waits.
    Create(Box<Job>),
    /// Writes the ConfigMap of the run, and lets the Job run.
    Start {
        job: ObjectKey,
        config_map: Box<Value>,
    },
    /// Ends the pod of a Job; the Job stays.
    Suspend(ObjectKey),
    /// Deletes the Job of this uid.
    Delete(ObjectKey, String),
    /// Makes repositories public in the Registry of the build.
    Publish(BTreeSet<String>),
}

impl Plan {
    /// Whether a run begins.
    pub(super) fn begins(&self) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|action| matches!(action, Action::Create(_)))
    }
}

/// Whether a run waits until another one has ended.
pub(crate) fn is_queued(status: Option<&ImageBuildStatus>) -> bool {
    let conditions = status.into_iter().flat_map(|it| &it.conditions);
    let mut conditions = conditions.flatten();
    conditions.any(|it| it.type_ == kind::READY && it.reason == reason::QUEUED)
}

/// Whether there is nothing to do for the build: its run has ended, and its status shows that for
/// the current spec.
pub(super) fn is_settled(build: &ImageBuild) -> bool {
    let Some(status) = &build.status else {
        return false;
    };
    status.observed_generation == build.metadata.generation && has_ended(build)
}

/// Whether the run that the spec asks for has ended, as the status says.
pub(super) fn has_ended(build: &ImageBuild) -> bool {
    let Some(status) = &build.status else {
        return false;
    };
    status.run.as_deref() == Some(&build.spec.run_key())
        && status.phase.is_some_and(BuildPhase::is_final)
}

/// Whether the status says that the run that the spec asks for has a Job.
pub(super) fn has_job(build: &ImageBuild) -> bool {
    let status = build.status.as_ref();
    let status = status.filter(|it| it.run.as_deref() == Some(&build.spec.run_key()));
    status.is_some_and(|it| it.job.is_some())
}

/// Whether the Job waits to be started, or was cancelled.
pub(super) fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true)
}

pub(super) fn decide(input: &BuildInput) -> Plan {
    let key = input.build.spec.run_key();
    let mut planner = Planner {
        input,
        key: &key,
        actions: Vec::new(),
    };
    let state = planner.state();
    planner.finish(state)
}

/// The result of a decision about the run.
struct RunDecision {
    state: RunState,
    /// The Job of the run, once there is one.
    job: Option<String>,
    started: Option<Timestamp>,
    reports: Reports,
}

impl RunDecision {
    fn without_job(state: RunState) -> Self {
        Self {
            state,
            job: None,
            started: None,
            reports: Reports::default(),
        }
    }

    fn pending(reason: &'static str, message: impl Into<String>) -> Self {
        Self::without_job(RunState::new(BuildPhase::Pending, reason, message))
    }
}

struct Planner<'a> {
    input: &'a BuildInput,
    key: &'a str,
    actions: Vec<Action>,
}

impl Planner<'_> {
    /// The decision about the current run; `None` if that run has ended, so that the status stays
    /// as it is.
    fn state(&mut self) -> Option<RunDecision> {
        if self.remove_superseded() {
            let message = "the Job of the earlier spec is being deleted";
            return Some(RunDecision::pending(reason::SUPERSEDED, message));
        }
        if has_ended(&self.input.build) {
            return None;
        }
        let settings = match self.input.build.settings() {
            Ok(settings) => settings,
            Err(problems) => return Some(invalid(&problems)),
        };
        let job = self.input.jobs.iter();
        let mut job = job.filter(|job| names::run_of(job) == Some(self.key));
        if let Some(job) = job.next() {
            let job = job.clone();
            if self.is_history(&job) {
                self.actions.push(delete(&job));
                let message = "the Job of an earlier run of the same spec is being deleted";
                return Some(RunDecision::pending(reason::SUPERSEDED, message));
            }
            return Some(self.with_job(&job, &settings));
        }
        if has_job(&self.input.build) {
            return self.without_known_job();
        }
        Some(self.without_job(&settings))
    }

    fn run<'a>(&'a self, settings: &'a BuildSettings, installation: &'a Installation) -> Run<'a> {
        Run {
            build: &self.input.build,
            settings,
            key: self.key,
            installation,
            level: self.level(),
        }
    }

    fn status(&self) -> Option<&ImageBuildStatus> {
        self.input.build.status.as_ref()
    }

    /// The condition `Ready` of this run so far.
    fn previous_ready(&self) -> Option<&Condition> {
        let status = self
            .status()
            .filter(|it| it.run.as_deref() == Some(self.key));
        let mut conditions = status?.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == kind::READY)
    }

    /// Whether the Job belongs to an earlier run of the same spec, which was changed and changed
    /// back since. The status is then about another run and a later generation. That run may have
    /// pushed the same tags, so the Job is not reused.
    fn is_history(&self, job: &Job) -> bool {
        let created = names::generation_of(job);
        self.status().is_some_and(|it| {
            let is_later = created.is_some() && it.observed_generation > created;
            is_later && it.run.as_deref() != Some(self.key)
        })
    }

    /// Deletes Jobs of other runs that have not ended. Returns whether there are any. A Job shows
    /// that it is complete only seconds after its last step, so a Job whose run has pushed has
    /// ended, too.
    fn remove_superseded(&mut self) -> bool {
        let pushed = &self.input.pushed;
        let others = self.input.jobs.iter().filter(|job| {
            let run = names::run_of(job);
            let has_pushed = run.is_some_and(|run| pushed.contains(run));
            run != Some(self.key) && !has_pushed && !has_job_ended(job)
        });
        let deletes: Vec<Action> = others.map(delete).collect();
        let any = !deletes.is_empty();
        self.actions.extend(deletes);
        any
    }

    fn without_job(&mut self, settings: &BuildSettings) -> RunDecision {
        let input = self.input;
        if let Some(why) = self.obstacle(settings) {
            return why;
        }
        if input.build.spec.suspend {
            return RunDecision::pending(
                reason::SUSPENDED,
                "suspend is true, so the build does not run",
            );
        }
        let Some(installation) = &input.installation else {
            let message = "the controller does not know its own image yet";
            return RunDecision::pending(reason::WAITING, message);
        };
        let run = self.run(settings, installation);
        if run.builder().is_none() {
            let message = "build.image is not set, and the installation offers no builder: set it, or \
                        start the controller with --builder-image";
            return RunDecision::pending(reason::NO_BUILDER, message);
        }
        if let Some(full) = input.full {
            return RunDecision::pending(reason::QUEUED, full.to_string());
        }
        match run.job() {
            Ok(job) => self.actions.push(Action::Create(Box::new(job))),
            Err(error) => {
                let message = format!("the Job cannot be made: {error}");
                let state = RunState::new(BuildPhase::Failed, reason::INVALID, message);
                return RunDecision::without_job(state);
            }
        }
        RunDecision {
            job: Some(names::job(&input.build.name_any(), self.key)),
            started: Some(input.now),
            ..RunDecision::pending(reason::RUNNING, "the Job is made")
        }
    }

    fn finish(mut self, decision: Option<RunDecision>) -> Plan {
        let phase = match &decision {
            Some(decision) => Some(decision.state.phase),
            None => self.status().and_then(|status| status.phase),
        };
        if phase.is_some_and(BuildPhase::is_final) {
            self.forget_history(phase);
        }
        let next = decision.as_ref().and_then(|decision| decision.state.next);
        let status = match decision {
            Some(decision) => self.new_status(&decision),
            None => ImageBuildStatus {
                observed_generation: self.input.build.metadata.generation,
                ..self.status().cloned().unwrap_or_default()
            },
        };
        Plan {
            actions: self.actions,
            status,
            next,
        }
    }
}

fn invalid(problems: &[Problem]) -> RunDecision {
    let first = problems
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let more = match problems.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let message = format!("{first}{more}");
    RunDecision::without_job(RunState::new(BuildPhase::Failed, reason::INVALID, message))
}

#[cfg(test)]
mod tests;
