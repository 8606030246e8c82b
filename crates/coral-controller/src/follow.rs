//! Keeps a [`Store`] up to date from a watch of the API server.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::core::{DeserializeGuard, PartialObjectMeta, PartialObjectMetaExt as _};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::changes::{Changes, Topic};
use crate::events::Events;
use crate::store::{Store, StoreChange};

/// The first wait after an error of a watch; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Short, so that the controller recovers soon after the API server does.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The wait after a refusal (401, 403, 404), which lasts until an administrator changes something.
const WAIT_AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// The objects that are watched, and how they are stored.
pub(crate) struct Watch<K: Resource> {
    pub(crate) api: Api<DeserializeGuard<K>>,
    pub(crate) config: watcher::Config,
    pub(crate) store: Store<K>,
    pub(crate) topic: Topic,
    /// Removes the fields that no part reads.
    pub(crate) strip: fn(&mut K),
    /// Whether two versions of an object mean the same to every part.
    pub(crate) same: fn(&K, &K) -> bool,
    /// Where an object that cannot be decoded is reported, besides the log.
    pub(crate) events: Option<Arc<Events>>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// All objects of the kind, in every namespace.
    pub(crate) fn all(client: &Client, store: &Store<K>, topic: Topic) -> Self {
        Self::new(Api::all(client.clone()), store, topic)
    }

    /// The objects of `api`.
    pub(crate) fn new(api: Api<DeserializeGuard<K>>, store: &Store<K>, topic: Topic) -> Self {
        Self {
            api,
            config: watcher::Config::default(),
            store: store.clone(),
            topic,
            strip: |_| {},
            same: |_, _| false,
            events: None,
        }
    }

    /// Watches until it is dropped. `refused` is called when the API server begins to refuse the
    /// watch and when it accepts it again.
    pub(crate) async fn run(self, changes: Changes, refused: impl Fn(Option<&kube::Error>) + Send) {
        let kind = K::kind(&());
        let mut events = pin!(watcher(self.api, self.config));
        let mut trouble = WatchFailures::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // `Init` precedes the list request, so it does not prove that the API server
                    // answers.
                    let is_answer = !matches!(event, watcher::Event::Init);
                    if is_answer && trouble.end(&kind) {
                        refused(None);
                    }
                    let event = event.modify(|guarded| {
                        guarded.managed_fields_mut().clear();
                        if let Ok(object) = guarded.0.as_mut() {
                            (self.strip)(object);
                        }
                    });
                    let broken = broken(&event);
                    match self.store.take(event, self.same) {
                        StoreChange::Unchanged => {}
                        StoreChange::Changed => changes.notify(self.topic),
                        StoreChange::Broken(key, why) => {
                            tracing::warn!(
                                %kind,
                                object = %key,
                                %why,
                                "object cannot be decoded; its effects stay as they are"
                            );
                            changes.notify(self.topic);
                            if let (Some(events), Some(object)) = (&self.events, broken) {
                                let note = format!(
                                    "this version of Coral cannot read the object, so its effects \
                                     stay as they are: {why}"
                                );
                                events.warning(&object, "CannotBeRead", note).await;
                            }
                        }
                    }
                }
                Err(error) => {
                    let refusal = refusal(&error);
                    if refusal.is_some() {
                        refused(refusal);
                    }
                    let wait = trouble.begin(&kind, &error, refusal.is_some());
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// The metadata of an object that cannot be decoded.
fn broken<K: Resource<DynamicType = ()>>(
    event: &watcher::Event<DeserializeGuard<K>>,
) -> Option<PartialObjectMeta<K>> {
    let (watcher::Event::Apply(guarded) | watcher::Event::InitApply(guarded)) = event else {
        return None;
    };
    let is_broken = guarded.0.is_err();
    is_broken.then(|| guarded.meta().clone().into_response_partial())
}

/// Whether the API server itself refused: neither an outage nor an expired watch.
fn refusal(error: &watcher::Error) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(inner) | watcher::Error::WatchStartFailed(inner) => {
            let is_refusal = |status: &kube::core::Status| matches!(status.code, 401 | 403 | 404);
            matches!(inner, kube::Error::Api(status) if is_refusal(status)).then_some(inner)
        }
        _ => None,
    }
}

/// The message of an error. kube's own text of a status repeats the message together with every
/// field.
fn message_of(error: &watcher::Error) -> String {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.message.clone(),
        InitialListFailed(inner) | WatchStartFailed(inner) | WatchFailed(inner) => {
            coral_image::error_chain(inner)
        }
        NoResourceVersion => error.to_string(),
    }
}

/// Consecutive errors of one watch. The log has a line when they begin and one when they end.
#[derive(Default)]
struct WatchFailures {
    failures: u32,
}

impl WatchFailures {
    fn begin(&mut self, kind: &str, error: &watcher::Error, is_refusal: bool) -> Duration {
        // A single error is not logged: the API server ends every watch from time to time.
        let why = message_of(error);
        match (is_refusal, self.failures) {
            (true, 0) | (false, 1) => tracing::warn!(%kind, %why, "watch fails; trying again"),
            _ => tracing::debug!(%kind, %why, "watch failed"),
        }
        self.failures = self.failures.saturating_add(1);
        if is_refusal {
            return WAIT_AFTER_REFUSAL;
        }
        let doubled = FIRST_WAIT.saturating_mul(1 << (self.failures - 1).min(10));
        crate::backoff::jittered(doubled.min(LONGEST_WAIT))
    }

    /// Whether there was an error until now.
    fn end(&mut self, kind: &str) -> bool {
        let was = std::mem::take(&mut self.failures);
        if was > 1 {
            tracing::info!(%kind, failures = was, "watch works again");
        }
        was > 0
    }
}
