//! The driver of the controller's parts.
//!
//! A part is one level-triggered loop: each pass observes everything it needs, decides, applies and
//! publishes. The driver wakes it when one of its topics changes, at the time that it asked for,
//! and after an error; it catches panics, so that a bug in one part does not stop others.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{BackoffBounds, jittered};
use crate::changes::{Changes, Subscription, Topic};
use crate::metrics::{Metrics, Outcome};

/// An idle part begins its pass this long after a change, so that one pass sees changes that arrive
/// together.
const SETTLE: Duration = Duration::from_millis(5);
/// Between the end of a pass and the next one, however much changes.
const BETWEEN: Duration = Duration::from_millis(50);
/// Waits after passes that fail.
const BACKOFF: BackoffBounds = BackoffBounds {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(30),
};
/// No pass begins sooner than this after one that failed, whatever changes: its own writes may be
/// among the changes.
const SHORTEST_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// What ended a pass early. Any error will do; its text goes to the log.
pub(crate) type PassError = Box<dyn std::error::Error + Send + Sync>;

/// When to run the next pass without a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Only when something changes.
    OnChange,
    /// At this time too.
    At(Timestamp),
}

impl Wake {
    /// The earlier of the two.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (Self::OnChange, wake) | (wake, Self::OnChange) => wake,
        }
    }

    /// At this time, if there is one.
    pub(crate) fn at(time: Option<Timestamp>) -> Self {
        time.map_or(Self::OnChange, Self::At)
    }
}

/// A part of the controller.
pub(crate) trait Part: Send {
    /// Its name in logs, metrics and field managers.
    const NAME: &'static str;

    /// Everything the part reads. A change of any of these starts a pass.
    const TOPICS: &'static [Topic];

    /// The kinds whose stores must be filled before the first pass. If a kind is not installed, its
    /// store is never filled and the part never begins.
    const AWAITED: &'static [Topic] = Self::TOPICS;

    /// One pass: observe, decide, apply, publish. An invalid object is reported in its own status
    /// and does not end the pass; an error means that the pass could not do its work. A part must
    /// not keep state that a restart would lose.
    fn pass(&mut self, now: Timestamp) -> impl Future<Output = Result<Wake, PassError>> + Send;
}

/// Runs the part until `stop`; a pass that runs then is finished first.
pub(crate) async fn run_part<P: Part>(
    mut part: P,
    changes: &Changes,
    metrics: &Metrics,
    stop: CancellationToken,
) {
    let mut subscription = changes.subscribe(P::TOPICS);
    let mut failures = Failures::default();
    loop {
        // Before the pass reads: a change while it runs belongs to the next pass.
        subscription.mark_seen();
        let (began, now) = (Instant::now(), Timestamp::now());
        let passed = AssertUnwindSafe(part.pass(now)).catch_unwind().await;
        let (outcome, next) = match passed {
            Ok(Ok(wake)) => {
                failures.end(P::NAME);
                // Converted to the monotonic clock: the wall clock may be set meanwhile, and the
                // pass named a time of the clock as it was.
                let now = now.saturating_add(began.elapsed());
                (Outcome::Ok, Next::when(wake, now.unwrap_or(Timestamp::MAX)))
            }
            Ok(Err(error)) => (
                Outcome::Error,
                failures.after(P::NAME, &coral_image::error_chain(error.as_ref())),
            ),
            Err(panic) => {
                let why = format!("panic: {}", panic_text(panic.as_ref()));
                (Outcome::Panic, failures.after(P::NAME, &why))
            }
        };
        metrics.passed(P::NAME, outcome, began.elapsed());
        tokio::select! {
            () = stop.cancelled() => return,
            () = next.wait(&mut subscription) => {}
        }
    }
}

/// When the next pass is.
#[derive(Debug)]
struct Next {
    /// Not before.
    earliest: Duration,
    /// Without a change.
    latest: Option<Duration>,
}

impl Next {
    fn when(wake: Wake, now: Timestamp) -> Self {
        let latest = match wake {
            Wake::OnChange => None,
            // Never at once: a part that asks for a time in the past must not spin.
            Wake::At(time) => {
                let wait = Duration::try_from(time.duration_since(now)).unwrap_or(Duration::ZERO);
                Some(wait.max(BETWEEN))
            }
        };
        Self {
            earliest: BETWEEN,
            latest,
        }
    }

    async fn wait(&self, subscription: &mut Subscription) {
        let began = Instant::now();
        match self.latest {
            None => subscription.changed().await,
            // A timeout is the other reason to go on.
            Some(latest) => {
                let _ = tokio::time::timeout(latest, subscription.changed()).await;
            }
        }
        // A change wakes; the pass begins a moment later, so that changes that come together are
        // seen together.
        let elapsed = began.elapsed();
        let rest = self.earliest.saturating_sub(elapsed).max(SETTLE);
        let until_latest = self
            .latest
            .map_or(rest, |latest| latest.saturating_sub(elapsed));
        tokio::time::sleep(rest.min(until_latest)).await;
    }
}

