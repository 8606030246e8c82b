//! How many connections there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The number of connections that are served at once. Others wait until they are accepted.
/// Clones share one state.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: AtomicUsize,
    open: AtomicUsize,
    freed: Notify,
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Place(Arc<Shared>);

impl Connections {
    /// As many as are served when nobody says.
    pub const USUAL: usize = 4096;

    /// At most so many, and at least one.
    pub fn at_most(most: usize) -> Self {
        Self(Arc::new(Shared {
            most: AtomicUsize::new(most.max(1)),
            open: AtomicUsize::new(0),
            freed: Notify::new(),
        }))
    }

    /// From now on at most so many; those that are open stay.
    pub fn limit(&self, most: usize) {
        self.0.most.store(most.max(1), Ordering::Release);
        self.0.freed.notify_one();
    }

    /// Waits for a place. One task at a time may wait.
    pub(super) async fn place(&self) -> Place {
        loop {
            if self.0.open.load(Ordering::Acquire) < self.0.most.load(Ordering::Acquire) {
                self.0.open.fetch_add(1, Ordering::AcqRel);
                return Place(Arc::clone(&self.0));
            }
            self.0.freed.notified().await;
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::at_most(Self::USUAL)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn one_more_waits_until_another_ends_or_the_limit_is_raised() {
        let connections = Connections::at_most(2);
        let first = connections.place().now_or_never().unwrap();
        let _second = connections.place().now_or_never().unwrap();
        assert!(connections.place().now_or_never().is_none());
        drop(first);
        let _third = connections.place().now_or_never().unwrap();
        assert!(connections.place().now_or_never().is_none());
        connections.limit(3);
        assert!(connections.place().now_or_never().is_some());
    }
}
