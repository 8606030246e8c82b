//! The node's own NodeImages object, and no other: list and watch with a field selector.

use std::sync::Arc;
use std::time::Duration;

use coral_api::node_images::NodeImages;
use futures::StreamExt;
use kube::runtime::watcher as watch_objects;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::health_monitor::HealthMonitor;

/// Longest wait before the API server is asked again.
const LONGEST: Duration = Duration::from_secs(10);

/// The object as last seen.
#[derive(Debug, Clone, Default)]
pub(crate) enum WatchedObject {
    /// The API server has not answered yet.
    #[default]
    NotYet,
    /// There is no object for this node: nothing is changed on the node.
    Absent,
    /// The object.
    Present(Arc<NodeImages>),
}

impl WatchedObject {
    /// The object, if there is one.
    pub(crate) fn object(&self) -> Option<&Arc<NodeImages>> {
        match self {
            Self::Present(object) => Some(object),
            Self::NotYet | Self::Absent => None,
        }
    }
}

/// Follows the object until the receivers are gone.
pub(crate) async fn follow(
    client: Client,
    node: String,
    seen: watch::Sender<WatchedObject>,
    monitor: HealthMonitor,
) {
    let api: Api<NodeImages> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let stream = watch_objects(api, config);
    tokio::pin!(stream);
    let mut waits = WatchBackoff::default();
    // What a list in progress has brought.
    let mut listed = WatchedObject::Absent;
    let mut state = State {
        listed: &mut listed,
        seen: &seen,
        node: &node,
    };
    loop {
        tokio::select! {
            () = seen.closed() => return,
            event = stream.next() => match event {
                Some(Ok(event)) => {
                    waits.answered(&event);
                    if !matches!(event, Event::Init) {
                        monitor.watch_works();
                    }
                    state.take(event);
                }
                Some(Err(error)) => {
                    monitor.watch_failed();
                    let wait = waits.failed(&error);
                    tokio::select! {
                        () = seen.closed() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                None => return,
            },
        }
    }
}

struct State<'a> {
    listed: &'a mut WatchedObject,
    seen: &'a watch::Sender<WatchedObject>,
    node: &'a str,
}

impl State<'_> {
    fn take(&mut self, event: Event<NodeImages>) {
        let is_ours = |object: &NodeImages| object.metadata.name.as_deref() == Some(self.node);
        match event {
            Event::Init => *self.listed = WatchedObject::Absent,
            Event::InitApply(object) if is_ours(&object) => {
                *self.listed = WatchedObject::Present(Arc::new(object));
            }
            Event::InitDone => {
                self.seen.send_replace(self.listed.clone());
            }
            Event::Apply(object) if is_ours(&object) => {
                self.seen
                    .send_replace(WatchedObject::Present(Arc::new(object)));
            }
            Event::Delete(object) if is_ours(&object) => {
                self.seen.send_replace(WatchedObject::Absent);
            }
            Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
        }
    }
}

/// The wait after consecutive failures: from 200 ms, doubled up to [`LONGEST`]. Jitter spreads the
/// nodes of a cluster after its API server was unavailable.
#[derive(Debug, Clone, Default)]
struct WatchBackoff {
    failures: u32,
}

impl WatchBackoff {
    /// Applies an event. `Init` comes before the list is requested: it proves nothing, so it must
    /// not reset the backoff.
    fn answered(&mut self, event: &Event<NodeImages>) {
        if matches!(event, Event::Init) {
            return;
        }
        if self.failures > 1 {
            tracing::info!(
                failures = self.failures,
                "the watch of NodeImages works again"
            );
        }
        self.failures = 0;
    }

    /// The wait after a failure. A single failure is not reported: the API server ends every watch
    /// from time to time. Nor are those after the second, until there is an answer.
    fn failed(&mut self, error: &watcher::Error) -> Duration {
        if self.failures == 1 {
            let error = coral_image::error_chain(error);
            tracing::warn!(error, "watching NodeImages fails; trying again");
        }
        let whole = Duration::from_millis(200 << self.failures.min(8)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(1.0 - rand::random::<f64>() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_the_api_server_answers() {
        let mut waits = WatchBackoff::default();
        let mut failed = || {
            waits.answered(&Event::Init);
            waits.failed(&watcher::Error::NoResourceVersion)
        };
        let all: Vec<Duration> = (0..12).map(|_| failed()).collect();
        assert!(all[0] <= Duration::from_millis(200), "{all:?}");
        assert!(all[8..].iter().all(|wait| *wait >= LONGEST / 2), "{all:?}");
        waits.answered(&Event::InitDone);
        assert!(waits.failed(&watcher::Error::NoResourceVersion) <= Duration::from_millis(200));
    }
}
