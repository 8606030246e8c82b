use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixture::{Cluster, NGINX, PINNED, REGISTRY, mirror, namespace, node, shard};

/// A pod with one container for each image, named `c0`, `c1`, …
fn pod(inject: &str, images: &[&str]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .enumerate()
        .map(|(i, image)| json!({"name": format!("c{i}"), "image": image, "imagePullPolicy": "Always"}))
        .collect();
    json!({
        "metadata": {"name": "p", "annotations": {"image.stvz.io/inject": inject}},
        "spec": {"containers": containers},
    })
}

fn patched(pod: &Value, decision: &Decision) -> Value {
    let operations = serde_json::to_value(&decision.patch).unwrap();
    let patch: json_patch::Patch = serde_json::from_value(operations).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

/// Decides, applies the patch, and checks that a second review changes nothing.
fn reviewed(pod: &Value, namespace: &Namespace, world: &World) -> (Value, Decision) {
    let decision = decide(pod, namespace, world);
    let after = patched(pod, &decision);
    let again = decide(&after, namespace, world);
    assert_eq!(again.patch, [], "a second review changes {after}");
    (after, decision)
}

fn mutated(pod: &Value) -> (Value, Decision) {
    reviewed(pod, &namespace("team"), &Cluster::default().world())
}

fn inside(path: &str) -> String {
    format!("{REGISTRY}/{path}")
}

#[test]
fn a_pod_without_wishes_stays_as_it_is() {
    for inject in ["", "none", "pull-polic"] {
        let pod = pod(inject, &["nginx:1"]);
        assert_eq!(mutated(&pod).0, pod);
    }
    let bare = json!({"spec": {"containers": [{"name": "c", "image": "nginx:1"}]}});
    assert_eq!(mutated(&bare).0, bare);
}

#[test]
fn an_image_is_rewritten_to_where_it_was_mirrored() {
    let by_digest = format!("nginx@{NGINX}");
    let tag_and_digest = format!("nginx:1@{NGINX}");
    let pinned = format!("quay.io/team/tool@{PINNED}");
    let other_digest = format!("quay.io/team/tool@{NGINX}");
    for (inject, image, expected) in [
        ("registry", "nginx:1", inside("docker.io/library/nginx:1")),
        (
            "registry",
            "docker.io/nginx:1",
            inside("docker.io/library/nginx:1"),
        ),
        (
            "registry",
            "index.docker.io/library/nginx:1",
            inside("docker.io/library/nginx:1"),
        ),
        (
            "registry",
            "quay.io/team/app:v1",
            inside("quay.io/team/app:v1"),
        ),
        (
            "registry=digest",
            "nginx:1",
            inside(&format!("docker.io/library/nginx@{NGINX}")),
        ),
        (
            "registry",
            &by_digest,
            inside(&format!("docker.io/library/{by_digest}")),
        ),
        (
            "registry=digest",
            &by_digest,
            inside(&format!("docker.io/library/{by_digest}")),
        ),
        (
            "registry",
            &tag_and_digest,
            inside(&format!("docker.io/library/{by_digest}")),
        ),
        ("registry", &pinned, inside(&pinned)),
        ("registry", "nginx", "nginx".to_owned()),
        ("registry", "nginx:2", "nginx:2".to_owned()),
        (
            "registry",
            "quay.io/team/tool:1",
            "quay.io/team/tool:1".to_owned(),
        ),
        ("registry", &other_digest, other_digest.clone()),
        ("registry", "Not a reference", "Not a reference".to_owned()),
        (
            "registry",
            &inside("docker.io/library/nginx:1"),
            inside("docker.io/library/nginx:1"),
        ),
    ] {
        let (after, _) = mutated(&pod(inject, &[image]));
        assert_eq!(
            after["spec"]["containers"][0]["image"], expected,
            "{inject} {image}"
        );
        let is_changed = image != expected;
        let mark = &after["metadata"]["annotations"]["image.stvz.io/injected"];
        assert_eq!(mark == "true", is_changed, "{image}");
    }
}

#[test]
fn every_kind_of_container_is_changed_and_noted() {
    let before = json!({
        "metadata": {"annotations": {"image.stvz.io/inject": "pull-policy,registry"}},
        "spec": {
            "unknownField": {"kept": [1, null]},
            "initContainers": [
                {"name": "i", "image": "nginx:1"},
                {"name": "s", "image": "nginx:1", "restartPolicy": "Always", "imagePullPolicy": "IfNotPresent"},
            ],
            "containers": [{"name": "a", "image": "quay.io/team/app:v1", "imagePullPolicy": "Always"}, {"name": "b"}],
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "v", "image": {"reference": "nginx:1", "pullPolicy": "Always"}},
            ],
        },
    });
    let (after, decision) = mutated(&before);
    let nginx = inside("docker.io/library/nginx:1");
    assert_eq!(
        after["spec"],
        json!({
            "unknownField": {"kept": [1, null]},
            "initContainers": [
                {"name": "i", "image": nginx, "imagePullPolicy": "IfNotPresent"},
                {"name": "s", "image": nginx, "restartPolicy": "Always", "imagePullPolicy": "IfNotPresent"},
            ],
            "containers": [{"name": "a", "image": inside("quay.io/team/app:v1"), "imagePullPolicy": "IfNotPresent"}, {"name": "b"}],
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "v", "image": {"reference": nginx, "pullPolicy": "IfNotPresent"}},
            ],
        })
    );
    let noted = after["metadata"]["annotations"]["image.stvz.io/original"]
        .as_str()
        .unwrap();
    let noted: Value = serde_json::from_str(noted).unwrap();
    assert_eq!(
        noted,
        json!({
            "containers": {"a": "quay.io/team/app:v1"},
            "initContainers": {"i": "nginx:1", "s": "nginx:1"},
            "volumes": {"v": "nginx:1"},
        })
    );
    // Four images, three pull policies, two annotations, and nothing more.
    assert_eq!(decision.patch.len(), 9, "{:?}", decision.patch);
    assert_eq!(decision.warnings, [""; 0]);
}

