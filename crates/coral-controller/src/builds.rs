//! Builds in the cluster: each run of an ImageBuild becomes a Job of one pod with three steps.
//!
//! A Job is created suspended and checked before it runs, because an API server drops fields that
//! it does not know. The input of the steps is in a ConfigMap that the Job owns. Everything about a
//! run is read from its Job and pod, so a controller that is killed at any moment continues where
//! it was. A run whose phase is final is never examined again.

mod decide;
mod job;
mod names;
mod namespaces;
mod observe;
mod outcome;
mod public;
mod queue;
mod reason;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coral_api::conditions::kind::READY;
use coral_api::image_build::{BuildPhase, ImageBuild, ImageBuildStatus};
use coral_api::names::build::BEGUN;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::ObjectKey;
use crate::api::{ApiError, Writer};
use crate::backoff::{Backoff, BackoffBounds};
use crate::changes::Topic;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::part::{Part, PassError, Wake};
pub(crate) use decide::is_queued;
use decide::{Action, BuildInput, Plan, decide, failure_status, has_ended, is_settled};
pub(crate) use names::is_like_a_host;
use namespaces::{BuildNamespaces, Workload};
pub(crate) use observe::accepts_builds_from;
pub(crate) use queue::Bounds;
use queue::{Full, Queue, RunSlots};

/// Waits after one build's failures.
const BACKOFF: BackoffBounds = BackoffBounds {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(1),
};

/// The facts that a pass hands to the reconciliation of one build.
#[derive(Clone, Copy)]
struct PassContext<'a> {
    /// The Jobs and pods in its namespace; `None` while that is not watched.
    workload: Option<&'a Workload>,
    /// Why it may not begin, if it may not.
    full: Option<Full>,
    now: Timestamp,
}

/// Runs builds.
pub(crate) struct BuildsPart {
    context: Context,
    metrics: Metrics,
    writer: Writer,
    namespaces: BuildNamespaces,
    backoff: Backoff<ObjectKey>,
    queue: Queue,
    /// The generation of each build that failed last; a new generation is tried at once.
    failed: BTreeMap<ObjectKey, Option<i64>>,
}

impl BuildsPart {
    pub(crate) fn new(context: &Context, metrics: &Metrics) -> Self {
        Self {
            writer: context.writer(),
            metrics: metrics.clone(),
            namespaces: BuildNamespaces::default(),
            backoff: Backoff::new(BACKOFF),
            queue: Queue::default(),
            failed: BTreeMap::new(),
            context: context.clone(),
        }
    }

    /// Observes, decides, applies and publishes for one build.
    async fn reconcile(
        &self,
        key: &ObjectKey,
        build: &Arc<ImageBuild>,
        context: PassContext<'_>,
    ) -> Result<Plan, ApiError> {
        let mut input = match self.observe(build, context).await {
            Ok(input) => input,
            // A call without an answer says nothing about the build, so the status stays as it is.
            Err(error) if !error.is_forbidden() => return Err(error),
            Err(error) => return Err(self.refused(key, build, error, context.now).await),
        };
        let mut plan = decide(&input);
        match self.carry_out(key, build, &plan).await {
            Ok(None) => self.publish(key, build, &plan.status).await?,
            Ok(Some(job)) => self.begin(&mut input, job, &mut plan).await?,
            Err(error) if has_ended(build) => return Err(error),
            Err(error) => return Err(self.refused(key, build, error, context.now).await),
        }
        Ok(plan)
    }

    /// Checks a Job as the API server has stored it, and starts it in the same pass: waiting for the
    /// next pass would bring no further information.
    async fn begin(
        &self,
        input: &mut BuildInput,
        job: Job,
        plan: &mut Plan,
    ) -> Result<(), ApiError> {
        let (build, now) = (input.build.clone(), input.now);
        let key = ObjectKey::from_object(build.as_ref());
        self.add_created_job(input, job);
        let next = decide(input);
        // The status has to name the Job before its steps ask for credentials.
        if let Err(error) = self.publish(&key, &build, &next.status).await {
            tracing::debug!(build = %key, %error, "the next pass writes the status");
            // The Job exists and holds its slot.
            plan.next = Some(now);
            return Ok(());
        }
        let begun = self.carry_out(&key, &build, &next).await;
        plan.actions.extend(next.actions);
        (plan.status, plan.next) = (next.status, next.next);
        if let Err(error) = begun {
            tracing::debug!(build = %key, %error, "the Job is suspended; the next pass starts it");
            plan.next = Some(now);
        }
        Ok(())
    }

