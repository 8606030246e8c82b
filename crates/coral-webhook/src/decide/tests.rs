mod images;
mod injection;
mod mirrors;
mod nodes;
mod shapes;

use serde_json::json;

use super::*;
use crate::fixture::{Cluster, REGISTRY, namespace};

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
