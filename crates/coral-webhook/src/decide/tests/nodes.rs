//! The nodes on which a changed pod may start.

use serde_json::{Value, json};

use super::super::*;
use super::{inside, mutated, pod, reviewed};
use crate::fixture::{Cluster, NGINX, REGISTRY, namespace, node};

#[test]
fn selectors_ask_for_the_reference_that_the_pod_really_pulls() {
    let available = json!("available");
    for (inject, reference) in [
        ("selectors", "docker.io/library/nginx:1".to_owned()),
        ("registry,selectors", inside("docker.io/library/nginx:1")),
        (
            "registry=digest,selectors=required",
            inside(&format!("docker.io/library/nginx@{NGINX}")),
        ),
    ] {
        let key = label::image(&reference);
        let (after, decision) = mutated(&pod(inject, &["nginx:1", "index.docker.io/nginx:1"]));
        assert_eq!(
            after["spec"]["nodeSelector"],
            json!({&key: available}),
            "{inject}"
        );
        assert_eq!(
            decision.warnings.len(),
            1,
            "no node is known to have the image"
        );
        let mut cluster = Cluster::default();
        cluster.nodes[0]["metadata"]["labels"][&key] = available.clone();
        let decision = decide(
            &pod(inject, &["nginx:1"]),
            &namespace("team"),
            &cluster.world(),
        );
        assert_eq!(decision.warnings, [""; 0]);
    }
}

#[test]
fn the_pods_own_constraints_stay() {
    let key = label::image("docker.io/library/nginx:1");
    let mut before = pod("selectors", &["nginx:1"]);
    before["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    let (after, _) = mutated(&before);
    assert_eq!(
        after["spec"]["nodeSelector"],
        json!({"disk": "ssd", key.clone(): "available"})
    );

    let preference = json!({"weight": 50, "preference": {"matchExpressions": [
        {"key": key, "operator": "In", "values": ["available"]}
    ]}});
    let other = json!({"weight": 1, "preference": {"matchExpressions": []}});
    let field = "preferredDuringSchedulingIgnoredDuringExecution";
    for (affinity, expected) in [
        (json!(null), json!({"nodeAffinity": {field: [preference]}})),
        (
            json!({"podAffinity": {}}),
            json!({"podAffinity": {}, "nodeAffinity": {field: [preference]}}),
        ),
        (
            json!({"nodeAffinity": {"x": 1}}),
            json!({"nodeAffinity": {"x": 1, field: [preference]}}),
        ),
        (
            json!({"nodeAffinity": {field: [other]}}),
            json!({"nodeAffinity": {field: [other, preference]}}),
        ),
    ] {
        let mut before = pod("selectors=preferred", &["nginx:1"]);
        before["spec"]["affinity"] = affinity;
        let (after, decision) = mutated(&before);
        assert_eq!(after["spec"]["affinity"], expected);
        assert_eq!(after["spec"]["nodeSelector"], json!(null));
        assert_eq!(decision.warnings, [""; 0]);
    }
}

#[test]
fn while_a_ready_node_lacks_the_registry_rewritten_pods_require_it() {
    let key = label::registry(REGISTRY);
    for (nodes, expected) in [
        (
            vec![node("n1", true, true), node("n2", true, true)],
            Some(json!(null)),
        ),
        (
            vec![node("n1", true, true), node("n2", false, false)],
            Some(json!(null)),
        ),
        (
            vec![node("n1", true, true), node("n2", true, false)],
            Some(json!({key: "ready"})),
        ),
        (vec![node("n1", false, true), node("n2", true, false)], None),
        (vec![node("n1", true, false)], None),
        (vec![], None),
    ] {
        let cluster = Cluster {
            nodes,
            ..Cluster::default()
        };
        let before = pod("registry", &["nginx:1"]);
        let (after, decision) = reviewed(&before, &namespace("team"), &cluster.world());
        if let Some(selector) = expected {
            let image = &after["spec"]["containers"][0]["image"];
            assert_eq!(image, &inside("docker.io/library/nginx:1"));
            assert_eq!(after["spec"]["nodeSelector"], selector);
        } else {
            assert_eq!(after, before);
            assert_eq!(decision.reasons, [("nginx:1".to_owned(), Refusal::NoNode)]);
        }
    }
}

/// A pod as a `DaemonSet` creates it.
fn daemon_pod(inject: &str, node: &str) -> Value {
    let mut pod = pod(inject, &["nginx:1"]);
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
    pod["spec"]["affinity"] = json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        ]}
    }});
    pod
}

#[test]
fn a_daemon_sets_pod_is_rewritten_on_nodes_that_reach_the_registry_and_gets_no_selectors() {
    let cluster = Cluster {
        nodes: vec![node("n1", true, true), node("n2", true, false)],
        ..Cluster::default()
    };
    let world = cluster.world();
    for (node, is_rewritten) in [("n1", true), ("n2", false), ("n3", false)] {
        for inject in ["registry,selectors", "registry,selectors=preferred"] {
            let before = daemon_pod(inject, node);
            let (after, _) = reviewed(&before, &namespace("team"), &world);
            let image = &after["spec"]["containers"][0]["image"];
            assert_eq!(image != "nginx:1", is_rewritten, "{node}");
            assert_eq!(after["spec"]["nodeSelector"], json!(null));
            assert_eq!(after["spec"]["affinity"], before["spec"]["affinity"]);
        }
    }
}
