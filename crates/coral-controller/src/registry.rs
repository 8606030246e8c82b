//! Registries in the cluster: each becomes a StatefulSet of one pod with a Service, a certificate,
//! a credential for pushing and the list of what every client may read.
//!
//! Nothing is adopted: if an object with one of the names was not made for the Registry, the
//! Registry is not reconciled. Everything that is created is owned by the Registry and deleted with
//! it, except the volume claim, which has no owner and stays.

mod answers;
mod build;
pub(crate) mod built;
mod claim;
mod conditions;
mod decide;
mod largest;
mod loaded;
mod observe;
mod question;
mod reports;
mod scrub;
mod space;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub(crate) use coral_api::Registry;
use coral_api::RegistryStatus;
use coral_api::conditions::kind::{READY, STORAGE_AVAILABLE};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use crate::ObjectKey;
use crate::api::{ApiError, Writer};
use crate::backoff::{Backoff, BackoffBounds};
use crate::changes::Topic;
use crate::context::Context;
use crate::part::{Part, PassError, Wake};
use crate::shared::{PushCredential, RegistryAccess};
use answers::Answers;
use build::{Builder, CONFIG_HASH, OwnedNames, PUSH_USER};
use conditions::RegistryConditions;
pub(crate) use conditions::why_not_ready;
use decide::{Action, Plan, decide, grant_command};
use loaded::Loaded;
use question::RegistryEndpoint;
use reports::Report;
use space::StorageLevel;
use workloads::RegistryNamespaces;

/// Waits after one Registry's failures.
const BACKOFF: BackoffBounds = BackoffBounds {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(1),
};
/// The bcrypt cost of the password's hash. The lowest is enough, because the password is 32 random
/// bytes.
const HASH_COST: u32 = 8;

/// Keeps Registries.
pub(crate) struct RegistryPart {
    context: Context,
    writer: Writer,
    namespaces: RegistryNamespaces,
    loaded: Answers<Loaded>,
    reports: Answers<Report>,
    /// The image of the controller's own pod, once it is known.
    image: Option<String>,
    /// Public paths that Registries confirmed; learned again after a restart.
    confirmed: BTreeMap<ObjectKey, Arc<BTreeSet<String>>>,
    backoff: Backoff<ObjectKey>,
    /// The generation of each Registry that failed last; a new generation is tried at once.
    failed: BTreeMap<ObjectKey, Option<i64>>,
}

/// The result of reconciling one Registry.
#[derive(Default)]
struct ReconcileResult {
    /// How it is reached, if that could be determined.
    access: Option<RegistryAccess>,
    /// Whether it is not worked on, for a reason that its conditions have.
    is_refused: bool,
    /// When to look again.
    next: Option<Timestamp>,
    /// The first call that failed.
    failure: Option<ApiError>,
}

