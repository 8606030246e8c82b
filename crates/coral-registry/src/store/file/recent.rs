//! Caches recently read values in memory, within bounds.
//!
//! Only one process uses the store, so a cached value stays valid until this process changes it.
//! Code that changes something on disk then calls [`Recent::forget`]; a value that was being read
//! at that time is not cached, since it may be the previous one.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
/// Values that were not used for one to two times this long are dropped even if there is space:
/// most of what was pushed or copied is not requested again.
const GENERATION: Duration = Duration::from_mins(2);

/// Values by key, up to a total weight. The least recently used go first.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K, V>>>,
}

/// Two generations: a used value moves to the young one; when that is full or its time is over, it
/// becomes the old one, and what was left in the old one is dropped.
#[derive(Debug)]
struct Shard<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    /// When the first of the young generation was added.
    since: Instant,
    /// Weight of the young generation.
    weight: usize,
    most: usize,
    /// Incremented whenever something is forgotten.
    changes: u64,
}

/// The number of changes at the time when a reader began to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadStart(u64);

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    /// Keeps values up to a total weight of `most`.
    pub(super) fn keeping(most: usize) -> Self {
        let most = most / SHARDS / 2;
        let shard = || {
            Mutex::new(Shard {
                young: HashMap::new(),
                old: HashMap::new(),
                since: Instant::now(),
                weight: 0,
                most,
                changes: 0,
            })
        };
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// The value of `key`, if it is cached.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let mut shard = self.shard(key);
        if let Some((value, _)) = shard.young.get(key) {
            return Some(value.clone());
        }
        let (value, weight) = shard.old.remove(key)?;
        shard.put(key.clone(), value.clone(), weight, now);
        Some(value)
    }

    /// Call it before reading the disk for `key`.
    pub(super) fn begin(&self, key: &K) -> ReadStart {
        ReadStart(self.shard(key).changes)
    }

    /// Caches a value that was read, unless something was forgotten since. A value that weighs more
    /// than its share is not cached.
    pub(super) fn keep(&self, began: ReadStart, key: K, value: V, weight: usize, now: Instant) {
        let mut shard = self.shard(&key);
        if shard.changes == began.0 && weight <= shard.most {
            shard.put(key, value, weight, now);
        }
    }

    /// Call it after `key` was changed on disk, even if the change may have failed.
    pub(super) fn forget(&self, key: &K) {
        let mut shard = self.shard(key);
        shard.changes += 1;
        shard.old.remove(key);
        if let Some((_, weight)) = shard.young.remove(key) {
            shard.weight -= weight;
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let number = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[number]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V> Shard<K, V> {
    fn put(&mut self, key: K, value: V, weight: usize, now: Instant) {
        let is_over = now.saturating_duration_since(self.since) >= GENERATION;
        if is_over || self.weight + weight > self.most {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
            self.since = now;
        }
        self.weight += weight;
        if let Some((_, before)) = self.young.insert(key, (value, weight)) {
            self.weight -= before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(recent: &Recent<u32, u32>, key: u32, weight: usize) {
        recent.keep(recent.begin(&key), key, key * 10, weight, Instant::now());
    }

    fn get(recent: &Recent<u32, u32>, key: u32) -> Option<u32> {
        recent.get(&key, Instant::now())
    }

    fn weight(recent: &Recent<u32, u32>) -> usize {
        let of = |shard: &Mutex<Shard<u32, u32>>| {
            let shard = shard.lock().unwrap();
            let young: usize = shard.young.values().map(|(_, weight)| weight).sum();
            assert_eq!(young, shard.weight);
            young + shard.old.values().map(|(_, weight)| weight).sum::<usize>()
        };
        recent.shards.iter().map(of).sum()
    }

    #[test]
    fn what_is_kept_is_known_until_it_is_forgotten() {
        let recent = Recent::keeping(32_000);
        assert_eq!(get(&recent, 1), None);
        keep(&recent, 1, 1);
        keep(&recent, 1, 1);
        assert_eq!(get(&recent, 1), Some(10));
        recent.forget(&1);
        assert_eq!((get(&recent, 1), weight(&recent)), (None, 0));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let recent = Recent::keeping(32_000);
        let began = recent.begin(&1);
        recent.forget(&1);
        recent.keep(began, 1, 10, 1, Instant::now());
        assert_eq!(get(&recent, 1), None);
        keep(&recent, 1, 1);
        assert_eq!(get(&recent, 1), Some(10));
    }

    #[test]
    fn the_weight_stays_within_the_bound_and_what_is_used_stays() {
        let recent = Recent::keeping(3_200);
        for key in 0..10_000 {
            keep(&recent, key, 7);
            if key % 3 == 0 {
                keep(&recent, 77_777, 7);
                assert_eq!(get(&recent, 77_777), Some(777_770));
            }
            assert!(weight(&recent) <= 3_200, "{key}");
        }
        assert!(weight(&recent) > 1_000);
        keep(&recent, 5, 3_000);
        assert!(weight(&recent) <= 3_200);
    }

    #[test]
    fn what_is_not_asked_for_is_dropped_after_some_minutes() {
        let recent = Recent::keeping(3_200_000);
        let began = Instant::now();
        // There are so many that every shard has some.
        for minute in 0..20 {
            let now = began + Duration::from_mins(1) * minute;
            for number in 0..1000 {
                let key = minute * 1000 + number;
                recent.keep(recent.begin(&key), key, key, 1, now);
            }
            assert!(recent.get(&0, now).is_some(), "{minute}");
            let kept = weight(&recent);
            assert!(kept <= 4001, "{kept} in minute {minute}");
        }
        assert!(weight(&recent) >= 2000);
    }
}
