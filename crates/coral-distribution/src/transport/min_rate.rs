//! Enforces a minimum transfer rate.

use std::time::Duration;

use crate::error::Problem;

/// The average rate that a transfer must reach, in bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// A minimum rate over a window of waiting. A transfer may take any time in total, but is aborted
/// if it is too slow. Time in which no reader was waiting does not count.
#[derive(Debug, Clone)]
pub(crate) struct MinRate {
    window: Duration,
    waited: Duration,
    moved: u64,
}

/// A transfer that stayed below the minimum rate in a window of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooSlow {
    pub(crate) moved: u64,
    pub(crate) window: Duration,
}

impl From<TooSlow> for Problem {
    fn from(slow: TooSlow) -> Self {
        Self::Slow {
            moved: slow.moved,
            window: slow.window,
        }
    }
}

impl MinRate {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            waited: Duration::ZERO,
            moved: 0,
        }
    }

    /// Records that this many bytes arrived after this wait.
    pub(crate) fn moved(&mut self, bytes: u64, after: Duration) -> Result<(), TooSlow> {
        self.waited += after;
        self.moved += bytes;
        if self.waited < self.window {
            return Ok(());
        }
        let (moved, waited) = (self.moved, self.waited);
        (self.moved, self.waited) = (0, Duration::ZERO);
        if moved < Self::least(waited) {
            return Err(TooSlow {
                moved,
                window: waited,
            });
        }
        Ok(())
    }

    /// The bytes that must have arrived in this time.
    pub(crate) fn least(time: Duration) -> u64 {
        MIN_BYTES_PER_SECOND.saturating_mul(time.as_secs()).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(1);

    /// How many chunks of this size arrive, one in each interval, before the transfer is too slow;
    /// at most 10,000.
    fn pieces(size: u64, every: Duration) -> usize {
        let mut rate = MinRate::new(WINDOW);
        (0..10_000)
            .take_while(|_| rate.moved(size, every).is_ok())
            .count()
    }

    #[test]
    fn a_drip_ends_with_the_window() {
        assert_eq!(pieces(1, Duration::from_secs(10)), 5);
        assert_eq!(
            pieces(1, Duration::from_millis(1)),
            10_000,
            "not yet a window of waiting"
        );
        assert!(pieces(0, Duration::from_secs(59)) < 2);
    }

    #[test]
    fn slow_and_steady_goes_on_for_ever() {
        assert_eq!(pieces(2_000, Duration::from_secs(1)), 10_000);
        assert_eq!(pieces(60 * 1024, Duration::from_secs(59)), 10_000);
    }
}
