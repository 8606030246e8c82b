//! Checks that a body arrives fast enough.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::error::{Code, Refusal};

/// The least number of bytes per period. Even a line of a few kilobits per second reaches it.
const LEAST: usize = 32 * 1024;

/// The bytes received recently. Only progress counts, not the total time of a body.
#[derive(Debug)]
pub(super) struct Progress {
    /// How long a client may take for the least number of bytes.
    time: Duration,
    since: Instant,
    bytes: usize,
}

impl Progress {
    pub(super) fn new(time: Duration, now: Instant) -> Self {
        Self {
            time,
            since: now,
            bytes: 0,
        }
    }

    /// When the body is abandoned if nothing more arrives.
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.time
    }

    /// Counts bytes that arrived. Returns an error if there were too few in the period.
    pub(super) fn received(&mut self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= LEAST {
            *self = Self::new(self.time, now);
            return Ok(());
        }
        if now >= self.deadline() {
            return Err(self.too_slow());
        }
        Ok(())
    }

    pub(super) fn too_slow(&self) -> Refusal {
        let message = format!(
            "less than {LEAST} bytes arrived within {:?}; what arrived was kept",
            self.time
        );
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Code::BlobUploadInvalid,
            message,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_ends_and_a_slow_line_does_not() {
        let start = Instant::now();
        let (second, time) = (Duration::from_secs(1), Duration::from_mins(2));
        let mut drip = Progress::new(time, start);
        let ended = (1..600).find(|n| drip.received(1, start + second * *n).is_err());
        assert_eq!(ended, Some(120));
        let mut slow = Progress::new(time, start);
        let ended = (1..6000).find(|n| slow.received(300, start + second * *n).is_err());
        assert_eq!(ended, None);
    }
}
