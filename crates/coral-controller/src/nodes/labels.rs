//! The labels of a node: one for each image that it should hold, one for each registry that it can
//! pull from.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::image::ImageTagState;
use coral_api::names::label;
use coral_api::node_images::{NodeRegistryPolicy, NodeRegistryState};

use super::input::NodeView;
use super::reported::Reported;

/// Changes of a node's labels: a new value, or `None` to remove the label. Empty if nothing has to
/// change.
pub(crate) type LabelChanges = BTreeMap<String, Option<String>>;

/// The changes of a node's labels. `labelled` are the references that should have a label on it.
pub(crate) fn changes(node: &NodeView, labelled: &BTreeSet<String>) -> LabelChanges {
    let desired = desired(node, labelled);
    let outdated = node
        .labels
        .keys()
        .filter(|key| is_ours(key) && !desired.contains_key(*key));
    let mut changes: LabelChanges = outdated.map(|key| (key.clone(), None)).collect();
    for (key, value) in desired {
        if node.labels.get(&key).map(String::as_str) != Some(value) {
            changes.insert(key, Some(value.to_owned()));
        }
    }
    changes
}

fn desired(node: &NodeView, labelled: &BTreeSet<String>) -> BTreeMap<String, &'static str> {
    let reported = Reported::by(node);
    let images = labelled.iter().map(|reference| {
        let value = match reported.state(reference) {
            ImageTagState::Available => label::AVAILABLE,
            ImageTagState::Error => label::ERROR,
            ImageTagState::Pending | ImageTagState::Unknown => label::PENDING,
        };
        (label::image(reference), value)
    });
    let registries = ready_registries(node)
        .into_iter()
        .map(|host| (label::registry(host), label::READY));
    images.chain(registries).collect()
}

/// Registries that a probe pull on this node succeeded for, by their own names.
fn ready_registries(node: &NodeView) -> Vec<&str> {
    let (Some(spec), Some(status)) = (node.spec(), node.status()) else {
        return Vec::new();
    };
    let own = |policy| policy == NodeRegistryPolicy::Registry;
    let asked = spec.registries.iter().filter(|asked| own(asked.policy));
    let ready = asked.filter(|asked| {
        status.registries.iter().any(|reported| {
            // An old success does not count for a registry that has another address now.
            reported.host == asked.host
                && reported.endpoint == asked.endpoint
                && reported.state == NodeRegistryState::Ready
        })
    });
    ready.map(|asked| asked.host.as_str()).collect()
}

/// Whether Coral writes labels of this key: other labels under the prefixes are left alone.
fn is_ours(key: &str) -> bool {
    let hash = key
        .strip_prefix(label::IMAGE_PREFIX)
        .or_else(|| key.strip_prefix(label::REGISTRY_PREFIX));
    let is_hash = |name: &str| {
        let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        name.len() == 32 && name.chars().all(hexadecimal)
    };
    hash.is_some_and(is_hash)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{digest, node, reported_image, reporting};
    use super::*;
    use coral_api::node_images::{NodeImageStatus, NodeRegistryStatus};

    const IMAGE: &str = "quay.io/a/b:1";
    const HOST: &str = "reg.coral-system.svc:5000";

    fn image(state: ImageTagState) -> NodeImageStatus {
        reported_image(IMAGE, &digest("x").to_string(), state)
    }

    fn registry(state: NodeRegistryState) -> NodeRegistryStatus {
        NodeRegistryStatus {
            host: HOST.into(),
            endpoint: "https://10.0.0.1:5000".into(),
            policy: NodeRegistryPolicy::Registry,
            state,
            message: None,
        }
    }

    fn wanted() -> BTreeSet<String> {
        BTreeSet::from([IMAGE.to_owned()])
    }

    #[test]
    fn a_label_says_the_state_that_the_agent_reported() {
        for (state, value) in [
            (ImageTagState::Available, "available"),
            (ImageTagState::Pending, "pending"),
            (ImageTagState::Error, "error"),
        ] {
            let node = reporting("n1", vec![image(state)], vec![]);
            let changes = changes(&node, &wanted());
            assert_eq!(changes[&label::image(IMAGE)].as_deref(), Some(value));
        }
    }

    #[test]
    fn a_report_about_another_digest_does_not_count() {
        let mut node = reporting("n1", vec![image(ImageTagState::Available)], vec![]);
        if let Some(placed) = &mut node.placed {
            placed.spec.images[0].digest = digest("new").to_string();
        }
        let changes = changes(&node, &wanted());
        assert_eq!(changes[&label::image(IMAGE)].as_deref(), Some("pending"));
    }

    #[test]
    fn a_node_in_its_desired_state_is_not_written() {
        let mut node = reporting("n1", vec![image(ImageTagState::Available)], vec![]);
        node.labels.insert(label::image(IMAGE), "available".into());
        assert_eq!(changes(&node, &wanted()), LabelChanges::new());
    }

    #[test]
    fn outdated_labels_go_and_foreign_ones_stay() {
        let outdated = label::image("quay.io/old:1");
        let foreign = [("image.stvz.io/owner", "me"), ("zone", "a")];
        let mut node = node("n1", &foreign);
        node.labels.insert(outdated.clone(), "available".into());
        let changes = changes(&node, &BTreeSet::new());
        assert_eq!(changes, LabelChanges::from([(outdated, None)]));
    }

    #[test]
    fn a_registry_is_ready_only_after_its_probe_at_the_present_address() {
        let key = label::registry(HOST);
        let proved = reporting("n1", vec![], vec![registry(NodeRegistryState::Ready)]);
        let found = changes(&proved, &BTreeSet::new());
        assert_eq!(found[&key].as_deref(), Some("ready"));
        let mut moved = proved;
        if let Some(placed) = &mut moved.placed {
            placed.spec.registries[0].endpoint = "https://10.0.0.2:5000".into();
        }
        moved.labels.insert(key.clone(), "ready".into());
        assert_eq!(changes(&moved, &BTreeSet::new())[&key], None);
        let failed = reporting("n1", vec![], vec![registry(NodeRegistryState::Error)]);
        assert!(changes(&failed, &BTreeSet::new()).is_empty());
    }
}
