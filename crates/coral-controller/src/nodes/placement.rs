//! Which images which node should hold: the union over all Image objects.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::image::OnDelete;
use coral_api::node_images::{MAX_NODE_IMAGES, NodeImage, NodeImagesSpec};
use coral_image::Digest;

use super::world::{NodeView, Wish};
use crate::ObjectKey;

/// What was decided for all nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Images of each node, by the node's name, in the order of their references.
    pub(crate) images: BTreeMap<String, Vec<NodeImage>>,
    /// Image objects of which a node has no room for some image, with the names of such nodes.
    pub(crate) left_out: BTreeMap<ObjectKey, BTreeSet<String>>,
}

/// Decides which images each node should hold. `digests` has the digest of each reference that
/// could be resolved; a reference that cannot be resolved now stays as it is where it was placed.
pub(crate) fn place(
    wishes: &[Wish],
    nodes: &[NodeView],
    digests: &BTreeMap<String, Digest>,
) -> Placement {
    let mut placement = Placement::default();
    for node in nodes.iter().filter(|node| node.linux) {
        let mut entries: BTreeMap<String, NodeImage> = BTreeMap::new();
        let mut owners: BTreeMap<String, Vec<&Wish>> = BTreeMap::new();
        for wish in wishes.iter().filter(|wish| wish.is_for(node)) {
            for image in &wish.settings.images {
                let reference = image.to_string();
                let Some(entry) = entry(wish, &reference, node.spec(), digests) else {
                    continue;
                };
                owners.entry(reference.clone()).or_default().push(wish);
                match entries.get_mut(&reference) {
                    Some(existing) => join(existing, &entry),
                    None => drop(entries.insert(reference, entry)),
                }
            }
        }
        let excess = entries.keys().skip(MAX_NODE_IMAGES).cloned();
        for reference in excess.collect::<Vec<_>>() {
            entries.remove(&reference);
            for wish in owners.remove(&reference).unwrap_or_default() {
                let nodes = placement.left_out.entry(wish.key.clone()).or_default();
                nodes.insert(node.name.clone());
            }
        }
        let images = entries.into_values().collect();
        placement.images.insert(node.name.clone(), images);
    }
    placement
}

impl Wish {
    /// Whether the wish's selector takes the node in.
    pub(crate) fn is_for(&self, node: &NodeView) -> bool {
        let selector = self.settings.selector.as_ref();
        node.linux && selector.is_some_and(|selector| selector.matches(&node.labels))
    }
}

/// What one wish asks for. `None` where nothing is to be placed yet.
fn entry(
    wish: &Wish,
    reference: &str,
    before: Option<&NodeImagesSpec>,
    digests: &BTreeMap<String, Digest>,
) -> Option<NodeImage> {
    let before = before.and_then(|spec| spec.images.iter().find(|i| i.reference == reference));
    // A suspended wish keeps what was placed and places nothing new.
    let known = digests.get(reference).filter(|_| !wish.settings.suspend);
    let digest = match known {
        Some(digest) => digest.to_string(),
        None => before?.digest.clone(),
    };
    let retry = wish.settings.retry;
    Some(NodeImage {
        reference: reference.to_owned(),
        digest,
        pin: wish.settings.pin,
        remove: wish.settings.on_delete == OnDelete::Remove,
        retry_limit: Some(retry.limit),
        max_backoff_seconds: Some(whole_seconds(retry.max_backoff)),
        generation: Some(wish.generation),
        ..NodeImage::default()
    })
}

fn whole_seconds(duration: std::time::Duration) -> u32 {
    let seconds = duration.as_millis().div_ceil(1000).clamp(1, 600);
    u32::try_from(seconds).unwrap_or(600)
}

