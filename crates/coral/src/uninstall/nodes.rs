//! Nodes: their agents remove files and pins; labels, condition and taint are removed here.

use std::collections::BTreeMap;

use coral_api::names::{STARTUP_TAINT, label};
use coral_api::node_images::{NodeImages, NodeImagesStatus};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Calls, failure};
use crate::failure::Failure;
use crate::terminal::Terminal;
use coral_api::names::namespace::NODES;

/// The agents.
const AGENT: &str = "coral-agent";
/// The condition that the controller writes.
const CONDITION: &str = "ImagesReady";
/// Nodes named in one message.
const NAMED: usize = 10;

/// Empties the desired state of every node, and waits until each agent reports that nothing is
/// left. Nodes that are down are not waited for.
pub(super) async fn empty(
    calls: &Calls,
    without_agents: bool,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let sets = calls.all::<NodeImages>();
    let params = PatchParams::default();
    let nothing = Patch::Merge(json!({"spec": {"images": null, "pins": null, "registries": null}}));
    for set in calls.list(&sets, &ListParams::default()).await? {
        let name = set.name_any();
        let emptying = sets.patch(&name, &params, &nothing);
        calls
            .optional(format_args!("emptying NodeImages {name}"), emptying)
            .await?;
    }
    let down = unready(
        &calls
            .list(&calls.all::<Node>(), &ListParams::default())
            .await?,
    );
    let agents = calls.namespaced::<DaemonSet>(NODES);
    let agents = calls
        .optional("reading the DaemonSet coral-agent", agents.get(AGENT))
        .await?;
    let has_agents = agents.is_some();
    let left = async || {
        let sets = calls.list(&sets, &ListParams::default()).await?;
        Ok::<_, Failure>(outstanding(&sets, has_agents))
    };
    let waited_for = |left: Vec<String>| left.into_iter().all(|node| down.contains(&node));
    if !without_agents && has_agents {
        calls.until(async || Ok(waited_for(left().await?))).await?;
    }
    let left = left().await?;
    if left.is_empty() {
        return Ok(());
    }
    let named = named(&left);
    if waited_for(left) {
        terminal.line(&format!(
            "not Ready, so not waited for: {named}. Coral's files in /etc/containerd/certs.d stay \
             there; if such a node comes back, remove them manually"
        ));
        return Ok(());
    }
    if without_agents {
        terminal.line(&format!(
            "without waiting for: {named}. Coral's files stay there"
        ));
        return Ok(());
    }
    let why = if has_agents {
        format!("not done after {:?} on {named}", calls.timeout())
    } else {
        format!("there are no agents left to remove the files on {named}")
    };
    Err(failure("removing files and pins from the nodes", &why).hinting(
        "look at `kubectl get nodeimages -o wide` and at the logs of the agents in coral-nodes; \
         then run the command again, or use --without-agents to leave the files where they are",
    ))
}

/// The nodes whose agents have not yet reported that nothing is left. Without agents, those whose
/// last status still lists files or pins.
fn outstanding(sets: &[NodeImages], has_agents: bool) -> Vec<String> {
    let is_left = |set: &&NodeImages| {
        let Some(status) = &set.status else {
            return false;
        };
        let stale = status.observed_generation < set.metadata.generation;
        (has_agents && stale) || holds_something(status)
    };
    sets.iter()
        .filter(is_left)
        .map(ResourceExt::name_any)
        .collect()
}

fn holds_something(status: &NodeImagesStatus) -> bool {
    !status.registries.is_empty()
        || !status.pins.is_empty()
        || status.images.iter().any(|image| image.removing)
}

