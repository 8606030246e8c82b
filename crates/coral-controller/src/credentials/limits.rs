//! How much the endpoint does at once, and how often one client may ask: each question costs the API
//! server some.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coral_rt::network_of;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Requests that are worked on at once.
const AT_ONCE: usize = 16;
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Requests of one client in a row. A step asks once, and a few times more while the API server does
/// not know yet that it runs.
const BURST: u32 = 30;
/// One more request after each such time.
const REFILL: Duration = Duration::from_millis(500);
/// Clients that are kept apart.
const MOST_CLIENTS: usize = 4096;

/// The bounds of the endpoint.
pub(super) struct Limits {
    turns: Semaphore,
    clients: Mutex<Clients>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
            clients: Mutex::default(),
        }
    }
}

impl Limits {
    /// How long the client has to wait, if it has to; otherwise this request counts.
    pub(super) fn wait(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.take(network_of(client), now)
    }

    /// A turn among all requests; `None` if there are too many.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        turn.ok().and_then(Result::ok)
    }
}

/// Requests by client: a bucket each. It holds when the bucket will be full again.
#[derive(Default)]
struct Clients(HashMap<IpAddr, Instant>);

impl Clients {
    fn take(&mut self, client: IpAddr, now: Instant) -> Option<Duration> {
        if self.0.len() >= MOST_CLIENTS {
            self.0.retain(|_, full_at| now < *full_at);
        }
        if self.0.len() >= MOST_CLIENTS {
            self.0.clear();
        }
        let full_at = self.0.entry(client).or_insert(now);
        let over = full_at.saturating_duration_since(now);
        let wait = over.saturating_sub(REFILL * (BURST - 1));
        if !wait.is_zero() {
            return Some(wait);
        }
        *full_at = (*full_at).max(now) + REFILL;
        None
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
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(limits.turn().await.unwrap());
        }
        assert!(limits.turn().await.is_none());
        turns.pop();
        assert!(limits.turn().await.is_some());
    }
}
