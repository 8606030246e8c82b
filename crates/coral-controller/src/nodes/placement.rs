//! Which images which node should hold: the union over all Image objects.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::image::{ImageTagState, OnDelete};
use coral_api::names::label;
use coral_api::node_images::{MAX_IMAGE_LABELS, MAX_NODE_IMAGES, NodeImage};
use coral_image::Digest;

use super::input::{NodeView, WantedImage};
use super::reported::Reported;
use super::shares::{self, Claimant, PullEvidence};
use crate::ObjectKey;

/// The decision for all nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Images of each node, by the node's name, in the order of their references.
    pub(crate) images: BTreeMap<String, Vec<NodeImage>>,
    /// References that have a label on the node, by the node's name.
    pub(crate) labelled: BTreeMap<String, BTreeSet<String>>,
    /// Image objects of which a node has no room for some image, with the names of such nodes.
    pub(crate) left_out: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// Image objects of which a node has no label for some image, with the names of such nodes.
    pub(crate) unlabelled: BTreeMap<ObjectKey, BTreeSet<String>>,
}

/// An image that Image objects ask for on one node.
struct Claim<'a> {
    image: NodeImage,
    /// Whether every object that asks for it is suspended.
    suspended: bool,
    /// Whether the node was asked to hold it already.
    placed: bool,
    /// The node's report about it.
    seen: PullEvidence,
    /// The objects that ask for it, the oldest first.
    owners: Vec<&'a WantedImage>,
    /// The namespace whose turn its pull uses.
    namespace: &'a str,
}

/// Decides which images each node should hold. `digests` has the digest of each reference that
/// could be resolved; a reference that cannot be resolved now stays as it is where it was placed.
///
/// Where there are more images than a node may hold, namespaces share the places equally, those that
/// the node holds first ([`shares`]). Within a share, what was placed already stays, and older Image
/// objects come before younger ones: a new object never displaces the images of another one of its
/// namespace.
pub(crate) fn place(
    wishes: &[WantedImage],
    nodes: &[NodeView],
    digests: &BTreeMap<String, Digest>,
) -> Placement {
    let mut placement = Placement::default();
    let mut oldest: Vec<(&WantedImage, Vec<String>)> = wishes
        .iter()
        .map(|wish| {
            let references = wish.settings.images.iter();
            (wish, references.map(ToString::to_string).collect())
        })
        .collect();
    oldest.sort_by(|(one, _), (other, _)| one.age().cmp(&other.age()));
    for node in nodes.iter().filter(|node| node.linux) {
        let mut claims = claims(&oldest, node, digests);
        let excess = share_out(&mut claims, MAX_NODE_IMAGES, |claim| claim.placed);
        record_node(&mut placement.left_out, &excess, node);
        let without_label = share_out(&mut claims, MAX_IMAGE_LABELS, |claim| {
            // Within a share, existing labels stay: pods may have been scheduled to the node because
            // of them.
            let label = label::image(&claim.image.reference);
            node.labels.contains_key(&label)
        });
        record_node(&mut placement.unlabelled, &without_label, node);
        let labelled = claims.iter().map(|claim| claim.image.reference.clone());
        let labelled = labelled.collect();
        claims.extend(without_label);
        let mut images: Vec<NodeImage> = claims.into_iter().map(|claim| claim.image).collect();
        images.sort_by(|one, other| one.reference.cmp(&other.reference));
        placement.images.insert(node.name.clone(), images);
        placement.labelled.insert(node.name.clone(), labelled);
    }
    placement
}

