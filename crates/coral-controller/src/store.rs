//! The latest known objects of one kind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use tokio::sync::watch;

use crate::ObjectKey;

/// All objects of a kind, in the order of their keys.
pub(crate) type Snapshot<K> = Arc<BTreeMap<ObjectKey, Arc<K>>>;

/// The objects of one kind as last seen. Cheap to clone; all clones share one state.
///
/// An object that cannot be decoded does not affect others: its last good version stays as long as
/// the object exists, and [`Store::broken`] names the error.
#[derive(Debug)]
pub(crate) struct Store<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    objects: Mutex<Objects<K>>,
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct Objects<K> {
    good: Snapshot<K>,
    broken: BTreeMap<ObjectKey, String>,
    /// Collects a list until it is whole.
    incoming: Incoming<K>,
}

#[derive(Debug)]
struct Incoming<K> {
    good: BTreeMap<ObjectKey, Arc<K>>,
    broken: BTreeMap<ObjectKey, String>,
}

impl<K> Default for Incoming<K> {
    fn default() -> Self {
        Self {
            good: BTreeMap::new(),
            broken: BTreeMap::new(),
        }
    }
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self(Arc::new(Inner {
            objects: Mutex::new(Objects {
                good: Arc::default(),
                broken: BTreeMap::new(),
                incoming: Incoming::default(),
            }),
            ready: watch::Sender::new(false),
        }))
    }
}

impl<K> Store<K> {
    /// All objects as of now.
    pub(crate) fn snapshot(&self) -> Snapshot<K> {
        self.objects().good.clone()
    }

    /// One object as of now.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects().good.get(key).cloned()
    }

    /// Objects that could not be decoded, with the reason.
    pub(crate) fn broken(&self) -> BTreeMap<ObjectKey, String> {
        self.objects().broken.clone()
    }

    /// Whether the first list has been read whole.
    pub(crate) fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// Completes once the first list has been read whole.
    pub(crate) async fn ready(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Forgets everything and is not ready any more.
    pub(crate) fn clear(&self) {
        let mut objects = self.objects();
        objects.good = Arc::default();
        objects.broken.clear();
        drop(objects);
        self.0.ready.send_replace(false);
    }

    fn objects(&self) -> MutexGuard<'_, Objects<K>> {
        // Every change below is made by single assignments, so a panic leaves no half state.
        self.0
            .objects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource> Store<K> {
    /// A store that holds these objects and is ready: for tests of parts.
    #[cfg(test)]
    pub(crate) fn from_objects(objects: impl IntoIterator<Item = K>) -> Self {
        let store = Self::default();
        let keyed = |object| (ObjectKey::from_object(&object), Arc::new(object));
        store.objects().good = Arc::new(objects.into_iter().map(keyed).collect());
        store.0.ready.send_replace(true);
        store
    }

    /// Applies one event of a watch. `same` says whether two versions of an object mean the same.
    /// Returns whether readers should read again.
    pub(crate) fn take(
        &self,
        event: watcher::Event<DeserializeGuard<K>>,
        same: fn(&K, &K) -> bool,
    ) -> StoreChange {
        let mut objects = self.objects();
        match event {
            watcher::Event::Init => {
                objects.incoming = Incoming::default();
                StoreChange::Unchanged
            }
            watcher::Event::InitApply(guarded) => objects.collect(guarded),
            watcher::Event::InitDone => {
                let incoming = std::mem::take(&mut objects.incoming);
                objects.good = Arc::new(incoming.good);
                objects.broken = incoming.broken;
                drop(objects);
                self.0.ready.send_replace(true);
                StoreChange::Changed
            }
            watcher::Event::Apply(guarded) => objects.apply(guarded, same),
            watcher::Event::Delete(guarded) => objects.remove(&guarded),
        }
    }
}

/// The effect of an event on the readers of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreChange {
    /// Nothing that matters to them.
    Unchanged,
    /// They should read again.
    Changed,
    /// An object cannot be decoded, for this reason.
    Broken(ObjectKey, String),
}

impl<K: Resource> Objects<K> {
    fn collect(&mut self, guarded: DeserializeGuard<K>) -> StoreChange {
        let key = ObjectKey::from_object(&guarded);
        match guarded.0 {
            Ok(object) => {
                self.incoming.good.insert(key, Arc::new(object));
                StoreChange::Unchanged
            }
            Err(invalid) => {
                if let Some(last_good) = self.good.get(&key) {
                    self.incoming.good.insert(key.clone(), last_good.clone());
                }
                let broken = StoreChange::Broken(key.clone(), invalid.error.clone());
                self.incoming.broken.insert(key, invalid.error);
                broken
            }
        }
    }

