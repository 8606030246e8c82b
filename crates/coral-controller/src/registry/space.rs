//! The space of a Registry: from its report to its status.

use coral_api::conditions::Truth;
use coral_api::conditions::kind::STORAGE_AVAILABLE;
use coral_api::{Quantity, RegistryStatus, RegistryStorageStatus};
use serde::Deserialize;

/// Space is low when less than a tenth is left, or less than this amount if a tenth would be more.
const MOST_LOW: u64 = 10 << 30;
/// A full storage stays `StorageFull` until a hundredth is left, or this where a hundredth is more:
/// what a collection frees and a mirror fills again is no change.
const MOST_FULL: u64 = 1 << 30;

/// The report of a Registry about its storage, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Space {
    pub(super) stored: u64,
    uploads: u64,
    /// Whether all that is stored is counted; until then `stored` is too low.
    pub(super) counted: bool,
    limit: Option<u64>,
    disk: Option<u64>,
    free: Option<u64>,
    min_free: Option<u64>,
}

/// How full the storage is; a later value is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StorageLevel {
    Available,
    Low,
    Full,
}

/// The entry of the storage in a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) level: StorageLevel,
    pub(super) status: RegistryStorageStatus,
}

impl Space {
    /// The next entry after the one `before`.
    pub(super) fn storage(&self, before: Option<&RegistryStatus>) -> Storage {
        let level = self.level(StorageLevel::from_status(before));
        let before = before.and_then(|status| status.storage.as_ref());
        let stored = before.and_then(|before| before.stored.as_deref());
        let free = before.and_then(|before| before.free.as_deref());
        let used = self.stored.saturating_add(self.uploads);
        let left = self.bounds().map(|(left, _)| left).min();
        Storage {
            level,
            status: RegistryStorageStatus {
                stored: if self.counted {
                    Some(settled(stored, used))
                } else {
                    stored.map(str::to_owned)
                },
                free: left.map(|left| settled(free, left)),
                repositories: before.and_then(|before| before.repositories),
                largest: before.and_then(|before| before.largest.clone()),
            },
        }
    }

    /// For each limit, the bytes that are left and the bytes in all.
    fn bounds(&self) -> impl Iterator<Item = (u64, u64)> {
        let used = self.stored.saturating_add(self.uploads);
        let of_limit = self.limit.map(|limit| (limit.saturating_sub(used), limit));
        let floor = self.min_free.unwrap_or(0);
        let above_floor = |bytes: u64| bytes.saturating_sub(floor);
        let disk = self.free.zip(self.disk);
        let of_disk = disk.map(|(free, disk)| (above_floor(free), above_floor(disk)));
        of_limit.into_iter().chain(of_disk)
    }

    fn level(&self, before: StorageLevel) -> StorageLevel {
        let levels = self.bounds().map(|(left, all)| level(left, all, before));
        let level = levels.max().unwrap_or(StorageLevel::Available);
        // Content that is not counted yet looks like free space.
        if self.counted {
            level
        } else {
            level.max(before)
        }
    }
}

/// Hysteresis: a better level begins farther from the limit than the worse level ends, so that
/// levels do not alternate.
fn level(left: u64, all: u64, before: StorageLevel) -> StorageLevel {
    let full = if before == StorageLevel::Full {
        (all / 100).min(MOST_FULL)
    } else {
        0
    };
    let low = (all / 10).min(MOST_LOW);
    let low = if before >= StorageLevel::Low {
        low + low / 4
    } else {
        low
    };
    match left {
        left if left <= full => StorageLevel::Full,
        left if left < low => StorageLevel::Low,
        _ => StorageLevel::Available,
    }
}

/// The amount as text. The previous text is kept if the difference is below 2 %, so that a status
/// is not written for every blob.
pub(super) fn settled(before: Option<&str>, bytes: u64) -> String {
    let known = before.and_then(|before| Some((before, Quantity::parse(before).ok()?.get())));
    match known {
        Some((before, known)) if known != 0 && bytes.abs_diff(known) < known.div_ceil(50) => {
            before.to_owned()
        }
        _ => Quantity::from_bytes(bytes).rounded(),
    }
}

impl StorageLevel {
    /// The level of a status.
    pub(super) fn from_status(status: Option<&RegistryStatus>) -> Self {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let said = conditions.find(|condition| condition.type_ == STORAGE_AVAILABLE);
        let reason = said.map(|condition| condition.reason.as_str());
        let levels = [Self::Low, Self::Full];
        let existing = levels.into_iter().find(|it| Some(it.reason()) == reason);
        existing.unwrap_or(Self::Available)
    }

    /// Whether pushes are accepted.
    pub(super) fn truth(self) -> Truth {
        Truth::from(self != Self::Full)
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Low => "SpaceLow",
            Self::Full => "StorageFull",
        }
    }
}

impl Storage {
    /// The message of the condition `StorageAvailable`.
    pub(super) fn message(&self) -> String {
        let stored = self.status.stored.as_deref().unwrap_or("an unknown amount");
        let left = match &self.status.free {
            Some(free) => format!("{stored} stored, {free} can still be pushed"),
            None => format!("{stored} stored"),
        };
        let advice = "delete images (the next garbage collection frees their space), raise \
                      spec.storage.limit, or give the registry a larger volume";
        match self.level {
            StorageLevel::Available => left,
            StorageLevel::Low => format!("{left}: {advice} before pushes are refused"),
            StorageLevel::Full => format!("pushes are refused and mirrors wait ({left}): {advice}"),
        }
    }
}

#[cfg(test)]
mod tests;