/// Every image that the objects ask for on the node, those of older objects first.
fn claims<'a>(
    oldest: &[(&'a WantedImage, Vec<String>)],
    node: &NodeView,
    digests: &BTreeMap<String, Digest>,
) -> Vec<Claim<'a>> {
    let before = node.spec().map_or(&[][..], |spec| &spec.images[..]);
    let before: BTreeMap<&str, &str> = before
        .iter()
        .map(|image| (image.reference.as_str(), image.digest.as_str()))
        .collect();
    let reported = Reported::by(node);
    let seen = |reference: &str| match reported.image(reference) {
        Some(image) if image.state == ImageTagState::Available || image.placed => {
            PullEvidence::Held
        }
        Some(image) if image.state == ImageTagState::Error => PullEvidence::Failed,
        _ => PullEvidence::NotYet,
    };
    let mut claims: Vec<Claim<'a>> = Vec::new();
    let mut indexes: BTreeMap<&str, usize> = BTreeMap::new();
    for (wish, references) in oldest.iter().filter(|(wish, _)| wish.is_for(node)) {
        for reference in references {
            let before = before.get(reference.as_str()).copied();
            let Some(image) = entry(wish, reference, before, digests) else {
                continue;
            };
            let claim = Claim {
                image,
                suspended: wish.settings.suspend,
                placed: before.is_some(),
                seen: seen(reference),
                owners: vec![wish],
                namespace: &wish.key.namespace,
            };
            if let Some(&index) = indexes.get(reference.as_str()) {
                claims[index].join(claim);
            } else {
                indexes.insert(reference, claims.len());
                claims.push(claim);
            }
        }
    }
    for claim in &mut claims {
        claim.image.generation = Some(generation(&claim.owners));
    }
    charge(&mut claims);
    take_turns(&mut claims);
    claims
}

/// Assigns each claim to one namespace: of those that ask for the image, the one that asks for the
/// fewest. An image therefore does not wait because a namespace with many images names it too.
fn charge(claims: &mut [Claim<'_>]) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for claim in &*claims {
        for namespace in claim.namespaces() {
            *counts.entry(namespace).or_default() += 1;
        }
    }
    for claim in claims {
        let fewest = claim
            .namespaces()
            .into_iter()
            .min_by_key(|namespace| (counts.get(namespace), *namespace));
        claim.namespace = fewest.unwrap_or(claim.namespace);
    }
}

/// Keeps as many claims as there are places, divided into shares by namespace, and returns the
/// others. Claims for which `is_there` returns true are preferred, then those of older objects.
fn share_out<'a>(
    claims: &mut Vec<Claim<'a>>,
    places: usize,
    is_there: impl Fn(&Claim<'_>) -> bool,
) -> Vec<Claim<'a>> {
    if claims.len() <= places {
        return Vec::new();
    }
    // The sort is stable: equal claims stay in order, the oldest object first.
    claims.sort_by_cached_key(|claim| !is_there(claim));
    let claimants: Vec<Claimant<'_>> = claims.iter().map(Claim::claimant).collect();
    let mut chosen = shares::chosen(&claimants, places).into_iter();
    let (stay, others) = std::mem::take(claims)
        .into_iter()
        .partition(|_| chosen.next() == Some(true));
    *claims = stay;
    others
}

/// Sets priorities so that namespaces alternate: the agent pulls the first image of each namespace
/// before the second of any.
fn take_turns(claims: &mut [Claim<'_>]) {
    let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
    let turns: Vec<i32> = claims
        .iter()
        .map(|claim| {
            let count = counts.entry(claim.namespace).or_default();
            *count += 1;
            *count - 1
        })
        .collect();
    if counts.len() < 2 {
        return;
    }
    for (claim, turn) in claims.iter_mut().zip(turns) {
        claim.image.priority = (turn > 0).then_some(-turn);
    }
}

/// Records the node for every object that asks for one of these images.
fn record_node(
    nodes: &mut BTreeMap<ObjectKey, BTreeSet<String>>,
    claims: &[Claim<'_>],
    node: &NodeView,
) {
    for wish in claims.iter().flat_map(|claim| &claim.owners) {
        let names = nodes.entry(wish.key.clone()).or_default();
        names.insert(node.name.clone());
    }
}

impl WantedImage {
    /// Whether the wish's selector selects the node.
    pub(crate) fn is_for(&self, node: &NodeView) -> bool {
        let selector = self.settings.selector.as_ref();
        node.linux && selector.is_some_and(|selector| selector.matches(&node.labels))
    }

    /// Orders objects by age, the oldest first.
    fn age(&self) -> (i64, &ObjectKey) {
        (self.created, &self.key)
    }
}

/// The image that one wish asks for; `before` is the digest that was placed. `None` if nothing is
/// to be placed yet.
fn entry(
    wish: &WantedImage,
    reference: &str,
    before: Option<&str>,
    digests: &BTreeMap<String, Digest>,
) -> Option<NodeImage> {
    // A suspended wish keeps what was placed and places nothing new.
    let known = digests.get(reference).filter(|_| !wish.settings.suspend);
    let digest = match known {
        Some(digest) => digest.to_string(),
        None => before?.to_owned(),
    };
    let retry = wish.settings.retry;
    Some(NodeImage {
        reference: reference.to_owned(),
        digest,
        pin: wish.settings.pin,
        remove: wish.settings.on_delete == OnDelete::Remove,
        retry_limit: Some(retry.limit),
        max_backoff_seconds: Some(whole_seconds(retry.max_backoff)),
        ..NodeImage::default()
    })
}

fn whole_seconds(duration: std::time::Duration) -> u32 {
    let seconds = duration.as_millis().div_ceil(1000).clamp(1, 600);
    u32::try_from(seconds).unwrap_or(600)
}

impl<'a> Claim<'a> {
    fn claimant(&self) -> Claimant<'a> {
        Claimant {
            namespaces: self.namespaces().into_iter().collect(),
            seen: self.seen,
        }
    }

    /// The namespaces of the objects that ask for it.
    fn namespaces(&self) -> BTreeSet<&'a str> {
        let owners = self.owners.iter();
        owners.map(|wish| wish.key.namespace.as_str()).collect()
    }

    /// Combines the claims of two objects on one reference: the image is protected if either object
    /// says so and removed only if both do, is retried as often as the more persistent object asks,
    /// and follows its tag unless both are suspended.
    fn join(&mut self, other: Claim<'a>) {
        let (image, joined) = (&mut self.image, other.image);
        image.pin |= joined.pin;
        image.remove &= joined.remove;
        image.retry_limit = image.retry_limit.max(joined.retry_limit);
        image.max_backoff_seconds = image.max_backoff_seconds.min(joined.max_backoff_seconds);
        if self.suspended && !other.suspended {
            image.digest = joined.digest;
            self.suspended = false;
        }
        self.owners.extend(other.owners);
    }
}