impl RegistryPart {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            writer: context.writer(),
            namespaces: RegistryNamespaces::default(),
            loaded: Answers::new(&context.changes),
            reports: Answers::new(&context.changes),
            image: None,
            confirmed: BTreeMap::new(),
            backoff: Backoff::new(BACKOFF),
            failed: BTreeMap::new(),
            context,
        }
    }

    /// The image for what the controller creates: that of its own pod.
    async fn learn_image(&mut self) -> Result<(), PassError> {
        if self.image.is_some() {
            return Ok(());
        }
        let config = &self.context.config;
        if let Some(image) = &config.image {
            self.image = Some(image.clone());
        } else {
            let key = ObjectKey::new(&config.namespace, &config.pod_name);
            let pod = self.writer.get::<Pod>(&key).await?;
            let spec = pod.and_then(|pod| pod.spec);
            let container = spec.and_then(|spec| spec.containers.into_iter().next());
            self.image = container.and_then(|container| container.image);
        }
        let Some(image) = &self.image else {
            return Err(format!(
                "pod {} in namespace {} does not exist, so the image for registries is unknown: \
                 set it with --image",
                config.pod_name, config.namespace
            )
            .into());
        };
        self.context.shared.own_image.set(image.clone());
        Ok(())
    }

    /// Observes, decides, applies and publishes for one Registry. The observations are used even if
    /// a write fails.
    async fn reconcile(
        &mut self,
        key: &ObjectKey,
        registry: &Arc<Registry>,
        now: Timestamp,
    ) -> ReconcileResult {
        let input = match self.observe(registry, now).await {
            Ok(input) => input,
            Err(error) => {
                return ReconcileResult {
                    failure: Some(error),
                    ..ReconcileResult::default()
                };
            }
        };
        let mut plan = decide(&input);
        match &plan.confirmed {
            Some(confirmed) => self.confirmed.insert(key.clone(), confirmed.clone()),
            None => self.confirmed.remove(key),
        };
        let applied = self.apply(registry, &input, &plan).await;
        if let Err(error) = &applied {
            let hint = if error.is_forbidden() {
                format!("; renew the grant with `{}`", grant_command(key))
            } else {
                String::new()
            };
            plan.conditions
                .degrade("ApplyFailed", &format!("{error}{hint}"));
        }
        let published = self.publish(key, registry, &plan, now).await;
        ReconcileResult {
            next: earliest(self.ask(key, &plan, now), plan.renewal),
            is_refused: plan.access.is_none() && !plan.conditions.is_unknown(),
            access: plan.access,
            failure: applied.and(published).err(),
        }
    }

    /// Whether a Registry is due. A changed spec is tried at once: the backoff belongs to the earlier spec.
    fn may_try(&self, key: &ObjectKey, registry: &Registry, now: Timestamp) -> bool {
        let failed = self.failed.get(key);
        let is_changed = failed.is_some_and(|failed| *failed != registry.metadata.generation);
        is_changed || self.backoff.may_try(key, now)
    }

    /// Reconciles one Registry, if it is due, and records whether that failed.
    async fn reconcile_if_due(
        &mut self,
        key: &ObjectKey,
        registry: &Arc<Registry>,
        now: Timestamp,
    ) -> ReconcileResult {
        let registries = self.context.shared.registries.get();
        let last = registries.as_ref().and_then(|all| all.get(key));
        let mut result = ReconcileResult::default();
        let is_due = self.may_try(key, registry, now);
        if is_due {
            result = self.reconcile(key, registry, now).await;
        }
        match &result.failure {
            Some(error) => {
                self.backoff.failed(key, now);
                self.failed
                    .insert(key.clone(), registry.metadata.generation);
                tracing::warn!(registry = %key, %error, "reconcile of the Registry failed; retrying");
            }
            None if is_due => {
                self.backoff.succeeded(key);
                self.failed.remove(key);
            }
            None => {}
        }
        let last = || last_known(registry, last);
        result.access = result.access.or_else(last).map(|access| RegistryAccess {
            // Pushes and pulls are not sent there for now, but nodes keep their files for it.
            ready: access.ready && !result.is_refused,
            is_observed: access.is_observed || result.is_refused,
            ..access
        });
        result
    }

    fn ask(&self, key: &ObjectKey, plan: &Plan, now: Timestamp) -> Option<Timestamp> {
        let Some(access) = plan.access.as_ref().filter(|access| access.ready) else {
            self.reports.due(key);
            return None;
        };
        let bundle = self.context.shared.ca.get()?;
        let place = |credential| RegistryEndpoint {
            endpoint: access.endpoint.clone(),
            bundle: bundle.to_string(),
            credential,
        };
        let loaded = plan.ask.and_then(|wanted| {
            let question = || loaded::ask(key.clone(), place(None), wanted);
            self.loaded.ask(key, now, question)
        });
        let question = || reports::ask(key.clone(), place(access.push.clone()));
        let report = self.reports.ask(key, now, question);
        earliest(loaded, report)
    }

    async fn apply(
        &self,
        registry: &Registry,
        input: &observe::RegistryInput,
        plan: &Plan,
    ) -> Result<(), ApiError> {
        let builder = Builder::new(registry);
        let owned = OwnedNames::for_registry(&ObjectKey::from_object(registry));
        for action in &plan.actions {
            match action {
                Action::ApplyService(service) => {
                    self.writer.apply::<Service>(&owned.key, service).await?;
                }
                Action::IssueCertificate(names, why) => {
                    let Some(authority) = &input.authority else {
                        continue;
                    };
                    match authority.issue(names, input.now) {
                        Ok(pair) => {
                            let secret = builder.tls(&pair, authority.bundle());
                            self.writer.apply::<Secret>(&owned.tls, &secret).await?;
                            tracing::info!(registry = %owned.key, why = why.reason_text(), "certificate issued");
                        }
                        Err(error) => {
                            tracing::error!(registry = %owned.key, %error, "certificate cannot be issued");
                        }
                    }
                }
                Action::WriteCredential(known, address) => {
                    self.write_credential(&builder, &owned, known.as_ref(), *address)
                        .await?;
                }
                Action::ApplyPublic(list) => {
                    self.writer.apply::<ConfigMap>(&owned.public, list).await?;
                }
                Action::ApplyStatefulSet(set) => {
                    self.writer.apply::<StatefulSet>(&owned.key, set).await?;
                }
                Action::RemindKubelet(pod, reminder) => {
                    let patch = json!({"metadata": {"annotations": {CONFIG_HASH: reminder}}});
                    match self.writer.merge::<Pod>(pod, &patch).await {
                        Err(error) if error.is_not_found() => {}
                        patched => drop(patched?),
                    }
                }
            }
        }
        Ok(())
    }

    async fn write_credential(
        &self,
        builder: &Builder<'_>,
        owned: &OwnedNames,
        known: Option<&PushCredential>,
        address: std::net::IpAddr,
    ) -> Result<(), ApiError> {
        let password = known.map_or_else(new_password, |known| known.expose().to_owned());
        // The Secret with the password is written first: the one with its hash can be recreated
        // from it.
        let push = builder.push(&password, address);
        self.writer.apply::<Secret>(&owned.push, &push).await?;
        let hash_of = password.clone();
        let hashing = tokio::task::spawn_blocking(move || bcrypt::hash(hash_of, HASH_COST));
        match hashing.await {
            Ok(Ok(hash)) => {
                let users = builder.users(&hash, &decide::hash(&password));
                self.writer.apply::<Secret>(&owned.users, &users).await?;
            }
            Ok(Err(_)) | Err(_) => {
                tracing::error!(registry = %owned.key, "the password cannot be hashed");
            }
        }
        Ok(())
    }

    async fn publish(
        &self,
        key: &ObjectKey,
        registry: &Registry,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let status = plan.conditions.status(registry, now);
        let before = registry.status.as_ref();
        let written = self
            .writer
            .publish_status::<Registry, RegistryStatus>(key, before, &status)
            .await;
        match written {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            // Deleted meanwhile.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        let (was, is) = (ready(before), ready(Some(&status)));
        if let Some(is) = is
            && was.map(|it| (&it.status, &it.reason)) != Some((&is.status, &is.reason))
        {
            self.record_event(registry, is, &plan.conditions).await;
        }
        self.tell_of_space(registry, &status).await;
        Ok(())
    }

    /// Once for each change, but not for a first report that there is enough space.
    async fn tell_of_space(&self, registry: &Registry, status: &RegistryStatus) {
        let (was, is) = (
            StorageLevel::from_status(registry.status.as_ref()),
            StorageLevel::from_status(Some(status)),
        );
        let Some(condition) = condition(Some(status), STORAGE_AVAILABLE).filter(|_| was != is)
        else {
            return;
        };
        let (events, note) = (&self.context.events, condition.message.as_str());
        match is {
            StorageLevel::Available => {
                events.normal(registry, &condition.reason, note).await;
            }
            StorageLevel::Low | StorageLevel::Full => {
                events.warning(registry, &condition.reason, note).await;
            }
        }
    }

    /// The steps until a Registry serves are in its conditions. Events report what a person waits
    /// for or has to do.
    async fn record_event(
        &self,
        registry: &Registry,
        ready: &Condition,
        conditions: &RegistryConditions,
    ) {
        let (events, note) = (&self.context.events, ready.message.as_str());
        if conditions.is_ready() {
            events.normal(registry, &ready.reason, note).await;
        } else if conditions.needs_attention() {
            events.warning(registry, &ready.reason, note).await;
        }
    }
}

