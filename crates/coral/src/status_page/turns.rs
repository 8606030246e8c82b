//! How many pages are made at one time: for all readers together, and for one address.
//!
//! Each page makes many requests to the registry and is open to anonymous clients too, but clients
//! that pull must not wait for pages. Each address waits in its own queue, so that a flood from one
//! address takes at most half of the turns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use coral_rt::{Peer, network_of};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::api::ApiError;
use super::refusal;

const MOST_AT_ONCE: usize = 8;
const MOST_OF_ONE_ADDRESS: usize = 4;
/// Longest time that a page waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The turns of pages; cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Queues>);

#[derive(Debug)]
struct Queues {
    all: Arc<Semaphore>,
    of_one: usize,
    /// The queues of addresses that wait for a page or are being served one.
    by_network: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The right to make one page.
#[derive(Debug)]
struct Turn {
    queues: Arc<Queues>,
    network: IpAddr,
    /// Both permits are released before the queue of the address is checked.
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

impl Default for Turns {
    fn default() -> Self {
        Self::of(MOST_AT_ONCE, MOST_OF_ONE_ADDRESS)
    }
}

impl Turns {
    fn of(all: usize, of_one: usize) -> Self {
        Self(Arc::new(Queues {
            all: Arc::new(Semaphore::new(all)),
            of_one,
            by_network: Mutex::default(),
        }))
    }

    /// Waits for a turn for a reader at `address`; `None` on timeout.
    async fn take(&self, address: IpAddr) -> Option<Turn> {
        let queues = &self.0;
        let network = network_of(address);
        let own = {
            let new = || Arc::new(Semaphore::new(queues.of_one));
            let mut all = queues.by_network();
            all.entry(network).or_insert_with(new).clone()
        };
        // Removes the queue even if the reader goes away meanwhile.
        let mut turn = Turn {
            queues: queues.clone(),
            network,
            permits: None,
        };
        let both = async {
            let own = own.acquire_owned().await.ok()?;
            let all = queues.all.clone().acquire_owned().await.ok()?;
            Some([own, all])
        };
        turn.permits = Some(tokio::time::timeout(LONGEST_WAIT, both).await.ok()??);
        Some(turn)
    }
}

impl Queues {
    fn by_network(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.by_network
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permits = None;
        let mut all = self.queues.by_network();
        // Readers that wait or have a turn also hold a reference to it.
        let is_last = |own: &Arc<Semaphore>| Arc::strong_count(own) == 1;
        if all.get(&self.network).is_some_and(is_last) {
            all.remove(&self.network);
        }
    }
}

/// Lets a page wait for its turn, up to the longest wait.
pub(super) async fn in_turn(State(turns): State<Turns>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    let address = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    let Some(_turn) = turns.take(address).await else {
        let mut response = refusal(ApiError::Busy);
        let soon = HeaderValue::from_static("5");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
        return response;
    };
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::middleware;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    fn client(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_from_one_address_leaves_turns_for_others() {
        let turns = Turns::of(3, 2);
        let flood = client(1);
        let held = [turns.take(flood).await, turns.take(flood).await];
        assert!(held.iter().all(Option::is_some));
        // Those that wait stand in the queue of their address.
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(flood).await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        let other = turns.take(client(2)).await;
        assert!(other.is_some());
        // Then all are taken, and a page does not wait for ever.
        assert!(turns.take(client(3)).await.is_none());
        for wait in waiting {
            assert!(!wait.await.unwrap());
        }
        drop((held, other));
        assert!(turns.0.by_network().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_has_no_turn_in_time_is_told_to_come_again() {
        let turns = Turns::of(1, 1);
        let router = Router::new()
            .route("/", get(|| async { "made" }))
            .layer(middleware::from_fn_with_state(turns.clone(), in_turn));
        let ask = || {
            let request = Request::new(Body::empty());
            router.clone().oneshot(request)
        };
        let held = turns.take(client(1)).await.unwrap();
        let refused = ask().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "5");
        drop(held);
        assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    }
}
