//! Decides what to do about one Registry. Pure.

mod refusal;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::build::{
    Builder, CONFIG_HASH, OwnedNames, PASSWORD_HASH, PUBLIC_KEY, PublicList, TOKEN_KEYS_KEY,
    bounded, covers, endpoint_host, password_of,
};
use super::conditions::{RegistryConditions, of_workload};
use super::observe::RegistryInput;
use super::{PUSH_USER, built};
use crate::ObjectKey;
use crate::ca::certificate::{Authority, Names, RenewalReason, due};
use crate::ca::pair_of;
use crate::shared::{PushCredential, RegistryAccess};
pub(super) use refusal::grant_command;
use refusal::{refusal, refusal_of_owner, refusal_of_rights};

/// Questions that were answered with an older list before kubelet is reminded again.
const QUESTIONS_PER_REMINDER: u32 = 4;

/// What to do.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The writes, in this order.
    pub(super) actions: Vec<Action>,
    /// The new status.
    pub(super) conditions: RegistryConditions,
    /// How the Registry is reached; `None` while that is not known.
    pub(super) access: Option<RegistryAccess>,
    /// Ask the Registry whether it has loaded this generation.
    pub(super) ask: Option<i64>,
    /// The paths that the Registry has confirmed.
    pub(super) confirmed: Option<Arc<BTreeSet<String>>>,
    /// When a certificate is to be renewed.
    pub(super) renewal: Option<Timestamp>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    ApplyService(Value),
    /// Issue a certificate for these names.
    IssueCertificate(Names, RenewalReason),
    /// Write the credential for pushing, from this password or a new one, for this address.
    WriteCredential(Option<PushCredential>, IpAddr),
    ApplyPublic(Value),
    ApplyStatefulSet(Value),
    /// Have kubelet renew the pod's volumes.
    RemindKubelet(ObjectKey, String),
}

/// Decides for one Registry.
pub(super) fn decide(input: &RegistryInput) -> Plan {
    let refusal = refusal(&input.registry)
        .or_else(|| refusal_of_rights(input))
        .or_else(|| refusal_of_owner(input));
    let mut plan = Plan {
        actions: Vec::new(),
        conditions: RegistryConditions::default(),
        access: None,
        ask: None,
        confirmed: input.confirmed.clone(),
        renewal: None,
    };
    if let Some(update) = refusal {
        plan.conditions.refuse(update);
        return plan;
    }
    let builder = Builder::new(&input.registry);
    plan.conditions.address = Some(builder.host());
    let service = builder.service();
    if !is_covered(input.existing.service.as_deref(), &service) {
        plan.actions.push(Action::ApplyService(service));
    }
    match input.existing.service.as_deref().and_then(cluster_ip) {
        Some(address) => {
            plan.conditions.cluster_ip = Some(address.to_string());
            continue_with(input, &builder, address, &mut plan);
        }
        None => plan.conditions.wait(
            "ServiceAddress",
            "waiting for the cluster IP of its Service",
        ),
    }
    plan
}

/// Once the Service has its address, everything else follows from it. Without the authority, a
/// Registry that has its certificate continues.
fn continue_with(input: &RegistryInput, builder: &Builder<'_>, address: IpAddr, plan: &mut Plan) {
    plan.access = Some(RegistryAccess {
        host: builder.host(),
        endpoint: format!("https://{}", endpoint_host(address)),
        ready: false,
        is_observed: true,
        push: None,
        loaded: None,
    });
    match input.authority.as_deref() {
        Some(authority) => decide_certificate(input, builder, address, authority, plan),
        None if input.existing.tls.is_some() => {}
        None => {
            plan.conditions
                .wait("Authority", "waiting for the certificate authority");
            return;
        }
    }
    let credential = decide_credential(input, builder, address, plan);
    let list = decide_public(input, builder, plan);
    decide_stateful_set(input, builder, address, plan);
    of_workload(&input.existing, &builder.host(), &mut plan.conditions);
    let before = input.registry.status.as_ref();
    if let Some(space) = &input.report.space {
        let mut storage = space.storage(before);
        if let Some(repositories) = &input.report.repositories {
            repositories.update(&mut storage.status);
        }
        plan.conditions.stores(storage);
    }
    if let Some(scrub) = &input.report.scrub {
        let status = scrub.status(before.and_then(|before| before.scrub.as_ref()));
        plan.conditions.scrubs(status, scrub.complaint());
    }
    let loaded = decide_loaded(input, &list, plan);
    if let Some(access) = &mut plan.access {
        access.ready = plan.conditions.is_ready();
        access.push = credential;
        access.loaded = loaded;
    }
    decide_reminder(input, &list, plan);
    if !plan.actions.is_empty() {
        plan.conditions
            .progress("Applying", "applying the Registry's Kubernetes objects");
    }
}

