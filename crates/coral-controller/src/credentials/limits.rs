//! Limits of the endpoint: how many requests are processed at once, and how often one client may
//! ask. Each request costs the API server several calls.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coral_rt::ClientBuckets;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Requests that are processed at once.
const AT_ONCE: usize = 16;
/// How long a request waits for a slot.
const SLOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that one client may send in a row. A step asks once, and a few times more while the API
/// server does not know yet that it runs.
const BURST: u32 = 30;
/// One more request after each such time.
const REFILL: Duration = Duration::from_millis(500);

/// The bounds of the endpoint.
pub(super) struct Limits {
    slots: Semaphore,
    clients: Mutex<ClientBuckets>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots: Semaphore::new(AT_ONCE),
            clients: Mutex::new(ClientBuckets::new(BURST, REFILL)),
        }
    }
}

impl Limits {
    /// How long the client has to wait; `None` if it may ask now, and then the request is counted.
    pub(super) fn wait(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = clients.wait(client, now);
        if wait.is_none() {
            clients.take(client, now);
        }
        wait
    }

    /// Waits for one of the slots; `None` if none becomes free in time.
    pub(super) async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        let slot = tokio::time::timeout(SLOT_TIMEOUT, self.slots.acquire()).await;
        slot.ok().and_then(Result::ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_asks_without_end_has_to_wait_and_others_do_not() {
        let (limits, start) = (Limits::default(), Instant::now());
        let client = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..BURST {
            assert_eq!(limits.wait(client, start), None);
        }
        assert_eq!(limits.wait(client, start), Some(REFILL));
        assert_eq!(limits.wait(IpAddr::from([10, 0, 0, 2]), start), None);
        assert_eq!(limits.wait(client, start + REFILL), None);
        assert_eq!(limits.wait(client, start + REFILL), Some(REFILL));
    }

    #[tokio::test(start_paused = true)]
    async fn more_requests_than_are_worked_on_at_once_end_in_a_refusal() {
        let limits = Limits::default();
        let mut slots = Vec::new();
        for _ in 0..AT_ONCE {
            slots.push(limits.slot().await.unwrap());
        }
        assert!(limits.slot().await.is_none());
        slots.pop();
        assert!(limits.slot().await.is_some());
    }
}