/// Two wishes name one reference: it is protected if either says so, removed only if both do, and
/// tried as patiently as the more patient one says.
fn join(existing: &mut NodeImage, other: &NodeImage) {
    existing.pin |= other.pin;
    existing.remove &= other.remove;
    existing.retry_limit = existing.retry_limit.max(other.retry_limit);
    existing.max_backoff_seconds = existing.max_backoff_seconds.min(other.max_backoff_seconds);
    // A sum changes whenever one of the wishes does.
    let sum = existing.generation.unwrap_or(0) + other.generation.unwrap_or(0);
    existing.generation = Some(sum);
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{digest, node, wish};
    use super::super::world::Placed;
    use super::*;

    fn digests(references: &[&str]) -> BTreeMap<String, Digest> {
        let known = references.iter().map(|&r| (r.to_owned(), digest(r)));
        known.collect()
    }

    fn references(placement: &Placement, node: &str) -> Vec<String> {
        let images = placement.images[node].iter();
        images.map(|image| image.reference.clone()).collect()
    }

    #[test]
    fn every_node_that_the_selector_takes_in_gets_the_image() {
        let mut chosen = wish("web", &["quay.io/a/b:1"]);
        chosen.settings.selector = Some(super::super::fixtures::selector("zone", "a"));
        let nodes = [node("n1", &[("zone", "a")]), node("n2", &[("zone", "b")])];
        let placement = place(&[chosen], &nodes, &digests(&["quay.io/a/b:1"]));
        assert_eq!(references(&placement, "n1"), ["quay.io/a/b:1"]);
        assert_eq!(references(&placement, "n2"), Vec::<String>::new());
    }

    #[test]
    fn two_wishes_for_one_reference_make_one_entry() {
        let mut removing = wish("a", &["quay.io/a/b:1"]);
        removing.settings.on_delete = OnDelete::Remove;
        removing.settings.pin = false;
        let keeping = wish("b", &["quay.io/a/b:1"]);
        let nodes = [node("n1", &[])];
        let placement = place(&[removing, keeping], &nodes, &digests(&["quay.io/a/b:1"]));
        let images = &placement.images["n1"];
        assert_eq!(images.len(), 1);
        assert!(images[0].pin);
        assert!(!images[0].remove, "the other wish keeps it");
        assert_eq!(images[0].generation, Some(2));
    }

    #[test]
    fn what_cannot_be_resolved_now_stays_where_it_was_placed() {
        let image = NodeImage {
            reference: "quay.io/a/b:1".into(),
            digest: digest("old").to_string(),
            ..NodeImage::default()
        };
        let mut with = node("n1", &[]);
        with.placed = Some(Placed {
            spec: NodeImagesSpec {
                images: vec![image],
                ..NodeImagesSpec::default()
            },
            ..Placed::default()
        });
        let nodes = [with, node("n2", &[])];
        let placement = place(&[wish("web", &["quay.io/a/b:1"])], &nodes, &BTreeMap::new());
        assert_eq!(placement.images["n1"][0].digest, digest("old").to_string());
        assert_eq!(references(&placement, "n2"), Vec::<String>::new());
    }

    #[test]
    fn a_suspended_wish_places_nothing_new() {
        let mut suspended = wish("web", &["quay.io/a/b:1"]);
        suspended.settings.suspend = true;
        let nodes = [node("n1", &[])];
        let placement = place(&[suspended], &nodes, &digests(&["quay.io/a/b:1"]));
        assert_eq!(references(&placement, "n1"), Vec::<String>::new());
    }

    #[test]
    fn what_a_node_has_no_room_for_is_named() {
        let names: Vec<String> = (0..=MAX_NODE_IMAGES)
            .map(|n| format!("quay.io/a/b:{n:05}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let wish = wish("many", &names);
        let placement = place(
            std::slice::from_ref(&wish),
            &[node("n1", &[])],
            &digests(&names),
        );
        assert_eq!(placement.images["n1"].len(), MAX_NODE_IMAGES);
        assert!(placement.left_out[&wish.key].contains("n1"));
    }
}
