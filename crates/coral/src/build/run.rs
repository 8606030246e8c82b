//! A run in the cluster: started, sent the folder, followed to its end.

use std::sync::Arc;
use std::time::Duration;

use coral_api::image_build::ImageBuild;
use coral_build::contract::Step;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams, Patch, PatchParams};

use super::logs;
use super::send::{self, SendError, Sent};
use super::source::Source;
use super::stage::{Ending, Stage, StepState, stage, step_state};
use crate::cluster::{Calls, failure, kube_failure};
use crate::failure::Failure;
use crate::terminal::Terminal;

/// The field manager of the object.
const MANAGER: &str = "coral-build";
/// Pause between two polls of the object and the pod.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How many polls to wait, after the log of a step has ended, for its pod to show the end. After
/// that the log is opened again.
const POLLS_AFTER_LOG: u32 = 20;
/// How many times to try to attach: the node may learn of the container a moment later.
const ATTACH_ATTEMPTS: usize = 5;

/// A run.
pub(super) struct Run<'a> {
    calls: &'a Calls,
    terminal: &'a Terminal,
    /// As it was applied.
    object: ImageBuild,
    namespace: String,
    name: String,
    /// Key of the run.
    key: String,
    /// Generation of the object with the run's spec.
    generation: i64,
}

/// How a run ended, and the exit code of the user's container if it was seen.
#[derive(Debug)]
pub(super) struct RunResult {
    pub(super) ending: Ending,
    pub(super) build_code: Option<i32>,
}

/// Why a run is no longer followed.
#[derive(Debug)]
pub(super) struct FollowError {
    /// What is said.
    pub(super) failure: Failure,
    /// Whether the run has to be cancelled, since it would otherwise wait forever for the folder.
    pub(super) cancels: bool,
}

impl FollowError {
    pub(super) fn cancelling(failure: Failure) -> Self {
        let cancels = true;
        Self { failure, cancels }
    }
}

impl From<Failure> for FollowError {
    /// The run continues, or has ended by itself.
    fn from(failure: Failure) -> Self {
        let cancels = false;
        Self { failure, cancels }
    }
}

/// The log of a step.
#[derive(Debug, Clone, Copy)]
enum LogState {
    /// It has to be read, from this time on if one is given.
    Due(Option<Timestamp>),
    /// It was read to its end at this time, this many polls ago.
    Read(Timestamp, u32),
    /// It cannot be read.
    Unreadable,
}