#[test]
fn inclusion_and_exclusion_go_by_the_names_of_containers_and_volumes() {
    for (key, list, expected) in [
        ("include", "c0, v", [true, false, true]),
        ("included", "c1", [false, true, false]),
        ("exclude", " c0 ,", [false, true, true]),
        ("excluded", "c0,c1,v", [false, false, false]),
    ] {
        let mut pod = pod("registry", &["nginx:1", "nginx:1"]);
        pod["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "nginx:1"}}]);
        pod["metadata"]["annotations"][format!("image.stvz.io/{key}")] = json!(list);
        let (after, _) = mutated(&pod);
        let spec = &after["spec"];
        let images = [
            &spec["containers"][0]["image"],
            &spec["containers"][1]["image"],
            &spec["volumes"][0]["image"]["reference"],
        ];
        let changed = images.map(|image| image != "nginx:1");
        assert_eq!(changed, expected, "{key}: {list}");
    }
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
    let wish = pod("registry,pull-policy", &["nginx:1"]);
    for name in ["kube-system", "coral-system", "coral-nodes"] {
        assert_eq!(reviewed(&wish, &namespace(name), &world).0, wish);
    }
    let mut mirror_pod = wish;
    mirror_pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("hash");
    assert_eq!(mutated(&mirror_pod).0, mirror_pod);
}

#[test]
fn a_forged_annotation_changes_nothing() {
    let forged = json!({"containers": {"c0": "docker.io/library/nginx:1", "x": "evil/x"}});
    let forge = |pod: &mut Value| {
        let annotations = &mut pod["metadata"]["annotations"];
        annotations["image.stvz.io/original"] = json!(forged.to_string());
        annotations["image.stvz.io/injected"] = json!("true");
    };
    for images in [
        ["nginx:1"],
        ["evil.example/x:1"],
        ["reg.coral-system.svc:5000/evil/x:1"],
    ] {
        let honest = pod("registry,pull-policy,selectors", &images);
        let mut lying = honest.clone();
        forge(&mut lying);
        let (honest, lying) = (mutated(&honest).0, mutated(&lying).0);
        assert_eq!(honest["spec"], lying["spec"], "{images:?}");
    }
    // What was rewritten is noted truly, and what was forged beside it is gone.
    let mut lying = pod("registry", &["quay.io/team/app:v1"]);
    forge(&mut lying);
    let noted = &mutated(&lying).0["metadata"]["annotations"]["image.stvz.io/original"];
    assert_eq!(noted, r#"{"containers":{"c0":"quay.io/team/app:v1"}}"#);
}

#[test]
fn a_container_that_came_between_two_reviews_is_added_to_the_note() {
    let (mut after, _) = mutated(&pod("registry", &["nginx:1"]));
    let sidecar = json!({"name": "sidecar", "image": "quay.io/team/app:v1"});
    after["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(sidecar);
    let (twice, _) = mutated(&after);
    let noted = &twice["metadata"]["annotations"]["image.stvz.io/original"];
    assert_eq!(
        noted,
        r#"{"containers":{"c0":"nginx:1","sidecar":"quay.io/team/app:v1"}}"#
    );
}

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
        assert_eq!(decision.warnings.len(), 1, "no node has the image");
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

/// A pod as a `DaemonSet` has it made.
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

#[test]
fn odd_shapes_panic_nowhere() {
    for pod in [
        json!({}),
        json!({"metadata": {"annotations": "x"}, "spec": []}),
        json!({"metadata": {"annotations": {"image.stvz.io/inject": 5}}}),
        json!({"metadata": {"annotations": {"image.stvz.io/inject": "registry,selectors,pull-policy"}}, "spec": {
            "nodeSelector": "x", "affinity": [], "containers": [{"name": 1, "image": "nginx:1"}, null],
        }}),
    ] {
        let decision = decide(&pod, &namespace("team"), &Cluster::default().world());
        patched(&pod, &decision);
    }
}

fn any_image() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("nginx:1".to_owned()),
        Just(format!("nginx:1@{NGINX}")),
        Just("quay.io/team/app:v1".to_owned()),
        Just("nginx:2".to_owned()),
        Just(inside("docker.io/library/nginx:1")),
        "[a-zA-Z:/.@-]{0,20}",
    ]
}

fn any_pod() -> impl Strategy<Value = Value> {
    let inject = proptest::collection::vec(
        proptest::sample::select(vec![
            "pull-policy",
            "pull-policy=Never",
            "selectors",
            "selectors=preferred",
            "registry",
            "registry=digest",
            "x y",
        ]),
        0..4,
    );
    let images = proptest::collection::vec(any_image(), 0..4);
    let filter = proptest::sample::select(vec![
        json!({}),
        json!({"image.stvz.io/include": "c0, v"}),
        json!({"image.stvz.io/excluded": "c1"}),
    ]);
    let (has_affinity, has_selector) = (any::<bool>(), any::<bool>());
    (inject, images, filter, has_affinity, has_selector).prop_map(
        |(inject, images, filter, has_affinity, has_selector)| {
            let images: Vec<&str> = images.iter().map(String::as_str).collect();
            let mut pod = pod(&inject.join(","), &images);
            for (key, value) in filter.as_object().unwrap() {
                pod["metadata"]["annotations"][key] = value.clone();
            }
            if let Some(image) = images.first() {
                pod["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": image}}]);
            }
            if has_affinity {
                pod["spec"]["affinity"] = json!({"nodeAffinity": {}});
            }
            if has_selector {
                pod["spec"]["nodeSelector"] = json!({"a": "b"});
            }
            pod
        },
    )
}

proptest! {
    #[test]
    fn a_second_review_never_changes_anything(pod in any_pod(), everywhere: bool) {
        let mut cluster = Cluster::default();
        cluster.nodes[1] = node("n2", true, everywhere);
        reviewed(&pod, &namespace("team"), &cluster.world());
    }
}
