//! What was asked, what was answered, and how many bytes went each way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::request::Parts;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// One request, as it is now: an answer still under way has moved fewer bytes than it will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    #[serde(default)]
    pub version: String,
    /// The status; 0 while there is none, and when the connection was closed instead.
    pub status: u16,
    /// The scheme of the Authorization header, if there was one: `Bearer`, `Basic`.
    pub authorization: Option<String>,
    /// The Range header.
    pub range: Option<String>,
    /// The Host header.
    pub host: Option<String>,
    /// Bytes of the request's body that were read.
    pub received: u64,
    /// Bytes of the answer's body that were sent.
    pub sent: u64,
}

/// Counters that a body in flight still moves.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) status: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

/// Every request since the start, or since it was cleared.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    entries: Mutex<Vec<(Recorded, Arc<Traffic>)>>,
    changed: Notify,
}

impl RequestLog {
    /// Notes a request; what becomes of it is counted in what is returned.
    pub(crate) fn begin(&self, request: &Parts) -> Arc<Traffic> {
        let header = |name| {
            request
                .headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(ToOwned::to_owned)
        };
        let scheme = header("authorization")
            .map(|value| value.split(' ').next().unwrap_or_default().to_owned());
        let recorded = Recorded {
            method: request.method.to_string(),
            path: request
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            version: format!("{:?}", request.version),
            status: 0,
            authorization: scheme,
            range: header("range"),
            host: header("host"),
            received: 0,
            sent: 0,
        };
        let traffic = Arc::new(Traffic::default());
        self.lock().push((recorded, Arc::clone(&traffic)));
        self.changed.notify_waiters();
        traffic
    }

    /// Says that counters moved.
    pub(crate) fn changed(&self) {
        self.changed.notify_waiters();
    }

    pub(crate) fn snapshot(&self) -> Vec<Recorded> {
        let now = |(recorded, traffic): &(Recorded, Arc<Traffic>)| Recorded {
            status: u16::try_from(traffic.status.load(Ordering::Relaxed)).unwrap_or_default(),
            received: traffic.received.load(Ordering::Relaxed),
            sent: traffic.sent.load(Ordering::Relaxed),
            ..recorded.clone()
        };
        self.lock().iter().map(now).collect()
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Waits until the log is as `condition` wants it.
    pub(crate) async fn wait_for(&self, condition: impl Fn(&[Recorded]) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if condition(&self.snapshot()) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Recorded, Arc<Traffic>)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
