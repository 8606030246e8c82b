//! How many connections there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of connections that are served at once. Others are refused. Clones share one state.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: AtomicUsize,
    open: AtomicUsize,
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
        }))
    }

    /// From now on at most so many; those that are open stay.
    pub fn limit(&self, most: usize) {
        self.0.most.store(most.max(1), Ordering::Release);
    }

    pub(super) fn most(&self) -> usize {
        self.0.most.load(Ordering::Acquire)
    }

    /// A place, if there is one left. One task at a time may ask.
    pub(super) fn place(&self) -> Option<Place> {
        if self.0.open.load(Ordering::Acquire) >= self.most() {
            return None;
        }
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Some(Place(Arc::clone(&self.0)))
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_place_until_another_connection_ends_or_the_limit_is_raised() {
        let connections = Connections::at_most(2);
        let first = connections.place().unwrap();
        let _second = connections.place().unwrap();
        assert!(connections.place().is_none());
        drop(first);
        let _third = connections.place().unwrap();
        assert!(connections.place().is_none());
        connections.limit(3);
        assert!(connections.place().is_some());
    }
}
