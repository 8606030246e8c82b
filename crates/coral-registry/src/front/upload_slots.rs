//! The slots for open uploads, and the share of each client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::UploadId;

/// One client may have at most this fraction (1/10) of all slots,
const SHARE: u64 = 10;
/// but always at least this many, if there are as many.
const LEAST: u64 = 100;

/// The client whose share an upload counts towards.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    User(Arc<str>),
    /// Holders of tokens, by the repositories that they may push to.
    Token(Arc<str>),
    /// An anonymous client, by its network.
    Network(IpAddr),
}

/// The slots taken since the start; uploads of an earlier run have no owner.
#[derive(Debug, Default)]
pub(super) struct UploadSlots(Mutex<TakenSlots>);

#[derive(Debug, Default)]
struct TakenSlots {
    by_owner: HashMap<Owner, u64>,
    by_upload: HashMap<UploadId, Owner>,
}

/// A slot, which is freed when this is dropped.
#[derive(Debug)]
pub(super) struct UploadSlot<'a> {
    places: &'a UploadSlots,
    owner: Option<Owner>,
}

/// How many of `all` slots one client may have.
pub(super) fn share_per_client(all: u64) -> u64 {
    (all / SHARE).max(all.min(LEAST))
}

/// How many of `all` slots are reserved for the embedding program.
pub(super) fn reserved_slots(all: u64) -> u64 {
    all / SHARE
}

impl UploadSlots {
    /// Takes a slot, unless the owner has `most` already.
    pub(super) fn take(&self, owner: Owner, most: u64) -> Option<UploadSlot<'_>> {
        let mut taken = self.taken();
        let count = taken.by_owner.get(&owner).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        taken.by_owner.insert(owner.clone(), count + 1);
        Some(UploadSlot {
            places: self,
            owner: Some(owner),
        })
    }

    /// Frees the slot of an upload that has ended.
    pub(super) fn free(&self, upload: UploadId) {
        let mut taken = self.taken();
        if let Some(owner) = taken.by_upload.remove(&upload) {
            taken.free(&owner);
        }
    }

    fn taken(&self) -> MutexGuard<'_, TakenSlots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TakenSlots {
    fn free(&mut self, owner: &Owner) {
        if let Some(count) = self.by_owner.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(owner);
            }
        }
    }
}

impl UploadSlot<'_> {
    /// Keeps the slot for the upload until that has ended.
    pub(super) fn keep(mut self, upload: UploadId) {
        if let Some(owner) = self.owner.take() {
            self.places.taken().by_upload.insert(upload, owner);
        }
    }
}

impl Drop for UploadSlot<'_> {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            self.places.taken().free(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_the_request_or_the_upload_has_ended() {
        let places = UploadSlots::default();
        let anna = || Owner::User("anna".into());
        let (first, second) = (places.take(anna(), 2), places.take(anna(), 2));
        assert!(places.take(anna(), 2).is_none());
        assert!(places.take(Owner::User("ben".into()), 2).is_some());
        drop(first);
        let upload = UploadId::random();
        places.take(anna(), 2).unwrap().keep(upload);
        assert!(places.take(anna(), 2).is_none());
        places.free(upload);
        places.free(upload);
        assert!(places.take(anna(), 2).is_some());
        drop(second);
        assert!(places.taken().by_owner.is_empty());
    }

    #[test]
    fn a_share_is_a_tenth_unless_there_are_few() {
        for (all, share) in [(1, 1), (3, 3), (100, 100), (999, 100), (10_000, 1_000)] {
            assert_eq!(share_per_client(all), share, "{all}");
        }
        assert_eq!((reserved_slots(5), reserved_slots(10_000)), (0, 1_000));
    }
}
