//! How long uploads have been idle. Pure.
//!
//! The system records by the wall clock when a file was written, and that clock may be changed. So
//! the time that this process has watched an upload is measured by the monotonic clock. The wall
//! clock counts only for the time before an upload was first seen, and after the first check for no
//! more than the time since the previous one.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use crate::store::{Idle, UploadId};

/// The readings of both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }
}

/// The metadata that changes whenever something is added to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) at: SystemTime,
    pub(super) size: u64,
}

impl Written {
    /// How long ago that was by the wall clock; zero if that clock was set back since.
    pub(super) fn age(self, wall: SystemTime) -> Duration {
        wall.duration_since(self.at).unwrap_or_default()
    }
}

/// The uploads that were seen in earlier checks.
#[derive(Debug, Default)]
pub(super) struct Watched {
    uploads: HashMap<UploadId, LastLook>,
    last: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct LastLook {
    written: Written,
    /// How long the upload had been idle at that time.
    age: Duration,
    at: Instant,
}

impl Watched {
    /// Checks all uploads. Returns how long each has been idle.
    pub(super) fn look(
        &mut self,
        uploads: &[(UploadId, Written)],
        now: Moment,
    ) -> HashMap<UploadId, Duration> {
        let since_last = self.last.map(|last| now.steady.duration_since(last));
        let mut seen = HashMap::with_capacity(uploads.len());
        for (id, written) in uploads {
            let before = self.uploads.get(id).filter(|it| it.written == *written);
            let first = || LastLook {
                written: *written,
                age: written
                    .age(now.wall)
                    .min(since_last.unwrap_or(Duration::MAX)),
                at: now.steady,
            };
            seen.insert(*id, before.copied().unwrap_or_else(first));
        }
        let age = |it: &LastLook| it.age.saturating_add(now.steady.duration_since(it.at));
        let ages = seen.iter().map(|(id, it)| (*id, age(it))).collect();
        (self.uploads, self.last) = (seen, Some(now.steady));
        ages
    }
}

impl Idle {
    /// Whether an upload of this size was idle for too long.
    pub(super) fn is_over(self, age: Duration, size: u64) -> bool {
        age > self.any || (age > self.empty && size == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const DAY: Duration = Duration::from_hours(24);

    fn written(at: SystemTime, size: u64) -> Written {
        Written { at, size }
    }

    /// Regression: a wall clock that was set forward ended every open upload.
    #[test]
    fn a_wall_clock_that_is_set_makes_no_upload_older_or_younger() {
        let id = UploadId::random();
        for jump in [-400, 400] {
            let mut watched = Watched::default();
            let start = Moment::now();
            let at = |hours: u32, jump: i64| {
                let wall = start.wall + HOUR * hours;
                let by = DAY * u32::try_from(jump.abs()).unwrap();
                Moment {
                    wall: if jump < 0 { wall - by } else { wall + by },
                    steady: start.steady + HOUR * hours,
                }
            };
            let mut age = |written, now| watched.look(&[(id, written)], now)[&id];
            let first = written(start.wall - HOUR, 7);
            assert_eq!(age(first, at(0, 0)), HOUR, "an earlier process had it");
            assert_eq!(age(first, at(3, jump)), HOUR * 4);
            // Something is added, by the clock as it is now; then the clock is corrected.
            let added = written(at(3, jump).wall, 8);
            assert_eq!(age(added, at(4, jump)), HOUR);
            assert_eq!(age(added, at(6, 0)), HOUR * 3);
            let more = written(at(6, 0).wall, 9);
            assert!(age(more, at(7, jump)) <= HOUR);
        }
    }

    #[test]
    fn an_upload_that_is_gone_is_forgotten() {
        let (id, now) = (UploadId::random(), Moment::now());
        let mut watched = Watched::default();
        watched.look(&[(id, written(now.wall, 0))], now);
        assert!(watched.look(&[], now).is_empty() && watched.uploads.is_empty());
    }

    #[test]
    fn one_without_a_byte_is_over_sooner() {
        let idle = Idle {
            any: DAY,
            empty: HOUR,
        };
        for (age, size, over) in [
            (2 * HOUR, 0, true),
            (2 * HOUR, 1, false),
            (2 * DAY, 1, true),
            (HOUR, 0, false),
        ] {
            assert_eq!(idle.is_over(age, size), over, "{age:?} {size}");
        }
    }
}