fn decide_certificate(
    input: &RegistryInput,
    builder: &Builder<'_>,
    address: IpAddr,
    authority: &Authority,
    plan: &mut Plan,
) {
    let names = builder.certificate_names(address);
    let pair = input.existing.tls.as_deref().and_then(pair_of);
    match due(pair.as_ref(), &names, authority, input.now) {
        Ok(renewal) => plan.renewal = Some(renewal),
        Err(why) => plan.actions.push(Action::IssueCertificate(names, why)),
    }
}

/// The push Secret has the password; the users' Secret has its hash. A missing one is made from the
/// other, if possible.
fn decide_credential(
    input: &RegistryInput,
    builder: &Builder<'_>,
    address: IpAddr,
    plan: &mut Plan,
) -> Option<PushCredential> {
    let push = input.existing.push.as_deref();
    let password = push.and_then(|secret| password_of(secret, &builder.host()));
    let at_address = push.and_then(|secret| password_of(secret, &endpoint_host(address)));
    let users_hash = input.existing.users.as_deref().and_then(users_hash);
    let credential = password
        .as_deref()
        .map(|it| PushCredential::new(PUSH_USER, it));
    let is_whole =
        password.is_some() && password == at_address && users_hash == password.as_deref().map(hash);
    if is_whole {
        return credential;
    }
    plan.actions
        .push(Action::WriteCredential(credential.clone(), address));
    credential
}

/// The hash of the password that the users were made from.
fn users_hash(secret: &Secret) -> Option<String> {
    let has_users = secret
        .data
        .as_ref()?
        .contains_key(super::build::HTPASSWD_KEY);
    let hash = secret.annotations().get(PASSWORD_HASH)?;
    has_users.then(|| hash.clone())
}

/// SHA-256 in hexadecimal. Good enough for a password of 32 random bytes.
pub(super) fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// The list that the Registry should load.
fn decide_public(input: &RegistryInput, builder: &Builder<'_>, plan: &mut Plan) -> PublicList {
    let existing = input.existing.public.as_deref();
    let before = existing.and_then(list_in);
    // Keys that are not known yet stay as they were.
    let keys_before = existing.and_then(token_keys_in);
    let keys = input.token_keys.as_ref().map(|keys| keys.as_str());
    let keys = keys.or(keys_before);
    let built = input.existing.built.as_deref();
    let built = built.filter(|record| built::belongs_to(record, &input.registry));
    let built = built.map(built::paths).unwrap_or_default();
    let none = BTreeSet::new();
    let mirrored = match (&input.public, &before) {
        (Some(mirrored), _) => mirrored,
        // Not known yet: public paths stay public.
        (None, Some(before)) => &before.paths,
        (None, None) => &none,
    };
    let (wanted, left_out) = bounded(mirrored, &built);
    if left_out > 0 {
        plan.conditions.degrade("PublicListCut", &format!(
            "{left_out} public repositories are left out, because a Registry takes at most 20,000 of them with 900 KiB of names, those of mirrors first: mirror or build into several Registries"
        ));
    }
    let generation = match &before {
        // The Registry that has loaded the generation has the keys too: both are one volume.
        Some(before) if before.paths == wanted && keys == keys_before => before.generation,
        Some(before) => before.generation + 1,
        None => {
            input
                .registry
                .status
                .as_ref()
                .and_then(|it| it.public_generation)
                .unwrap_or(0)
                + 1
        }
    };
    let list = PublicList {
        generation,
        paths: wanted,
    };
    let desired = builder.public(&list, keys);
    if !is_covered(existing, &desired) {
        plan.actions.push(Action::ApplyPublic(desired));
    }
    list
}

fn token_keys_in(map: &ConfigMap) -> Option<&str> {
    let keys = map.data.as_ref()?.get(TOKEN_KEYS_KEY)?;
    Some(keys.as_str())
}

fn list_in(map: &ConfigMap) -> Option<PublicList> {
    PublicList::parse(map.data.as_ref()?.get(PUBLIC_KEY)?)
}

/// How much of the list the Registry has loaded, and whether to ask it.
fn decide_loaded(
    input: &RegistryInput,
    list: &PublicList,
    plan: &mut Plan,
) -> Option<Arc<BTreeSet<String>>> {
    let is_loaded = input.answer.generation == Some(list.generation);
    if is_loaded {
        plan.confirmed = Some(Arc::new(list.paths.clone()));
        plan.conditions.public = Some((list.generation, list.paths.len()));
    } else if plan.conditions.is_ready() {
        plan.ask = Some(list.generation);
        plan.conditions.progress(
            "LoadingPublic",
            "the list of public repositories is being loaded",
        );
    }
    let confirmed = plan.confirmed.as_ref()?;
    if is_loaded {
        return Some(confirmed.clone());
    }
    // A path that is no longer wanted does not count any more, although the Registry may still
    // serve it.
    let both = confirmed.intersection(&list.paths).cloned().collect();
    Some(Arc::new(both))
}

