//! Secrets, read by name and only where an administrator allowed it.
//!
//! A part asks for a Secret by namespace and name. The first request starts a watch of exactly that
//! object, so that a change wakes the part ([`Topic::Secrets`]); later ones are answered from
//! memory. At the end of a pass the part declares which Secrets it still needs; watches that no
//! part needs end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::ObjectKey;
use crate::changes::{Changes, Topic};
use crate::follow::Watch;
use crate::store::Store;

/// How long the first question waits for an answer of the API server.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a Secret cannot be used. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretProblem {
    /// There is no such Secret.
    #[error("secret {0} does not exist: create it, or correct the name")]
    Missing(ObjectKey),
    /// The controller has no right to read it.
    #[error("the controller may not read secret {0}: allow it with `{command}`", command = grant_command(.0))]
    NotGranted(ObjectKey),
    /// The API server has not answered yet; the part is woken when it does.
    #[error("secret {0} could not yet be read")]
    Unknown(ObjectKey),
}

/// The command that prints the Role and `RoleBinding` for one Secret.
pub(crate) fn grant_command(key: &ObjectKey) -> String {
    format!(
        "coral grant {} {} | kubectl apply -f -",
        key.namespace, key.name
    )
}

/// The Secrets that parts asked for. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(crate) struct Secrets(Arc<Inner>);

struct Inner {
    client: Client,
    changes: Changes,
    watched: Mutex<BTreeMap<ObjectKey, Watched>>,
}

struct Watched {
    store: Store<Secret>,
    /// Whether the API server refuses the read.
    refused: watch::Receiver<bool>,
    users: BTreeSet<&'static str>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Secrets {
    /// Nothing is watched yet.
    pub(crate) fn new(client: Client, changes: Changes) -> Self {
        Self(Arc::new(Inner {
            client,
            changes,
            watched: Mutex::default(),
        }))
    }

    /// The Secret as last seen. `user` is the part that asks.
    pub(crate) async fn get(
        &self,
        user: &'static str,
        key: &ObjectKey,
    ) -> Result<Arc<Secret>, SecretProblem> {
        let (store, mut refused) = self.watched(user, key);
        let answered = async {
            tokio::select! {
                () = store.ready() => {}
                _ = refused.wait_for(|refused| *refused) => {}
            }
        };
        let in_time = tokio::time::timeout(FIRST_ANSWER_TIMEOUT, answered)
            .await
            .is_ok();
        if *refused.borrow() {
            return Err(SecretProblem::NotGranted(key.clone()));
        }
        if !in_time {
            return Err(SecretProblem::Unknown(key.clone()));
        }
        store
            .get(key)
            .ok_or_else(|| SecretProblem::Missing(key.clone()))
    }

    /// Ends the watches that `user` no longer needs. Call it at the end of a pass.
    pub(crate) fn keep(&self, user: &'static str, needed: &BTreeSet<ObjectKey>) {
        self.lock().retain(|key, watched| {
            if !needed.contains(key) {
                watched.users.remove(user);
            }
            !watched.users.is_empty()
        });
    }

    fn watched(
        &self,
        user: &'static str,
        key: &ObjectKey,
    ) -> (Store<Secret>, watch::Receiver<bool>) {
        let mut watched = self.lock();
        let entry = watched
            .entry(key.clone())
            .or_insert_with(|| self.begin(key));
        entry.users.insert(user);
        (entry.store.clone(), entry.refused.clone())
    }

    fn begin(&self, key: &ObjectKey) -> Watched {
        let store = Store::default();
        let api = Api::namespaced(self.0.client.clone(), &key.namespace);
        let mut following = Watch::new(api, &store, Topic::Secrets);
        following.config =
            watcher::Config::default().fields(&format!("metadata.name={}", key.name));
        let (refuse, refused) = watch::channel(false);
        let changes = self.0.changes.clone();
        let known = store.clone();
        let task = tokio::spawn(following.run(self.0.changes.clone(), move |error| {
            let now = error.is_some();
            if now {
                // A Secret that was read while it was allowed is not used any longer.
                known.clear();
            }
            if refuse.send_if_modified(|was| std::mem::replace(was, now) != now) {
                changes.notify(Topic::Secrets);
            }
        }));
        Watched {
            store,
            refused,
            users: BTreeSet::new(),
            task: task.abort_handle(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Watched>> {
        // Every change is a single call on the map: a panic leaves no half state.
        self.0
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{Server, pair, refusal};

    fn key() -> ObjectKey {
        ObjectKey::new("a", "pull")
    }

    fn secrets() -> (Secrets, Server) {
        let (client, server) = pair();
        (Secrets::new(client, Changes::default()), server)
    }

    /// Answers the list that a watch begins with; the watch itself stays open without an event.
    async fn serve_list(server: &mut Server, items: serde_json::Value) {
        let asked = server.next().await;
        assert!(
            asked.uri.starts_with("/api/v1/namespaces/a/secrets?"),
            "{}",
            asked.uri
        );
        assert!(
            asked.uri.contains("fieldSelector=metadata.name%3Dpull"),
            "{}",
            asked.uri
        );
        let list = json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
        asked.answer(200, &list);
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_read_by_name_and_then_from_memory() {
        let (secrets, mut server) = secrets();
        let key = key();
        let item = json!({"metadata": {"name": "pull", "namespace": "a"}});
        let serve = serve_list(&mut server, json!([item]));
        let (found, ()) = tokio::join!(secrets.get("mirror", &key), serve);
        assert_eq!(found.unwrap().metadata.name.as_deref(), Some("pull"));
        // The watch is the next request; asking again makes none.
        let watch = server.next().await;
        assert!(watch.uri.contains("watch=true"), "{}", watch.uri);
        assert!(secrets.get("registry", &key).await.is_ok());
        secrets.keep("mirror", &BTreeSet::new());
        assert!(secrets.lock().contains_key(&key));
        secrets.keep("registry", &BTreeSet::new());
        assert!(secrets.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_not_there_is_missing() {
        let (secrets, mut server) = secrets();
        let key = key();
        let serve = serve_list(&mut server, json!([]));
        let (found, ()) = tokio::join!(secrets.get("mirror", &key), serve);
        assert_eq!(found, Err(SecretProblem::Missing(key)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_right_is_told_with_the_command_and_ends_with_the_grant() {
        let (secrets, mut server) = secrets();
        let key = key();
        let serve = async { server.next().await.answer(403, &refusal(403, "Forbidden")) };
        let (found, ()) = tokio::join!(secrets.get("mirror", &key), serve);
        let problem = found.unwrap_err();
        assert_eq!(problem, SecretProblem::NotGranted(key.clone()));
        let said = problem.to_string();
        assert!(
            said.contains("coral grant a pull | kubectl apply -f -"),
            "{said}"
        );
        let mut changed = secrets.0.changes.subscribe(&[Topic::Secrets]);
        let item = json!({"metadata": {"name": "pull", "namespace": "a"}});
        serve_list(&mut server, json!([item])).await;
        changed.changed().await;
        assert!(secrets.get("mirror", &key).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_is_not_waited_for() {
        let (secrets, _server) = secrets();
        let found = secrets.get("mirror", &key()).await;
        assert_eq!(found, Err(SecretProblem::Unknown(key())));
    }
}
