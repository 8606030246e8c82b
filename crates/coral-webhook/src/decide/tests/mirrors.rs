//! The mirrors and Registries that a pod may be pointed at.

use serde_json::json;

use super::super::*;
use super::{inside, pod, reviewed};
use crate::fixture::{Cluster, REGISTRY, mirror, namespace, shard};

#[test]
fn only_what_is_verified_public_loaded_and_served_is_rewritten() {
    type Change = fn(&mut Cluster);
    let cases: [(Change, Refusal); 9] = [
        (
            |c| c.images[0]["status"]["images"][0]["digest"] = json!(null),
            Refusal::NotMirrored,
        ),
        (|c| c.mirrors.clear(), Refusal::NotMirrored),
        (
            |c| {
                c.images[0]["status"]["images"][0]["destination"] =
                    json!(format!("{REGISTRY}/quay.io/library/nginx:1"));
            },
            Refusal::NotMirrored,
        ),
        (
            |c| c.mirrors[0]["status"]["repositories"][0]["visibility"] = json!("Private"),
            Refusal::NotPublic,
        ),
        (
            |c| c.mirrors[0]["status"]["repositories"][0]["visibility"] = json!(null),
            Refusal::NotPublic,
        ),
        (
            |c| c.mirrors[0]["status"]["repositories"][0]["loaded"] = json!(false),
            Refusal::NotPublic,
        ),
        (
            |c| c.mirrors[0]["status"]["repositories"][0]["loaded"] = json!(null),
            Refusal::NotPublic,
        ),
        (|c| c.registries.clear(), Refusal::RegistryNotReady),
        (
            |c| c.registries[0]["status"]["conditions"][0]["status"] = json!("False"),
            Refusal::RegistryNotReady,
        ),
    ];
    for (change, expected) in cases {
        let mut cluster = Cluster::default();
        change(&mut cluster);
        let before = pod("registry", &["nginx:1"]);
        let (after, decision) = reviewed(&before, &namespace("team"), &cluster.world());
        assert_eq!(after, before);
        assert_eq!(decision.reasons, [("nginx:1".to_owned(), expected)]);
    }
}

#[test]
fn what_is_there_is_rewritten_also_while_its_source_cannot_be_reached() {
    for state in ["Failing", "Error", "New"] {
        let mut cluster = Cluster::default();
        cluster.images[0]["status"]["images"][0]["state"] = json!(state);
        let before = pod("registry", &["nginx:1"]);
        let (after, _) = reviewed(&before, &namespace("team"), &cluster.world());
        let image = format!("{REGISTRY}/docker.io/library/nginx:1");
        assert_eq!(
            after["spec"]["containers"][0]["image"],
            json!(image),
            "{state}"
        );
    }
}

#[test]
fn a_mirror_takes_in_pods_of_its_own_namespace_of_allow_from_and_of_a_policy() {
    let web = json!({"matchLabels": {"team": "web"}});
    let api = json!({"matchLabels": {"team": "api"}});
    let policy = |mirror: &str| json!({"metadata": {"name": "p"}, "spec": {"mirrors": [{"namespace": "coral-system", "name": mirror}]}});
    for (allow_from, policies, namespace_name, is_rewritten) in [
        (&json!(null), vec![], "team", false),
        (&json!({}), vec![], "team", true),
        (&web, vec![], "team", true),
        (&api, vec![], "team", false),
        (&json!(null), vec![policy("outside")], "team", true),
        (&json!({}), vec![policy("other")], "team", false),
    ] {
        let cluster = Cluster {
            mirrors: vec![mirror("coral-system", "outside", allow_from)],
            policies,
            ..Cluster::default()
        };
        let before = pod("registry", &["nginx:1"]);
        let (after, decision) = reviewed(&before, &namespace(namespace_name), &cluster.world());
        assert_eq!(after != before, is_rewritten, "{cluster:?}");
        if !is_rewritten {
            assert_eq!(decision.reasons[0].1, Refusal::NotAllowed);
        }
    }
    let cluster = Cluster {
        mirrors: vec![mirror("team", "own", &json!(null))],
        images: vec![shard("team", "own", &crate::fixture::held())],
        ..Cluster::default()
    };
    let before = pod("registry", &["nginx:1"]);
    assert_ne!(
        reviewed(&before, &namespace("team"), &cluster.world()).0,
        before
    );
    assert_eq!(
        reviewed(&before, &namespace("other"), &cluster.world()).0,
        before
    );
}

/// A mirror of another tenant that holds the same image in a Registry of its own.
fn with_tenants_mirror(mut cluster: Cluster) -> Cluster {
    let host = "reg.a-team.svc:5000";
    let mut images = shard("a-team", "own", &crate::fixture::held());
    images["spec"]["registry"] = json!(host);
    for image in images["status"]["images"].as_array_mut().unwrap() {
        let destination = image["destination"].as_str().unwrap();
        image["destination"] = json!(destination.replace(REGISTRY, host));
    }
    cluster.images.push(images);
    cluster.mirrors.push(mirror("a-team", "own", &json!({})));
    let mut registry = cluster.registries[0].clone();
    registry["metadata"]["namespace"] = json!("a-team");
    cluster.registries.push(registry);
    for node in &mut cluster.nodes {
        node["metadata"]["labels"][label::registry(host)] = json!("ready");
    }
    cluster
}

#[test]
fn pods_are_pointed_at_another_tenants_mirror_only_if_a_policy_names_it() {
    let named = json!({"metadata": {"name": "p"}, "spec": {"mirrors": [{"namespace": "a-team", "name": "own"}]}});
    let beside_the_administrators = Cluster::default();
    let alone = Cluster {
        mirrors: vec![],
        images: vec![],
        ..Cluster::default()
    };
    let theirs = "reg.a-team.svc:5000/docker.io/library/nginx:1".to_owned();
    let outside = inside("docker.io/library/nginx:1");
    for (cluster, policies, namespace_name, expected) in [
        (&beside_the_administrators, vec![], "team", &outside),
        (&alone, vec![], "team", &"nginx:1".to_owned()),
        (&alone, vec![named.clone()], "team", &theirs),
        (&beside_the_administrators, vec![named], "team", &theirs),
        (&beside_the_administrators, vec![], "a-team", &theirs),
    ] {
        let mut cluster = with_tenants_mirror(cluster.clone());
        cluster.policies = policies;
        let before = pod("registry", &["nginx:1"]);
        let (after, _) = reviewed(&before, &namespace(namespace_name), &cluster.world());
        assert_eq!(&after["spec"]["containers"][0]["image"], expected);
    }
}