    fn apply(&mut self, guarded: DeserializeGuard<K>, same: fn(&K, &K) -> bool) -> StoreChange {
        let key = ObjectKey::from_object(&guarded);
        match guarded.0 {
            Ok(object) => {
                let was_broken = self.broken.remove(&key).is_some();
                let known = self.good.get(&key);
                let is_same = known.is_some_and(|known| same(known, &object));
                Arc::make_mut(&mut self.good).insert(key, Arc::new(object));
                if is_same && !was_broken {
                    StoreChange::Unchanged
                } else {
                    StoreChange::Changed
                }
            }
            Err(invalid) => {
                self.broken.insert(key.clone(), invalid.error.clone());
                StoreChange::Broken(key, invalid.error)
            }
        }
    }

    fn remove(&mut self, guarded: &DeserializeGuard<K>) -> StoreChange {
        let key = ObjectKey::from_object(guarded);
        // Decisions wait while an object is broken, also one that was never good.
        let was_broken = self.broken.remove(&key).is_some();
        let was_good = Arc::make_mut(&mut self.good).remove(&key).is_some();
        if was_broken || was_good {
            StoreChange::Changed
        } else {
            StoreChange::Unchanged
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn object(name: &str, data: &serde_json::Value) -> DeserializeGuard<ConfigMap> {
        let metadata = json!({"name": name, "namespace": "a"});
        serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap()
    }

    fn take(store: &Store<ConfigMap>, event: Event<DeserializeGuard<ConfigMap>>) -> StoreChange {
        store.take(event, |_, _| false)
    }

    fn names(store: &Store<ConfigMap>) -> Vec<String> {
        store.snapshot().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_replaces_what_was_there_once_it_is_whole() {
        let store = Store::<ConfigMap>::default();
        take(&store, Event::Init);
        take(&store, Event::InitApply(object("old", &json!({}))));
        assert!(!store.is_ready());
        assert_eq!(take(&store, Event::InitDone), StoreChange::Changed);
        assert!(store.is_ready());
        take(&store, Event::Init);
        take(&store, Event::InitApply(object("new", &json!({}))));
        assert_eq!(names(&store), ["a/old"]);
        take(&store, Event::InitDone);
        assert_eq!(names(&store), ["a/new"]);
    }

    #[test]
    fn an_object_that_cannot_be_decoded_keeps_its_last_good_version_and_harms_no_other() {
        let store = Store::<ConfigMap>::default();
        take(&store, Event::Apply(object("x", &json!({"k": "1"}))));
        take(&store, Event::Apply(object("y", &json!({"k": "2"}))));
        let taken = take(&store, Event::Apply(object("x", &json!({"k": 7}))));
        assert!(matches!(taken, StoreChange::Broken(..)), "{taken:?}");
        assert_eq!(names(&store), ["a/x", "a/y"]);
        assert_eq!(store.broken().len(), 1);
        take(&store, Event::Init);
        take(&store, Event::InitApply(object("x", &json!({"k": 7}))));
        take(&store, Event::InitDone);
        assert_eq!(names(&store), ["a/x"]);
        take(&store, Event::Apply(object("x", &json!({"k": "3"}))));
        assert!(store.broken().is_empty());
    }

    #[test]
    fn a_version_that_means_the_same_wakes_no_reader() {
        let store = Store::<ConfigMap>::default();
        let same = |a: &ConfigMap, b: &ConfigMap| a.data == b.data;
        let event = || Event::Apply(object("x", &json!({"k": "1"})));
        assert_eq!(store.take(event(), same), StoreChange::Changed);
        assert_eq!(store.take(event(), same), StoreChange::Unchanged);
        let gone = Event::Delete(object("x", &json!({})));
        assert_eq!(store.take(gone, same), StoreChange::Changed);
    }

    #[test]
    fn an_object_that_is_broken_no_more_wakes_the_readers_who_waited_for_it() {
        let store = Store::<ConfigMap>::default();
        take(&store, Event::Init);
        take(&store, Event::InitApply(object("x", &json!({"k": 7}))));
        take(&store, Event::InitDone);
        assert_eq!(store.broken().len(), 1);
        let gone = || Event::Delete(object("x", &json!({"k": 7})));
        assert_eq!(take(&store, gone()), StoreChange::Changed);
        assert!(store.broken().is_empty());
        assert_eq!(take(&store, gone()), StoreChange::Unchanged);

        let same = |a: &ConfigMap, b: &ConfigMap| a.data == b.data;
        let good = || Event::Apply(object("x", &json!({"k": "1"})));
        store.take(good(), same);
        store.take(Event::Apply(object("x", &json!({"k": 7}))), same);
        assert_eq!(store.take(good(), same), StoreChange::Changed, "corrected");
        assert_eq!(store.take(good(), same), StoreChange::Unchanged);
    }
}
