//! The limit on open connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections are served at once. Clones share one state.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: AtomicUsize,
    open: AtomicUsize,
}

/// The right to serve one connection; dropping it gives the right back.
#[derive(Debug)]
pub(super) struct Permit(Arc<Shared>);

impl Connections {
    /// The default limit.
    pub const DEFAULT: usize = 4096;

    /// At most `limit` connections, and at least one.
    pub fn at_most(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit: AtomicUsize::new(limit.max(1)),
            open: AtomicUsize::new(0),
        }))
    }

    /// Replaces the limit. Open connections stay open.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit.max(1), Ordering::Release);
    }

    pub(super) fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Acquire)
    }

    /// A permit, or `None` at the limit. Only one task at a time may call this.
    pub(super) fn acquire(&self) -> Option<Permit> {
        if self.0.open.load(Ordering::Acquire) >= self.limit() {
            return None;
        }
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Some(Permit(Arc::clone(&self.0)))
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::at_most(Self::DEFAULT)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_permit_is_given_until_a_connection_ends_or_the_limit_is_raised() {
        let connections = Connections::at_most(2);
        let first = connections.acquire().unwrap();
        let _second = connections.acquire().unwrap();
        assert!(connections.acquire().is_none());
        drop(first);
        let _third = connections.acquire().unwrap();
        assert!(connections.acquire().is_none());
        connections.set_limit(3);
        assert!(connections.acquire().is_some());
    }
}
