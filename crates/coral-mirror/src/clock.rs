//! Time in a mirror: waits are measured by the monotonic clock, whatever happens to the wall clock.
//!
//! Due times are kept as times of the wall clock, because they are shown, saved and compared with
//! schedules. A [`Frame`] makes that safe: its `now` advances only with the monotonic clock, and
//! each look returns by how much the wall clock has jumped, so that all due times can be shifted.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Smaller differences mean that the wall clock is being adjusted, or that the process was
/// interrupted between two readings.
const SMALLEST_JUMP: SignedDuration = SignedDuration::from_secs(2);
/// Within this time, all mirrors notice the same jump.
const SEEN_BY_ALL: Duration = Duration::from_mins(2);

/// The readings of a machine's clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, which may be changed.
    pub wall: Timestamp,
    /// Time since a fixed moment, by a clock that cannot be set and that advances while the machine
    /// is suspended.
    pub steady: Duration,
}

/// The clocks of a machine.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Reads both clocks.
    fn read(&self) -> Moment;
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn read(&self) -> Moment {
        let steady = clock_gettime(ClockId::Boottime);
        Moment {
            wall: Timestamp::now(),
            steady: Duration::try_from(steady).unwrap_or_default(),
        }
    }
}

/// The time as a mirror sees it: the wall clock at its last look, plus the time since by the
/// monotonic clock.
#[derive(Debug)]
pub(crate) struct Frame {
    clock: Arc<dyn Clock>,
    last: Moment,
}

impl Frame {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let last = clock.read();
        Self { clock, last }
    }

    pub(crate) fn now(&self) -> Timestamp {
        expected(self.last, self.clock.read().steady)
    }

    /// Adopts the current reading of the wall clock. Returns the jump, if there was one.
    pub(crate) fn look(&mut self) -> Option<Jump> {
        let now = self.clock.read();
        let jump = jump(self.last, now);
        self.last = now;
        jump
    }
}

/// The wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Jump {
    /// How far: negative if it was set back.
    pub(crate) by: SignedDuration,
    /// What it would show if it had not been changed.
    pub(crate) before: Timestamp,
    /// When it was noticed, by the monotonic clock.
    steady: Duration,
}

#[cfg(test)]
impl Jump {
    pub(crate) fn new(before: Timestamp, by: SignedDuration) -> Self {
        Self {
            by,
            before,
            steady: Duration::ZERO,
        }
    }
}

/// What the wall clock shows at `steady` if it is not changed meanwhile.
fn expected(last: Moment, steady: Duration) -> Timestamp {
    let passed = steady.saturating_sub(last.steady);
    last.wall.checked_add(passed).unwrap_or(Timestamp::MAX)
}

fn jump(last: Moment, now: Moment) -> Option<Jump> {
    let before = expected(last, now.steady);
    let by = now.wall.duration_since(before);
    (by.abs() >= SMALLEST_JUMP).then_some(Jump {
        by,
        before,
        steady: now.steady,
    })
}

/// Which jump was logged last: every mirror notices it, but one line is enough.
#[derive(Debug, Default)]
pub(crate) struct Logged(Mutex<Option<Jump>>);

impl Logged {
    /// Logs a jump, unless another mirror did.
    pub(crate) fn log(&self, jump: &Jump) {
        if !self.is_new(jump) {
            return;
        }
        let direction = if jump.by.is_negative() {
            "back"
        } else {
            "forward"
        };
        let by = SignedDuration::from_secs(jump.by.as_secs().abs());
        // The line is about the machine, not about one mirror.
        tracing::warn!(
            parent: None,
            "the wall clock was set {direction} by {by:#}: intervals and retries continue by the \
             monotonic clock, and schedules are recomputed"
        );
    }

    fn is_new(&self, jump: &Jump) -> bool {
        // A single step.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = last.is_some_and(|last| {
            let is_recent = jump.steady.saturating_sub(last.steady) <= SEEN_BY_ALL;
            is_recent && (jump.by - last.by).abs() < SMALLEST_JUMP
        });
        if !is_known {
            *last = Some(*jump);
        }
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn moment(wall: i64, steady: u64) -> Moment {
        Moment {
            wall: Timestamp::from_second(wall).unwrap(),
            steady: Duration::from_secs(steady),
        }
    }

    #[test]
    fn a_wall_clock_that_was_set_either_way_is_seen_with_how_far() {
        let last = moment(10 * DAY, 100);
        for (wall, by) in [
            (10 * DAY + 60, None),
            (10 * DAY + 61, None),
            (10 * DAY + 59, None),
            (11 * DAY + 60, Some(DAY)),
            (8 * DAY + 60, Some(-2 * DAY)),
        ] {
            let jump = jump(last, moment(wall, 160));
            let by = by.map(SignedDuration::from_secs);
            assert_eq!(jump.map(|jump| jump.by), by, "{wall}");
        }
    }

    #[test]
    fn between_two_looks_time_passes_by_the_monotonic_clock() {
        let last = moment(1000, 100);
        let now = expected(last, Duration::from_secs(130));
        assert_eq!(now, Timestamp::from_second(1030).unwrap());
    }

    #[test]
    fn what_every_mirror_sees_is_logged_once() {
        let logged = Logged::default();
        let jump = |by, steady| jump(moment(0, steady - 1), moment(by + 1, steady)).unwrap();
        assert!(logged.is_new(&jump(DAY, 10)));
        assert!(!logged.is_new(&jump(DAY, 60)), "another mirror's look");
        assert!(logged.is_new(&jump(-DAY, 61)), "set back");
        assert!(logged.is_new(&jump(-DAY, 1000)), "set back again");
    }

    #[test]
    fn the_clocks_of_the_machine_go_on() {
        let (first, then) = (SystemClock.read(), SystemClock.read());
        assert!(first.steady > Duration::ZERO);
        assert!(then.steady >= first.steady);
    }
}
