//! How many wrong passwords an address may try.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use coral_rt::network_of;

/// So many at once.
const BURST: u32 = 10;
/// One more after each such time.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are kept apart; more share what is left to the oldest.
const MOST_ADDRESSES: usize = 4096;

/// Wrong passwords by address: a bucket of ten, filled by one in six seconds.
///
/// It holds when the bucket will be full again. So an entry is a time alone, and can be forgotten
/// once that is past.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    full_at: HashMap<IpAddr, Instant>,
}

impl Failures {
    /// How long the address has to wait, if it has to.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let full_at = self.full_at.get(&network_of(address))?;
        let over = full_at.saturating_duration_since(now);
        over.checked_sub(REFILL * (BURST - 1))
            .filter(|wait| !wait.is_zero())
    }

    /// One more wrong password.
    pub(crate) fn note(&mut self, address: IpAddr, now: Instant) {
        if self.full_at.len() >= MOST_ADDRESSES {
            self.full_at.retain(|_, full_at| now < *full_at);
        }
        if self.full_at.len() >= MOST_ADDRESSES {
            self.full_at.clear();
        }
        let full_at = self.full_at.entry(network_of(address)).or_insert(now);
        *full_at = (*full_at).max(now) + REFILL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_eleventh_wrong_password_in_a_row_has_to_wait() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let bad = address("192.0.2.1");
        for _ in 0..BURST {
            assert_eq!(failures.wait(bad, start), None);
            failures.note(bad, start);
        }
        assert_eq!(failures.wait(bad, start), Some(REFILL));
        assert_eq!(failures.wait(address("192.0.2.2"), start), None);
        assert_eq!(failures.wait(bad, start + REFILL), None);
        failures.note(bad, start + REFILL);
        assert!(failures.wait(bad, start + REFILL).is_some());
        assert_eq!(failures.wait(bad, start + REFILL * (BURST + 1)), None);
    }

    #[test]
    fn neighbours_in_one_ipv6_network_count_as_one() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        for n in 0..BURST {
            failures.note(address(&format!("2001:db8::{n}")), start);
        }
        assert!(failures.wait(address("2001:db8::ffff"), start).is_some());
        assert!(failures.wait(address("2001:db8:0:1::1"), start).is_none());
        assert!(failures.wait(address("::ffff:192.0.2.1"), start).is_none());
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        for n in 0..10_000_u32 {
            failures.note(IpAddr::from(n.to_be_bytes()), start);
        }
        assert!(failures.full_at.len() <= MOST_ADDRESSES);
    }
}
