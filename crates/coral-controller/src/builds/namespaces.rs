//! Watches of Jobs and pods, in the namespaces that have a build to run and hold the grant.
//!
//! Rights on Jobs exist only where an administrator granted them, so there is no watch over all
//! namespaces. Rights on Jobs are not enough: the administrator of a namespace holds them, and so
//! could pass them on to the controller. The verb `run` on ImageBuilds, which no role of Kubernetes
//! includes, can only be granted by an administrator of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coral_api::image_build::ImageBuild;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::names::SELECTOR;
use crate::backoff::Growth;
use crate::changes::{Changes, Topic};
use crate::namespace_watches::NamespaceWatches;
use crate::permission::{ASK_AGAIN_AFTER_GRANT, Rights, may_run};
use crate::store::Store;

/// When a right that is missing is asked for again: an administrator waits for the effect.
const AFTER_REFUSAL: Growth = Growth {
    first: Duration::from_secs(5),
    longest: Duration::from_mins(1),
};

/// A namespace with a build to run.
pub(super) struct BuildNamespace {
    may_run: watch::Receiver<Option<bool>>,
    /// Begun once the right is there: until then each watch would be refused.
    workloads: Option<Workloads>,
    _asking: JoinSet<()>,
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
        let asked = Asking {
            client: client.clone(),
            changes: changes.clone(),
            namespace: namespace.to_owned(),
            answer,
        };
        asking.spawn(asked.run());
        Self {
            may_run,
            workloads: None,
            _asking: asking,
        }
    }

    /// Begins or ends the watches, as the rights are.
    fn follow(&mut self, client: &Client, changes: &Changes, namespace: &str) {
        let may_run = *self.may_run.borrow();
        if may_run != Some(true) {
            self.workloads = None;
        } else if self.workloads.is_none() {
            self.workloads = Some(Workloads::begin(client, changes, namespace));
        }
    }

    /// The rights to run builds here.
    pub(super) fn rights(&self) -> Rights {
        match (*self.may_run.borrow(), &self.workloads) {
            (Some(false), _) => Rights::Refused,
            (Some(true), Some(workloads)) => workloads.rights(),
            (Some(true), None) | (None, _) => Rights::Unknown,
        }
    }

    /// The Jobs of builds, as far as they were seen.
    pub(super) fn jobs(&self) -> Vec<Arc<Job>> {
        let workloads = self.workloads.iter();
        workloads
            .flat_map(|it| it.jobs.snapshot().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The pods of builds, as far as they were seen.
    pub(super) fn pods(&self) -> Vec<Arc<Pod>> {
        let workloads = self.workloads.iter();
        workloads
            .flat_map(|it| it.pods.snapshot().values().cloned().collect::<Vec<_>>())
            .collect()
    }
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

/// Asks for ever whether builds may run in a namespace.
struct Asking {
    client: Client,
    changes: Changes,
    namespace: String,
    answer: watch::Sender<Option<bool>>,
}

impl Asking {
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
                refusals => AFTER_REFUSAL.after(refusals),
            };
            tokio::time::sleep(crate::backoff::jittered(pause)).await;
        }
    }
}

/// The namespaces with a build to run.
#[derive(Default)]
pub(super) struct BuildNamespaces(BTreeMap<String, BuildNamespace>);

impl BuildNamespaces {
    /// Watches exactly these namespaces.
    pub(super) fn follow(
        &mut self,
        client: &Client,
        changes: &Changes,
        namespaces: &BTreeSet<String>,
    ) {
        self.0.retain(|namespace, _| namespaces.contains(namespace));
        for namespace in namespaces {
            let known = self.0.entry(namespace.clone());
            let known = known.or_insert_with(|| BuildNamespace::begin(client, changes, namespace));
            known.follow(client, changes, namespace);
        }
    }

    pub(super) fn get(&self, namespace: &str) -> Option<&BuildNamespace> {
        self.0.get(namespace)
    }
}
