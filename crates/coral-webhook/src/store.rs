//! The latest known objects of each kind, kept by watches. No request calls the API server.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The first wait after an error of a watch; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Short, so that the webhook is up to date soon after the API server is back.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// After a refusal (401, 403, 404): it lasts until an administrator changes something.
const WAIT_AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// A watch that reported no error for this long works again. Attempts come every few seconds, but
/// one may wait for a connection first.
const QUIET: Duration = Duration::from_mins(1);

/// Namespace and name.
type Key = (String, String);

/// The objects of one kind. Cheap to clone; all clones share one state.
pub(crate) struct Store<K>(Arc<Inner<K>>);

struct Inner<K> {
    objects: Mutex<Objects<K>>,
    ready: watch::Sender<bool>,
    trouble: Mutex<Option<WatchFailure>>,
}

/// Consecutive errors of a watch.
#[derive(Debug, Clone, Copy)]
struct WatchFailure {
    first: Instant,
    last: Instant,
}

struct Objects<K> {
    current: BTreeMap<Key, Arc<K>>,
    /// Collects a list until it is complete.
    incoming: BTreeMap<Key, Arc<K>>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        let objects = Mutex::new(Objects {
            current: BTreeMap::new(),
            incoming: BTreeMap::new(),
        });
        let ready = watch::Sender::new(false);
        let trouble = Mutex::default();
        Self(Arc::new(Inner {
            objects,
            ready,
            trouble,
        }))
    }
}

