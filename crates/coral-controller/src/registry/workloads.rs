//! Watches of what was made for Registries, in the namespaces that have one.
//!
//! Rights on workloads exist only where an administrator granted them, so there is no watch over
//! all namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::build::SELECTOR;
use crate::changes::{Changes, Topic};
use crate::follow::Watch;
use crate::store::Store;

/// How long the first look at a namespace may take within a pass.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// One watched namespace.
pub(super) struct Place {
    pub(super) stateful_sets: Store<StatefulSet>,
    pub(super) services: Store<Service>,
    pub(super) config_maps: Store<ConfigMap>,
    pub(super) pods: Store<Pod>,
    /// Kinds that the API server refuses to list.
    refused: watch::Receiver<BTreeSet<String>>,
    /// The watches end with the place.
    _watches: JoinSet<()>,
}

/// What is known of the rights in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Everything can be read.
    Granted,
    /// Something is refused.
    Refused,
    /// The API server did not answer yet; the part is woken when it does.
    Unknown,
}

impl Place {
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
            stateful_sets: watches
                .begin(|set: &mut StatefulSet| set.metadata.managed_fields = None),
            services: watches.begin(|_| {}),
            config_maps: watches.begin(|_| {}),
            pods: watches.begin(|_| {}),
            refused,
            _watches: watches.running,
        }
    }

    /// Waits for the first lists, for a bounded time.
    pub(super) async fn rights(&self) -> Rights {
        let mut refused = self.refused.clone();
        let listed = async {
            tokio::join!(
                self.stateful_sets.ready(),
                self.services.ready(),
                self.config_maps.ready(),
                self.pods.ready(),
            )
        };
        tokio::select! {
            biased;
            _ = listed => if self.refused.borrow().is_empty() { Rights::Granted } else { Rights::Refused },
            _ = refused.wait_for(|kinds| !kinds.is_empty()) => Rights::Refused,
            () = tokio::time::sleep(FIRST_LIST) => Rights::Unknown,
        }
    }
}

/// The watched namespaces.
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
            self.0
                .entry(namespace.clone())
                .or_insert_with(|| Place::begin(client, changes, namespace));
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
    fn begin<K>(&mut self, strip: fn(&mut K)) -> Store<K>
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
        let mut watch = Watch::of(api, &store, Topic::RegistryWorkloads);
        watch.config = watcher::Config::default().labels(SELECTOR);
        watch.strip = strip;
        let (refuse, changes) = (self.refuse.clone(), self.changes.clone());
        let kind = K::kind(&()).into_owned();
        self.running
            .spawn(watch.run(self.changes.clone(), move |error| {
                let is_news = refuse.send_if_modified(|kinds| match error {
                    Some(_) => kinds.insert(kind.clone()),
                    None => kinds.remove(&kind),
                });
                if is_news {
                    changes.notify(Topic::RegistryWorkloads);
                }
            }));
        store
    }
}
