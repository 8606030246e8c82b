//! Watches of the objects of Registries, in the namespaces that have a Registry.
//!
//! Rights on workloads exist only in namespaces where an administrator granted them, so there is no
//! watch over all namespaces. Rights on workloads alone are not enough, because the administrator
//! of a namespace holds them and could pass them on to the controller. The verb `run` on a Registry
//! is in no built-in role, so only a cluster administrator can grant it. It is checked for each
//! Registry by name, because a grant may cover a single one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::Client;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Registry;
use super::build::SELECTOR;
use crate::backoff::BackoffBounds;
use crate::changes::{Changes, Topic};
use crate::namespace_watches::NamespaceWatches;
use crate::permission::{ASK_AGAIN_AFTER_GRANT, Rights, may_run};
use crate::store::Store;

/// How long the first look at a namespace may take within a pass.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// When a missing right is checked again. An administrator who has just granted it waits for the
/// effect.
const REFUSAL_BACKOFF: BackoffBounds = BackoffBounds {
    first: Duration::from_secs(10),
    longest: Duration::from_mins(1),
};
/// Shortest time between two rounds for each Registry that is asked about, so that many Registries
/// of one namespace do not keep the API server busy.
const FOR_EACH: Duration = Duration::from_millis(50);

/// Whether each Registry may run, by its name; absent until the API server answered.
type Answers = BTreeMap<String, bool>;

/// A namespace with Registries.
pub(super) struct RegistryNamespace {
    pub(super) stateful_sets: Store<StatefulSet>,
    pub(super) services: Store<Service>,
    pub(super) config_maps: Store<ConfigMap>,
    pub(super) pods: Store<Pod>,
    /// The Registries whose rights are asked for.
    names: watch::Sender<BTreeSet<String>>,
    may_run: watch::Receiver<Answers>,
    watches: NamespaceWatches,
}

impl RegistryNamespace {
    fn begin(
        client: &Client,
        changes: &Changes,
        namespace: &str,
        names: &BTreeSet<String>,
    ) -> Self {
        let topic = Topic::RegistryWorkloads;
        let mut watches = NamespaceWatches::new(client, changes, namespace, SELECTOR, topic);
        let (answers, may_run) = watch::channel(Answers::new());
        let (names, asked_for) = watch::channel(names.clone());
        let rights = FollowRights {
            client: client.clone(),
            changes: changes.clone(),
            namespace: namespace.to_owned(),
            answers,
        };
        watches.spawn(rights.run(asked_for));
        Self {
            stateful_sets: watches
                .begin(|set: &mut StatefulSet| set.metadata.managed_fields = None),
            services: watches.begin(|_| {}),
            config_maps: watches.begin(|_| {}),
            pods: watches.begin(|_| {}),
            names,
            may_run,
            watches,
        }
    }

    /// The rights to run the Registry of this name. Waits for the first lists and the answer, for a
    /// bounded time.
    pub(super) async fn rights(&self, name: &str) -> Rights {
        let mut refused = self.watches.refused();
        let (mut answered, mut denied) = (self.may_run.clone(), self.may_run.clone());
        let answer = async {
            let _ = answered.wait_for(|known| known.contains_key(name)).await;
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
            _ = known => self.judged(name),
            _ = denied.wait_for(|known| known.get(name) == Some(&false)) => Rights::Refused,
            _ = refused.wait_for(|kinds| !kinds.is_empty()) => Rights::Refused,
            () = tokio::time::sleep(FIRST_LIST) => Rights::Unknown,
        }
    }

    /// The rights, once all of them are known.
    fn judged(&self, name: &str) -> Rights {
        let may_run = self.may_run.borrow().get(name) == Some(&true);
        if may_run && !self.watches.is_refused() {
            Rights::Granted
        } else {
            Rights::Refused
        }
    }
}

/// Asks again and again which Registries of a namespace may run, until it is dropped.
struct FollowRights {
    client: Client,
    changes: Changes,
    namespace: String,
    answers: watch::Sender<Answers>,
}

