//! How many wrong passwords an address may try.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use coral_rt::ClientBuckets;

/// How many wrong passwords are allowed at once.
const BURST: u32 = 10;
/// The time after which one more is allowed.
const REFILL: Duration = Duration::from_secs(6);

/// Wrong passwords by address: ten at once, and one more every six seconds.
#[derive(Debug)]
pub(crate) struct Failures(ClientBuckets);

impl Default for Failures {
    fn default() -> Self {
        Self(ClientBuckets::new(BURST, REFILL))
    }
}

impl Failures {
    /// How long the address has to wait, if it has to.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        self.0.wait(address, now)
    }

    /// Counts a wrong password.
    pub(crate) fn note(&mut self, address: IpAddr, now: Instant) {
        self.0.take(address, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_wrong_password_in_a_row_has_to_wait() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let bad = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..BURST {
            assert_eq!(failures.wait(bad, start), None);
            failures.note(bad, start);
        }
        assert_eq!(failures.wait(bad, start), Some(REFILL));
        assert_eq!(failures.wait(bad, start + REFILL), None);
    }
}
