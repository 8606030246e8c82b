//! Watches of what was made for Registries, in the namespaces that have one.
//!
//! Rights on workloads exist only where an administrator granted them, so there is no watch over
//! all namespaces. Rights on workloads are not enough: the administrator of a namespace holds them,
//! and so could pass them on to the controller. The verb `run` on Registries, which no role of
//! Kubernetes includes, can only be granted by an administrator of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Registry;
use super::build::SELECTOR;
use crate::changes::{Changes, Topic};
use crate::follow::Watch;
use crate::store::Store;

/// How long the first look at a namespace may take within a pass.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// The verb on Registries that lets the controller make them in a namespace.
const RUN: &str = "run";
/// How long the API server may take to answer whether the controller has the right.
const REVIEW: Duration = Duration::from_secs(10);
/// When a right that is missing is asked for again: an administrator waits for the effect.
const ASK_AFTER_REFUSAL: Duration = Duration::from_secs(10);
/// When a right that was granted is asked for again: it may be taken back.
const ASK_AFTER_GRANT: Duration = Duration::from_mins(5);

/// One watched namespace.
pub(super) struct Place {
    pub(super) stateful_sets: Store<StatefulSet>,
    pub(super) services: Store<Service>,
    pub(super) config_maps: Store<ConfigMap>,
    pub(super) pods: Store<Pod>,
    /// Kinds that the API server refuses to list.
    refused: watch::Receiver<BTreeSet<String>>,
    /// Whether Registries may run here; `None` until the API server answered.
    may_run: watch::Receiver<Option<bool>>,
    /// The watches end with the place.
    _watches: JoinSet<()>,
}

/// What is known of the rights in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Registries may run, and everything can be read.
    Granted,
    /// Registries may not run, or something cannot be read.
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
        let (allow, may_run) = watch::channel(None);
        let follow = follow_right(client.clone(), changes.clone(), namespace.to_owned(), allow);
        watches.running.spawn(follow);
        Self {
            stateful_sets: watches
                .begin(|set: &mut StatefulSet| set.metadata.managed_fields = None),
            services: watches.begin(|_| {}),
            config_maps: watches.begin(|_| {}),
            pods: watches.begin(|_| {}),
            refused,
            may_run,
            _watches: watches.running,
        }
    }

    /// Waits for the first lists, for a bounded time.
    pub(super) async fn rights(&self) -> Rights {
        let mut refused = self.refused.clone();
        let (mut answered, mut denied) = (self.may_run.clone(), self.may_run.clone());
        let answer = async {
            let _ = answered.wait_for(Option::is_some).await;
        };
        let known = async {
            tokio::join!(
                self.stateful_sets.ready(),
                self.services.ready(),
                self.config_maps.ready(),
                self.pods.ready(),
                answer,
            )
        };
        tokio::select! {
            biased;
            _ = known => self.judged(),
            _ = denied.wait_for(|may_run| *may_run == Some(false)) => Rights::Refused,
            _ = refused.wait_for(|kinds| !kinds.is_empty()) => Rights::Refused,
            () = tokio::time::sleep(FIRST_LIST) => Rights::Unknown,
        }
    }
}

impl Place {
    /// The rights, once all of them are known.
    fn judged(&self) -> Rights {
        let may_run = *self.may_run.borrow() == Some(true);
        if may_run && self.refused.borrow().is_empty() {
            Rights::Granted
        } else {
            Rights::Refused
        }
    }
}

/// Asks for ever whether Registries may run in the namespace.
async fn follow_right(
    client: Client,
    changes: Changes,
    namespace: String,
    allow: watch::Sender<Option<bool>>,
) {
    loop {
        let answer = may_run(&client, &namespace).await;
        if answer.is_some() && allow.send_replace(answer) != answer {
            changes.notify(Topic::RegistryWorkloads);
        }
        let pause = match answer {
            Some(true) => ASK_AFTER_GRANT,
            Some(false) | None => ASK_AFTER_REFUSAL,
        };
        tokio::time::sleep(crate::backoff::jittered(pause)).await;
    }
}

/// Whether Registries may run in the namespace; `None` without an answer of the API server.
async fn may_run(client: &Client, namespace: &str) -> Option<bool> {
    let asked = ResourceAttributes {
        group: Some(Registry::group(&()).into_owned()),
        resource: Some(Registry::plural(&()).into_owned()),
        verb: Some(RUN.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(asked),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let params = PostParams::default();
    match tokio::time::timeout(REVIEW, reviews.create(&params, &review)).await {
        Ok(Ok(review)) => Some(review.status?.allowed),
        Ok(Err(error)) => {
            tracing::warn!(namespace, %error, "cannot ask whether Registries may run");
            None
        }
        Err(_) => None,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{Asked, Server, pair, refusal};

    /// Answers lists with nothing, and each review with the next of `allowed`; the last stays.
    async fn serve(mut server: Server, mut allowed: Vec<bool>, lists: u16) {
        let mut open: Vec<Asked> = Vec::new();
        loop {
            let asked = server.next().await;
            if asked.uri.contains("selfsubjectaccessreviews") {
                let attributes = &asked.body["spec"]["resourceAttributes"];
                let expected = json!({
                    "group": "stvz.io", "resource": "registries", "verb": "run", "namespace": "a",
                });
                assert_eq!(attributes, &expected);
                let is_allowed = allowed[0];
                if allowed.len() > 1 {
                    allowed.remove(0);
                }
                asked.answer(201, &json!({"spec": {}, "status": {"allowed": is_allowed}}));
            } else if asked.uri.contains("watch=true") {
                open.push(asked);
            } else if lists == 200 {
                let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
                asked.answer(200, &list);
            } else {
                asked.answer(lists, &refusal(lists, "Forbidden"));
            }
        }
    }

    async fn rights(allowed: Vec<bool>, lists: u16) -> Rights {
        let (client, server) = pair();
        let place = Place::begin(&client, &Changes::default(), "a");
        tokio::select! {
            rights = place.rights() => rights,
            () = serve(server, allowed, lists) => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rights_on_workloads_alone_let_no_registry_run() {
        assert_eq!(rights(vec![false], 200).await, Rights::Refused);
        assert_eq!(rights(vec![true], 403).await, Rights::Refused);
        assert_eq!(rights(vec![true], 200).await, Rights::Granted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_that_is_granted_later_wakes_the_part() {
        let (client, server) = pair();
        let changes = Changes::default();
        let mut woken = changes.subscribe(&[Topic::RegistryWorkloads]);
        let (allow, mut may_run) = watch::channel(None);
        let follow = follow_right(client, changes, "a".into(), allow);
        let granted = async {
            let _ = may_run.wait_for(|it| *it == Some(false)).await;
            woken.changed().await;
            let _ = may_run.wait_for(|it| *it == Some(true)).await;
            woken.changed().await;
        };
        tokio::select! {
            () = granted => {}
            () = follow => unreachable!(),
            () = serve(server, vec![false, true], 200) => unreachable!(),
        }
    }
}
