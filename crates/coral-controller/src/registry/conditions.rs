//! Composes the status of a Registry.

use coral_api::conditions::{self, Truth, kind};
use coral_api::{RegistryScrubStatus, RegistryStatus};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use super::Registry;
use super::claim;
use super::observe::ExistingObjects;
use super::space::{Storage, StorageLevel};

/// Longest message of a Registry that is repeated on other objects.
const MAX_QUOTED: usize = 300;

/// One condition: its status, its reason in one word, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConditionValue {
    pub(super) truth: Truth,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl ConditionValue {
    /// A condition that does not hold.
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            truth: Truth::False,
            reason,
            message: message.into(),
        }
    }

    /// A condition that is unknown.
    pub(super) fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            truth: Truth::Unknown,
            ..Self::new(reason, message)
        }
    }
}

/// The conditions that a decision gives a Registry.
#[derive(Debug, Clone, Default)]
pub(super) struct RegistryConditions {
    ready: Option<ConditionValue>,
    progressing: Option<(&'static str, String)>,
    degraded: Option<(&'static str, String)>,
    pub(super) address: Option<String>,
    pub(super) cluster_ip: Option<String>,
    /// Generation and length of the list of public repositories that is loaded.
    pub(super) public: Option<(i64, usize)>,
    storage: Option<Storage>,
    scrub: Option<RegistryScrubStatus>,
}

impl RegistryConditions {
    /// The Registry is not worked on, for this reason.
    pub(super) fn refuse(&mut self, update: ConditionValue) {
        match update.truth {
            Truth::False if update.reason != "RemovingEarlier" => {
                self.degraded = Some((update.reason, update.message.clone()));
            }
            Truth::Unknown => self.progress(update.reason, &update.message),
            Truth::True | Truth::False => {}
        }
        self.ready = Some(update);
    }

    /// The Registry is not ready yet.
    pub(super) fn wait(&mut self, reason: &'static str, message: &str) {
        self.ready = Some(ConditionValue::new(reason, message));
        self.progress(reason, message);
    }

    /// Work goes on.
    pub(super) fn progress(&mut self, reason: &'static str, message: &str) {
        if self.progressing.is_none() {
            self.progressing = Some((reason, message.to_owned()));
        }
    }

    /// Something needs a person's attention.
    pub(super) fn degrade(&mut self, reason: &'static str, message: &str) {
        if self.degraded.is_none() {
            self.degraded = Some((reason, message.to_owned()));
        }
    }

    /// The Registry said what it stores. A full one needs a person's attention.
    pub(super) fn stores(&mut self, storage: Storage) {
        if storage.level == StorageLevel::Full {
            self.degrade(StorageLevel::Full.reason(), &storage.message());
        }
        self.storage = Some(storage);
    }

    /// The Registry said how its scrub is, and what a person should look at.
    pub(super) fn scrubs(&mut self, status: RegistryScrubStatus, complaint: Option<String>) {
        if let Some(complaint) = complaint {
            self.degrade("ContentDamaged", &complaint);
        }
        self.scrub = Some(status);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
            .as_ref()
            .is_some_and(|update| update.truth == Truth::True)
    }

    /// Whether nothing is known about the Registry.
    pub(super) fn is_unknown(&self) -> bool {
        let ready = self.ready.as_ref();
        ready.is_none_or(|update| update.truth == Truth::Unknown)
    }

    /// Whether a person has to do something.
    pub(super) fn needs_attention(&self) -> bool {
        let is_stuck =
            |update: &ConditionValue| matches!(update.reason, "PodNotRunning" | "Unschedulable");
        self.degraded.is_some() || self.ready.as_ref().is_some_and(is_stuck)
    }

    /// The status. Unknown values stay as they were.
    pub(super) fn status(&self, registry: &Registry, now: Timestamp) -> RegistryStatus {
        let before = registry.status.clone().unwrap_or_default();
        let all = before.conditions.unwrap_or_default();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let storage = self.storage.as_ref().map(|it| it.status.clone());
        RegistryStatus {
            observed_generation: registry.metadata.generation,
            address: self.address.clone().or(before.address),
            cluster_ip: self.cluster_ip.clone().or(before.cluster_ip),
            public_generation: self.public.map(|it| it.0).or(before.public_generation),
            public_repositories: self
                .public
                .map(|it| count(it.1))
                .or(before.public_repositories),
            storage: storage.or(before.storage),
            scrub: self.scrub.clone().or(before.scrub),
            conditions: Some(self.conditions(all, registry, now)),
        }
    }

    fn conditions(
        &self,
        mut all: Vec<Condition>,
        registry: &Registry,
        now: Timestamp,
    ) -> Vec<Condition> {
        let is_settled = all.iter().any(|condition| {
            condition.type_ == kind::READY
                && condition.observed_generation == registry.metadata.generation
        });
        let said_its_space = all.iter().any(|it| it.type_ == kind::STORAGE_AVAILABLE);
        let mut set = |kind, truth, reason, message: &str| {
            let update = conditions::ConditionUpdate {
                kind,
                truth,
                reason,
                message,
            };
            conditions::set(&mut all, &update, registry.metadata.generation, now);
        };
        match &self.ready {
            // A Registry does not stop being ready because nothing is known about it at the moment.
            Some(update) if update.truth == Truth::Unknown && is_settled => {}
            Some(update) => set(kind::READY, update.truth, update.reason, &update.message),
            None => set(kind::READY, Truth::Unknown, "Reading", ""),
        }
        match &self.progressing {
            Some((reason, message)) => set(kind::PROGRESSING, Truth::True, reason, message),
            None => set(kind::PROGRESSING, Truth::False, "Settled", ""),
        }
        match &self.degraded {
            Some((reason, message)) => set(kind::DEGRADED, Truth::True, reason, message),
            None => set(kind::DEGRADED, Truth::False, "AsWanted", ""),
        }
        match (&self.storage, said_its_space) {
            (Some(storage), _) => {
                let (level, message) = (storage.level, storage.message());
                set(
                    kind::STORAGE_AVAILABLE,
                    level.truth(),
                    level.reason(),
                    &message,
                );
            }
            (None, true) => {}
            (None, false) => set(
                kind::STORAGE_AVAILABLE,
                Truth::Unknown,
                "NotHeard",
                "the registry has not yet reported what it stores",
            ),
        }
        all
    }
}

/// Why a Registry is not ready, for the conditions of what depends on it: the reason and the message
/// of its own condition. `None` if it is ready, or says nothing.
pub(crate) fn why_not_ready(registry: &Registry) -> Option<String> {
    let conditions = registry.status.as_ref()?.conditions.iter().flatten();
    let mut ready = conditions.filter(|condition| condition.type_ == kind::READY);
    let ready = ready.next().filter(|ready| ready.status != "True")?;
    let message = conditions::cut(&ready.message, MAX_QUOTED);
    Some(format!("{}: {message}", ready.reason))
}

/// Says whether the workload serves, and if not, what its pod waits for.
pub(super) fn of_workload(
    existing: &ExistingObjects,
    host: &str,
    conditions: &mut RegistryConditions,
) {
    let set = existing.stateful_set.as_deref();
    if set.is_some_and(is_serving) {
        conditions.ready = Some(ConditionValue {
            truth: Truth::True,
            reason: "Serving",
            message: format!("serves as {host}"),
        });
        return;
    }
    let pod_problem = existing.pod.as_deref().and_then(|pod| {
        let (reason, mut message) = pod_problem(pod)?;
        let set = existing.stateful_set.as_deref();
        if let Some(advice) = claim::advice(pod, set, existing.classes.as_ref()) {
            message = format!("{message}; {advice}");
        }
        Some((reason, message))
    });
    let (reason, message) =
        pod_problem.unwrap_or(("Starting", "its pod is not ready yet".to_owned()));
    conditions.wait(reason, &message);
}

fn is_serving(set: &StatefulSet) -> bool {
    let status = set.status.as_ref();
    let is_seen = |observed: Option<i64>| observed >= set.metadata.generation;
    status.is_some_and(|status| {
        is_seen(status.observed_generation)
            && status.ready_replicas.unwrap_or(0) >= 1
            && status.updated_replicas.unwrap_or(0) >= 1
    })
}

/// Why the pod does not run, according to its status.
fn pod_problem(pod: &Pod) -> Option<(&'static str, String)> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.find(|it| it.type_ == "PodScheduled" && it.status == "False");
    if let Some(condition) = unscheduled {
        let why = condition.message.clone().unwrap_or_default();
        return Some((
            "Unschedulable",
            format!("no node can run pod {name}: {why}"),
        ));
    }
    let container = status.container_statuses.iter().flatten().next()?;
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let why = waiting.message.clone().unwrap_or_default();
    Some((
        "PodNotRunning",
        format!("pod {name} does not run: {reason}: {why}"),
    ))
}
