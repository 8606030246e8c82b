//! Tracks whether the agent is working, for `/readyz`: the readiness of its pod shows that it is
//! stuck or cut off from the API server. Liveness does not depend on it, because a restart would
//! not help.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest time without progress in a pass: twice the interval between two passes without a change,
/// and longer than any single call of the container runtime may take.
const LONGEST_STEP: Duration = Duration::from_mins(2);
/// How long the API server may fail: its restart is not a fault of the agent.
const PATIENCE: Duration = Duration::from_mins(1);
/// A watch without a failure for this long counts as working, though it may have delivered nothing:
/// it is retried after ten seconds at most, and a connection attempt takes up to thirty.
const QUIET: Duration = Duration::from_secs(45);

/// The progress that the parts of the agent report. Clones share one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthMonitor(Arc<Mutex<HealthSignals>>);

impl HealthMonitor {
    /// Records that a pass over the node begins or makes progress: a pass with many calls to a slow
    /// runtime may take minutes.
    pub(crate) fn goes_on(&self) {
        self.beats().step = Some(Instant::now());
    }

    /// Records that the watch failed.
    pub(crate) fn watch_failed(&self) {
        self.beats().watch.failed(Instant::now(), Some(QUIET));
    }

    /// Records that the watch delivered something.
    pub(crate) fn watch_works(&self) {
        self.beats().watch = Failures::default();
    }

    /// Records that the status was not written.
    pub(crate) fn write_failed(&self) {
        self.beats().write.failed(Instant::now(), None);
    }

    /// Records that the status is written, or that there is none to write.
    pub(crate) fn write_works(&self) {
        self.beats().write = Failures::default();
    }

    /// Why the agent does not do its work now; `None` if it does.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.beats().check(Instant::now())
    }

    fn beats(&self) -> MutexGuard<'_, HealthSignals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct HealthSignals {
    /// When the last pass began or made progress.
    step: Option<Instant>,
    watch: Failures,
    write: Failures,
}

impl HealthSignals {
    fn check(&self, now: Instant) -> Result<(), String> {
        let since = |began: Instant| now.saturating_duration_since(began).as_secs();
        if let Some(step) = self.step.filter(|step| now > *step + LONGEST_STEP) {
            return Err(format!(
                "the pass over the node has made no progress for {} s",
                since(step)
            ));
        }
        if let Some(first) = self.watch.lasting(now, Some(QUIET)) {
            return Err(format!(
                "watching NodeImages has failed for {} s",
                since(first)
            ));
        }
        if let Some(first) = self.write.lasting(now, None) {
            return Err(format!(
                "writing the status of NodeImages has failed for {} s",
                since(first)
            ));
        }
        Ok(())
    }
}

/// The first and the latest of consecutive failures.
#[derive(Debug, Default)]
struct Failures(Option<(Instant, Instant)>);

impl Failures {
    /// Records a failure. `quiet` is the time without a failure that ends the series.
    fn failed(&mut self, now: Instant, quiet: Option<Duration>) {
        let first = self.row(now, quiet).unwrap_or(now);
        self.0 = Some((first, now));
    }

    /// The first failure of a series that has lasted too long.
    fn lasting(&self, now: Instant, quiet: Option<Duration>) -> Option<Instant> {
        let first = self.row(now, quiet)?;
        (now >= first + PATIENCE).then_some(first)
    }

    fn row(&self, now: Instant, quiet: Option<Duration>) -> Option<Instant> {
        let (first, last) = self.0?;
        quiet
            .is_none_or(|quiet| now <= last + quiet)
            .then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begin: Instant, second: u64) -> Instant {
        begin + Duration::from_secs(second)
    }

    #[test]
    fn an_agent_whose_look_does_not_get_on_is_not_ready_until_it_does() {
        let begin = Instant::now();
        let mut beats = HealthSignals::default();
        assert_eq!(beats.check(at(begin, 1000)), Ok(()), "nothing began yet");
        beats.step = Some(begin);
        assert_eq!(beats.check(at(begin, 120)), Ok(()));
        let why = beats.check(at(begin, 121)).unwrap_err();
        assert_eq!(why, "the pass over the node has made no progress for 121 s");
        beats.step = Some(at(begin, 200));
        assert_eq!(beats.check(at(begin, 201)), Ok(()));
    }

    #[test]
    fn a_watch_that_fails_for_a_minute_is_told_until_it_brings_something_or_fails_no_more() {
        let begin = Instant::now();
        let mut beats = HealthSignals::default();
        for second in [0, 40, 59] {
            beats.watch.failed(at(begin, second), Some(QUIET));
            assert_eq!(beats.check(at(begin, second)), Ok(()), "a restart");
        }
        let why = beats.check(at(begin, 61)).unwrap_err();
        assert_eq!(why, "watching NodeImages has failed for 61 s");
        assert_eq!(beats.check(at(begin, 59 + 46)), Ok(()), "it fails no more");
        // A single failure much later begins a new row.
        beats.watch.failed(at(begin, 1000), Some(QUIET));
        assert_eq!(beats.check(at(begin, 1000)), Ok(()));
        beats.watch.failed(at(begin, 1040), Some(QUIET));
        beats.watch.failed(at(begin, 1080), Some(QUIET));
        assert!(beats.check(at(begin, 1080)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_works_again_is_ready_at_once() {
        let monitor = HealthMonitor::default();
        for (fail, work) in [
            (
                HealthMonitor::watch_failed as fn(&HealthMonitor),
                HealthMonitor::watch_works as fn(&HealthMonitor),
            ),
            (HealthMonitor::write_failed, HealthMonitor::write_works),
        ] {
            for _ in 0..4 {
                fail(&monitor);
                tokio::time::advance(Duration::from_secs(25)).await;
            }
            assert!(monitor.check().is_err());
            work(&monitor);
            assert_eq!(monitor.check(), Ok(()));
        }
    }
}
