//! The volume claim of a Registry whose pod finds no node: Kubernetes' own message names neither the
//! claim nor its storage class.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;

/// The annotation of the default class.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// The storage classes of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StorageClasses {
    names: BTreeSet<String>,
    has_default: bool,
}

impl StorageClasses {
    pub(super) fn from_objects<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Self {
        let mut all = Self::default();
        for class in classes {
            let mark = class.annotations().get(DEFAULT_CLASS);
            all.has_default |= mark.is_some_and(|mark| mark == "true");
            all.names.insert(class.name_any());
        }
        all
    }
}

/// The scheduler's message if the pod waits for a volume claim.
fn waits_for_claim(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions.flatten().any(|condition| {
        let message = condition.message.as_deref().unwrap_or_default();
        let is_scheduling = condition.type_ == "PodScheduled" && condition.status == "False";
        is_scheduling
            && message
                .to_ascii_lowercase()
                .contains("persistentvolumeclaim")
    })
}

/// Whether the storage classes are worth a look: the Registry's pod waits for its claim.
pub(super) fn is_waited_for(pod: Option<&Pod>, set: Option<&StatefulSet>) -> bool {
    pod.is_some_and(waits_for_claim) && set.and_then(wanted).is_some()
}

/// Name and class of the claim of the first pod.
fn wanted(set: &StatefulSet) -> Option<(String, Option<&str>)> {
    let templates = set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let template = templates.first()?;
    let class = template.spec.as_ref()?.storage_class_name.as_deref();
    let name = format!("{}-{}-0", template.name_any(), set.name_any());
    Some((name, class))
}

/// What the claim waits for and what to do. `classes` are `None` if they could not be read.
pub(super) fn advice(
    pod: &Pod,
    set: Option<&StatefulSet>,
    classes: Option<&StorageClasses>,
) -> Option<String> {
    let (name, class) = set.and_then(wanted).filter(|_| waits_for_claim(pod))?;
    let inspect = format!(
        "see `kubectl -n {} describe pvc {name}`",
        pod.namespace().unwrap_or_default()
    );
    Some(match (class, classes) {
        (Some(class), Some(classes)) if !classes.names.contains(class) => format!(
            "its claim {name} names the storage class {class:?}, which does not exist: create the \
             class, or correct spec.storage.storageClassName"
        ),
        (Some(class), _) => {
            format!("its claim {name} of storage class {class:?} is not bound: {inspect}")
        }
        (None, Some(classes)) if !classes.has_default => format!(
            "its claim {name} names no storage class, and the cluster has no default one: set \
             spec.storage.storageClassName"
        ),
        (None, _) => {
            format!("its claim {name} of the default storage class is not bound: {inspect}")
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(message: &str) -> Pod {
        let condition = json!({"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": message});
        let pod = json!({"metadata": {"name": "reg-0", "namespace": "a"},
            "status": {"conditions": [condition]}});
        serde_json::from_value(pod).unwrap()
    }

    fn set(class: Option<&str>) -> StatefulSet {
        let claim = json!({"metadata": {"name": "data"}, "spec": {"storageClassName": class}});
        let spec = json!({"selector": {}, "serviceName": "reg", "template": {},
            "volumeClaimTemplates": [claim]});
        serde_json::from_value(json!({"metadata": {"name": "reg"}, "spec": spec})).unwrap()
    }

    fn classes(default: &str) -> StorageClasses {
        let class = json!({"metadata": {"name": "standard",
            "annotations": {DEFAULT_CLASS: default}}, "provisioner": "x"});
        StorageClasses::from_objects([&serde_json::from_value(class).unwrap()])
    }

    #[test]
    fn a_pod_that_waits_for_its_claim_says_which_class_the_claim_wants() {
        let waiting = pod(
            "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
        );
        let said = |class, classes: Option<&StorageClasses>| {
            advice(&waiting, Some(&set(class)), classes).unwrap()
        };
        let (with, without) = (classes("true"), classes("false"));
        for (class, classes, expected) in [
            (
                Some("fastt"),
                Some(&with),
                "its claim data-reg-0 names the storage class \"fastt\", which does not exist",
            ),
            (
                Some("standard"),
                Some(&with),
                "its claim data-reg-0 of storage class \"standard\" is not bound: see `kubectl -n a describe pvc data-reg-0`",
            ),
            (
                Some("fastt"),
                None,
                "its claim data-reg-0 of storage class \"fastt\" is not bound",
            ),
            (
                None,
                Some(&without),
                "its claim data-reg-0 names no storage class, and the cluster has no default one",
            ),
            (
                None,
                Some(&with),
                "its claim data-reg-0 of the default storage class is not bound",
            ),
        ] {
            let said = said(class, classes);
            assert!(said.starts_with(expected), "{said}");
        }
        let busy = pod("0/2 nodes are available: 2 Insufficient memory.");
        assert_eq!(advice(&busy, Some(&set(None)), Some(&with)), None);
        assert!(!is_waited_for(Some(&busy), Some(&set(None))));
        assert!(is_waited_for(Some(&waiting), Some(&set(None))));
    }
}
