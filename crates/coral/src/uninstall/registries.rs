//! Registries: their workloads are deleted with the objects that own them; their volumes stay
//! unless the user asks otherwise.

use std::collections::BTreeSet;

use coral_api::names::{GROUP, kind};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster::{Calls, failure};
use crate::failure::Failure;
use crate::terminal::Terminal;

/// The labels of everything that the controller creates for a Registry.
const SELECTOR: &str = "app.kubernetes.io/name=coral-registry,app.kubernetes.io/managed-by=coral";
/// The label with the name of the Registry.
const INSTANCE: &str = "app.kubernetes.io/instance";
/// Workloads named in one message.
const NAMED: usize = 10;

/// UIDs of the StatefulSets that Registries own. Labels alone prove nothing: every user of a
/// namespace can write them.
pub(super) struct Workloads(BTreeSet<String>);

impl Workloads {
    /// Reads them; call it before the Registries are deleted.
    pub(super) async fn of_registries(calls: &Calls) -> Result<Self, Failure> {
        let sets = calls.all::<StatefulSet>();
        let sets = calls.list(&sets, &selected()).await?;
        Ok(Self(sets.iter().filter_map(owned_uid).collect()))
    }

    /// What is left of them, as `KIND NAMESPACE/NAME`.
    fn left(&self, sets: &[StatefulSet], pods: &[Pod]) -> Vec<String> {
        let is_known = |uid: &String| self.0.contains(uid);
        let sets = sets
            .iter()
            .filter(|set| set.uid().is_some_and(|uid| is_known(&uid)));
        let has_owner = |pod: &&Pod| {
            pod.owner_references()
                .iter()
                .any(|owner| is_known(&owner.uid))
        };
        let pods = pods.iter().filter(has_owner);
        let sets = sets.map(|set| format!("StatefulSet {}", shown(set)));
        sets.chain(pods.map(|pod| format!("Pod {}", shown(pod))))
            .collect()
    }
}

fn selected() -> ListParams {
    ListParams::default().labels(SELECTOR)
}

/// The UID of a StatefulSet that a Registry controls.
fn owned_uid(set: &StatefulSet) -> Option<String> {
    let mut owners = set.owner_references().iter();
    let is_registry = |owner: &OwnerReference| {
        let group = owner.api_version.split('/').next();
        owner.controller == Some(true) && owner.kind == kind::REGISTRY && group == Some(GROUP)
    };
    owners.any(is_registry).then(|| set.uid()).flatten()
}

/// Whether a claim belongs to a Registry's pod; it has no owner reference.
fn is_own_claim(claim: &PersistentVolumeClaim) -> bool {
    let registry = claim.labels().get(INSTANCE);
    registry.is_some_and(|registry| claim.name_any() == format!("data-{registry}-0"))
}

/// Prints what happens to the volumes. A volume stays by its reclaim policy, since the claims in
/// coral-system are deleted with the namespace.
pub(super) async fn keep_or_delete_volumes(
    calls: &Calls,
    delete: bool,
    terminal: &Terminal,
) -> Result<(), Failure> {
    if delete {
        return Ok(());
    }
    let volumes = calls.all::<PersistentVolume>();
    let params = PatchParams::default();
    let keep = Patch::Merge(json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    for claim in claims(calls).await? {
        let shown = shown(&claim);
        let Some(volume) = claim.spec.and_then(|spec| spec.volume_name) else {
            continue;
        };
        let what = format!("keeping the volume {volume} of {shown}");
        let keeping = volumes.patch(&volume, &params, &keep);
        calls.optional(what, keeping).await?;
        terminal.line(&format!(
            "the volume {volume} of {shown} stays, with every image in it (reclaim policy Retain); \
             --delete-data deletes it"
        ));
    }
    Ok(())
}

/// Waits until the garbage collector has removed workloads and pods.
pub(super) async fn wait_until_gone(calls: &Calls, workloads: &Workloads) -> Result<(), Failure> {
    let left = async || {
        let sets = calls.list(&calls.all::<StatefulSet>(), &selected()).await?;
        let pods = calls.list(&calls.all::<Pod>(), &selected()).await?;
        Ok::<_, Failure>(workloads.left(&sets, &pods))
    };
    if calls.until(async || Ok(left().await?.is_empty())).await? {
        return Ok(());
    }
    let left = left().await?;
    let first: Vec<String> = left.iter().take(NAMED).cloned().collect();
    let why = format!("{} are still there: {}", left.len(), first.join(", "));
    Err(failure("removing the Registries", &why)
        .hinting("remove the finalizers that hold them, then run the command again"))
}

/// Deletes the claims; their volumes follow by their reclaim policy.
pub(super) async fn delete_volumes(calls: &Calls, terminal: &Terminal) -> Result<(), Failure> {
    for claim in claims(calls).await? {
        terminal.line(&format!("deleting the volume claim {}", shown(&claim)));
        let namespace = claim.namespace().unwrap_or_default();
        let api = calls.namespaced::<PersistentVolumeClaim>(&namespace);
        calls.delete(&api, &claim.name_any()).await?;
    }
    Ok(())
}

async fn claims(calls: &Calls) -> Result<Vec<PersistentVolumeClaim>, Failure> {
    let api = calls.all::<PersistentVolumeClaim>();
    let mut claims = calls.list(&api, &selected()).await?;
    claims.retain(is_own_claim);
    Ok(claims)
}

fn shown(object: &impl ResourceExt) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{namespace}/{}", object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(uid: &str, owner: &serde_json::Value) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {
            "name": "reg", "namespace": "a", "uid": uid, "ownerReferences": [owner],
        }}))
        .unwrap()
    }

    #[test]
    fn only_statefulsets_of_registries_and_their_pods_are_waited_for() {
        let owner = |group: &str, kind: &str, controls: bool| {
            json!({
                "apiVersion": format!("{group}/v1"), "kind": kind, "name": "reg", "uid": "r",
                "controller": controls,
            })
        };
        let own = set("own", &owner("stvz.io", "Registry", true));
        let foreign = [
            set("1", &owner("example.org", "Registry", true)),
            set("2", &owner("stvz.io", "Image", true)),
            set("3", &owner("stvz.io", "Registry", false)),
        ];
        assert_eq!(owned_uid(&own).as_deref(), Some("own"));
        assert!(foreign.iter().all(|set| owned_uid(set).is_none()));
        let pod = |name: &str, owner: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "reg", "uid": owner}],
            }}))
            .unwrap()
        };
        let workloads = Workloads(BTreeSet::from(["own".to_owned()]));
        let pods = [pod("reg-0", "own"), pod("forged", "1"), Pod::default()];
        let left = workloads.left(&foreign, &pods);
        assert_eq!(left, ["Pod a/reg-0"]);
        assert_eq!(workloads.left(&[own], &[]), ["StatefulSet a/reg"]);
    }

    #[test]
    fn only_the_claim_of_a_registrys_pod_is_deleted() {
        let claim = |name: &str, instance: &str| -> PersistentVolumeClaim {
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": {INSTANCE: instance}}}),
            )
            .unwrap()
        };
        assert!(is_own_claim(&claim("data-reg-0", "reg")));
        assert!(!is_own_claim(&claim("my-registry", "reg")));
        assert!(!is_own_claim(&claim("data-other-0", "reg")));
        assert!(!is_own_claim(&PersistentVolumeClaim::default()));
        assert!(SELECTOR.contains("managed-by=coral"));
    }
}
