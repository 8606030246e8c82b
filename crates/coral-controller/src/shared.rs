//! Values that one part publishes for others inside the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use coral_distribution::AddressRules;

use crate::ObjectKey;
use crate::ca::certificate::Authority;
use crate::changes::{Changes, Topic};

/// One published value. Cheap to clone; all clones share one state.
#[derive(Debug)]
pub(crate) struct Published<T> {
    value: Arc<Mutex<Option<Arc<T>>>>,
    topic: Topic,
    changes: Changes,
}

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            topic: self.topic,
            changes: self.changes.clone(),
        }
    }
}

impl<T: PartialEq> Published<T> {
    /// Nothing published yet; changes notify `topic`.
    pub(crate) fn new(changes: &Changes, topic: Topic) -> Self {
        Self {
            value: Arc::default(),
            topic,
            changes: changes.clone(),
        }
    }

    /// The value, or `None` while nothing was published since the process began to lead. A reader
    /// must not take "not yet known" for "empty".
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        value.clone()
    }

    /// Publishes a value; readers are woken if it differs from the one before.
    pub(crate) fn set(&self, new: T) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if value.as_deref() == Some(&new) {
            return;
        }
        *value = Some(Arc::new(new));
        drop(value);
        self.changes.notify(self.topic);
    }
}

/// The exact public repository paths per Registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PublicPaths {
    /// By Registry; one that is not there has none.
    pub(crate) paths: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// Namespaces with a mirror that cannot be decoded: nothing is known of their Registries.
    pub(crate) unknown: BTreeSet<String>,
}

impl PublicPaths {
    /// The paths of a Registry; `None` while they are not known.
    pub(crate) fn for_registry(&self, registry: &ObjectKey) -> Option<BTreeSet<String>> {
        let is_known = !self.unknown.contains(&registry.namespace);
        is_known.then(|| self.paths.get(registry).cloned().unwrap_or_default())
    }
}

/// Everything that parts publish for each other. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Which repositories every client in the cluster may read, per Registry. Published by the mirror
    /// part, read by the registry part.
    pub(crate) public_paths: Published<PublicPaths>,
    /// How Registries are reached. Published by the registry part.
    pub(crate) registries: Published<BTreeMap<ObjectKey, RegistryAccess>>,
    /// Hosts that a lock allows now or in a moment. Published by the lock part; a file of a route
    /// stays on the nodes until its host is not among them. To be read after the routes.
    pub(crate) locked_hosts: Published<BTreeSet<String>>,
    /// Addresses that a tenant's objects must not lead the controller to. If they are not known,
    /// the reason: then the controller connects to no host of a tenant's object. Published by the
    /// mirror part.
    pub(crate) address_rules: Published<Result<AddressRules, String>>,
    /// The image of the controller's own pod, which the pods that it creates get. Published by the
    /// registry part.
    pub(crate) own_image: Published<String>,
    /// The certificates that clients of Coral's own servers trust, as PEM. Published by the CA part.
    pub(crate) ca: Published<String>,
    /// What issues certificates. Published by the CA part, together with `ca`.
    pub(crate) authority: Published<Authority>,
    /// The public keys whose credentials Registries accept, as PEM. Published by the CA part.
    pub(crate) token_keys: Published<String>,
}

impl Shared {
    /// Nothing published yet.
    pub(crate) fn new(changes: &Changes) -> Self {
        Self {
            public_paths: Published::new(changes, Topic::PublicPaths),
            registries: Published::new(changes, Topic::RegistryAccess),
            locked_hosts: Published::new(changes, Topic::LockedHosts),
            address_rules: Published::new(changes, Topic::Resolutions),
            own_image: Published::new(changes, Topic::RegistryAccess),
            ca: Published::new(changes, Topic::Ca),
            authority: Published::new(changes, Topic::Ca),
            token_keys: Published::new(changes, Topic::Ca),
        }
    }
}

/// How a Registry is reached from inside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistryAccess {
    /// The name in references: `NAME.NAMESPACE.svc:5000`.
    pub(crate) host: String,
    /// Where the controller and nodes connect to: `https://CLUSTERIP:5000`.
    pub(crate) endpoint: String,
    /// Whether its pod is ready.
    pub(crate) ready: bool,
    /// Whether this process has observed it; otherwise only its address is known, from its status.
    pub(crate) is_observed: bool,
    /// The credential for pushing, once it exists.
    pub(crate) push: Option<PushCredential>,
    /// The public paths that the Registry said it has loaded. A repository counts as public for
    /// nodes and pods only from then on. `None` while that is not known: keep the last answer.
    pub(crate) loaded: Option<Arc<BTreeSet<String>>>,
}

/// User and password of the one user that may push.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PushCredential {
    /// The user.
    pub(crate) user: String,
    password: Arc<str>,
}

impl PushCredential {
    /// Keeps the password out of `Debug`.
    pub(crate) fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: password.into(),
        }
    }

    /// The password itself.
    pub(crate) fn expose(&self) -> &str {
        &self.password
    }
}

impl std::fmt::Debug for PushCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PushCredential({}, <redacted>)", self.user)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn readers_are_woken_by_another_value_only() {
        let changes = Changes::default();
        let mut reader = changes.subscribe(&[Topic::Ca]);
        let value = Published::new(&changes, Topic::Ca);
        assert_eq!(value.get(), None);
        value.set("a");
        assert_eq!(reader.changed().now_or_never(), Some(()));
        reader.mark_seen();
        value.set("a");
        assert_eq!(reader.changed().now_or_never(), None);
        assert_eq!(value.get().as_deref(), Some(&"a"));
    }

    #[test]
    fn nothing_is_known_of_the_paths_where_a_mirror_cannot_be_decoded() {
        let public = PublicPaths {
            unknown: BTreeSet::from(["a".to_owned()]),
            ..PublicPaths::default()
        };
        assert_eq!(public.for_registry(&ObjectKey::new("a", "reg")), None);
        let known = public.for_registry(&ObjectKey::new("b", "reg"));
        assert_eq!(known, Some(BTreeSet::new()));
    }

    #[test]
    fn a_password_is_not_printed() {
        let printed = format!("{:?}", PushCredential::new("coral", "s3cret"));
        assert!(!printed.contains("s3cret"), "{printed}");
    }
}
