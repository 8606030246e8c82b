//! Watches of Jobs and pods in the namespaces that hold the grant and have a build to run, or had
//! one recently.
//!
//! Rights on Jobs exist only in namespaces where an administrator granted them, so there is no
//! watch over all namespaces. Rights on Jobs alone are not enough, because the administrator of a
//! namespace holds them and could pass them on to the controller. The verb `run` on ImageBuilds is
//! in no built-in role, so only a cluster administrator can grant it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coral_api::image_build::ImageBuild;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::names::SELECTOR;
use crate::backoff::{BackoffBounds, has_come};
use crate::changes::{Changes, Topic};
use crate::namespace_watches::NamespaceWatches;
use crate::permission::{ASK_AGAIN_AFTER_GRANT, Rights, may_run};
use crate::store::Store;

/// How long a namespace is watched after its last build.
const IDLE_RETENTION: Duration = Duration::from_mins(5);
/// When a missing right is checked again. An administrator who has just granted it waits for the
/// effect.
const REFUSAL_BACKOFF: BackoffBounds = BackoffBounds {
    first: Duration::from_secs(5),
    longest: Duration::from_mins(1),
};

/// One watched namespace.
struct BuildNamespace {
    may_run: watch::Receiver<Option<bool>>,
    /// `None` until the right is granted: before that, each watch would be refused.
    workloads: Option<Workloads>,
    _poller: JoinSet<()>,
}

/// What is watched in a namespace.
struct Workloads {
    jobs: Store<Job>,
    pods: Store<Pod>,
    watches: NamespaceWatches,
}

impl BuildNamespace {
    fn begin(client: &Client, changes: &Changes, namespace: &str) -> Self {
        let (answer, may_run) = watch::channel(None);
        let mut asking = JoinSet::new();
        let asked = RightsPoller {
            client: client.clone(),
            changes: changes.clone(),
            namespace: namespace.to_owned(),
            answer,
        };
        asking.spawn(asked.run());
        Self {
            may_run,
            workloads: None,
            _poller: asking,
        }
    }

    /// Begins or ends the watches, depending on the rights.
    fn follow(&mut self, client: &Client, changes: &Changes, namespace: &str) {
        let may_run = *self.may_run.borrow();
        if may_run != Some(true) {
            self.workloads = None;
        } else if self.workloads.is_none() {
            self.workloads = Some(Workloads::begin(client, changes, namespace));
        }
    }

    /// The rights to run builds here.
    fn rights(&self) -> Rights {
        match (*self.may_run.borrow(), &self.workloads) {
            (Some(false), _) => Rights::Refused,
            (Some(true), Some(workloads)) => workloads.rights(),
            (Some(true), None) | (None, _) => Rights::Unknown,
        }
    }

    /// The Jobs and pods of builds, as last seen.
    fn snapshot(&self) -> Workload {
        let rights = self.rights();
        let mut found = Workload {
            rights,
            ..Workload::default()
        };
        if rights != Rights::Granted {
            return found;
        }
        if let Some(workloads) = &self.workloads {
            for job in workloads.jobs.snapshot().values() {
                found.add_job(job);
            }
            for pod in workloads.pods.snapshot().values() {
                found.add_pod(pod);
            }
        }
        found
    }
}

/// The Jobs and pods of builds in a namespace at the beginning of a pass.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) rights: Rights,
    /// Jobs by the uid of their controlling owner, if they have one.
    jobs: BTreeMap<String, Vec<Arc<Job>>>,
    /// The newest pod of each Job, by the Job's uid.
    pods: BTreeMap<String, Arc<Pod>>,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            rights: Rights::Unknown,
            jobs: BTreeMap::new(),
            pods: BTreeMap::new(),
        }
    }
}

impl Workload {
    pub(super) fn add_job(&mut self, job: &Arc<Job>) {
        let owner = controller(&job.metadata).unwrap_or_default();
        let of_owner = self.jobs.entry(owner.to_owned()).or_default();
        of_owner.push(job.clone());
    }

