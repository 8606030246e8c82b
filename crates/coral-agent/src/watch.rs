//! The node's own NodeImages object, and no other: list and watch with a field selector.

use std::sync::Arc;
use std::time::Duration;

use coral_api::node_images::NodeImages;
use futures::StreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use tokio::sync::watch;

/// Longest wait before the API server is asked again.
const LONGEST: Duration = Duration::from_secs(10);

/// The object as last seen.
#[derive(Debug, Clone, Default)]
pub(crate) enum Seen {
    /// The API server has not answered yet.
    #[default]
    NotYet,
    /// There is no object for this node: nothing is changed on the node.
    Absent,
    /// The object.
    There(Arc<NodeImages>),
}

impl Seen {
    /// The object, if there is one.
    pub(crate) fn object(&self) -> Option<&Arc<NodeImages>> {
        match self {
            Self::There(object) => Some(object),
            Self::NotYet | Self::Absent => None,
        }
    }
}

/// Follows the object until the receivers are gone.
pub(crate) async fn follow(client: Client, node: String, seen: watch::Sender<Seen>) {
    let api: Api<NodeImages> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let stream = watch_objects(api, config).backoff(Waits::default());
    tokio::pin!(stream);
    // What a list in progress has brought.
    let mut listed = Seen::Absent;
    let mut state = State {
        listed: &mut listed,
        seen: &seen,
        node: &node,
    };
    loop {
        tokio::select! {
            () = seen.closed() => return,
            event = stream.next() => match event {
                Some(Ok(event)) => state.take(event),
                // Tried again by the stream itself.
                Some(Err(error)) => tracing::warn!(%error, "watching NodeImages failed"),
                None => return,
            },
        }
    }
}

struct State<'a> {
    listed: &'a mut Seen,
    seen: &'a watch::Sender<Seen>,
    node: &'a str,
}

impl State<'_> {
    fn take(&mut self, event: Event<NodeImages>) {
        let is_ours = |object: &NodeImages| object.metadata.name.as_deref() == Some(self.node);
        match event {
            Event::Init => *self.listed = Seen::Absent,
            Event::InitApply(object) if is_ours(&object) => {
                *self.listed = Seen::There(Arc::new(object));
            }
            Event::InitDone => {
                self.seen.send_replace(self.listed.clone());
            }
            Event::Apply(object) if is_ours(&object) => {
                self.seen.send_replace(Seen::There(Arc::new(object)));
            }
            Event::Delete(object) if is_ours(&object) => {
                self.seen.send_replace(Seen::Absent);
            }
            Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
        }
    }
}

/// From a fifth of a second, doubled up to [`LONGEST`]; jitter keeps the nodes of a cluster apart
/// after its API server was away.
#[derive(Debug, Clone, Default)]
struct Waits(u32);

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let whole = Duration::from_millis(200 << self.0.min(8)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        Some(whole.mul_f64(1.0 - rand::random::<f64>() / 2.0))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.0 = 0;
    }
}
