//! A mirror on a machine whose wall clock is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coral_mirror::{Clock, Engine, EngineLimits, InProcess, Moment, Summary, SystemClock, Until};
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::{Deaf, Pair, image};

/// The clocks of the machine; a test sets the wall clock, in seconds.
#[derive(Debug, Default)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn read(&self) -> Moment {
        let moment = SystemClock.read();
        let by = SignedDuration::from_secs(self.0.load(Ordering::Relaxed));
        Moment {
            wall: moment.wall + by,
            ..moment
        }
    }
}

/// Regression: when a clock that was ahead was set back, every mirror stopped for as long as it had
/// been ahead.
#[tokio::test]
async fn intervals_go_on_when_the_wall_clock_is_set_forward_and_back() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &image(1));
    let clock = Arc::new(SetClock::default());
    let engine = Engine::start_with_clock(
        InProcess::default(),
        EngineLimits::default(),
        Arc::new(Deaf),
        clock.clone(),
    );
    let mirror = pair.mirror_of("m", "tags: ['1']", "  interval: 1s\n");
    let stop = CancellationToken::new();
    let passes = std::sync::Mutex::new(vec![]);
    let told = |summary: &Summary| {
        let mut passes = passes.lock().unwrap();
        if summary.last_pass.is_none()
            || !summary.quiet
            || summary.next_pass == passes.last().copied()
        {
            return;
        }
        passes.extend(summary.next_pass);
        match passes.len() {
            1 => clock.0.store(86_400, Ordering::Relaxed),
            3 => clock.0.store(-86_400, Ordering::Relaxed),
            6 => stop.cancel(),
            _ => {}
        }
    };
    let run = engine.run(mirror, Until::Stopped, stop.clone(), told);
    let ended = tokio::time::timeout(Duration::from_mins(1), run).await;
    let next = ended.expect("it goes on").summary.next_pass.unwrap();
    let wait = next.duration_since(clock.read().wall);
    assert!(wait <= SignedDuration::from_secs(1), "shown: in {wait:#}");
    assert!(wait >= SignedDuration::from_secs(-60), "shown: {wait:#}");
}