impl Part for RegistryPart {
    const NAME: &'static str = "registry";
    const TOPICS: &'static [Topic] = &[
        Topic::Registries,
        Topic::RegistryWorkloads,
        Topic::Secrets,
        Topic::PublicPaths,
        Topic::Ca,
    ];

    async fn pass(&mut self, now: Timestamp) -> Result<Wake, PassError> {
        self.learn_image().await?;
        let registries = self.context.cluster.registries.snapshot();
        // The objects of a Registry that is being deleted are removed by their owner references.
        let alive = registries
            .iter()
            .filter(|(_, registry)| registry.metadata.deletion_timestamp.is_none());
        let alive: BTreeMap<_, _> = alive.collect();
        let keys: BTreeSet<ObjectKey> = alive.keys().map(|&key| key.clone()).collect();
        let mut namespaces: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for ObjectKey { namespace, name } in &keys {
            let names = namespaces.entry(namespace.clone()).or_default();
            names.insert(name.clone());
        }
        let (client, changes) = (&self.context.client, &self.context.changes);
        self.namespaces.follow(client, changes, &namespaces);
        self.loaded.retain(&keys);
        self.reports.retain(&keys);
        self.confirmed.retain(|key, _| keys.contains(key));
        self.backoff.retain(|key| keys.contains(key));
        self.failed.retain(|key, _| keys.contains(key));
        let (mut access, mut next) = (BTreeMap::new(), None);
        for (key, registry) in alive {
            let result = self.reconcile_if_due(key, registry, now).await;
            next = earliest(next, result.next);
            access.extend(result.access.map(|reached| (key.clone(), reached)));
        }
        self.context.shared.registries.set(access);
        let needed = needed_secrets(&keys);
        self.context.secrets.keep(Self::NAME, &needed);
        Ok(Wake::at(earliest(next, self.backoff.next())))
    }
}

