//! Pods of any shape.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{inside, patched, pod, reviewed};
use crate::fixture::{Cluster, NGINX, namespace, node};

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