    /// Applies what was decided. Returns the Job that was created.
    async fn carry_out(
        &self,
        key: &ObjectKey,
        build: &ImageBuild,
        plan: &Plan,
    ) -> Result<Option<Job>, ApiError> {
        let has_come_to_an_end = plan.status.phase.is_some_and(BuildPhase::is_final);
        let mut created = None;
        for action in &plan.actions {
            match self.apply(build, action).await {
                Ok(job) => created = created.or(job),
                // A history that cannot be cleaned up does not change the result of the run. The
                // next run that ends cleans it up.
                Err(error) if has_come_to_an_end && matches!(action, Action::Delete(..)) => {
                    tracing::warn!(build = %key, %error, "an old Job of a build cannot be deleted");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(created)
    }

    /// Reports a refused request in the status.
    async fn refused(
        &self,
        key: &ObjectKey,
        build: &ImageBuild,
        error: ApiError,
        now: Timestamp,
    ) -> ApiError {
        let namespace = &key.namespace;
        let hint = if error.is_missing_right() {
            format!("; `coral grant --builds {namespace}` prints what Coral needs")
        } else {
            String::new()
        };
        let status = failure_status(build, &format!("{error}{hint}"), now);
        let published = self.publish(key, build, &status).await;
        published.err().unwrap_or(error)
    }

    /// Applies one action. Returns the Job that it created.
    async fn apply(&self, build: &ImageBuild, action: &Action) -> Result<Option<Job>, ApiError> {
        match action {
            Action::Create(job) => return self.create(job).await,
            Action::Start { job, config_map } => {
                self.writer.apply::<ConfigMap>(job, config_map).await?;
                let begun = json!({"annotations": {BEGUN: "true"}});
                let patch = json!({"metadata": begun, "spec": {"suspend": false}});
                self.change(job, &patch).await?;
            }
            Action::Suspend(job) => {
                let patch = json!({"spec": {"suspend": true}});
                self.change(job, &patch).await?;
            }
            Action::Delete(job, uid) => self.writer.delete::<Job>(job, Some(uid)).await?,
            Action::Publish(paths) => self.make_public(build, paths).await?,
        }
        Ok(None)
    }

    /// Creates a Job. Returns it as the API server has stored it.
    async fn create(&self, job: &Job) -> Result<Option<Job>, ApiError> {
        match self.writer.create(job).await {
            Ok(stored) => {
                tracing::info!(job = %ObjectKey::from_object(job), "Job of a build created");
                Ok(Some(stored))
            }
            // The next pass determines who owns the existing Job.
            Err(error) if error.is_already_exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes a Job, unless it is gone.
    async fn change(&self, job: &ObjectKey, patch: &Value) -> Result<(), ApiError> {
        match self.writer.merge::<Job>(job, patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn publish(
        &self,
        key: &ObjectKey,
        build: &ImageBuild,
        status: &ImageBuildStatus,
    ) -> Result<(), ApiError> {
        let before = build.status.as_ref();
        let written = self
            .writer
            .publish_status::<ImageBuild, ImageBuildStatus>(key, before, status)
            .await;
        match written {
            Ok(true) => self.record_events(build, status).await,
            Ok(false) => {}
            // The build was deleted meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Records events for the beginning and the end of a run, and for states that need a person's action.
    async fn record_events(&self, build: &ImageBuild, status: &ImageBuildStatus) {
        let before = build.status.as_ref();
        let (was, is) = (ready(before), ready(Some(status)));
        let Some(is) = is else { return };
        let same_run = before.is_some_and(|before| before.run == status.run);
        if same_run && was.map(|it| &it.reason) == Some(&is.reason) {
            return;
        }
        let (events, note) = (&self.context.events, is.message.as_str());
        let phase = status.phase.unwrap_or(BuildPhase::Unknown);
        match phase {
            BuildPhase::Succeeded | BuildPhase::Cancelled => {
                events.normal(build, &is.reason, note).await;
            }
            BuildPhase::Failed => events.warning(build, &is.reason, note).await,
            _ if is.reason == reason::RUNNING => {
                let job = status.job.as_deref().unwrap_or_default();
                let note = format!("the Job {job} runs the build");
                events.normal(build, &is.reason, note).await;
            }
            _ if reason::TRANSIENT.contains(&is.reason.as_str()) => {}
            _ => events.warning(build, &is.reason, note).await,
        }
        if phase.is_final() {
            self.metrics.built(status);
        }
    }

    /// Reconciles one build, if it is due, and records whether that failed.
    async fn reconcile_if_due(
        &mut self,
        key: &ObjectKey,
        build: &Arc<ImageBuild>,
        workload: Option<&Workload>,
        slots: &mut RunSlots,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let generation = build.metadata.generation;
        let is_changed = self.failed.get(key).is_some_and(|it| *it != generation);
        let full = slots.full(key);
        let context = PassContext {
            workload,
            full,
            now,
        };
        if !is_changed && !self.backoff.may_try(key, now) {
            // The build keeps its place in the queue ahead of the builds that are reconciled next.
            if let Some(full) = full.filter(|_| is_queued(build.status.as_ref())) {
                slots.waits(key, full);
            }
            return None;
        }
        match self.reconcile(key, build, context).await {
            Ok(plan) => {
                self.backoff.succeeded(key);
                self.failed.remove(key);
                if plan.begins() {
                    self.queue.record_created(key, build);
                    slots.begins(key);
                } else if let Some(full) = full.filter(|_| is_queued(Some(&plan.status))) {
                    slots.waits(key, full);
                }
                plan.next
            }
            Err(error) => {
                self.backoff.failed(key, now);
                self.failed.insert(key.clone(), generation);
                tracing::warn!(build = %key, %error, "reconcile of the ImageBuild failed; retrying");
                None
            }
        }
    }
}

impl Part for BuildsPart {
    const NAME: &'static str = "builds";
    const TOPICS: &'static [Topic] = &[
        Topic::ImageBuilds,
        Topic::BuildWorkloads,
        Topic::Registries,
        Topic::RegistryAccess,
        Topic::RegistryRoutes,
        Topic::Namespaces,
        Topic::Nodes,
        Topic::Ca,
    ];

    async fn pass(&mut self, now: Timestamp) -> Result<Wake, PassError> {
        let builds = self.context.cluster.builds.snapshot();
        // Kubernetes removes the objects of a deleted build by their owner references.
        let open = builds
            .iter()
            .filter(|(_, build)| build.metadata.deletion_timestamp.is_none() && !is_settled(build));
        let open = open.map(|(key, build)| (key.clone(), build.clone()));
        let open: BTreeMap<ObjectKey, Arc<ImageBuild>> = open.collect();
        let namespaces: BTreeSet<String> = open.keys().map(|key| key.namespace.clone()).collect();
        let (client, changes) = (&self.context.client, &self.context.changes);
        self.namespaces.follow(client, changes, &namespaces, now);
        let workloads = self.namespaces.snapshot();
        self.backoff.retain(|key| open.contains_key(key));
        self.failed.retain(|key, _| open.contains_key(key));
        let order = self.queue.order(&open, now);
        let bounds = self.context.config.builds_at_once();
        let has_ended = |pod: &Pod| outcome::has_ended(pod) || self.push_result(pod).is_some();
        let mut slots = self.queue.slots(&open, &workloads, has_ended, bounds, now);
        let mut next = None;
        for key in &order {
            let workload = workloads.get(&key.namespace);
            let reconciled = self.reconcile_if_due(key, &open[key], workload, &mut slots, now);
            next = next.into_iter().chain(reconciled.await).min();
        }
        let others = [slots.next(), self.backoff.next()];
        let next = next.into_iter().chain(others.into_iter().flatten()).min();
        Ok(Wake::at(next))
    }
}

fn ready(status: Option<&ImageBuildStatus>) -> Option<&Condition> {
    let mut conditions = status?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == READY)
}

#[cfg(test)]
mod tests;