/// A number that changes whenever one of the objects does, or another set of objects asks for the
/// image: what failed is tried again then. At most 52 bits, which every JSON reader keeps.
fn generation(owners: &[&WantedImage]) -> i64 {
    if let [only] = owners {
        return only.generation;
    }
    let texts = owners.iter().map(|wish| {
        let ObjectKey { namespace, name } = &wish.key;
        format!("{namespace}/{name}:{}\n", wish.generation)
    });
    let hash = Digest::sha256(texts.collect::<String>().as_bytes()).hex();
    i64::from_str_radix(&hash[..13], 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{digest, node, reported_image, wish};
    use super::super::input::NodeImagesView;
    use super::*;
    use coral_api::node_images::{NodeImagesSpec, NodeImagesStatus};

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
    }

    fn holding(name: &str, references: &[&str]) -> NodeView {
        let images = references.iter().map(|&reference| NodeImage {
            reference: reference.to_owned(),
            digest: digest("old").to_string(),
            ..NodeImage::default()
        });
        let mut node = node(name, &[]);
        node.placed = Some(NodeImagesView {
            spec: NodeImagesSpec {
                images: images.collect(),
                ..NodeImagesSpec::default()
            },
            ..NodeImagesView::default()
        });
        node
    }

    #[test]
    fn namespaces_take_turns() {
        let many = wish("many", &["a.example/a:1", "a.example/a:2", "a.example/a:3"]);
        let mut few = wish("few", &["quay.io/a/b:1"]);
        let priorities = |wishes: &[WantedImage]| {
            let placement = place(wishes, &[node("n1", &[])], &all_digests(wishes));
            let images = placement.images["n1"].iter();
            images.map(|image| image.priority).collect::<Vec<_>>()
        };
        assert_eq!(priorities(std::slice::from_ref(&many)), [None; 3]);
        few.key.namespace = "other".to_owned();
        assert_eq!(priorities(&[many, few]), [None, Some(-1), Some(-2), None]);
    }

    #[test]
    fn a_suspended_object_does_not_hold_back_the_digest_of_another() {
        let mut suspended = wish("a", &["quay.io/a/b:1"]);
        suspended.settings.suspend = true;
        let live = wish("b", &["quay.io/a/b:1"]);
        let nodes = [holding("n1", &["quay.io/a/b:1"])];
        for wishes in [[suspended.clone(), live.clone()], [live, suspended]] {
            let placement = place(&wishes, &nodes, &digests(&["quay.io/a/b:1"]));
            let placed = &placement.images["n1"][0];
            assert_eq!(placed.digest, digest("quay.io/a/b:1").to_string());
        }
    }

    #[test]
    fn the_generation_changes_with_each_object_and_with_the_set_of_objects() {
        let object = |name: &str, generation: i64| WantedImage {
            generation,
            ..wish(name, &["quay.io/a/b:1"])
        };
        let placed = |wishes: &[WantedImage]| {
            let nodes = [node("n1", &[])];
            let placement = place(wishes, &nodes, &digests(&["quay.io/a/b:1"]));
            placement.images["n1"][0].generation
        };
        assert_eq!(placed(&[object("b", 3)]), Some(3));
        let both = placed(&[object("a", 1), object("b", 2)]);
        assert_eq!(both, placed(&[object("b", 2), object("a", 1)]));
        // The sum stays the same in each of these.
        assert_ne!(both, placed(&[object("b", 3)]));
        assert_ne!(both, placed(&[object("a", 2), object("b", 1)]));
    }

    #[test]
    fn what_cannot_be_resolved_now_stays_where_it_was_placed() {
        let nodes = [holding("n1", &["quay.io/a/b:1"]), node("n2", &[])];
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

    /// Images with as many references as they may have, together one more than a node holds. The
    /// names of the last object sort first.
    fn too_many() -> Vec<WantedImage> {
        let objects = MAX_NODE_IMAGES / 500;
        let object = |n: usize, count: usize| {
            let host = format!("{:03}.example", 900 - n);
            let references: Vec<String> =
                (0..count).map(|i| format!("{host}/a/b:{i:03}")).collect();
            let references: Vec<&str> = references.iter().map(String::as_str).collect();
            WantedImage {
                created: i64::try_from(n).unwrap(),
                ..wish(&format!("w{n}"), &references)
            }
        };
        let mut wishes: Vec<WantedImage> = (0..objects).map(|n| object(n, 500)).collect();
        wishes.push(object(objects, 1));
        wishes
    }

    fn all_digests(wishes: &[WantedImage]) -> BTreeMap<String, Digest> {
        let images = wishes.iter().flat_map(|wish| &wish.settings.images);
        let images = images.map(|image| (image.to_string(), digest("x")));
        images.collect()
    }

    #[test]
    fn the_youngest_object_is_left_out_whatever_its_images_are_called() {
        let wishes = too_many();
        let placement = place(&wishes, &[node("n1", &[])], &all_digests(&wishes));
        assert_eq!(placement.images["n1"].len(), MAX_NODE_IMAGES);
        let youngest = &wishes.last().unwrap().key;
        assert_eq!(placement.left_out.keys().collect::<Vec<_>>(), [youngest]);
        assert!(placement.left_out[youngest].contains("n1"));
    }

    #[test]
    fn a_placed_image_is_not_displaced_by_an_older_object() {
        let wishes = too_many();
        let placed = wishes.last().unwrap().settings.images.first().unwrap();
        let nodes = [holding("n1", &[&placed.to_string()])];
        let placement = place(&wishes, &nodes, &all_digests(&wishes));
        let left_out: Vec<&str> = placement.left_out.keys().map(|k| k.name.as_str()).collect();
        assert_eq!(left_out, ["w3"], "the youngest that was not placed");
    }

    #[test]
    fn a_node_has_labels_for_a_bounded_number_of_images_and_keeps_those_it_has() {
        let wishes = too_many();
        let youngest = wishes.last().unwrap();
        let reference = youngest.settings.images.first().unwrap().to_string();
        let with_label = node("n1", &[(&label::image(&reference), "available")]);
        let placed = wishes[1..].to_vec();
        let placement = place(&placed, &[with_label], &all_digests(&wishes));
        let labelled = &placement.labelled["n1"];
        assert_eq!(labelled.len(), MAX_IMAGE_LABELS);
        assert!(labelled.contains(&reference));
        assert!(!placement.unlabelled.contains_key(&youngest.key));
        let cut: Vec<&str> = placement
            .unlabelled
            .keys()
            .map(|k| k.name.as_str())
            .collect();
        assert_eq!(cut, ["w1", "w2", "w3"], "w1 is the oldest, and lacks one");
    }

    /// An Image in `namespace` with `count` images of its own, made at `created`.
    fn image_object(namespace: &str, name: &str, count: usize, created: i64) -> WantedImage {
        let references = (0..count).map(|i| format!("{name}.example/a/b:{i:03}"));
        let references: Vec<String> = references.collect();
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        WantedImage {
            created,
            key: ObjectKey::new(namespace, name),
            ..wish(name, &references)
        }
    }

    /// The node once all of this was written to it.
    fn after(placement: &Placement) -> NodeView {
        let references = references(placement, "n1");
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        let mut node = holding("n1", &references);
        let labels = placement.labelled["n1"].iter();
        node.labels = labels
            .map(|reference| (label::image(reference), "error".to_owned()))
            .collect();
        node
    }

    /// Places twice: the second time nothing may change.
    fn settled(wishes: &[WantedImage], node: NodeView) -> Placement {
        let digests = all_digests(wishes);
        let placement = place(wishes, &[node], &digests);
        let again = place(wishes, &[after(&placement)], &digests);
        assert_eq!(again, placement, "the second pass moves nothing");
        placement
    }

    #[test]
    fn a_namespace_that_has_every_label_gives_up_those_that_another_needs() {
        let mut wishes = vec![image_object("evil", "e", MAX_IMAGE_LABELS, 0)];
        let before = settled(&wishes, node("n1", &[]));
        assert_eq!(before.labelled["n1"].len(), MAX_IMAGE_LABELS);
        wishes.push(image_object("team", "t", 2, 9));
        let placement = settled(&wishes, after(&before));
        let labelled = &placement.labelled["n1"];
        assert_eq!(labelled.len(), MAX_IMAGE_LABELS);
        assert!(labelled.contains("t.example/a/b:000") && labelled.contains("t.example/a/b:001"));
        assert_eq!(
            placement.unlabelled.keys().collect::<Vec<_>>(),
            [&wishes[0].key]
        );
        assert_eq!(labelled.difference(&before.labelled["n1"]).count(), 2);
    }

    #[test]
    fn a_namespace_that_fills_a_node_gives_up_the_places_that_another_needs() {
        let objects = MAX_NODE_IMAGES / 500;
        let evil = (0..objects).map(|n| image_object("evil", &format!("e{n}"), 500, 0));
        let mut wishes: Vec<WantedImage> = evil.collect();
        let full = settled(&wishes, node("n1", &[]));
        assert_eq!(full.left_out, BTreeMap::new());
        wishes.push(image_object("team", "t", 3, 9));
        // On a node that is full, and on a new one.
        for node in [after(&full), node("n1", &[])] {
            let placement = settled(&wishes, node);
            assert_eq!(placement.images["n1"].len(), MAX_NODE_IMAGES);
            let team = references(&placement, "n1").into_iter();
            assert_eq!(team.filter(|r| r.starts_with("t.")).count(), 3);
            let mut left_out = placement.left_out.keys();
            assert!(left_out.all(|key| key.namespace == "evil"));
        }
    }

    #[test]
    fn an_image_that_a_namespace_with_many_images_names_too_counts_for_the_other() {
        let objects = MAX_NODE_IMAGES / 500;
        let evil = (0..=objects).map(|n| image_object("evil", &format!("e{n}"), 500, 0));
        let mut wishes: Vec<WantedImage> = evil.collect();
        let last = format!("e{objects}.example/a/b:499");
        let mut team = wish("t", &[&last]);
        team.key.namespace = "team".to_owned();
        team.created = 9;
        wishes.push(team);
        let placement = settled(&wishes, node("n1", &[]));
        let place = placement.images["n1"].iter();
        let found = place.clone().find(|image| image.reference == last);
        assert_eq!(found.map(|image| image.priority), Some(None));
        assert!(!placement.left_out.contains_key(&wishes[objects + 1].key));
    }

    #[test]
    fn images_that_do_not_exist_take_no_label_from_what_the_node_holds() {
        let system = image_object("coral-system", "s", 400, 0);
        let before = settled(std::slice::from_ref(&system), node("n1", &[]));
        let mut holding = after(&before);
        let images = before.images["n1"]
            .iter()
            .map(|image| reported_image(&image.reference, &image.digest, ImageTagState::Available));
        holding.placed.as_mut().unwrap().status = Some(NodeImagesStatus {
            images: images.collect(),
            ..NodeImagesStatus::default()
        });
        let wishes = [system, image_object("evil", "e", MAX_IMAGE_LABELS, 9)];
        let placement = place(&wishes, &[holding], &all_digests(&wishes));
        let labelled = &placement.labelled["n1"];
        assert_eq!(labelled.len(), MAX_IMAGE_LABELS);
        assert!(labelled.is_superset(&before.labelled["n1"]));
    }
}
