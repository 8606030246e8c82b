//! Which annotations take effect, and what their author is told.

use serde_json::json;

use super::super::*;
use super::{inside, mutated, pod, reviewed};
use crate::fixture::{Cluster, namespace};

#[test]
fn a_pod_without_annotations_is_unchanged() {
    for inject in ["", "none", "pull-polic"] {
        let pod = pod(inject, &["nginx:1"]);
        assert_eq!(mutated(&pod).0, pod);
    }
    let bare = json!({"spec": {"containers": [{"name": "c", "image": "nginx:1"}]}});
    assert_eq!(mutated(&bare).0, bare);
}

#[test]
fn a_namespace_speaks_for_pods_that_say_nothing_themselves() {
    let mut team = namespace("team");
    team.annotations = [
        (
            "image.stvz.io/inject".to_owned(),
            "registry,nonsense".to_owned(),
        ),
        ("image.stvz.io/exclude".to_owned(), "c1,missing".to_owned()),
    ]
    .into();
    let world = Cluster::default().world();
    let mut silent = pod("", &["nginx:1", "nginx:1"]);
    silent["metadata"] = json!({"name": "p"});
    let (after, decision) = reviewed(&silent, &team, &world);
    assert_eq!(
        after["spec"]["containers"][0]["image"],
        inside("docker.io/library/nginx:1")
    );
    assert_eq!(after["spec"]["containers"][1]["image"], "nginx:1");
    assert_eq!(decision.warnings, [""; 0]);
    let opted_out = pod("none", &["nginx:1"]);
    assert_eq!(reviewed(&opted_out, &team, &world).0, opted_out);
}

#[test]
fn system_namespaces_and_static_pods_are_left_alone() {
    let world = Cluster::default().world();
    let asking = pod("registry,pull-policy", &["nginx:1"]);
    for name in ["kube-system", "coral-system", "coral-nodes"] {
        assert_eq!(reviewed(&asking, &namespace(name), &world).0, asking);
    }
    let mut mirror_pod = asking;
    mirror_pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("hash");
    assert_eq!(mutated(&mirror_pod).0, mirror_pod);
}

#[test]
fn a_policy_switches_features_off_for_the_pods_that_it_selects() {
    for (spec, expected) in [
        (json!({}), [true, true, true]),
        (json!({"registry": "Allow"}), [true, true, true]),
        (json!({"registry": "Off"}), [false, true, true]),
        (json!({"pullPolicy": "Off"}), [true, false, true]),
        (json!({"selectors": "Off"}), [true, true, false]),
        (json!({"selectors": "Force"}), [true, true, false]),
        (
            json!({"registry": "Off", "namespaceSelector": {"matchLabels": {"team": "api"}}}),
            [true, true, true],
        ),
        (
            json!({"registry": "Off", "namespaceSelector": {"matchLabels": {"team": "web"}}}),
            [false, true, true],
        ),
        (
            json!({"registry": "Off", "podSelector": {"matchLabels": {"app": "x"}}}),
            [false, true, true],
        ),
        (
            json!({"registry": "Off", "podSelector": {"matchLabels": {"app": "y"}}}),
            [true, true, true],
        ),
    ] {
        let allowing = json!({"metadata": {"name": "a"}, "spec": {"registry": "Allow"}});
        let cluster = Cluster {
            policies: vec![json!({"metadata": {"name": "b"}, "spec": spec}), allowing],
            ..Cluster::default()
        };
        let mut before = pod("registry,pull-policy,selectors", &["nginx:1"]);
        before["metadata"]["labels"] = json!({"app": "x"});
        let (after, decision) = reviewed(&before, &namespace("team"), &cluster.world());
        let container = &after["spec"]["containers"][0];
        let found = [
            container["image"] != "nginx:1",
            container["imagePullPolicy"] == "IfNotPresent",
            after["spec"]["nodeSelector"].is_object(),
        ];
        assert_eq!(found, expected, "{spec}");
        let off = expected.iter().filter(|on| !**on).count();
        let told = decision
            .warnings
            .iter()
            .filter(|w| w.contains(r#"InjectionPolicy "b" sets it to Off"#));
        assert_eq!(told.count(), off, "{:?}", decision.warnings);
    }
}

#[test]
fn never_on_a_pod_with_pull_secrets_is_warned_of() {
    let mut with_secret = pod("pull-policy=Never", &["nginx:1"]);
    assert_eq!(mutated(&with_secret).1.warnings.len(), 0);
    with_secret["spec"]["imagePullSecrets"] = json!([{"name": "s"}]);
    let (after, decision) = mutated(&with_secret);
    assert_eq!(after["spec"]["containers"][0]["imagePullPolicy"], "Never");
    assert_eq!(decision.warnings.len(), 1);
}

#[test]
fn warnings_are_few_and_short() {
    let words: Vec<String> = (0..100)
        .map(|i| format!("{i}{}", "ä".repeat(500)))
        .collect();
    let decision = mutated(&pod(&words.join(","), &["nginx:1"])).1;
    assert_eq!(decision.warnings.len(), 10);
    assert!(
        decision
            .warnings
            .iter()
            .all(|warning| warning.len() <= MAX_WARNING)
    );
    assert_eq!(decision.warnings[9], "image.stvz.io: 91 more warnings");
}
