//! Which look-ups of tags run at the same time, and in whose share.
//!
//! A registry that never answers blocks a look-up until its timeout. So no namespace gets all
//! slots, and only a few of its look-ups are queued before those of others, however many tags it
//! names.

use std::collections::BTreeMap;
use std::sync::Arc;

use coral_image::ImageRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::input::WantedImage;

/// Look-ups at the same time.
const AT_ONCE: usize = 16;
/// Look-ups of one namespace that run or wait for a slot.
const PER_NAMESPACE: usize = 4;

/// The slots.
pub(super) struct Lookups {
    all: Arc<Semaphore>,
    shares: BTreeMap<String, Arc<Semaphore>>,
}

/// A namespace's share of them. Cheap to clone.
#[derive(Clone)]
pub(super) struct NamespaceSlots {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A slot that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _own: Option<OwnedSemaphorePermit>,
    _any: Option<OwnedSemaphorePermit>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            shares: BTreeMap::new(),
        }
    }
}

impl Lookups {
    /// The share of a namespace.
    pub(super) fn share(&mut self, namespace: &str) -> NamespaceSlots {
        // A share that no look-up uses is full: it need not be remembered.
        self.shares.retain(|_, own| Arc::strong_count(own) > 1);
        let own = self.shares.entry(namespace.to_owned());
        let own = own.or_insert_with(|| Arc::new(Semaphore::new(PER_NAMESPACE)));
        NamespaceSlots {
            all: self.all.clone(),
            own: own.clone(),
        }
    }
}

impl NamespaceSlots {
    /// Waits for a slot: first for one of the namespace, then for any.
    pub(super) async fn slot(self) -> Slot {
        // Neither is ever closed.
        Slot {
            _own: self.own.acquire_owned().await.ok(),
            _any: self.all.acquire_owned().await.ok(),
        }
    }
}

/// The namespace in whose share each tag is looked up: of those that name it, the one that names
/// the fewest images. So a tag does not wait because a namespace with many tags names it too.
pub(super) fn charged(wishes: &[WantedImage]) -> BTreeMap<&ImageRef, &str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for wish in wishes {
        let count = counts.entry(&wish.key.namespace).or_default();
        *count += wish.settings.images.len();
    }
    let mut charged: BTreeMap<&ImageRef, (usize, &str)> = BTreeMap::new();
    for wish in wishes {
        let namespace = wish.key.namespace.as_str();
        let this = (counts[namespace], namespace);
        for image in &wish.settings.images {
            let fewest = charged.entry(image).or_insert(this);
            *fewest = this.min(*fewest);
        }
    }
    let namespaces = charged.into_iter();
    namespaces
        .map(|(image, (_, namespace))| (image, namespace))
        .collect()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::fixtures::wish;
    use super::*;
    use crate::ObjectKey;

    /// Look-ups of a namespace that never end: those that got a slot, and those that wait.
    fn stuck(lookups: &mut Lookups, namespace: &str, count: usize) -> Vec<Slot> {
        let shares = (0..count).map(|_| lookups.share(namespace));
        let shares: Vec<NamespaceSlots> = shares.collect();
        let slots = shares.into_iter();
        slots
            .filter_map(|share| share.slot().now_or_never())
            .collect()
    }

    /// Regression: a namespace with many tags at registries that never answer held every slot.
    #[test]
    fn a_namespace_whose_registries_never_answer_leaves_slots_to_others() {
        let mut lookups = Lookups::default();
        let evil = stuck(&mut lookups, "evil", 2000);
        assert_eq!(evil.len(), PER_NAMESPACE);
        let team = stuck(&mut lookups, "team", 3);
        assert_eq!(team.len(), 3);
        drop(evil);
        assert_eq!(stuck(&mut lookups, "evil", 1).len(), 1);
    }

    #[tokio::test]
    async fn a_look_up_waits_for_a_few_of_each_other_namespace_only() {
        let mut lookups = Lookups::default();
        let mut held = vec![];
        for namespace in ["a", "b", "c", "d"] {
            held.extend(stuck(&mut lookups, namespace, 10));
        }
        assert_eq!(held.len(), AT_ONCE);
        // More of them are queued; then comes one of another namespace.
        let mut line = vec![];
        for _ in 0..100 {
            line.push(tokio::spawn(lookups.share("a").slot()));
        }
        tokio::task::yield_now().await;
        let team = tokio::spawn(lookups.share("team").slot());
        tokio::task::yield_now().await;
        held.remove(0);
        let slot = team.await;
        assert!(slot.is_ok());
        line.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[test]
    fn a_tag_is_looked_up_in_the_share_of_the_namespace_that_names_the_fewest() {
        let mut many = wish("many", &["a.example/a:1", "a.example/a:2", "quay.io/a/b:1"]);
        many.key = ObjectKey::new("evil", "many");
        let mut few = wish("few", &["quay.io/a/b:1"]);
        few.key = ObjectKey::new("team", "few");
        for wishes in [[many.clone(), few.clone()], [few, many]] {
            let charged = charged(&wishes);
            let of = |text: &str| charged[&ImageRef::parse(text).unwrap()];
            assert_eq!((of("quay.io/a/b:1"), of("a.example/a:1")), ("team", "evil"));
        }
    }
}
