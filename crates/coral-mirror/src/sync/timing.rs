//! When passes begin, even after the wall clock was changed. Pure, except that the driver reads its
//! clock.

use std::time::Duration;

use coral_api::Cadence;
use jiff::{SignedDuration, Timestamp};

use super::Driver;
use crate::clock::Jump;
use crate::mirror::Mirror;
use crate::queue::Queue;

/// Longest wait without reading the wall clock, so that schedules follow it soon.
const LOOK_EVERY: Duration = Duration::from_mins(1);

impl<Q: Queue> Driver<Q> {
    /// The time by which everything in this mirror is scheduled.
    pub(super) fn now(&self) -> Timestamp {
        self.frame.now()
    }

    /// Follows changes of the wall clock: everything waits for as long as before.
    pub(super) fn look_at_clock(&mut self) {
        let Some(jump) = self.frame.look() else {
            return;
        };
        self.wiring.logged.log(&jump);
        self.ledger.shift(jump.by);
        self.room.shift(jump.by);
        self.last_pass = self.last_pass.map(|at| shifted(at, jump.by));
        let cadence = &self.mirror.settings.cadence;
        let next = self.next_pass.take();
        self.next_pass = next.and_then(|next| after_jump(cadence, next, &jump));
    }
}

/// When a mirror that starts compares everything: at once, unless an earlier process did so with
/// the same settings. That process may have had a different wall clock.
pub(super) fn first_pass(mirror: &Mirror, now: Timestamp) -> Timestamp {
    let restored = mirror.restored.as_ref().filter(|_| !mirror.changed);
    let next = restored.and_then(|snapshot| snapshot.next_pass);
    let latest = next_pass(&mirror.settings.cadence, now);
    next.map_or(Timestamp::MIN, |next| {
        latest.map_or(next, |latest| next.min(latest))
    })
}

/// The pass after one that begins `now`.
pub(super) fn next_pass(cadence: &Cadence, now: Timestamp) -> Option<Timestamp> {
    match cadence {
        Cadence::Every(interval) => now.checked_add(*interval).ok(),
        Cadence::Cron(schedule) => schedule.next_after(now),
    }
}

/// The next pass, after the wall clock was changed. A pass that was already due stays due, and a
/// pass that the clock skipped is made up for: a machine that was paused must not miss its nightly
/// pass.
fn after_jump(cadence: &Cadence, next: Timestamp, jump: &Jump) -> Option<Timestamp> {
    let now = shifted(jump.before, jump.by);
    match cadence {
        _ if next <= jump.before => Some(now),
        Cadence::Every(_) => Some(shifted(next, jump.by)),
        Cadence::Cron(_) if next <= now => Some(now),
        Cadence::Cron(schedule) => schedule.next_after(now),
    }
}

/// Converts a time of the previous wall clock to the current one.
pub(super) fn shifted(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(at)
}

/// How long to sleep until then, at most.
fn wait(at: Timestamp, now: Timestamp) -> Duration {
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    wait.min(LOOK_EVERY)
}

pub(super) async fn sleep_until(at: Option<Timestamp>, now: Timestamp) {
    match at {
        Some(at) if at <= now => {}
        Some(at) => tokio::time::sleep(wait(at, now)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use coral_api::CronSchedule;

    use super::*;

    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn jumped(before: i64, by: i64) -> Jump {
        Jump::new(at(before), SignedDuration::from_secs(by))
    }

    #[test]
    fn an_interval_lasts_as_long_as_it_would_have() {
        let hourly = Cadence::Every(Duration::from_hours(1));
        for by in [DAY, -2 * DAY] {
            let next = after_jump(&hourly, at(10 * DAY + 600), &jumped(10 * DAY, by));
            assert_eq!(next, Some(at(10 * DAY + by + 600)));
        }
    }

    #[test]
    fn a_schedule_is_computed_anew_after_a_jump_either_way() {
        // At three o'clock each day; the clock says two.
        let daily = Cadence::Cron(CronSchedule::parse("0 3 * * *").unwrap());
        let (now, next) = (10 * DAY + 7200, 10 * DAY + 10_800);
        for (by, expected) in [
            (1800, next),
            (-3 * DAY, next - 3 * DAY),
            // Over the time: it is made up for at once.
            (7200, now + 7200),
            (3 * DAY, now + 3 * DAY),
        ] {
            let after = after_jump(&daily, at(next), &jumped(now, by));
            assert_eq!(after, Some(at(expected)), "{by}");
        }
    }

    #[test]
    fn a_pass_that_was_due_stays_due() {
        let hourly = Cadence::Every(Duration::from_hours(1));
        for due in [Timestamp::MIN, at(10 * DAY)] {
            let next = after_jump(&hourly, due, &jumped(10 * DAY, -DAY));
            assert_eq!(next, Some(at(9 * DAY)));
        }
    }

    #[test]
    fn no_wait_is_longer_than_a_minute_without_a_look_at_the_clock() {
        assert_eq!(wait(at(10 * DAY), at(0)), LOOK_EVERY);
        assert_eq!(wait(at(5), at(0)), Duration::from_secs(5));
        assert_eq!(wait(Timestamp::MIN, at(0)), Duration::ZERO);
    }
}