/// How a Registry is reached that this pass could not read or may not reconcile: as last published
/// or, after a restart, at the address in its status. An existing Registry may serve even if its
/// object is invalid, so its address is not withdrawn.
fn last_known(registry: &Registry, last: Option<&RegistryAccess>) -> Option<RegistryAccess> {
    if let Some(last) = last {
        return Some(last.clone());
    }
    let address = registry.status.as_ref()?.cluster_ip.as_ref()?;
    Some(RegistryAccess {
        host: Builder::new(registry).host(),
        endpoint: format!("https://{}", build::endpoint_host(address.parse().ok()?)),
        ready: false,
        is_observed: false,
        push: None,
        loaded: None,
    })
}

/// The Secrets of all Registries: their watches continue.
fn needed_secrets(keys: &BTreeSet<ObjectKey>) -> BTreeSet<ObjectKey> {
    let of = |key| {
        let owned = OwnedNames::for_registry(key);
        [owned.tls, owned.users, owned.push]
    };
    keys.iter().flat_map(of).collect()
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}

fn ready(status: Option<&RegistryStatus>) -> Option<&Condition> {
    condition(status, READY)
}

fn condition<'s>(status: Option<&'s RegistryStatus>, kind: &str) -> Option<&'s Condition> {
    let mut conditions = status?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

/// 32 random bytes, as text.
fn new_password() -> String {
    let bytes: [u8; 32] = rand::random();
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests;
