//! A small cluster for tests: one Registry `coral-system/reg` on nodes `n1` and `n2`, and one
//! mirror `coral-system/outside` that holds three images for every namespace.

use std::sync::Arc;

use coral_api::names::label;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::world::{Namespace, Objects, World};

/// Host of the Registry.
pub(crate) const REGISTRY: &str = "reg.coral-system.svc:5000";
/// Digest of the mirrored `nginx:1`.
pub(crate) const NGINX: &str =
    "sha256:1111111111111111111111111111111111111111111111111111111111111111";
/// A digest that was mirrored by itself.
pub(crate) const PINNED: &str =
    "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// Objects as JSON, to be changed before the world is built from them.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) policies: Vec<Value>,
    pub(crate) mirrors: Vec<Value>,
    pub(crate) images: Vec<Value>,
    pub(crate) registries: Vec<Value>,
    pub(crate) nodes: Vec<Value>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            policies: vec![],
            mirrors: vec![mirror("coral-system", "outside", &json!({}))],
            images: vec![shard("coral-system", "outside", &held())],
            registries: vec![json!({
                "metadata": {"namespace": "coral-system", "name": "reg"},
                "spec": {},
                "status": {"conditions": [condition("Ready", "True")]},
            })],
            nodes: vec![node("n1", true, true), node("n2", true, true)],
        }
    }
}

impl Cluster {
    /// The world of these objects.
    pub(crate) fn world(&self) -> World {
        World::build(&Objects {
            policies: typed(&self.policies),
            mirrors: typed(&self.mirrors),
            images: typed(&self.images),
            registries: typed(&self.registries),
            nodes: typed(&self.nodes),
        })
    }
}

/// The images that the mirror holds.
pub(crate) fn held() -> Vec<Value> {
    vec![
        image("docker.io/library/nginx:1", NGINX),
        image("quay.io/team/app:v1", NGINX),
        image(&format!("quay.io/team/tool@{PINNED}"), PINNED),
    ]
}

/// An image that was mirrored into the Registry.
pub(crate) fn image(source: &str, digest: &str) -> Value {
    json!({
        "reference": source,
        "destination": format!("{REGISTRY}/{source}"),
        "state": "Mirrored",
        "digest": digest,
    })
}

/// A mirror whose three repositories are public and loaded.
pub(crate) fn mirror(namespace: &str, name: &str, allow_from: &Value) -> Value {
    let public = |name: &str| json!({"name": name, "visibility": "Public", "loaded": true});
    let repositories: Vec<Value> = [
        "docker.io/library/nginx",
        "quay.io/team/app",
        "quay.io/team/tool",
    ]
    .map(public)
    .to_vec();
    let mut mirror = json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"registry": {"name": "reg"}, "repositories": []},
        "status": {"repositories": repositories},
    });
    if !allow_from.is_null() {
        mirror["spec"]["allowFrom"] = allow_from.clone();
    }
    mirror
}

/// The images of a mirror.
pub(crate) fn shard(namespace: &str, mirror: &str, images: &[Value]) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": format!("{mirror}-0")},
        "spec": {"mirror": mirror, "shard": 0, "registry": REGISTRY},
        "status": {"images": images},
    })
}

/// A node, with or without the Registry's label.
pub(crate) fn node(name: &str, is_ready: bool, reaches_registry: bool) -> Value {
    let mut labels = serde_json::Map::new();
    if reaches_registry {
        labels.insert(label::registry(REGISTRY), json!("ready"));
    }
    let ready = if is_ready { "True" } else { "Unknown" };
    json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn condition(kind: &str, status: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": "Test", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// A namespace without annotations, labelled `team: web`.
pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace {
        name: name.to_owned(),
        labels: [("team".to_owned(), "web".to_owned())].into(),
        annotations: [].into(),
    }
}

fn typed<K: DeserializeOwned>(objects: &[Value]) -> Vec<Arc<K>> {
    let objects = objects.iter().cloned().map(serde_json::from_value);
    objects.map(|object| Arc::new(object.unwrap())).collect()
}
