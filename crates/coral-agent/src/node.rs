//! The node's loop: observe → decide → apply → report, woken by changes.

mod files;
mod runtime;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coral_api::node_images::{NodeImage, NodeImageStatus, NodeImages, NodeRegistryPolicy};
use coral_cri::{ImageRuntime, RuntimeError};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::health_monitor::HealthMonitor;
use crate::images::attempt::Attempt;
use crate::images::decide::{ClusterHost, Decision, DecisionInput, decide, pulled_name};
use crate::images::names::{self, NameAction};
use crate::images::slots::RemovalHold;
use crate::metrics::Metrics;
use crate::probe::{Host, HostState, Next, Proofs};
use crate::publish::Report;
use crate::report;
use crate::watch::WatchedObject;
use files::HostsFiles;
use runtime::Runtime;
use work::{FinishedTask, RunningTasks};

/// How often a pass runs without a change. It asks the runtime, never the API server.
const LOOK: SignedDuration = SignedDuration::from_mins(1);
/// How soon a pass checks names that were just added, and pulls that were just cancelled: the
/// runtime shows both a moment later.
const SETTLE: SignedDuration = SignedDuration::from_millis(25);
/// How long passes may make removals one after the other without starting a pull.
const REMOVALS: SignedDuration = SignedDuration::from_mins(5);
/// How soon a runtime that did not answer is asked again.
const RUNTIME_RETRY: SignedDuration = SignedDuration::from_secs(3);
/// How often the CA's file is read.
const CA_CHECK: Duration = Duration::from_secs(5);

/// The settings of the loop.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Folder with `ca.crt`, mounted from a ConfigMap.
    pub(crate) coral_dir: PathBuf,
    /// Folder of hosts' folders, instead of the one that the runtime reports.
    pub(crate) certs_dir: Option<PathBuf>,
    /// Most pulls at once.
    pub(crate) parallel: usize,
}

/// The loop and its memory. All of it can be lost: it is read again from the runtime, the files and
/// the object's status.
pub(crate) struct Node<R> {
    runtime: Runtime<R>,
    settings: Settings,
    metrics: Metrics,
    monitor: HealthMonitor,
    seen: watch::Receiver<WatchedObject>,
    reports: watch::Sender<Option<Report>>,
    /// The object that the memory is about.
    uid: Option<String>,
    /// Its status when it was first seen.
    stored: coral_api::node_images::NodeImagesStatus,
    files: HostsFiles,
    proofs: Proofs,
    attempts: BTreeMap<String, Attempt>,
    /// References whose names the agent made, as last reported.
    placed: BTreeSet<String>,
    /// The last states of images, reported while the runtime does not answer.
    last: Vec<NodeImageStatus>,
    /// The name changes that the last pass made, and the number of passes in a row that made the
    /// same ones.
    settling: (Vec<NameAction>, u32),
    names: names::NameState,
    hold: RemovalHold,
    /// Since when passes have made removals one after the other, with no pull between them.
    removing_since: Option<Timestamp>,
    tasks: RunningTasks,
}

impl<R: ImageRuntime> Node<R> {
    pub(crate) fn new(
        runtime: Arc<R>,
        settings: Settings,
        metrics: Metrics,
        monitor: HealthMonitor,
        seen: watch::Receiver<WatchedObject>,
        reports: watch::Sender<Option<Report>>,
    ) -> Self {
        Self {
            runtime: Runtime::new(runtime),
            settings,
            metrics,
            monitor,
            seen,
            reports,
            uid: None,
            stored: coral_api::node_images::NodeImagesStatus::default(),
            files: HostsFiles::default(),
            proofs: Proofs::default(),
            attempts: BTreeMap::new(),
            placed: BTreeSet::new(),
            last: Vec::new(),
            settling: (Vec::new(), 0),
            names: names::NameState::default(),
            hold: RemovalHold::default(),
            removing_since: None,
            tasks: RunningTasks::default(),
        }
    }