impl FollowRights {
    /// Runs until the namespace is forgotten. A Registry that is new is asked about at once, the others when
    /// their time has come.
    async fn run(self, mut names: watch::Receiver<BTreeSet<String>>) {
        let (mut refusals, mut next) = (0, Instant::now());
        loop {
            let all = names.borrow_and_update().clone();
            let is_due = next <= Instant::now();
            let asked = self.to_be_asked(&all, is_due);
            let has_every_right = self.ask(&asked).await;
            // The Registry is new, so an administrator is probably about to grant the right: check
            // again soon.
            refusals = match (has_every_right, is_due) {
                (true, true) => 0,
                (true, false) => refusals,
                (false, true) => refusals + 1,
                (false, false) => 1,
            };
            let pause = match refusals {
                0 => ASK_AGAIN_AFTER_GRANT,
                refusals => REFUSAL_BACKOFF.after(refusals),
            };
            let each = FOR_EACH.saturating_mul(u32::try_from(all.len()).unwrap_or(u32::MAX));
            let after = Instant::now() + crate::backoff::jittered(pause.max(each));
            next = if is_due { after } else { next.min(after) };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                changed = names.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The Registries to be asked about: every one of `all` when it is time, otherwise those
    /// without an answer. Forgets the answers about others.
    fn to_be_asked(&self, all: &BTreeSet<String>, is_due: bool) -> Vec<String> {
        self.answers.send_if_modified(|known| {
            let before = known.len();
            known.retain(|name, _| all.contains(name));
            known.len() < before
        });
        let known = self.answers.borrow();
        let asked = all
            .iter()
            .filter(|name| is_due || !known.contains_key(*name));
        asked.cloned().collect()
    }

    /// Asks about these, and says whether all of them may run.
    async fn ask(&self, names: &[String]) -> bool {
        let mut has_every_right = true;
        for name in names {
            let answer = may_run::<Registry>(&self.client, &self.namespace, Some(name)).await;
            has_every_right &= answer == Some(true);
            let is_news = answer.is_some_and(|answer| {
                self.answers
                    .send_if_modified(|known| known.insert(name.clone(), answer) != Some(answer))
            });
            if is_news {
                self.changes.notify(Topic::RegistryWorkloads);
            }
        }
        has_every_right
    }
}

/// The watched namespaces.
#[derive(Default)]
pub(super) struct RegistryNamespaces(BTreeMap<String, RegistryNamespace>);

impl RegistryNamespaces {
    /// Watches exactly these namespaces, each for the Registries of these names.
    pub(super) fn follow(
        &mut self,
        client: &Client,
        changes: &Changes,
        namespaces: &BTreeMap<String, BTreeSet<String>>,
    ) {
        self.0
            .retain(|namespace, _| namespaces.contains_key(namespace));
        for (namespace, names) in namespaces {
            let begin = || RegistryNamespace::begin(client, changes, namespace, names);
            let known = self.0.entry(namespace.clone()).or_insert_with(begin);
            known.names.send_if_modified(|known| {
                let is_new = known != names;
                known.clone_from(names);
                is_new
            });
        }
    }

    pub(super) fn get(&self, namespace: &str) -> Option<&RegistryNamespace> {
        self.0.get(namespace)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{ReceivedRequest, Server, pair, refusal};

    /// Answers lists with nothing, and each review of the Registry `reg` with the next of
    /// `allowed`; the last stays. No other Registry may run.
    async fn serve(mut server: Server, mut allowed: Vec<bool>, lists: u16) {
        let mut open: Vec<ReceivedRequest> = Vec::new();
        loop {
            let asked = server.next().await;
            if asked.uri.contains("selfsubjectaccessreviews") {
                let attributes = &asked.body["spec"]["resourceAttributes"];
                let name = &attributes["name"];
                let expected = json!({
                    "group": "stvz.io", "resource": "registries", "verb": "run", "namespace": "a",
                    "name": name,
                });
                assert_eq!(attributes, &expected);
                let is_allowed = name == "reg" && allowed[0];
                if name == "reg" && allowed.len() > 1 {
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

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    async fn rights(of: &str, allowed: Vec<bool>, lists: u16) -> Rights {
        let (client, server) = pair();
        let watched =
            RegistryNamespace::begin(&client, &Changes::default(), "a", &names(&["other", "reg"]));
        tokio::select! {
            rights = watched.rights(of) => rights,
            () = serve(server, allowed, lists) => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rights_on_workloads_alone_let_no_registry_run() {
        assert_eq!(rights("reg", vec![false], 200).await, Rights::Refused);
        assert_eq!(rights("reg", vec![true], 403).await, Rights::Refused);
        assert_eq!(rights("reg", vec![true], 200).await, Rights::Granted);
    }

    #[tokio::test(start_paused = true)]
    async fn the_grant_of_one_registry_lets_no_other_run() {
        assert_eq!(rights("other", vec![true], 200).await, Rights::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_that_is_granted_later_wakes_the_part_and_a_new_registry_is_asked_about_at_once()
     {
        let (client, server) = pair();
        let changes = Changes::default();
        let mut woken = changes.subscribe(&[Topic::RegistryWorkloads]);
        let (answers, mut may_run) = watch::channel(Answers::new());
        let (wanted, asked_for) = watch::channel(names(&["reg"]));
        let rights = FollowRights {
            client,
            changes,
            namespace: "a".into(),
            answers,
        };
        let granted = async {
            let _ = may_run.wait_for(|it| it.get("reg") == Some(&false)).await;
            woken.changed().await;
            let _ = may_run.wait_for(|it| it.get("reg") == Some(&true)).await;
            woken.changed().await;
            let before = Instant::now();
            wanted.send_replace(names(&["other", "reg"]));
            let _ = may_run.wait_for(|it| it.contains_key("other")).await;
            assert_eq!(before.elapsed(), Duration::ZERO);
            wanted.send_replace(names(&["reg"]));
            let _ = may_run.wait_for(|it| !it.contains_key("other")).await;
        };
        tokio::select! {
            () = granted => {}
            () = rights.run(asked_for) => unreachable!(),
            () = serve(server, vec![false, true], 200) => unreachable!(),
        }
    }
}
