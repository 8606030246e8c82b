//! Remembers how many tags a registry puts on a page. A page that may be incomplete costs another
//! request, which small repositories of a known registry can be spared.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most hosts that are remembered.
const MAX_HOSTS: usize = 1000;
/// How long an observation is trusted: a registry may be reconfigured with smaller pages.
const TRUSTED_FOR: Duration = Duration::from_hours(24);

/// For each host name: the size of the largest page that was seen to be complete, and when it was
/// seen.
#[derive(Debug, Default)]
pub(crate) struct PageSizes(Mutex<HashMap<String, (usize, Instant)>>);

impl PageSizes {
    /// Whether a page of this many names is complete: the host once gave a page of the same size or
    /// a larger one that nothing followed.
    pub(crate) fn is_complete(&self, host: &str, names: usize) -> bool {
        let known = self.lock();
        let whole = known.get(host);
        whole.is_some_and(|(whole, at)| names <= *whole && at.elapsed() < TRUSTED_FOR)
    }

    /// Records that a page of this many names was complete: the host was asked for the next page,
    /// which had no names.
    pub(crate) fn record_complete(&self, host: &str, names: usize) {
        let mut known = self.lock();
        if known.len() >= MAX_HOSTS && !known.contains_key(host) {
            known.clear();
        }
        let now = Instant::now();
        let (whole, at) = known.entry(host.to_owned()).or_insert((names, now));
        if names >= *whole || at.elapsed() >= TRUSTED_FOR {
            (*whole, *at) = (names, now);
        }
    }

    /// Records that other names followed a page of this many names, so that a page of this size may
    /// be incomplete.
    pub(crate) fn record_incomplete(&self, host: &str, names: usize) {
        let mut known = self.lock();
        if known.get(host).is_some_and(|(whole, _)| *whole >= names) {
            known.remove(host);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (usize, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole_that_is_no_larger_than_one_that_was() {
        let sizes = PageSizes::default();
        assert!(!sizes.is_complete("a", 1));
        sizes.record_complete("a", 40);
        sizes.record_complete("a", 7);
        assert!(sizes.is_complete("a", 40) && sizes.is_complete("a", 1));
        assert!(!sizes.is_complete("a", 41) && !sizes.is_complete("b", 1));
        sizes.record_incomplete("a", 50);
        assert!(sizes.is_complete("a", 40));
        sizes.record_incomplete("a", 40);
        assert!(!sizes.is_complete("a", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_is_trusted_for_a_day() {
        let sizes = PageSizes::default();
        sizes.record_complete("a", 40);
        tokio::time::advance(TRUSTED_FOR).await;
        assert!(!sizes.is_complete("a", 1));
        sizes.record_complete("a", 3);
        assert!(sizes.is_complete("a", 3) && !sizes.is_complete("a", 4));
    }

    #[test]
    fn hosts_are_remembered_up_to_a_bound() {
        let sizes = PageSizes::default();
        for n in 0..3 * MAX_HOSTS {
            sizes.record_complete(&n.to_string(), 1);
        }
        assert!(sizes.lock().len() <= MAX_HOSTS);
        assert!(sizes.is_complete(&(3 * MAX_HOSTS - 1).to_string(), 1));
    }
}
