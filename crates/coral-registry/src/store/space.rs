//! Limits and sizes of a store, as plain values.

use coral_image::{Amount, RepositoryPath};
use serde::Serialize;

const GIB: u64 = 1 << 30;

/// How much a store may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceBounds {
    /// Bytes of content and open uploads; `None` is as many as the disk holds.
    pub limit: Option<u64>,
    /// Bytes of the disk that pushes leave free.
    pub min_free: MinFree,
}

/// Bytes of the disk that pushes leave free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MinFree {
    /// 5 % of the disk, and 1 GiB at most.
    #[default]
    Usual,
    /// This many; with 0, pushes are accepted until the disk is full.
    Bytes(u64),
}

impl MinFree {
    /// The number of bytes, on a disk of `size` bytes.
    pub fn on(self, size: u64) -> u64 {
        match self {
            Self::Usual => (size / 20).min(GIB),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The file system that a store is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its bytes.
    pub size: u64,
    /// Bytes that this process can still write.
    pub free: u64,
}

/// Stored bytes, limits and free space of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Space {
    /// Bytes of content on the disk; what several repositories share counts once.
    pub stored: u64,
    /// Bytes of uploads that are not committed yet.
    pub uploads: u64,
    /// Bytes of damaged content that was moved aside, which the limit does not count.
    pub damaged: u64,
    /// Whether everything that existed at the start is counted; until then `stored` is too low.
    pub counted: bool,
    /// Bytes that `stored` and `uploads` may take together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Size of the disk in bytes, at the last check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Free bytes of the disk, at the last check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// Bytes of the disk that pushes leave free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free: Option<u64>,
}

impl Space {
    /// The same, with new figures of the disk.
    #[must_use]
    pub(crate) fn on(self, disk: Disk, bounds: &SpaceBounds) -> Self {
        Self {
            disk: Some(disk.size),
            free: Some(disk.free),
            min_free: Some(bounds.min_free.on(disk.size)),
            ..self
        }
    }

    /// Bytes of content and open uploads.
    pub fn used(&self) -> u64 {
        self.stored.saturating_add(self.uploads)
    }

    /// Why there is no space for `more` bytes; `None` if there is.
    pub fn lack(&self, more: u64) -> Option<NoRoom> {
        if let Some(limit) = self.limit
            && self.used().saturating_add(more.max(1)) > limit
        {
            return Some(NoRoom {
                bound: Bound::Limit(limit),
                space: *self,
            });
        }
        let (free, min_free) = self.free.zip(self.min_free)?;
        let is_low = free.saturating_sub(more) < min_free;
        is_low.then_some(NoRoom {
            bound: Bound::MinFree(min_free),
            space: *self,
        })
    }
}

/// The size of each repository, in bytes. What several repositories share counts for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryBytes {
    /// Repositories with content, in any order.
    pub all: Vec<(RepositoryPath, u64)>,
    /// Whether all repositories that existed at the start are counted.
    pub counted: bool,
}

impl RepositoryBytes {
    /// The largest first, and by name if the sizes are equal.
    #[must_use]
    pub(crate) fn largest_first(mut self) -> Self {
        self.all.sort_unstable_by(|(name, bytes), (other, others)| {
            others.cmp(bytes).then_with(|| name.cmp(other))
        });
        self
    }
}

/// Which limit of a store is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The most bytes that it may hold.
    Limit(u64),
    /// The bytes that have to stay free on its disk.
    MinFree(u64),
}

/// A store that has reached a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    /// The limit that is reached.
    pub bound: Bound,
    /// The sizes at that time.
    pub space: Space,
}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let space = &self.space;
        let stored = Amount(space.stored);
        match self.bound {
            Bound::Limit(limit) => {
                let limit = Amount(limit);
                write!(f, "{stored} are stored")?;
                if space.uploads > 0 {
                    let uploads = Amount(space.uploads);
                    write!(f, " and {uploads} are in open uploads")?;
                }
                write!(f, ", of {limit} that the storage limit allows")?;
                if let Some(free) = space.free {
                    write!(f, " ({} are free on the disk)", Amount(free))?;
                }
                write!(
                    f,
                    "; delete images (the next garbage collection frees their space), or raise the \
                     limit"
                )
            }
            Bound::MinFree(min_free) => {
                let (free, min_free) = (Amount(space.free.unwrap_or(0)), Amount(min_free));
                write!(
                    f,
                    "{free} are free on its disk and pushes leave {min_free} free ({stored} are \
                     stored); free space on the disk, or delete images (the next garbage \
                     collection frees their space)"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(stored: u64, uploads: u64, limit: Option<u64>) -> Space {
        Space {
            stored,
            uploads,
            limit,
            ..Space::default()
        }
    }

    #[test]
    fn the_floor_is_the_smaller_of_5_percent_and_1_gib_if_not_given() {
        for (min_free, size, floor) in [
            (MinFree::Usual, 10 * GIB, GIB / 2),
            (MinFree::Usual, 1000 * GIB, GIB),
            (MinFree::Bytes(7), 1000 * GIB, 7),
            (MinFree::Bytes(0), 10, 0),
        ] {
            assert_eq!(min_free.on(size), floor, "{min_free:?} of {size}");
        }
    }

    #[test]
    fn the_largest_repositories_come_first_and_those_of_one_size_by_name() {
        let repository = |(name, bytes)| (RepositoryPath::parse(name).unwrap(), bytes);
        let sizes = [("d", 5), ("a", 7), ("c", 5), ("b", 9)];
        let all = RepositoryBytes {
            all: sizes.map(repository).to_vec(),
            counted: true,
        };
        let expected = [("b", 9), ("a", 7), ("c", 5), ("d", 5)].map(repository);
        assert_eq!(all.largest_first().all, expected);
    }

    #[test]
    fn content_and_open_uploads_count_together() {
        let room = |stored, uploads, more| space(stored, uploads, Some(10)).lack(more).is_none();
        assert!(room(4, 5, 1));
        assert!(room(4, 5, 0));
        assert!(!room(4, 5, 2));
        // Nothing is begun that could not get a single byte.
        assert!(!room(5, 5, 0));
        assert!(!room(u64::MAX, 1, u64::MAX));
        assert!(space(u64::MAX, 1, None).lack(1).is_none());
    }

    #[test]
    fn a_disk_is_left_its_floor() {
        let free = |free, min_free: MinFree, more| {
            let bounds = SpaceBounds {
                limit: None,
                min_free,
            };
            let space = Space::default().on(Disk { size: 1000, free }, &bounds);
            space.lack(more).is_none()
        };
        assert!(free(60, MinFree::Usual, 10));
        assert!(!free(60, MinFree::Usual, 11));
        assert!(!free(49, MinFree::Usual, 0));
        assert!(free(0, MinFree::Bytes(0), 5));
    }

    #[test]
    fn a_refusal_says_the_bound_what_is_stored_and_free_and_what_to_do() {
        let limited = space(9 << 20, 512 << 10, Some(10 << 20));
        let bounds = SpaceBounds::default();
        let limited = limited.on(
            Disk {
                size: 40 * GIB,
                free: 20 * GIB,
            },
            &bounds,
        );
        let said = limited.lack(1 << 20).unwrap().to_string();
        for part in [
            "9.0 MiB",
            "512 KiB",
            "10.0 MiB",
            "20.0 GiB",
            "delete images",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let low = space(1500, 0, None).on(Disk { size: GIB, free: 0 }, &bounds);
        let said = low.lack(0).unwrap().to_string();
        for part in ["0 B are free", "51.1 MiB", "1.4 KiB"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
