//! The pod of a Registry and its storage.

use super::*;

#[test]
fn storage_is_a_claim_or_a_folder_and_stays_what_it_was() {
    let mut input = fresh(&json!({"storage": {"size": "1Gi", "storageClassName": "fast"}}));
    settle(&mut input);
    let set = json!(input.existing.stateful_set.as_deref().unwrap());
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert!(claim["metadata"].get("ownerReferences").is_none());
    for other in [
        json!({"storage": {"size": "2Gi"}}),
        json!({"storage": {"emptyDir": {}}}),
    ] {
        input.registry = registry("reg", &other);
        let plan = decide(&input);
        assert!(plan.actions.is_empty(), "{:?}", plan.actions);
        let (_, reason, message) = condition(&input, "Degraded");
        assert_eq!(reason, "StorageFixed");
        assert!(
            message.contains("kubectl delete statefulset -n a reg"),
            "{message}"
        );
    }
    let mut input = fresh(&json!({"storage": {"emptyDir": {"sizeLimit": "1Gi"}}}));
    settle(&mut input);
    let set = json!(input.existing.stateful_set.as_deref().unwrap());
    assert!(set["spec"].get("volumeClaimTemplates").is_none());
    assert_eq!(
        set["spec"]["template"]["spec"]["volumes"][0]["emptyDir"]["sizeLimit"],
        "1Gi"
    );
    // The registry refuses pushes before the pod is evicted.
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_array().unwrap();
    assert!(
        arguments.contains(&json!("--storage-limit=966367638")),
        "{arguments:?}"
    );
}

#[test]
fn the_bounds_of_the_storage_are_the_registrys_flags() {
    let storage = json!({"size": "10Gi", "limit": "8Gi", "minFree": "500M"});
    let mut input = fresh(&json!({"storage": storage}));
    settle(&mut input);
    let set = json!(input.existing.stateful_set.as_deref().unwrap());
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_array().unwrap();
    for flag in ["--storage-limit=8Gi", "--storage-min-free=500M"] {
        assert!(arguments.contains(&json!(flag)), "{flag}: {arguments:?}");
    }
}

#[test]
fn the_pod_is_what_pod_security_restricted_admits() {
    let mut input = fresh(&json!({
        "limits": {"blobSize": "1Gi"},
        "gc": {"untagged": "7d"},
        "scrub": {"interval": "14d", "bandwidth": "0"},
    }));
    settle(&mut input);
    let set = json!(input.existing.stateful_set.as_deref().unwrap());
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(
        container["securityContext"]["allowPrivilegeEscalation"],
        false
    );
    assert_eq!(
        container["securityContext"]["capabilities"]["drop"],
        json!(["ALL"])
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let arguments = json!(container["args"]).to_string();
    for part in [
        "--host=reg.a.svc:5000",
        "--host=10.96.0.7:5000",
        "--max-blob-size=1Gi",
        "--gc-untagged=7d",
        "--scrub-interval=14d",
        "--scrub-bandwidth=0",
    ] {
        assert!(arguments.contains(part), "{arguments}");
    }
}

#[test]
fn what_the_pod_waits_for_is_in_the_condition() {
    let mut input = fresh(&json!({}));
    settle(&mut input);
    input.existing.pod = typed(&json!({
        "metadata": {"name": "reg-0", "namespace": "a"},
        "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no volume"}]},
    }));
    assert!(condition(&input, "Ready").2.contains("no volume"));
    let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
    let container = json!({"name": "registry", "state": waiting, "image": "", "imageID": "", "ready": false, "restartCount": 0});
    input.existing.pod = typed(&json!({
        "metadata": {"name": "reg-0", "namespace": "a"},
        "status": {"containerStatuses": [container]},
    }));
    let (_, reason, message) = condition(&input, "Ready");
    assert_eq!(reason, "PodNotRunning");
    assert!(message.contains("ErrImagePull: not found"), "{message}");
}
