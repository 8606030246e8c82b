//! Watches of Jobs and pods, in the namespaces that have a build to run and hold the grant.
//!
//! Rights on Jobs exist only where an administrator granted them, so there is no watch over all
//! namespaces. Rights on Jobs are not enough: the administrator of a namespace holds them, and so
//! could pass them on to the controller. The verb `run` on ImageBuilds, which no role of Kubernetes
//! includes, can only be granted by an administrator of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use coral_api::image_build::ImageBuild;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::names::SELECTOR;
use crate::backoff::Growth;
use crate::changes::{Changes, Topic};
use crate::follow::Watch;
use crate::permission::may_run;
use crate::store::Store;

/// When a right that is missing is asked for again: an administrator waits for the effect.
const AFTER_REFUSAL: Growth = Growth {
    first: Duration::from_secs(5),
    longest: Duration::from_mins(1),
};
/// When a right that was granted is asked for again: it may be taken back.
const AFTER_GRANT: Duration = Duration::from_mins(5);

/// What is known of the rights to run builds in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Builds may run, and their Jobs and pods are known.
    Granted,
    /// Builds may not run, or something cannot be read.
    Refused,
    /// Not known yet; the part is woken when it is.
    Unknown,
}

/// A namespace with a build to run.
pub(super) struct Place {
    may_run: watch::Receiver<Option<bool>>,
    /// Begun once the right is there: until then each watch would be refused.
    watched: Option<Watched>,
    _asking: JoinSet<()>,
}

/// What is watched in a namespace.
struct Watched {
    jobs: Store<Job>,
    pods: Store<Pod>,
    /// Kinds that the API server refuses to list.
    refused: watch::Receiver<BTreeSet<String>>,
    /// The watches end with it.
    _watches: JoinSet<()>,
}

impl Place {
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
            watched: None,
            _asking: asking,
        }
    }

    /// Begins or ends the watches, as the rights are.
    fn follow(&mut self, client: &Client, changes: &Changes, namespace: &str) {
        let may_run = *self.may_run.borrow();
        if may_run != Some(true) {
            self.watched = None;
        } else if self.watched.is_none() {
            self.watched = Some(Watched::begin(client, changes, namespace));
        }
    }

    /// The rights to run builds here.
    pub(super) fn rights(&self) -> Rights {
        match (*self.may_run.borrow(), &self.watched) {
            (Some(false), _) => Rights::Refused,
            (Some(true), Some(watched)) => watched.rights(),
            (Some(true), None) | (None, _) => Rights::Unknown,
        }
    }

    /// The Jobs of builds, as far as they were seen.
    pub(super) fn jobs(&self) -> Vec<Arc<Job>> {
        let watched = self.watched.iter();
        watched
            .flat_map(|it| it.jobs.snapshot().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The pods of builds, as far as they were seen.
    pub(super) fn pods(&self) -> Vec<Arc<Pod>> {
        let watched = self.watched.iter();
        watched
            .flat_map(|it| it.pods.snapshot().values().cloned().collect::<Vec<_>>())
            .collect()
    }
}

impl Watched {
    fn begin(client: &Client, changes: &Changes, namespace: &str) -> Self {
        let (refuse, refused) = watch::channel(BTreeSet::new());
        let mut watches = Watches {
            client,
            changes,
            namespace,
            refuse: Arc::new(refuse),
            running: JoinSet::new(),
        };
        Self {
            jobs: watches.begin(),
            pods: watches.begin(),
            refused,
            _watches: watches.running,
        }
    }

    fn rights(&self) -> Rights {
        if !self.refused.borrow().is_empty() {
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
                0 => AFTER_GRANT,
                refusals => AFTER_REFUSAL.after(refusals),
            };
            tokio::time::sleep(crate::backoff::jittered(pause)).await;
        }
    }
}

/// The namespaces with a build to run.
#[derive(Default)]
pub(super) struct Places(BTreeMap<String, Place>);

impl Places {
    /// Watches exactly these namespaces.
    pub(super) fn follow(
        &mut self,
        client: &Client,
        changes: &Changes,
        namespaces: &BTreeSet<String>,
    ) {
        self.0.retain(|namespace, _| namespaces.contains(namespace));
        for namespace in namespaces {
            let place = self.0.entry(namespace.clone());
            let place = place.or_insert_with(|| Place::begin(client, changes, namespace));
            place.follow(client, changes, namespace);
        }
    }

    pub(super) fn get(&self, namespace: &str) -> Option<&Place> {
        self.0.get(namespace)
    }
}

struct Watches<'a> {
    client: &'a Client,
    changes: &'a Changes,
    namespace: &'a str,
    refuse: Arc<watch::Sender<BTreeSet<String>>>,
    running: JoinSet<()>,
}

impl Watches<'_> {
    fn begin<K>(&mut self) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let store = Store::default();
        let api = Api::namespaced(self.client.clone(), self.namespace);
        let mut watch = Watch::of(api, &store, Topic::BuildWorkloads);
        watch.config = watcher::Config::default().labels(SELECTOR);
        let (refuse, changes) = (self.refuse.clone(), self.changes.clone());
        let kind = K::kind(&()).into_owned();
        self.running
            .spawn(watch.run(self.changes.clone(), move |error| {
                let is_news = refuse.send_if_modified(|kinds| match error {
                    Some(_) => kinds.insert(kind.clone()),
                    None => kinds.remove(&kind),
                });
                if is_news {
                    changes.notify(Topic::BuildWorkloads);
                }
            }));
        store
    }
}
