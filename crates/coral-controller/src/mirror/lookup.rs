//! Looks up the objects that mirrors name: Secrets, if they were granted, and Registries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::{RegistryMirror, Secret, SecretBytes, Target};
use coral_distribution::{Credentials, HostOptions};
use coral_image::Host;
use coral_mirror::{Fallback, Lookup, NamedRegistry};
use k8s_openapi::api::core::v1 as core;

use super::registry_of;
use crate::ObjectKey;
use crate::context::Context;
use crate::part::Part as _;
use crate::registry::why_not_ready;
use crate::secrets::SecretProblem;
use crate::shared::RegistryAccess;
use crate::store::Snapshot;

/// Why something that a mirror names cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    /// A Secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretProblem),
    /// There is no such Registry.
    #[error("there is no Registry {0}: create one, or name another registry by spec.registry.host")]
    NoRegistry(ObjectKey),
    /// The Registry has no address or credential yet, or its pod is not ready: in its own words.
    #[error("Registry {0} is not ready yet{why}", why = .1.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    RegistryNotReady(ObjectKey, Option<String>),
    /// The part that knows it has not published anything yet.
    #[error("Registry {0} is not known yet")]
    NotYet(ObjectKey),
}

/// The objects that mirrors name, as of one pass.
#[derive(Default)]
pub(super) struct NamedObjects {
    pub(super) secrets: BTreeMap<ObjectKey, Result<Secret, SecretProblem>>,
    pub(super) registries: Option<Arc<BTreeMap<ObjectKey, RegistryAccess>>>,
    pub(super) ca: Option<Arc<String>>,
    /// Keys of the Registry objects that there are.
    pub(super) objects: BTreeSet<ObjectKey>,
    /// Why Registries are not ready, in the words of their own conditions.
    pub(super) troubles: BTreeMap<ObjectKey, String>,
    /// The Secrets that are named.
    pub(super) needed: BTreeSet<ObjectKey>,
    /// Why it is not known which addresses mirrors must not connect to.
    pub(super) unguarded: Option<String>,
}

impl NamedObjects {
    /// Reads it. Secrets are read by name, each once.
    pub(super) async fn observe(context: &Context, mirrors: &Snapshot<RegistryMirror>) -> Self {
        let objects = context.cluster.registries.snapshot();
        let troubles = objects.iter().filter_map(|(key, registry)| {
            let why = why_not_ready(registry)?;
            Some((key.clone(), why))
        });
        let mut seen = Self {
            troubles: troubles.collect(),
            registries: context.shared.registries.get(),
            ca: context.shared.ca.get(),
            objects: objects.keys().cloned().collect(),
            ..Self::default()
        };
        for (key, mirror) in mirrors.iter() {
            seen.needed.extend(secrets_of(key, mirror));
        }
        let reads = seen.needed.iter().map(|key| async move {
            let read = context.secrets.get(super::MirrorPart::NAME, key).await;
            (key.clone(), read.map(|secret| converted(&secret)))
        });
        seen.secrets = futures::future::join_all(reads).await.into_iter().collect();
        seen
    }

    /// The Secrets of a mirror that the controller may not read.
    pub(super) fn not_granted(&self, key: &ObjectKey, mirror: &RegistryMirror) -> Vec<ObjectKey> {
        let named = secrets_of(key, mirror).into_iter();
        let refused = |key: &ObjectKey| {
            let read = self.secrets.get(key);
            matches!(read, Some(Err(SecretProblem::NotGranted(_))))
        };
        named.filter(refused).collect()
    }
}

/// The Secrets that a mirror names, in the order of their names.
fn secrets_of(key: &ObjectKey, mirror: &RegistryMirror) -> BTreeSet<ObjectKey> {
    let Ok(settings) = mirror.settings() else {
        return BTreeSet::new();
    };
    let mut secrets = settings.pull_secrets;
    if let Target::Address(address) = settings.target {
        secrets.extend(address.secret);
    }
    secrets
        .into_iter()
        .map(|name| ObjectKey::new(&key.namespace, name))
        .collect()
}

fn converted(secret: &core::Secret) -> Secret {
    let data = secret.data.iter().flatten();
    Secret {
        metadata: secret.metadata.clone(),
        secret_type: secret.type_.clone(),
        values: data
            .map(|(key, value)| (key.clone(), SecretBytes::new(value.0.clone())))
            .collect(),
    }
}

impl Lookup for NamedObjects {
    type Error = LookupError;

    fn secret(&self, namespace: &str, name: &str) -> Result<&Secret, LookupError> {
        let key = ObjectKey::new(namespace, name);
        match self.secrets.get(&key) {
            Some(Ok(secret)) => Ok(secret),
            Some(Err(problem)) => Err(problem.clone().into()),
            None => Err(SecretProblem::Unknown(key).into()),
        }
    }

    fn registry(&self, namespace: &str, name: &str) -> Result<NamedRegistry, LookupError> {
        let target = Target::Named(name.to_owned());
        let key = registry_of(&ObjectKey::new(namespace, ""), &target);
        let key = key.unwrap_or_else(|| ObjectKey::new(namespace, name));
        if !self.objects.contains(&key) {
            return Err(LookupError::NoRegistry(key));
        }
        let (Some(registries), Some(ca)) = (&self.registries, &self.ca) else {
            return Err(LookupError::NotYet(key));
        };
        let access = registries.get(&key);
        if access.is_some_and(|access| !access.is_observed) {
            return Err(LookupError::NotYet(key));
        }
        let access = access.filter(|access| access.ready);
        let host = access.and_then(|access| Host::parse(&access.host).ok());
        let push = access.and_then(|access| access.push.as_ref());
        let (Some(host), Some(push)) = (host, push) else {
            let why = self.troubles.get(&key).cloned();
            return Err(LookupError::RegistryNotReady(key, why));
        };
        let origin = format!("Registry {key}");
        let credentials =
            Credentials::for_one_host(host.clone(), &push.user, push.expose(), &origin);
        Ok(NamedRegistry {
            host,
            credentials: Arc::new(credentials),
            options: HostOptions {
                ca_pem: Some(ca.as_bytes().to_vec()),
                ..HostOptions::default()
            },
            version: push.expose().as_bytes().to_vec(),
        })
    }

    /// A mirror without Secrets reads anonymously.
    fn fallback(&self) -> Fallback {
        Fallback::default()
    }
}