/// Names of the nodes that are not Ready, so that no agent runs there.
fn unready(nodes: &[Node]) -> Vec<String> {
    let is_ready = |node: &&Node| {
        let conditions = node.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let unready = nodes.iter().filter(|node| !is_ready(node));
    unready.map(ResourceExt::name_any).collect()
}

fn named(nodes: &[String]) -> String {
    let first = nodes
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match nodes.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Removes Coral's labels, its condition and its taint from every node.
pub(super) async fn clean(calls: &Calls) -> Result<(), Failure> {
    let nodes = calls.all::<Node>();
    for node in calls.list(&nodes, &ListParams::default()).await? {
        clean_one(calls, &nodes, &node).await?;
    }
    Ok(())
}

async fn clean_one(calls: &Calls, nodes: &Api<Node>, node: &Node) -> Result<(), Failure> {
    let (name, params) = (node.name_any(), PatchParams::default());
    if without_taint(node).is_some() {
        let what = format!("removing the taint {STARTUP_TAINT} from node {name}");
        let taint = async || {
            // Built from the current node, so that changes to other taints since the list are kept.
            let patch = without_taint(&nodes.get(&name).await?).unwrap_or_default();
            nodes.patch(&name, &params, &Patch::Merge(patch)).await
        };
        calls.optional(what, taint()).await?;
    }
    if let Some(patch) = without_labels(node.labels()) {
        let what = format!("removing labels from node {name}");
        let patch = Patch::Merge(patch);
        calls
            .optional(what, nodes.patch(&name, &params, &patch))
            .await?;
    }
    if has_condition(node) {
        let what = format!("removing the condition {CONDITION} from node {name}");
        let patch = json!({"status": {"conditions": [{"type": CONDITION, "$patch": "delete"}]}});
        let patch = Patch::Strategic(patch);
        calls
            .optional(what, nodes.patch_status(&name, &params, &patch))
            .await?;
    }
    Ok(())
}

/// A merge patch that removes Coral's labels, if there are some.
fn without_labels(labels: &BTreeMap<String, String>) -> Option<Value> {
    let own = labels.keys().filter(|key| label::is_own(key));
    let nulls: serde_json::Map<_, _> = own.map(|key| (key.clone(), Value::Null)).collect();
    (!nulls.is_empty()).then(|| json!({"metadata": {"labels": nulls}}))
}

fn has_condition(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == CONDITION)
}

/// A merge patch that leaves all other taints, if ours is there. Taints are one list, so the patch
/// carries the resource version: a taint that was added meanwhile causes a conflict.
fn without_taint(node: &Node) -> Option<Value> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let kept: Vec<_> = taints
        .iter()
        .filter(|taint| taint.key != STARTUP_TAINT)
        .collect();
    let version = &node.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": kept}});
    (kept.len() < taints.len()).then_some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, generation: i64, status: &Value) -> NodeImages {
        serde_json::from_value(json!({
            "apiVersion": "stvz.io/v1",
            "kind": "NodeImages",
            "metadata": {"name": name, "generation": generation},
            "spec": {},
            "status": status,
        }))
        .unwrap()
    }

    fn holding() -> Value {
        json!({"observedGeneration": 2, "registries": [{
            "host": "docker.io", "endpoint": "https://10.0.0.1:5000",
            "policy": "NeverContactSource", "state": "Removing",
        }]})
    }

    #[test]
    fn a_node_is_done_when_its_agent_has_seen_the_empty_set_and_holds_nothing() {
        let sets = [
            set("done", 2, &json!({"observedGeneration": 2})),
            set("stale", 2, &json!({"observedGeneration": 1})),
            set(
                "pins",
                2,
                &json!({"observedGeneration": 2, "pins": ["localhost/coral:latest"]}),
            ),
            set("files", 2, &holding()),
            set("never-reported", 2, &Value::Null),
        ];
        assert_eq!(outstanding(&sets, true), ["stale", "pins", "files"]);
        assert_eq!(outstanding(&sets, false), ["pins", "files"]);
    }

    #[test]
    fn only_corals_own_labels_are_removed() {
        let image = label::image("docker.io/library/debian:1");
        let registry = label::registry("reg.coral-system.svc:5000");
        let labels = [
            &image,
            &registry,
            "image.stvz.io/owner",
            "registry.stvz.io/2",
            "kubernetes.io/os",
            "stvz.io/x",
        ];
        let labels = labels.map(|key| (key.to_owned(), "v".to_owned())).into();
        let patch = without_labels(&labels).unwrap();
        let expected = json!({image: null, registry: null});
        assert_eq!(patch["metadata"]["labels"], expected);
        assert_eq!(without_labels(&BTreeMap::new()), None);
    }

    #[test]
    fn other_taints_stay_and_a_node_without_ours_is_not_written() {
        let node = |keys: &[&str]| -> Node {
            let taints = keys
                .iter()
                .map(|key| json!({"key": key, "effect": "NoSchedule"}));
            serde_json::from_value(json!({
                "metadata": {"name": "n", "resourceVersion": "7"},
                "spec": {"taints": taints.collect::<Vec<_>>()},
            }))
            .unwrap()
        };
        let patch = without_taint(&node(&["a", STARTUP_TAINT, "b"])).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let keys = |patch: &Value| patch["spec"]["taints"].as_array().unwrap().len();
        assert_eq!(keys(&patch), 2);
        assert_eq!(without_taint(&node(&["a"])), None);
    }

    #[test]
    fn a_node_without_the_ready_condition_is_down() {
        let node = |name: &str, status: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": status}]},
            }))
            .unwrap()
        };
        let nodes = [node("up", "True"), node("down", "Unknown"), Node::default()];
        assert_eq!(unready(&nodes).len(), 2);
    }

    #[test]
    fn many_nodes_are_counted_instead_of_named() {
        let nodes: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
        assert!(named(&nodes).ends_with("n9 and 2 more"));
        assert_eq!(named(&nodes[..2]), "n0, n1");
    }
}
