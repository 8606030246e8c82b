//! Reads everything that belongs to a Registry.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use super::build::OwnedNames;
use super::built;
use super::claim::{self, StorageClasses};
use super::loaded::Loaded;
use super::reports::Report;
use super::workloads::RegistryNamespace;
use super::{Registry, RegistryPart};
use crate::ObjectKey;
use crate::api::{ApiError, StaticKind, call};
use crate::ca::certificate::Authority;
use crate::part::Part as _;
use crate::permission::Rights;
use crate::secrets::SecretProblem;
use crate::store::Store;

/// Everything that one decision is made from.
#[derive(Debug, Clone)]
pub(super) struct RegistryInput {
    pub(super) registry: Arc<Registry>,
    pub(super) rights: Rights,
    pub(super) existing: ExistingObjects,
    /// The image of the controller's own pod.
    pub(super) image: String,
    /// `None` until the CA part has one.
    pub(super) authority: Option<Arc<Authority>>,
    /// The public keys of tokens, as PEM; `None` until the CA part has one.
    pub(super) token_keys: Option<Arc<String>>,
    /// The public repositories that mirrors want; `None` while that is not known.
    pub(super) public: Option<BTreeSet<String>>,
    /// The list that the Registry reports as loaded.
    pub(super) answer: Loaded,
    /// The Registry's report about its storage and its scrub.
    pub(super) report: Report,
    /// The paths of the last generation that it reported as loaded.
    pub(super) confirmed: Option<Arc<BTreeSet<String>>>,
    pub(super) now: Timestamp,
}

/// The objects that are there under the Registry's names, also those that Coral did not make.
#[derive(Debug, Clone, Default)]
pub(super) struct ExistingObjects {
    pub(super) service: Option<Arc<Service>>,
    pub(super) stateful_set: Option<Arc<StatefulSet>>,
    pub(super) public: Option<Arc<ConfigMap>>,
    /// The record of the paths that builds made public.
    pub(super) built: Option<Arc<ConfigMap>>,
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) tls: Option<Arc<Secret>>,
    pub(super) users: Option<Arc<Secret>>,
    pub(super) push: Option<Arc<Secret>>,
    /// The storage classes, if the pod waits for its volume claim and they could be read.
    pub(super) classes: Option<StorageClasses>,
}

/// The owner of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectOwner {
    /// This Registry's.
    Ours,
    /// An earlier Registry of the same name: the object is being removed.
    Earlier,
    /// Something else.
    Foreign,
}

/// The owner of an object, by its owner references.
pub(super) fn owner_of(object: &impl kube::Resource, registry: &Registry) -> ObjectOwner {
    let owners = object.meta().owner_references.iter().flatten();
    let mut found = ObjectOwner::Foreign;
    for owner in owners {
        if Some(&owner.uid) == registry.metadata.uid.as_ref() {
            return ObjectOwner::Ours;
        }
        if owner.kind == "Registry" && owner.name == registry.name_any() {
            found = ObjectOwner::Earlier;
        }
    }
    found
}

impl RegistryPart {
    pub(super) async fn observe(
        &self,
        registry: &Arc<Registry>,
        now: Timestamp,
    ) -> Result<RegistryInput, ApiError> {
        let key = ObjectKey::from_object(registry.as_ref());
        let shared = &self.context.shared;
        let public = shared.public_paths.get();
        let mut input = RegistryInput {
            registry: registry.clone(),
            rights: Rights::Unknown,
            existing: ExistingObjects::default(),
            image: self.image.clone().unwrap_or_default(),
            authority: None,
            token_keys: None,
            public: public.and_then(|all| all.for_registry(&key)),
            answer: self.loaded.get(&key),
            report: self.reports.get(&key),
            confirmed: self.confirmed.get(&key).cloned(),
            now,
        };
        let Some(namespace) = self.namespaces.get(&key.namespace) else {
            return Ok(input);
        };
        input.rights = namespace.rights(&key.name).await;
        if input.rights == Rights::Granted {
            match self.find(namespace, &key).await? {
                Ok(mut existing) => {
                    existing.classes = self.classes(&existing).await;
                    input.existing = existing;
                }
                Err(rights) => input.rights = rights,
            }
        }
        // Read last, because it may have arrived during the calls to the API server.
        input.authority = shared.authority.get();
        input.token_keys = shared.token_keys.get();
        Ok(input)
    }

    async fn find(
        &self,
        namespace: &RegistryNamespace,
        key: &ObjectKey,
    ) -> Result<Result<ExistingObjects, Rights>, ApiError> {
        let owned = OwnedNames::for_registry(key);
        let mut secrets = Vec::new();
        for secret in [&owned.tls, &owned.users, &owned.push] {
            match self.secret(secret).await {
                Ok(secret) => secrets.push(secret),
                Err(rights) => return Ok(Err(rights)),
            }
        }
        let existing = async {
            let mut secrets = secrets.into_iter();
            Ok(ExistingObjects {
                service: self.labelled(&namespace.services, key).await?,
                stateful_set: self.labelled(&namespace.stateful_sets, key).await?,
                public: self.labelled(&namespace.config_maps, &owned.public).await?,
                // Without Coral's labels it does not belong to this Registry.
                built: namespace.config_maps.get(&built::key(key)),
                pod: namespace.pods.get(&owned.pod),
                tls: secrets.next().flatten(),
                users: secrets.next().flatten(),
                push: secrets.next().flatten(),
                classes: None,
            })
        };
        match existing.await {
            Ok(existing) => Ok(Ok(existing)),
            Err(error) if ApiError::is_forbidden(&error) => Ok(Err(Rights::Refused)),
            Err(error) => Err(error),
        }
    }

    /// The storage classes, while the pod waits for its claim. They only make a message clearer, so
    /// an installation without the right to list them goes on without.
    async fn classes(&self, existing: &ExistingObjects) -> Option<StorageClasses> {
        if !claim::is_waited_for(existing.pod.as_deref(), existing.stateful_set.as_deref()) {
            return None;
        }
        let api: Api<StorageClass> = Api::all(self.context.client.clone());
        let params = ListParams::default();
        let every = ObjectKey::cluster("");
        let listed = call::<StorageClass, _>("list", &every, api.list(&params)).await;
        listed
            .ok()
            .map(|classes| StorageClasses::from_objects(&classes.items))
    }

    async fn secret(&self, key: &ObjectKey) -> Result<Option<Arc<Secret>>, Rights> {
        match self.context.secrets.get(Self::NAME, key).await {
            Ok(secret) => Ok(Some(secret)),
            Err(SecretProblem::Missing(_)) => Ok(None),
            Err(SecretProblem::NotGranted(_)) => Err(Rights::Refused),
            Err(SecretProblem::Unknown(_)) => Err(Rights::Unknown),
        }
    }

    /// The watches see only objects with Coral's labels. An object that they do not see may exist
    /// nevertheless, made by something else.
    async fn labelled<K: StaticKind>(
        &self,
        store: &Store<K>,
        key: &ObjectKey,
    ) -> Result<Option<Arc<K>>, ApiError> {
        match store.get(key) {
            Some(object) => Ok(Some(object)),
            None => Ok(self.writer.get::<K>(key).await?.map(Arc::new)),
        }
    }
}
