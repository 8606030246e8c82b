//! The annotation that tells people which images a pod named before it was changed.
//!
//! Pod authors can forge this annotation, so no decision reads it. When a pod is reviewed twice, the
//! entries of the first review are kept only if the pod's images are where those would have been
//! rewritten to.

use std::collections::BTreeMap;

use coral_api::names::annotation;
use coral_image::ImageRef;

use crate::pod::{ImageSlot, Pod};
use crate::world::{World, destination_in};

/// Images by list and then by the name of the container or volume.
type Originals = BTreeMap<String, BTreeMap<String, String>>;

/// The value of [`annotation::ORIGINAL`] for a pod whose `rewritten` slots get other images.
pub(crate) fn annotation_value(pod: Pod<'_>, rewritten: &[ImageSlot<'_>], world: &World) -> String {
    let mut originals = Originals::new();
    let mut note = |slot: &ImageSlot<'_>, image: &str| {
        let list = originals.entry(slot.list.field().to_owned()).or_default();
        list.insert(slot.name.to_owned(), image.to_owned());
    };
    let annotations = pod.annotations();
    let before = annotations.get(annotation::ORIGINAL).unwrap_or_default();
    let before: Originals = serde_json::from_str(before).unwrap_or_default();
    for slot in pod.slots() {
        let entry = before
            .get(slot.list.field())
            .and_then(|list| list.get(slot.name));
        if let Some(entry) = entry.filter(|entry| leads_to(entry, slot.image, world)) {
            note(&slot, entry);
        }
    }
    for slot in rewritten {
        note(slot, slot.image);
    }
    serde_json::to_string(&originals).unwrap_or_default()
}

/// Whether `original` would have been rewritten to the repository that `image` names now.
fn leads_to(original: &str, image: &str, world: &World) -> bool {
    let (Ok(original), Ok(image)) = (ImageRef::parse(original), ImageRef::parse(image)) else {
        return false;
    };
    let host = image.repository().host().as_str();
    let destination = destination_in(host, original.repository());
    world.is_inside(host) && destination == Some(image.repository().to_string())
}
