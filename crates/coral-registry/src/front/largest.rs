//! The largest repositories, in an order that is cached: every client may ask for the metrics,
//! again and again, and a registry may have very many repositories.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::RepositoryBytes;

/// How long an order is cached.
const HOLDS: Duration = Duration::from_secs(10);
/// How long it is cached while the repositories are still being counted.
const HOLDS_UNCOUNTED: Duration = Duration::from_secs(1);

/// The last order, with the time when it was made.
#[derive(Debug, Default)]
pub(super) struct Largest(Mutex<Option<(Instant, Arc<RepositoryBytes>)>>);

impl Largest {
    /// All repositories, the largest first, at most ten seconds old. While they are still being
    /// counted, at most one second old, so that the end of the count is visible soon.
    pub(super) fn get(
        &self,
        now: Instant,
        read: impl FnOnce() -> RepositoryBytes,
    ) -> Arc<RepositoryBytes> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, bytes)) = &*last
            && now.duration_since(*since)
                < if bytes.counted {
                    HOLDS
                } else {
                    HOLDS_UNCOUNTED
                }
        {
            return Arc::clone(bytes);
        }
        let bytes = Arc::new(read().largest_first());
        *last = Some((now, Arc::clone(&bytes)));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use coral_image::RepositoryPath;

    use super::*;

    fn bytes(small: u64, counted: bool) -> RepositoryBytes {
        let all = [("a/small", small), ("a/large", 5)];
        let path = |(name, bytes)| (RepositoryPath::parse(name).unwrap(), bytes);
        RepositoryBytes {
            all: all.map(path).to_vec(),
            counted,
        }
    }

    #[test]
    fn an_order_is_made_anew_after_ten_seconds_and_not_at_each_request() {
        let (largest, start) = (Largest::default(), Instant::now());
        let first = |seconds, small| {
            let now = start + Duration::from_secs(seconds);
            largest.get(now, || bytes(small, true)).all[0].0.to_string()
        };
        assert_eq!(first(0, 1), "a/large");
        assert_eq!(first(9, 9), "a/large");
        assert_eq!(first(10, 9), "a/small");
    }

    #[test]
    fn what_is_still_being_counted_is_kept_for_a_second() {
        let (largest, start) = (Largest::default(), Instant::now());
        let counted = |millis, counted| {
            let now = start + Duration::from_millis(millis);
            largest.get(now, || bytes(1, counted)).counted
        };
        assert!(!counted(0, false));
        assert!(!counted(999, true));
        assert!(counted(1000, true));
    }
}
