//! Watches of the objects that Coral made in one namespace.
//!
//! Rights on workloads exist only where an administrator granted them, so a part that makes them
//! has no watch over all namespaces: it watches each of its namespaces by itself.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::changes::{Changes, Topic};
use crate::follow::Watch;
use crate::store::Store;

/// The watches of one namespace. They end when this is dropped.
pub(crate) struct NamespaceWatches {
    client: Client,
    changes: Changes,
    namespace: String,
    /// Labels of the objects that are watched.
    selector: &'static str,
    /// What wakes when an object changes, or when a refusal begins or ends.
    topic: Topic,
    refused: Arc<watch::Sender<BTreeSet<String>>>,
    running: JoinSet<()>,
}

impl NamespaceWatches {
    pub(crate) fn new(
        client: &Client,
        changes: &Changes,
        namespace: &str,
        selector: &'static str,
        topic: Topic,
    ) -> Self {
        Self {
            client: client.clone(),
            changes: changes.clone(),
            namespace: namespace.to_owned(),
            selector,
            topic,
            refused: Arc::new(watch::channel(BTreeSet::new()).0),
            running: JoinSet::new(),
        }
    }

    /// Watches the objects of a kind. `strip` removes what no part reads.
    pub(crate) fn begin<K>(&mut self, strip: fn(&mut K)) -> Store<K>
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
        let api = Api::namespaced(self.client.clone(), &self.namespace);
        let mut watch = Watch::new(api, &store, self.topic);
        watch.config = watcher::Config::default().labels(self.selector);
        watch.strip = strip;
        let (refused, changes, topic) = (self.refused.clone(), self.changes.clone(), self.topic);
        let kind = K::kind(&()).into_owned();
        self.running
            .spawn(watch.run(self.changes.clone(), move |error| {
                let is_news = refused.send_if_modified(|kinds| match error {
                    Some(_) => kinds.insert(kind.clone()),
                    None => kinds.remove(&kind),
                });
                if is_news {
                    changes.notify(topic);
                }
            }));
        store
    }

    /// Runs another task until the watches end.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(task);
    }

    /// The kinds that the API server refuses to list.
    pub(crate) fn refused(&self) -> watch::Receiver<BTreeSet<String>> {
        self.refused.subscribe()
    }

    /// Whether the API server refuses to list one of the kinds.
    pub(crate) fn is_refused(&self) -> bool {
        !self.refused.borrow().is_empty()
    }
}
