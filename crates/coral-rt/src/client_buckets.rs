//! Rate limits per client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::network_of;

/// Most clients that are tracked. Beyond that, clients with a full bucket are forgotten, or all
/// clients if there is no such bucket.
const MOST_CLIENTS: usize = 4096;

/// A token bucket for each client, as [`network_of`] tells them apart.
///
/// An entry is only the time at which the bucket will be full again, so it can be dropped after
/// that.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let second = Duration::from_secs(1);
/// let mut buckets = coral_rt::ClientBuckets::new(2, second);
/// let (client, now) = ([192, 0, 2, 1].into(), Instant::now());
/// buckets.take(client, now);
/// assert_eq!(buckets.wait(client, now), None);
/// buckets.take(client, now);
/// assert_eq!(buckets.wait(client, now), Some(second));
/// assert_eq!(buckets.wait(client, now + second), None);
/// ```
#[derive(Debug)]
pub struct ClientBuckets {
    burst: u32,
    refill: Duration,
    full_at: HashMap<IpAddr, Instant>,
}

impl ClientBuckets {
    /// Of `burst` tokens each, one of which comes back after each `refill`.
    pub fn new(burst: u32, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            full_at: HashMap::new(),
        }
    }

    /// How long the client has to wait for a token, if it has to.
    pub fn wait(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let full_at = self.full_at.get(&network_of(client))?;
        let over = full_at.saturating_duration_since(now);
        let wait = over.saturating_sub(self.refill * self.burst.saturating_sub(1));
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes a token even if the client should have waited. Its next wait is then longer.
    pub fn take(&mut self, client: IpAddr, now: Instant) {
        if self.full_at.len() >= MOST_CLIENTS {
            self.full_at.retain(|_, full_at| now < *full_at);
        }
        if self.full_at.len() >= MOST_CLIENTS {
            self.full_at.clear();
        }
        let full_at = self.full_at.entry(network_of(client)).or_insert(now);
        *full_at = (*full_at).max(now) + self.refill;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: u32 = 10;
    const REFILL: Duration = Duration::from_secs(6);

    fn buckets() -> (ClientBuckets, Instant) {
        (ClientBuckets::new(BURST, REFILL), Instant::now())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_whose_bucket_is_empty_has_to_wait_and_others_do_not() {
        let (mut buckets, start) = buckets();
        let client = address("192.0.2.1");
        for _ in 0..BURST {
            assert_eq!(buckets.wait(client, start), None);
            buckets.take(client, start);
        }
        assert_eq!(buckets.wait(client, start), Some(REFILL));
        assert_eq!(buckets.wait(address("192.0.2.2"), start), None);
        assert_eq!(buckets.wait(client, start + REFILL), None);
        buckets.take(client, start + REFILL);
        assert_eq!(buckets.wait(client, start + REFILL), Some(REFILL));
        assert_eq!(buckets.wait(client, start + REFILL * (BURST + 1)), None);
    }

    #[test]
    fn neighbours_in_one_ipv6_network_count_as_one() {
        let (mut buckets, start) = buckets();
        for n in 0..BURST {
            buckets.take(address(&format!("2001:db8::{n}")), start);
        }
        assert!(buckets.wait(address("2001:db8::ffff"), start).is_some());
        assert!(buckets.wait(address("2001:db8:0:1::1"), start).is_none());
        assert!(buckets.wait(address("::ffff:192.0.2.1"), start).is_none());
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let (mut buckets, start) = buckets();
        for n in 0..10_000_u32 {
            buckets.take(IpAddr::from(n.to_be_bytes()), start);
        }
        assert!(buckets.full_at.len() <= MOST_CLIENTS);
    }
}
