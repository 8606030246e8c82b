//! Remembers how many tags a registry puts on a page. A page that may be incomplete costs another
//! request, which small repositories of a known registry can be spared.

use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

/// Most hosts that are remembered.
const MAX_HOSTS: usize = 1024;
/// How long an observation is trusted: a registry may be reconfigured with smaller pages.
const TRUSTED_FOR: Duration = Duration::from_hours(24);

/// For each host name: the size of the largest page that was seen to be complete, and when it was
/// seen.
#[derive(Debug)]
pub(crate) struct PageSizes(Cache<String, (usize, Instant)>);

impl Default for PageSizes {
    fn default() -> Self {
        Self(Cache::new(MAX_HOSTS))
    }
}

impl PageSizes {
    /// Whether a page of this many names is complete: the host once gave a page of the same size or
    /// a larger one that nothing followed.
    pub(crate) fn is_complete(&self, host: &str, names: usize) -> bool {
        let known = self.0.get(host);
        known.is_some_and(|(size, at)| names <= size && at.elapsed() < TRUSTED_FOR)
    }

    /// Records that a page of this many names was complete: the host was asked for the next page,
    /// which had no names.
    pub(crate) fn record_complete(&self, host: &str, names: usize) {
        if !self.is_complete(host, names + 1) {
            self.0.insert(host.to_owned(), (names, Instant::now()));
        }
    }

    /// Records that other names followed a page of this many names, so that a page of this size may
    /// be incomplete.
    pub(crate) fn record_incomplete(&self, host: &str, names: usize) {
        self.0.remove_if(host, |(size, _)| *size >= names);
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
        assert!(sizes.0.len() <= MAX_HOSTS);
        assert!(sizes.is_complete(&(3 * MAX_HOSTS - 1).to_string(), 1));
    }
}
