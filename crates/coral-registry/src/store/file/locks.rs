//! Locks by key, in a fixed number of stripes: no key has to wait for the whole store, and memory
//! does not grow with the number of keys.
//!
//! No thread holds two locks of one set at a time, so two keys in one stripe cannot deadlock.
//! Across sets the order is repository, blob, reference.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const STRIPES: usize = 256;

/// One exclusive holder at a time for each key.
#[derive(Debug)]
pub(super) struct KeyLocks {
    hasher: RandomState,
    stripes: Vec<Mutex<()>>,
}

impl KeyLocks {
    pub(super) fn new() -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        Self {
            hasher: RandomState::new(),
            stripes,
        }
    }

    /// Locks the key. The guarded state is on disk, so a panic of a holder leaves nothing half done
    /// in memory, and the lock stays usable.
    pub(super) fn lock(&self, key: &impl Hash) -> MutexGuard<'_, ()> {
        let stripe = stripe(&self.hasher, key);
        self.stripes[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Many shared holders or one exclusive holder for each key.
#[derive(Debug)]
pub(super) struct SharedLocks {
    hasher: RandomState,
    stripes: Vec<RwLock<()>>,
}

impl SharedLocks {
    pub(super) fn new() -> Self {
        let stripes = (0..STRIPES).map(|_| RwLock::new(())).collect();
        Self {
            hasher: RandomState::new(),
            stripes,
        }
    }

    pub(super) fn share(&self, key: &impl Hash) -> RwLockReadGuard<'_, ()> {
        let stripe = stripe(&self.hasher, key);
        self.stripes[stripe]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn own(&self, key: &impl Hash) -> RwLockWriteGuard<'_, ()> {
        let stripe = stripe(&self.hasher, key);
        self.stripes[stripe]
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn stripe(hasher: &RandomState, key: &impl Hash) -> usize {
    usize::try_from(hasher.hash_one(key) % STRIPES as u64).unwrap_or(0)
}