/// Passes that failed in a row.
#[derive(Default)]
struct Failures {
    count: u32,
    last: String,
}

impl Failures {
    fn after(&mut self, part: &'static str, why: &str) -> Next {
        self.count = self.count.saturating_add(1);
        // The same reason again is no news.
        if why == self.last {
            tracing::debug!(part, %why, failures = self.count, "pass failed again");
        } else {
            tracing::warn!(part, %why, "pass failed; trying again");
            why.clone_into(&mut self.last);
        }
        Next {
            earliest: SHORTEST_AFTER_FAILURE,
            latest: Some(jittered(BACKOFF.after(self.count))),
        }
    }

    fn end(&mut self, part: &'static str) {
        if self.count > 0 {
            tracing::info!(part, failures = self.count, "passes work again");
        }
        *self = Self::default();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Does what its script says, pass by pass; then waits for changes.
    struct Scripted {
        script: Vec<fn(Timestamp) -> Result<Wake, PassError>>,
        passes: Arc<AtomicUsize>,
    }

    impl Part for Scripted {
        const NAME: &'static str = "scripted";
        const TOPICS: &'static [Topic] = &[Topic::Nodes];

        async fn pass(&mut self, now: Timestamp) -> Result<Wake, PassError> {
            let pass = self.passes.fetch_add(1, Ordering::Relaxed);
            match self.script.get(pass) {
                Some(step) => step(now),
                None => Ok(Wake::OnChange),
            }
        }
    }

    struct Run {
        changes: Changes,
        passes: Arc<AtomicUsize>,
    }

    impl Run {
        fn begin(script: Vec<fn(Timestamp) -> Result<Wake, PassError>>) -> Self {
            let changes = Changes::default();
            let passes = Arc::<AtomicUsize>::default();
            let part = Scripted {
                script,
                passes: passes.clone(),
            };
            let heard = changes.clone();
            tokio::spawn(async move {
                let stop = CancellationToken::new();
                run_part(part, &heard, &Metrics::default(), stop).await;
            });
            Self { changes, passes }
        }

        /// Passes made once nothing more happens within `time`. The clock is paused: this is quick.
        async fn passes_after(&self, time: Duration) -> usize {
            tokio::time::advance(Duration::ZERO).await;
            let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
            self.passes.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_together_are_one_pass() {
        let run = Run::begin(vec![]);
        assert_eq!(run.passes_after(Duration::from_secs(1)).await, 1);
        for _ in 0..100 {
            run.changes.notify(Topic::Nodes);
        }
        assert_eq!(run.passes_after(Duration::from_secs(1)).await, 2);
        run.changes.notify(Topic::Secrets);
        assert_eq!(run.passes_after(Duration::from_hours(1)).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_at_rest_begins_at_once_and_a_busy_one_makes_few_passes() {
        let run = Run::begin(vec![]);
        assert_eq!(run.passes_after(Duration::from_secs(1)).await, 1);
        run.changes.notify(Topic::Nodes);
        assert_eq!(run.passes_after(Duration::from_millis(10)).await, 2);
        for _ in 0..100 {
            run.changes.notify(Topic::Nodes);
            run.passes_after(Duration::from_millis(5)).await;
        }
        let passes = run.passes_after(Duration::from_secs(1)).await;
        assert!((8..=13).contains(&passes), "{passes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_an_error_are_tried_again() {
        let run = Run::begin(vec![|_| panic!("a mistake"), |_| Err("no answer".into())]);
        assert_eq!(run.passes_after(Duration::from_secs(10)).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_always_fails_is_not_a_hot_loop() {
        let run = Run::begin(vec![|_| Err("no answer".into()); 1000]);
        let passes = run.passes_after(Duration::from_mins(10)).await;
        assert!((20..60).contains(&passes), "{passes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_asks_for_the_past_is_not_a_hot_loop() {
        let run = Run::begin(vec![|now| Ok(Wake::At(now)); 1000]);
        let passes = run.passes_after(Duration::from_secs(1)).await;
        assert!(passes <= 21, "{passes}");
    }

    #[test]
    fn the_earlier_wake_wins() {
        let (a, b) = (Timestamp::MIN, Timestamp::MAX);
        assert_eq!(Wake::At(a).or(Wake::At(b)), Wake::At(a));
        assert_eq!(Wake::OnChange.or(Wake::At(b)), Wake::At(b));
        assert_eq!(Wake::OnChange.or(Wake::OnChange), Wake::OnChange);
    }
}