    pub(super) fn add_pod(&mut self, pod: &Arc<Pod>) {
        let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|it| it.0);
        for owner in pod.metadata.owner_references.iter().flatten() {
            let known = self.pods.entry(owner.uid.clone());
            let newest = known.or_insert_with(|| pod.clone());
            if created(pod) > created(newest) {
                *newest = pod.clone();
            }
        }
    }

    /// The Jobs that the object of this uid controls.
    pub(super) fn jobs_of(&self, owner: &str) -> &[Arc<Job>] {
        self.jobs.get(owner).map_or(&[], Vec::as_slice)
    }

    /// All Jobs.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values().flatten()
    }

    /// The pods whose Job is gone.
    pub(super) fn pods_without_job(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let jobs = self.jobs().filter_map(|job| job.metadata.uid.as_deref());
        let jobs: BTreeSet<&str> = jobs.collect();
        let pods = self.pods.iter();
        let pods = pods.filter(move |(job, _)| !jobs.contains(job.as_str()));
        pods.map(|(_, pod)| pod)
    }

    /// The newest pod of a Job.
    pub(super) fn pod_of(&self, job: &Job) -> Option<&Arc<Pod>> {
        self.pods.get(job.metadata.uid.as_ref()?)
    }
}

/// The uid of an object's controlling owner.
fn controller(metadata: &ObjectMeta) -> Option<&str> {
    let mut owners = metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true));
    controller.map(|owner| owner.uid.as_str())
}

impl Workloads {
    fn begin(client: &Client, changes: &Changes, namespace: &str) -> Self {
        let topic = Topic::BuildWorkloads;
        let mut watches = NamespaceWatches::new(client, changes, namespace, SELECTOR, topic);
        Self {
            jobs: watches.begin(|_| {}),
            pods: watches.begin(|_| {}),
            watches,
        }
    }

    fn rights(&self) -> Rights {
        if self.watches.is_refused() {
            Rights::Refused
        } else if self.jobs.is_ready() && self.pods.is_ready() {
            Rights::Granted
        } else {
            Rights::Unknown
        }
    }
}

/// Checks periodically whether builds may run in a namespace, until it is dropped.
struct RightsPoller {
    client: Client,
    changes: Changes,
    namespace: String,
    answer: watch::Sender<Option<bool>>,
}

impl RightsPoller {
    async fn run(self) {
        let mut refusals = 0;
        loop {
            let answer = may_run::<ImageBuild>(&self.client, &self.namespace, None).await;
            let is_news = answer.is_some()
                && self.answer.send_if_modified(|known| {
                    let is_news = *known != answer;
                    *known = answer;
                    is_news
                });
            if is_news {
                self.changes.notify(Topic::BuildWorkloads);
            }
            refusals = if answer == Some(true) {
                0
            } else {
                refusals + 1
            };
            let pause = match refusals {
                0 => ASK_AGAIN_AFTER_GRANT,
                refusals => REFUSAL_BACKOFF.after(refusals),
            };
            tokio::time::sleep(crate::backoff::jittered(pause)).await;
        }
    }
}

/// The namespaces that have a build to run, or had one recently.
#[derive(Default)]
pub(super) struct BuildNamespaces(BTreeMap<String, WatchedNamespace>);

struct WatchedNamespace {
    namespace: BuildNamespace,
    /// When it had a build to run last.
    used: Timestamp,
}

impl BuildNamespaces {
    /// Watches these namespaces, and keeps earlier watches for some time, so that the next build
    /// there need not wait for the check of rights and the first lists.
    pub(super) fn follow(
        &mut self,
        client: &Client,
        changes: &Changes,
        namespaces: &BTreeSet<String>,
        now: Timestamp,
    ) {
        for namespace in namespaces {
            let known = self.0.entry(namespace.clone());
            let known = known.or_insert_with(|| WatchedNamespace {
                namespace: BuildNamespace::begin(client, changes, namespace),
                used: now,
            });
            known.used = now;
        }
        self.0.retain(|_, known| {
            let until = known
                .used
                .saturating_add(IDLE_RETENTION)
                .unwrap_or(Timestamp::MAX);
            !has_come(until, now, IDLE_RETENTION)
        });
        for (namespace, known) in &mut self.0 {
            known.namespace.follow(client, changes, namespace);
        }
    }

    /// The Jobs and pods in each of them.
    pub(super) fn snapshot(&self) -> BTreeMap<String, Workload> {
        let all = self.0.iter();
        all.map(|(name, known)| (name.clone(), known.namespace.snapshot()))
            .collect()
    }
}
