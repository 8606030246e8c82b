//! Registries: their workloads go with the objects that own them; their volumes stay unless a
//! person says otherwise.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::calls::{Calls, failure};
use crate::failure::Failure;
use crate::terminal::Terminal;

/// The label of everything that the controller makes of a Registry.
const LABEL: &str = "app.kubernetes.io/name=coral-registry";

/// Says what becomes of the volumes. One that stays is kept by its reclaim policy: the namespace
/// coral-system takes its claims along when it is deleted.
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
pub(super) async fn wait_until_gone(calls: &Calls) -> Result<(), Failure> {
    let which = ListParams::default().labels(LABEL);
    let (sets, pods) = (calls.all::<StatefulSet>(), calls.all::<Pod>());
    let gone = calls.until(async || {
        let no_sets = calls.list(&sets, &which).await?.is_empty();
        Ok(no_sets && calls.list(&pods, &which).await?.is_empty())
    });
    if gone.await? {
        return Ok(());
    }
    Err(
        failure("removing the Registries", "their pods are still there").hinting(format!(
            "look at `kubectl get pods --all-namespaces --selector {LABEL}`, then run it again"
        )),
    )
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
    calls.list(&api, &ListParams::default().labels(LABEL)).await
}

fn shown(claim: &PersistentVolumeClaim) -> String {
    format!(
        "{}/{}",
        claim.namespace().unwrap_or_default(),
        claim.name_any()
    )
}