impl<K> Store<K> {
    /// All objects, in the order of namespace and name.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.objects().current.values().cloned().collect()
    }

    /// A cluster-scoped object.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<K>> {
        let key = (String::new(), name.to_owned());
        self.objects().current.get(&key).cloned()
    }

    /// Completes once the first list was read completely.
    pub(crate) async fn ready(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// For how long the watch has been failing; zero if it works.
    pub(crate) fn failing_for(&self) -> Duration {
        // A watch that works is silent while no object changes.
        let current = self.trouble().filter(|it| it.last.elapsed() < QUIET);
        current.map_or(Duration::ZERO, |it| it.first.elapsed())
    }

    fn failed(&self) {
        let now = Instant::now();
        let mut trouble = self.trouble();
        let first = trouble.filter(|it| it.last.elapsed() < QUIET);
        let first = first.map_or(now, |it| it.first);
        *trouble = Some(WatchFailure { first, last: now });
    }

    fn trouble(&self) -> MutexGuard<'_, Option<WatchFailure>> {
        // Each change is one assignment: a panic leaves no half state.
        self.0
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn objects(&self) -> MutexGuard<'_, Objects<K>> {
        // Each change is one assignment: a panic leaves no half state.
        let objects = self.0.objects.lock();
        objects.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource> Store<K> {
    /// Applies an event. Returns whether objects may have changed.
    fn take(&self, event: Event<DeserializeGuard<K>>) -> bool {
        match event {
            Event::Init => {
                self.objects().incoming = BTreeMap::new();
                false
            }
            Event::InitApply(guarded) => {
                let key = key(&guarded);
                let mut objects = self.objects();
                let last_decoded = objects.current.get(&key).cloned();
                if let Some(object) = decoded(&key, guarded).or(last_decoded) {
                    objects.incoming.insert(key, object);
                }
                false
            }
            Event::InitDone => {
                let mut objects = self.objects();
                objects.current = std::mem::take(&mut objects.incoming);
                drop(objects);
                self.0.ready.send_replace(true);
                true
            }
            Event::Apply(guarded) => {
                let key = key(&guarded);
                let object = decoded(&key, guarded);
                let is_good = object.is_some();
                // The last good version of an object that cannot be decoded stays.
                if let Some(object) = object {
                    self.objects().current.insert(key, object);
                }
                is_good
            }
            Event::Delete(guarded) => self.objects().current.remove(&key(&guarded)).is_some(),
        }
    }
}

fn key<K: Resource>(guarded: &DeserializeGuard<K>) -> Key {
    let name = guarded.meta().name.clone().unwrap_or_default();
    (guarded.namespace().unwrap_or_default(), name)
}

/// The object. If it cannot be decoded, `None`, and a log line says what is wrong with it.
fn decoded<K: Resource>(key: &Key, guarded: DeserializeGuard<K>) -> Option<Arc<K>> {
    match guarded.0 {
        Ok(object) => Some(Arc::new(object)),
        Err(invalid) => {
            let (namespace, name) = key;
            tracing::warn!(
                namespace,
                name,
                reason = invalid.error,
                "object cannot be decoded"
            );
            None
        }
    }
}

/// Watches all objects of a kind, for ever. `strip` removes what is not read; `changed` is notified
/// of changes.
pub(crate) async fn follow<K>(
    client: Client,
    store: Store<K>,
    strip: fn(&mut K),
    changed: Arc<Notify>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = K::kind(&()).into_owned();
    let api = Api::<DeserializeGuard<K>>::all(client);
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut failures = 0u32;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if failures > 1 && !matches!(event, Event::Init) {
                    tracing::info!(kind, failures, "watch works again");
                }
                // `Init` comes before the list is requested, so it proves nothing.
                if !matches!(event, Event::Init) {
                    failures = 0;
                    *store.trouble() = None;
                }
                let event = event.modify(|guarded| {
                    guarded.managed_fields_mut().clear();
                    if let Ok(object) = guarded.0.as_mut() {
                        strip(object);
                    }
                });
                if store.take(event) {
                    changed.notify_one();
                }
            }
            Err(error) => {
                store.failed();
                let refused = is_refusal(&error);
                // A single error of another kind is not reported: the API server ends every watch
                // from time to time.
                if (refused && failures == 0) || (!refused && failures == 1) {
                    let error = coral_image::error_chain(&error);
                    tracing::warn!(kind, error, "watch fails; trying again");
                }
                let wait = if refused {
                    WAIT_AFTER_REFUSAL
                } else {
                    LONGEST_WAIT.min(FIRST_WAIT * (1 << failures.min(10)))
                };
                failures = failures.saturating_add(1);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Whether the API server itself refused the request.
fn is_refusal(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) =
        error
    else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(name: &str, data: &serde_json::Value) -> DeserializeGuard<ConfigMap> {
        serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_fails_from_its_first_error_until_it_answers_or_is_quiet() {
        let store = Store::<ConfigMap>::default();
        let pass = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
        assert_eq!(store.failing_for(), Duration::ZERO);
        for _ in 0..40 {
            store.failed();
            pass(10).await;
        }
        assert_eq!(store.failing_for(), Duration::from_secs(400));
        pass(60).await;
        assert_eq!(store.failing_for(), Duration::ZERO);
        store.failed();
        pass(5).await;
        assert_eq!(store.failing_for(), Duration::from_secs(5));
    }

    #[test]
    fn an_object_that_cannot_be_decoded_keeps_its_last_good_version() {
        let store = Store::<ConfigMap>::default();
        let names = || {
            let all = store.all().into_iter();
            all.map(|map| map.name_any()).collect::<Vec<_>>()
        };
        store.take(Event::Init);
        store.take(Event::InitApply(object("a", &json!({"k": "1"}))));
        store.take(Event::InitApply(object("b", &json!({"k": 5}))));
        assert!(names().is_empty());
        assert!(store.take(Event::InitDone));
        assert_eq!(names(), ["a"]);
        assert!(!store.take(Event::Apply(object("a", &json!({"k": 5})))));
        store.take(Event::Init);
        store.take(Event::InitApply(object("a", &json!({"k": 5}))));
        store.take(Event::InitDone);
        let kept = store.get("a").unwrap();
        assert_eq!(kept.data.as_ref().unwrap()["k"], "1");
        assert!(store.take(Event::Delete(object("a", &json!({})))));
        assert!(store.get("a").is_none());
    }
}