impl<'a> Run<'a> {
    /// Applies the object, which starts the run.
    pub(super) async fn begin(
        calls: &'a Calls,
        terminal: &'a Terminal,
        object: ImageBuild,
    ) -> Result<Self, Failure> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let what = format!("applying ImageBuild {namespace}/{name}");
        let applied = apply(calls, &object, &what).await?;
        Ok(Self {
            calls,
            terminal,
            key: applied.spec.run_key(),
            generation: applied.metadata.generation.unwrap_or_default(),
            object,
            namespace,
            name,
        })
    }

    /// The command that shows the progress of the run.
    pub(super) fn watch_command(&self) -> String {
        format!(
            "kubectl get imagebuild {} -n {} --watch",
            self.name, self.namespace
        )
    }

    /// Cancels the run.
    pub(super) async fn cancel(&self) -> Result<(), Failure> {
        let mut object = self.object.clone();
        object.spec.suspend = true;
        let what = format!("cancelling ImageBuild {}/{}", self.namespace, self.name);
        apply(self.calls, &object, &what).await?;
        Ok(())
    }

    /// Waits until the step `fetch` runs. Returns the name of its pod.
    pub(super) async fn fetching(&self) -> Result<String, FollowError> {
        let mut last_reason = None;
        loop {
            match self.stage().await? {
                Stage::Blocked(message) => {
                    return Err(FollowError::cancelling(self.failure(&message)));
                }
                Stage::Replaced => return Err(self.replaced().into()),
                Stage::Ended(ending) => return Err(self.failure(&ending.message).into()),
                Stage::Waiting(why) => self.say_once(&mut last_reason, why),
                Stage::Begun(job, held) => match self.pod(&job).await? {
                    None => self.say_once(&mut last_reason, held),
                    Some(pod) => match step_state(&pod, Step::Fetch) {
                        StepState::Running => return Ok(pod.name_any()),
                        StepState::Waiting(why) => self.say_once(&mut last_reason, why.or(held)),
                        // The status of the object will show why.
                        StepState::Ended(_) | StepState::Never => {}
                    },
                },
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends the folder to the step `fetch`.
    pub(super) async fn send(&self, pod: &str, source: Arc<Source>) -> Result<Sent, SendError> {
        let mut tries = 1;
        loop {
            match send::send(&self.pods(), pod, source.clone()).await {
                Err(SendError::Attach(error)) if tries < ATTACH_ATTEMPTS && passes(&error) => {
                    tries += 1;
                }
                sent => return sent,
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Shows the logs of the steps, one after the other, and waits for the end.
    pub(super) async fn follow(&self, pod: &str) -> Result<RunResult, Failure> {
        let mut build_code = None;
        for step in Step::ALL {
            let code = self.step(pod, step).await?;
            if step == Step::Build {
                build_code = code;
            }
        }
        let ending = self.end().await?;
        Ok(RunResult { ending, build_code })
    }

    /// Shows the log of a step. Returns its exit code, unless it never started or its pod is gone.
    async fn step(&self, pod: &str, step: Step) -> Result<Option<i32>, Failure> {
        let mut last_reason = None;
        let mut log = LogState::Due(None);
        loop {
            let Some(found) = self.optional_pod(pod).await? else {
                return Ok(None);
            };
            let state = step_state(&found, step);
            match (&state, log) {
                (StepState::Never, _) => return Ok(None),
                (StepState::Waiting(why), _) => self.say_once(&mut last_reason, why.clone()),
                (_, LogState::Due(since)) => log = self.log(pod, step, since).await,
                // The log ends with the step. Its pod shows that a moment later, unless something
                // between here and the node ended the log early.
                (StepState::Running, LogState::Read(at, polls)) if polls >= POLLS_AFTER_LOG => {
                    log = LogState::Due(Some(at));
                }
                (StepState::Running, LogState::Read(at, polls)) => {
                    log = LogState::Read(at, polls + 1);
                }
                (StepState::Ended(_), _) | (StepState::Running, LogState::Unreadable) => {}
            }
            match (state, log) {
                (StepState::Ended(code), LogState::Read(..) | LogState::Unreadable) => {
                    return Ok(Some(code));
                }
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Waits until the status of the object shows the end.
    async fn end(&self) -> Result<Ending, Failure> {
        loop {
            match self.stage().await? {
                Stage::Ended(ending) => return Ok(ending),
                Stage::Replaced => return Err(self.replaced()),
                Stage::Blocked(message) => return Err(self.failure(&message)),
                Stage::Waiting(_) | Stage::Begun(..) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Shows the log of a step to its end. If the log cannot be read, the run is still followed.
    async fn log(&self, pod: &str, step: Step, since_time: Option<Timestamp>) -> LogState {
        let parameters = LogParams {
            container: Some(step.name().to_owned()),
            follow: true,
            since_time,
            ..LogParams::default()
        };
        let read = match self.pods().log_stream(pod, &parameters).await {
            Ok(log) => {
                let say = |line: &str| self.terminal.line(&log_line(step, line));
                logs::read(log, say).await.map_err(kube::Error::ReadEvents)
            }
            Err(error) => Err(error),
        };
        let now = Timestamp::now();
        match read {
            Ok(()) => LogState::Read(now, 0),
            // Read once more from here.
            Err(kube::Error::ReadEvents(_)) => LogState::Due(Some(now)),
            Err(error) => {
                let what = format!("the log of {} cannot be read", step.name());
                let failure = kube_failure(&what, &error);
                let lines: Vec<&str> = failure.lines().collect();
                self.terminal
                    .line(&format!("warning: {}", lines.join("; ")));
                LogState::Unreadable
            }
        }
    }

    async fn stage(&self) -> Result<Stage, Failure> {
        let builds = self.calls.namespaced::<ImageBuild>(&self.namespace);
        let what = format!("reading ImageBuild {}/{}", self.namespace, self.name);
        let read = self.calls.with_retries(&what, || builds.get(&self.name));
        let build = read
            .await?
            .ok_or_else(|| self.failure("the object was deleted"))?;
        Ok(stage(&build, &self.key, self.generation))
    }

    /// The pod of a Job; the newest if there are several.
    async fn pod(&self, job: &str) -> Result<Option<Pod>, Failure> {
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        let what = format!("listing the pods of Job {}/{job}", self.namespace);
        let pods = self.pods();
        let found = self
            .calls
            .with_retries(&what, || pods.list(&of_job))
            .await?;
        let mut found = found.map(|list| list.items).unwrap_or_default();
        found.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
        Ok(found.pop())
    }

    async fn optional_pod(&self, name: &str) -> Result<Option<Pod>, Failure> {
        let what = format!("reading pod {}/{name}", self.namespace);
        let pods = self.pods();
        self.calls.with_retries(&what, || pods.get(name)).await
    }

    fn pods(&self) -> Api<Pod> {
        self.calls.namespaced(&self.namespace)
    }

    /// Prints what the run waits for, whenever that changes.
    fn say_once(&self, last_reason: &mut Option<String>, why: Option<String>) {
        if why.is_some() && *last_reason != why {
            let text = why.as_deref().unwrap_or_default();
            self.terminal.line(&format!("waiting: {text}"));
            *last_reason = why;
        }
    }

    fn replaced(&self) -> Failure {
        self.failure("the object was changed, and another run replaces this one")
    }

    fn failure(&self, why: &str) -> Failure {
        failure(format!("ImageBuild {}/{}", self.namespace, self.name), why)
    }
}

/// A line of a step's log.
fn log_line(step: Step, line: &str) -> String {
    format!("{:<5} | {line}", step.name())
}

/// Whether another attempt to attach may succeed a moment later.
fn passes(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 400,
        _ => true,
    }
}

async fn apply(calls: &Calls, object: &ImageBuild, what: &str) -> Result<ImageBuild, Failure> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let builds = calls.namespaced::<ImageBuild>(&namespace);
    let parameters = PatchParams::apply(MANAGER).validation_strict();
    let patch = Patch::Apply(object);
    let applied = calls.optional(what, builds.patch(&name, &parameters, &patch));
    applied.await?.ok_or_else(|| {
        failure(
            what,
            "the cluster has no kind ImageBuild, or no such namespace: `kubectl get crd \
             imagebuilds.stvz.io` and `kubectl get namespace` show which of the two",
        )
    })
}

#[cfg(test)]
mod tests;