    /// Runs until `stop`; running pulls end with it.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.monitor.goes_on();
            let wake = self.pass().await;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.seen.changed() => if changed.is_err() { return },
                done = self.tasks.next() => self.note(done),
                () = until(wake) => {}
                () = self.files.ca_changes(&self.settings.coral_dir) => {}
            }
            while let Some(done) = self.tasks.try_next() {
                self.note(done);
            }
        }
    }

    /// One pass over everything. Returns when the next one is due.
    async fn pass(&mut self) -> Timestamp {
        let now = Timestamp::now();
        let Some(object) = self.seen.borrow_and_update().object().cloned() else {
            // Without an object it is not known what the node should hold: it stays as it is.
            return now + LOOK;
        };
        self.restore(&object, now);
        self.runtime.look(now).await;
        let spec = &object.spec;
        let known = spec.registries.iter();
        let entries: Vec<_> = known
            .filter(|entry| entry.policy != NodeRegistryPolicy::Unknown)
            .cloned()
            .collect();
        self.proofs.retain(&entries);
        let changed = self
            .files
            .sync(&entries, &self.settings, &self.runtime, now)
            .await;
        for host in changed {
            self.proofs.forget_wait(&host, now);
        }
        let hosts = self.files.hosts(&entries);
        let mut wake = now + LOOK;
        wake = wake.min(self.probe(&hosts, now));
        let decision = self.images(&object, &hosts, &mut wake, now).await;
        let decision = match decision {
            Ok(decision) => decision,
            Err(error) => {
                wake = wake.min(now + RUNTIME_RETRY);
                self.runtime.failed(&error);
                Decision {
                    statuses: self.last.clone(),
                    pins: self.stored.pins.clone(),
                    ..Decision::default()
                }
            }
        };
        self.report(&object, &hosts, decision, now);
        wake.min(self.files.wake(now)).min(self.runtime.wake(now))
    }
}

impl<R: ImageRuntime> Node<R> {
    /// Restores the state that a previous agent, or this one for another object, had reported.
    fn restore(&mut self, object: &NodeImages, now: Timestamp) {
        let uid = object.metadata.uid.clone();
        if self.uid.is_some() && self.uid == uid {
            return;
        }
        self.uid = uid;
        self.stored = object.status.clone().unwrap_or_default();
        let images = &self.stored.images;
        let placed = images
            .iter()
            .filter(|image| image.placed && !image.removing);
        self.placed = placed.map(|image| image.reference.clone()).collect();
        let failed = images.iter().filter_map(|image| {
            let attempt = Attempt::restored(image)?;
            Some((image.reference.clone(), attempt))
        });
        self.attempts = failed.collect();
        self.last.clone_from(images);
        self.proofs = Proofs::restored(&self.stored.registries, &object.spec.registries, now);
    }

