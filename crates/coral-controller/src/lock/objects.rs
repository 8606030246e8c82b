//! The admission policies of a lock as they are stored.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use serde::Serialize;
use serde_json::Value;

use super::decide::LockState;
use super::generate;
use crate::ObjectKey;
use crate::api::{ApiError, StaticKind, Writer};
use crate::changes::Topic;
use crate::follow::Watch;
use crate::store::Store;

/// Name of the policy for pods, and of its binding.
pub(crate) const LOCK: &str = "coral-lock";
/// Name of the policy that warns of templates, and of its binding.
pub(crate) const TEMPLATES: &str = "coral-lock-templates";

/// One policy and its binding. They are watched by name: the controller has no right on others.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicyPair {
    policy: Store<ValidatingAdmissionPolicy>,
    binding: Store<ValidatingAdmissionPolicyBinding>,
}

/// The stored policies of the lock. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LockObjects {
    pods: PolicyPair,
    templates: PolicyPair,
}

impl LockObjects {
    /// The watches of the policies.
    pub(crate) fn policies(
        &self,
        client: &Client,
    ) -> impl Iterator<Item = Watch<ValidatingAdmissionPolicy>> {
        let named = |(name, pair): (&str, &PolicyPair)| named(client, &pair.policy, name);
        self.pairs().map(named).into_iter()
    }

    /// The watches of the bindings.
    pub(crate) fn bindings(
        &self,
        client: &Client,
    ) -> impl Iterator<Item = Watch<ValidatingAdmissionPolicyBinding>> {
        let named = |(name, pair): (&str, &PolicyPair)| named(client, &pair.binding, name);
        self.pairs().map(named).into_iter()
    }

    /// A lock whose policy is stored, and nothing else: for tests of the part.
    #[cfg(test)]
    pub(crate) fn with_policy(policy: ValidatingAdmissionPolicy) -> Self {
        let mut objects = Self::default();
        objects.pods.policy = Store::from_objects([policy]);
        objects
    }

    fn pairs(&self) -> [(&'static str, &PolicyPair); 2] {
        [(LOCK, &self.pods), (TEMPLATES, &self.templates)]
    }

    /// Completes once all of them have been read, or found missing.
    pub(crate) async fn ready(&self) {
        for (_, pair) in self.pairs() {
            pair.policy.ready().await;
            pair.binding.ready().await;
        }
    }

    /// The hosts that the stored lock allows. Without its binding a policy does nothing, but the
    /// binding may be on its way.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        let stored = self.pods.policy.get(&ObjectKey::cluster(LOCK));
        let spec = stored.as_ref().and_then(|policy| policy.spec.as_ref());
        let variables = spec.and_then(|spec| spec.variables.as_deref());
        let variables: Vec<(&str, &str)> = variables
            .unwrap_or_default()
            .iter()
            .map(|v| (v.name.as_str(), v.expression.as_str()))
            .collect();
        let hosts = generate::hosts_of(&variables);
        hosts.unwrap_or_default().into_iter().collect()
    }

    /// Writes and deletes policies until the stored ones are the wanted ones. A policy is created
    /// before its binding and deleted after it.
    pub(crate) async fn apply(&self, writer: &Writer, lock: &LockState) -> Result<(), ApiError> {
        let (pods, templates) = match lock.policy {
            Some(_) => (Some(generate::pods(lock)), generate::templates(lock)),
            None => (None, None),
        };
        put(writer, &self.pods, LOCK, pods).await?;
        put(writer, &self.templates, TEMPLATES, templates).await
    }
}

async fn put(
    writer: &Writer,
    stored: &PolicyPair,
    name: &str,
    wanted: Option<[Value; 2]>,
) -> Result<(), ApiError> {
    if let Some([policy, binding]) = wanted {
        apply_if_different(writer, &stored.policy, name, &policy).await?;
        apply_if_different(writer, &stored.binding, name, &binding).await
    } else {
        remove_if_there(writer, &stored.binding, name).await?;
        remove_if_there(writer, &stored.policy, name).await
    }
}

async fn apply_if_different<K: StaticKind + Serialize>(
    writer: &Writer,
    store: &Store<K>,
    name: &str,
    wanted: &Value,
) -> Result<(), ApiError> {
    let key = ObjectKey::cluster(name);
    if let Some(stored) = store.get(&key)
        && let Ok(stored) = serde_json::to_value(stored.as_ref())
        && holds(&stored, wanted)
    {
        return Ok(());
    }
    writer.apply::<K>(&key, wanted).await?;
    Ok(())
}

async fn remove_if_there<K: StaticKind>(
    writer: &Writer,
    store: &Store<K>,
    name: &str,
) -> Result<(), ApiError> {
    let key = ObjectKey::cluster(name);
    match store.get(&key) {
        Some(_) => writer.delete::<K>(&key, None).await,
        None => Ok(()),
    }
}

/// Whether `stored` has everything that `wanted` has. The API server adds defaults.
pub(crate) fn holds(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| stored.get(key).is_some_and(|stored| holds(stored, wanted))),
        (Value::Array(stored), Value::Array(wanted)) => {
            stored.len() == wanted.len()
                && stored
                    .iter()
                    .zip(wanted)
                    .all(|(stored, wanted)| holds(stored, wanted))
        }
        (stored, wanted) => stored == wanted,
    }
}

fn named<K>(client: &Client, store: &Store<K>, name: &str) -> Watch<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    K: serde::de::DeserializeOwned,
{
    let api = kube::Api::<DeserializeGuard<K>>::all(client.clone());
    let mut watch = Watch::new(api, store, Topic::Lock);
    watch.config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watch
}
