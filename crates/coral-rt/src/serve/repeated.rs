//! Events that may happen many times a second and are logged once a minute.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_mins(1);

/// Decides when a repeated event is logged: at once, and then once per interval.
#[derive(Debug, Default)]
pub struct RepeatedEvent {
    last: Option<Instant>,
    unlogged: u64,
}

impl RepeatedEvent {
    /// Counts one event. Returns the number of events since the last log line, if a line is due
    /// now.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        if self.last.is_some_and(|last| now < last + INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_event_is_logged_at_once_and_then_once_a_minute() {
        let mut event = RepeatedEvent::default();
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let logged: Vec<(u32, u64)> = (0..150)
            .filter_map(|at| Some((at, event.count(begin + second * at)?)))
            .collect();
        assert_eq!(logged, [(0, 1), (60, 60), (120, 60)]);
    }
}
