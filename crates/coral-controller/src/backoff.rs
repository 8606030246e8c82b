//! Backoff: longer waits after each failure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

/// Adds jitter: returns a random duration between half of `longest` and all of it, so that callers
/// that failed together do not retry together.
pub(crate) fn jittered(longest: Duration) -> Duration {
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// Whether `next` is due, where waits are never longer than `longest`. A time farther in the future
/// was computed before the clock was set back, so it counts as due.
pub(crate) fn has_come(next: Timestamp, now: Timestamp, longest: Duration) -> bool {
    next <= now || now.saturating_add(longest).is_ok_and(|last| next > last)
}

/// The bounds of the waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackoffBounds {
    /// The wait after the first failure.
    pub(crate) first: Duration,
    /// The longest wait.
    pub(crate) longest: Duration,
}

impl BackoffBounds {
    /// The wait after this many failures in a row, before jitter; `failures` is at least 1.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

/// Failures per key, and when each may be tried again.
#[derive(Debug)]
pub(crate) struct Backoff<K> {
    growth: BackoffBounds,
    failing: BTreeMap<K, Failing>,
}

/// One key that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failing {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When it may be tried again.
    pub(crate) next: Timestamp,
}

impl<K: Ord + Clone> Backoff<K> {
    /// Without failures.
    pub(crate) fn new(growth: BackoffBounds) -> Self {
        Self {
            growth,
            failing: BTreeMap::new(),
        }
    }

    /// Whether the key may be tried now.
    pub(crate) fn may_try(&self, key: &K, now: Timestamp) -> bool {
        let failing = self.failing.get(key);
        failing.is_none_or(|it| has_come(it.next, now, self.growth.longest))
    }

    /// Records a failure. Returns when the key may be tried again.
    pub(crate) fn failed(&mut self, key: &K, now: Timestamp) -> Failing {
        let failures = self.failing.get(key).map_or(0, |it| it.failures);
        let failures = failures.saturating_add(1);
        let wait = jittered(self.growth.after(failures));
        let next = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
        let failing = Failing { failures, next };
        self.failing.insert(key.clone(), failing);
        failing
    }

    /// Forgets the key's failures.
    pub(crate) fn succeeded(&mut self, key: &K) {
        self.failing.remove(key);
    }

    /// Forgets every key but these.
    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.failing.retain(|key, _| keep(key));
    }

    /// The earliest time at which a failing key may be tried again.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.failing.values().map(|it| it.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: BackoffBounds = BackoffBounds {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(30),
    };

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = [1, 2, 3, 6, 400].map(|failures| BACKOFF.after(failures).as_secs());
        assert_eq!(waits, [1, 2, 4, 30, 30]);
    }

    #[test]
    fn a_key_waits_after_its_failure_and_others_do_not() {
        let mut backoff = Backoff::new(BACKOFF);
        let now = Timestamp::UNIX_EPOCH;
        let failing = backoff.failed(&"a", now);
        assert!(failing.next.as_millisecond() >= 500 && failing.next.as_millisecond() <= 1000);
        assert!(!backoff.may_try(&"a", now) && backoff.may_try(&"b", now));
        assert!(backoff.may_try(&"a", failing.next));
        assert_eq!(backoff.failed(&"a", now).failures, 2);
        backoff.succeeded(&"a");
        assert!(backoff.may_try(&"a", now) && backoff.next().is_none());
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nothing_up() {
        let mut backoff = Backoff::new(BACKOFF);
        let now = Timestamp::from_second(100_000).unwrap();
        let next = backoff.failed(&"a", now).next;
        let longest = next.saturating_sub(BACKOFF.longest).unwrap();
        assert!(
            !backoff.may_try(&"a", longest),
            "it may be the longest wait"
        );
        assert!(backoff.may_try(&"a", Timestamp::UNIX_EPOCH));
    }
}
