//! The results of password checks, remembered for a while.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

/// A keyed hash of the user, the stored hash and the offered password. An entry is therefore not
/// found once the stored hash changes, and the password itself is not kept.
pub(super) type CacheKey = [u8; 32];

/// Results of one kind, bounded in time and number. A user whose entry is dropped is checked again.
#[derive(Debug)]
pub(super) struct ResultCache {
    until: Cache<CacheKey, Instant>,
    keep: Duration,
}

impl ResultCache {
    pub(super) fn new(most: usize, keep: Duration) -> Self {
        Self {
            until: Cache::new(most),
            keep,
        }
    }

    pub(super) fn has(&self, key: &CacheKey, now: Instant) -> bool {
        self.until.get(key).is_some_and(|until| now < until)
    }

    pub(super) fn put(&self, key: CacheKey, now: Instant) {
        self.until.insert(key, now + self.keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_checked_is_known_until_its_time_is_over() {
        let (start, keep) = (Instant::now(), Duration::from_mins(1));
        let memory = ResultCache::new(10, keep);
        memory.put([1; 32], start);
        assert!(memory.has(&[1; 32], start + keep / 2));
        assert!(!memory.has(&[2; 32], start));
        assert!(!memory.has(&[1; 32], start + keep));
    }

    #[test]
    fn no_more_than_the_given_number_is_kept() {
        let start = Instant::now();
        let memory = ResultCache::new(10, Duration::from_mins(1));
        for n in 0..100 {
            memory.put([n; 32], start);
            assert!(memory.until.len() <= 10 && memory.has(&[n; 32], start));
        }
    }
}