    /// Starts the probe that is due, and returns when the next one is.
    fn probe(&mut self, hosts: &[Host<'_>], now: Timestamp) -> Timestamp {
        if self.tasks.is_probing() {
            return now + LOOK;
        }
        match self.proofs.next(hosts, now) {
            Next::Probe(host) => {
                let entry = hosts.iter().find(|other| other.entry.host == host);
                if let Some(Host { entry, .. }) = entry {
                    let runtime = self.runtime.client.clone();
                    self.tasks.probe(runtime, (*entry).clone());
                }
                now + LOOK
            }
            Next::Wait(next) => next.unwrap_or(now + LOOK),
        }
    }

    /// Observes the images, decides and acts.
    async fn images(
        &mut self,
        object: &NodeImages,
        hosts: &[Host<'_>],
        wake: &mut Timestamp,
        now: Timestamp,
    ) -> Result<Decision, RuntimeError> {
        let runtime = self.runtime.client.clone();
        let present = runtime.list().await?;
        self.monitor.goes_on();
        let in_use = if crate::images::mark::any_to_remove(&present) {
            runtime.in_use().await?
        } else {
            BTreeSet::new()
        };
        self.monitor.goes_on();
        self.names.retain(&present);
        let spec = &object.spec;
        let references: BTreeSet<_> = spec.images.iter().map(|i| i.reference.as_str()).collect();
        self.attempts
            .retain(|reference, _| references.contains(reference.as_str()));
        let view = DecisionInput {
            images: &spec.images,
            pins: &spec.pins,
            present: &present,
            in_use: &in_use,
            attempts: &self.attempts,
            pulling: &self.tasks.pulling(now),
            placed: &self.placed,
            hold: self.hold,
            failed_removals: &self.names.failed,
            hosts: &self.inside(hosts),
            parallel: self.settings.parallel,
            now,
        };
        let mut decision = decide(&view);
        if decision.removal_waits {
            self.hold = self.hold.after(true, now);
        }
        for name in &decision.overdue {
            self.put_back(name, now);
        }
        if self.tasks.cancel_all_but(&decision.wanted) {
            *wake = now + SETTLE;
        }
        if let Some(wait) = self.settle(&decision.names) {
            *wake = now + wait;
        }
        let (memory, images) = (&mut self.names, &spec.images);
        let monitor = &self.monitor;
        let is_any_left =
            names::apply(&mut decision, memory, images, &*runtime, monitor, now).await?;
        let removes = self.goes_on_removing(is_any_left, now);
        if !decision.removal_waits {
            self.hold = self.hold.after(removes, now);
        }
        // Pulls come after removals: the runtime removes an image with all the names that it has at
        // that time. The remaining removals wait for these pulls.
        let pulls = decision.pulls.iter().filter(|_| !removes);
        for pull in pulls {
            self.tasks.pull(runtime.clone(), pull.clone(), now);
        }
        *wake = decision.wake.map_or(*wake, |next| next.min(*wake));
        self.last.clone_from(&decision.statuses);
        let placed = decision.statuses.iter().filter(|status| status.placed);
        self.placed = placed.map(|status| status.reference.clone()).collect();
        Ok(decision)
    }

    /// Whether the next passes make the remaining removals before any pull starts, because the
    /// removals would have to wait for those pulls.
    fn goes_on_removing(&mut self, is_any_left: bool, now: Timestamp) -> bool {
        let since = self.removing_since.unwrap_or(now).min(now);
        let goes_on = is_any_left && now.duration_since(since) < REMOVALS;
        self.removing_since = goes_on.then_some(since);
        goes_on
    }

    /// When to check names again that are changed now. The wait grows each time, in case the
    /// changes never take effect.
    fn settle(&mut self, actions: &[NameAction]) -> Option<SignedDuration> {
        let (last, looks) = &mut self.settling;
        *looks = if last == actions { *looks + 1 } else { 1 };
        actions.clone_into(last);
        let wait = SETTLE.saturating_mul(1 << (*looks).min(12)).min(LOOK);
        (!actions.is_empty()).then_some(wait)
    }

    /// Records that a pull was cancelled so that others get its slot, or for a removal.
    fn put_back(&mut self, name: &str, now: Timestamp) {
        tracing::info!(
            image = name,
            "pull cancelled: other images or a removal were waiting"
        );
        self.note_attempts(name, |image, before, _| {
            Some(Attempt::yielded(image, before, now, rand::random()))
        });
    }

    /// The states of the hosts that are served from inside the cluster, for images.
    fn inside(&self, hosts: &[Host<'_>]) -> BTreeMap<String, ClusterHost> {
        let inside = hosts.iter().map(|host| {
            let inside = ClusterHost {
                standing: self.proofs.host_state(host, hosts),
                has_source: host.entry.policy == NodeRegistryPolicy::AllowContactingSource,
            };
            (host.entry.host.clone(), inside)
        });
        inside.collect()
    }

    /// Records the outcome of a task that has ended.
    fn note(&mut self, done: FinishedTask) {
        let now = Timestamp::now();
        match done {
            FinishedTask::Probed { entry, outcome } => {
                self.metrics.probed(outcome.is_ok());
                let outcome = outcome.map_err(|message| match self.runtime.advice() {
                    Some(advice) => format!("{message}. {advice}"),
                    None => message,
                });
                if let Err(message) = &outcome {
                    tracing::warn!(
                        host = entry.host,
                        message,
                        "the probe pull from the registry failed"
                    );
                }
                self.proofs.note(&entry, outcome, now, rand::random());
            }
            FinishedTask::Pulled { name, result } => {
                self.metrics.pulled(&result);
                match &result {
                    Ok(()) => tracing::info!(image = name, "pulled"),
                    Err(error) => tracing::warn!(image = name, %error, "the pull failed"),
                }
                self.note_pull(&name, &result, now);
            }
        }
    }

    /// Records a pull on every image of the spec that it was for.
    fn note_pull(&mut self, name: &str, result: &Result<(), RuntimeError>, now: Timestamp) {
        self.note_attempts(name, |image, before, is_inside| {
            let error = result.as_ref().err()?;
            let random = rand::random();
            Some(Attempt::failed(
                image, before, error, is_inside, now, random,
            ))
        });
    }

    /// Updates the attempt of every image of the spec that a pull was for. `attempt` makes the new
    /// one from the previous one and from whether a Registry of the cluster has the image.
    fn note_attempts(
        &mut self,
        name: &str,
        attempt: impl Fn(&NodeImage, Option<&Attempt>, bool) -> Option<Attempt>,
    ) {
        let Some(object) = self.seen.borrow().object().cloned() else {
            return;
        };
        for image in &object.spec.images {
            let Some((host, _)) = pulled_name(image).filter(|(_, pulled)| pulled == name) else {
                continue;
            };
            let before = self.attempts.remove(&image.reference);
            let is_inside = object.spec.registries.iter().any(|r| r.host == host);
            if let Some(attempt) = attempt(image, before.as_ref(), is_inside) {
                self.attempts.insert(image.reference.clone(), attempt);
            }
        }
    }

    /// The conditions that were reported last.
    fn conditions(&self) -> Vec<Condition> {
        let reports = self.reports.borrow();
        let last = reports
            .as_ref()
            .filter(|last| Some(&last.uid) == self.uid.as_ref());
        let last = last.map_or(&self.stored, |last| &last.status);
        last.conditions.clone()
    }

    fn report(&self, object: &NodeImages, hosts: &[Host<'_>], decision: Decision, now: Timestamp) {
        let (mut trouble, mut lesser) = (Vec::new(), Vec::new());
        trouble.extend(self.runtime.trouble().map(str::to_owned));
        trouble.extend(self.files.trouble().map(str::to_owned));
        trouble.extend(unwritten(hosts));
        if hosts.len() < object.spec.registries.len() {
            let message = "some hosts use a policy that this agent version does not support: \
                           update the agent";
            lesser.push(("AgentOutdated", message.to_owned()));
        }
        let names = decision.trouble.into_iter();
        lesser.extend(names.map(|message| ("NameNotChanged", message)));
        let is_proved = |host: &Host<'_>| self.proofs.host_state(host, hosts) == HostState::Ready;
        if !hosts.is_empty() && !hosts.iter().any(is_proved) {
            trouble.extend(self.runtime.advice());
        }
        let registries = report::registries(
            hosts,
            &self.proofs,
            self.files.has_default(),
            self.files.leaving(),
        );
        let node = report::NodeInput {
            generation: object.metadata.generation,
            runtime: self.runtime.shown(),
            trouble,
            lesser,
            conditions: self.conditions(),
            now,
        };
        let status = report::status(&node, decision.statuses, decision.pins, registries);
        self.metrics.show(&status);
        let report = Some(Report {
            uid: self.uid.clone().unwrap_or_default(),
            status,
            stored: self.stored.clone(),
        });
        self.reports.send_if_modified(|now| {
            let is_new = *now != report;
            *now = report;
            is_new
        });
    }
}

/// The first host whose file cannot be written, and why.
fn unwritten(hosts: &[Host<'_>]) -> Option<String> {
    hosts.iter().find_map(|host| match &host.trouble {
        Some(HostState::Failed(why)) => Some(format!("{}: {why}", host.entry.host)),
        _ => None,
    })
}

/// Completes at this time; at once if it has passed, and after [`LOOK`] if the clock was set back
/// meanwhile.
async fn until(wake: Timestamp) {
    let wait = wake.duration_since(Timestamp::now()).min(LOOK);
    tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
