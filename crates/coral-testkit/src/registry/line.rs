//! A line of limited speed that answers share.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Timers are late by a millisecond or two: what was lost by that is made up, but no more.
const MADE_UP: Duration = Duration::from_millis(5);

/// When the line is free again.
#[derive(Debug)]
pub(super) struct Line(Mutex<Instant>);

impl Default for Line {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Line {
    /// Waits until so many bytes may be sent.
    pub(super) async fn turn(&self, bytes: usize, bytes_per_second: u64) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanos = bytes.saturating_mul(1_000_000_000) / bytes_per_second.max(1);
        let at = self.book(Duration::from_nanos(nanos));
        // A timer in the past would still cost a turn of its wheel.
        if at > Instant::now() {
            sleep_until(at).await;
        }
    }

    /// Takes the line for so long, and returns when that time ends.
    fn book(&self, time: Duration) -> Instant {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = Instant::now().checked_sub(MADE_UP);
        let begin = earliest.map_or(*free, |earliest| free.max(earliest));
        *free = begin + time;
        *free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_answers_share_the_line() {
        let line = Line::default();
        let began = Instant::now();
        let send = async || {
            for _ in 0..10 {
                line.turn(100_000, 1_000_000).await;
            }
        };
        tokio::join!(send(), send());
        let took = began.elapsed().as_secs_f64();
        assert!((1.98..2.02).contains(&took), "{took}");
    }
}