fn decide_stateful_set(
    input: &RegistryInput,
    builder: &Builder<'_>,
    address: IpAddr,
    plan: &mut Plan,
) {
    if input.image.is_empty() {
        return;
    }
    let mut desired = builder.stateful_set(&input.image, address);
    let existing = input.existing.stateful_set.as_deref();
    if let Some(existing) = existing
        && !keep_storage(&json!(existing), &mut desired)
    {
        plan.conditions.degrade("StorageFixed", &format!(
            "the storage cannot be changed while the StatefulSet exists: to have it recreated, run \
             `kubectl delete statefulset -n {} {}`; a volume claim stays",
            input.registry.namespace().unwrap_or_default(),
            input.registry.name_any(),
        ));
    }
    if !is_covered(existing, &desired) {
        plan.actions.push(Action::ApplyStatefulSet(desired));
    }
}

/// A StatefulSet's claims cannot be changed: `desired` gets those of `existing`. Returns whether they
/// were the same.
fn keep_storage(existing: &Value, desired: &mut Value) -> bool {
    let claims = |set: &Value| match &set["spec"]["volumeClaimTemplates"] {
        Value::Array(claims) => claims.clone(),
        _ => Vec::new(),
    };
    let data = |set: &Value| {
        let volumes = set["spec"]["template"]["spec"]["volumes"].as_array();
        let mut volumes = volumes.into_iter().flatten();
        volumes.find(|volume| volume["name"] == "data").cloned()
    };
    let (found_claims, found_data) = (claims(existing), data(existing));
    let is_same = found_claims.len() == claims(desired).len()
        && found_claims
            .iter()
            .zip(claims(desired))
            .all(|(f, d)| covers(f, &d))
        && found_data.is_some() == data(desired).is_some();
    if is_same {
        return true;
    }
    let spec = &mut desired["spec"];
    if found_claims.is_empty() {
        spec.as_object_mut()
            .map(|spec| spec.remove("volumeClaimTemplates"));
    } else {
        let of_template = |mut claim: Value| {
            claim.as_object_mut().map(|claim| claim.remove("status"));
            claim
        };
        spec["volumeClaimTemplates"] = found_claims.into_iter().map(of_template).collect();
    }
    if let Some(volumes) = spec["template"]["spec"]["volumes"].as_array_mut() {
        volumes.retain(|volume| volume["name"] != "data");
        if let Some(data) = found_data {
            volumes.insert(0, data);
        }
    }
    false
}

/// A change of a mounted object reaches the pod when kubelet syncs the pod, which a changed
/// annotation triggers. Kubelet's cache may be older than the change, so it is reminded until the
/// Registry has loaded the list.
fn decide_reminder(input: &RegistryInput, list: &PublicList, plan: &mut Plan) {
    let is_settled = plan.actions.is_empty();
    let Some(pod) = input.existing.pod.as_deref().filter(|_| is_settled) else {
        return;
    };
    let certificate = input.existing.tls.as_deref().and_then(pair_of);
    let certificate = certificate.map(|pair| pair.certificate).unwrap_or_default();
    let users = input.existing.users.as_deref().and_then(users_hash);
    let users = users.unwrap_or_default();
    let content = hash(&format!("{certificate}\n{users}\n{}", list.generation));
    let reminder = format!(
        "{}.{}",
        &content[..32],
        input.answer.questions / QUESTIONS_PER_REMINDER
    );
    let is_loaded = input.answer.generation == Some(list.generation);
    let noted = pod.annotations().get(CONFIG_HASH);
    let is_noted = noted.is_some_and(|noted| {
        *noted == reminder || (is_loaded && noted.starts_with(&content[..32]))
    });
    if !is_noted {
        let owned = OwnedNames::for_registry(&ObjectKey::from_object(input.registry.as_ref()));
        plan.actions
            .push(Action::RemindKubelet(owned.pod, reminder));
    }
}

fn cluster_ip(service: &Service) -> Option<IpAddr> {
    let address = service.spec.as_ref()?.cluster_ip.as_ref()?;
    address.parse().ok()
}

fn is_covered(existing: Option<&impl Serialize>, desired: &Value) -> bool {
    existing.is_some_and(|existing| covers(&json!(existing), desired))
}

#[cfg(test)]
mod tests;
