//! Remembers how many tags registries put on a page: a page that may be incomplete costs another
//! request, which registries with small repositories need not get each time.

use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

/// Hosts that are remembered.
const MAX_HOSTS: usize = 1024;
/// A registry may be set up again, with smaller pages.
const TRUSTED_FOR: Duration = Duration::from_hours(24);

/// Of each host, by its name: the largest page that was seen whole, and when.
#[derive(Debug)]
pub(crate) struct PageSizes(Cache<String, (usize, Instant)>);

impl Default for PageSizes {
    fn default() -> Self {
        Self(Cache::new(MAX_HOSTS))
    }
}

impl PageSizes {
    /// Whether a page of so many names was not cut: the host gave one as large, or larger, and then
    /// said that nothing follows it.
    pub(crate) fn is_whole(&self, host: &str, names: usize) -> bool {
        let whole = self.0.get(host);
        whole.is_some_and(|(whole, at)| names <= whole && at.elapsed() < TRUSTED_FOR)
    }

    /// Records that nothing followed a page of this many names: the host was asked for the next
    /// page, and it named none.
    pub(crate) fn saw_whole(&self, host: &str, names: usize) {
        if !self.is_whole(host, names + 1) {
            self.0.insert(host.to_owned(), (names, Instant::now()));
        }
    }

    /// Records that other names followed a page of this many, so that a page of this size may not
    /// be the last one.
    pub(crate) fn saw_cut(&self, host: &str, names: usize) {
        self.0.remove_if(host, |(whole, _)| *whole >= names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole_that_is_no_larger_than_one_that_was() {
        let sizes = PageSizes::default();
        assert!(!sizes.is_whole("a", 1));
        sizes.saw_whole("a", 40);
        sizes.saw_whole("a", 7);
        assert!(sizes.is_whole("a", 40) && sizes.is_whole("a", 1));
        assert!(!sizes.is_whole("a", 41) && !sizes.is_whole("b", 1));
        sizes.saw_cut("a", 50);
        assert!(sizes.is_whole("a", 40));
        sizes.saw_cut("a", 40);
        assert!(!sizes.is_whole("a", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_is_trusted_for_a_day() {
        let sizes = PageSizes::default();
        sizes.saw_whole("a", 40);
        tokio::time::advance(TRUSTED_FOR).await;
        assert!(!sizes.is_whole("a", 1));
        sizes.saw_whole("a", 3);
        assert!(sizes.is_whole("a", 3) && !sizes.is_whole("a", 4));
    }

    #[test]
    fn hosts_are_remembered_up_to_a_bound() {
        let sizes = PageSizes::default();
        for n in 0..3 * MAX_HOSTS {
            sizes.saw_whole(&n.to_string(), 1);
        }
        assert!(sizes.0.len() <= MAX_HOSTS);
        assert!(sizes.is_whole(&(3 * MAX_HOSTS - 1).to_string(), 1));
    }
}
