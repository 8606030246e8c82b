//! Limits how many pages are made at one time: for all readers together, and for one address.
//!
//! Each page makes many requests to the registry and is open to anonymous clients too, but clients
//! that pull must not wait for pages. Each address waits in its own queue, so that a flood from one
//! address takes at most half of the slots.

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
/// Longest time that a page waits for a slot.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The slots in which pages are made. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct PageSlots(Arc<Queues>);

#[derive(Debug)]
struct Queues {
    all: Arc<Semaphore>,
    of_one: usize,
    /// The queues of addresses that wait for a page or are being served one.
    by_network: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A slot in which one page is made; dropping it frees the slot.
#[derive(Debug)]
struct PageSlot {
    queues: Arc<Queues>,
    network: IpAddr,
    /// Both permits are released before the queue of the address is checked.
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

impl Default for PageSlots {
    fn default() -> Self {
        Self::with_limits(MOST_AT_ONCE, MOST_OF_ONE_ADDRESS)
    }
}

impl PageSlots {
    fn with_limits(all: usize, of_one: usize) -> Self {
        Self(Arc::new(Queues {
            all: Arc::new(Semaphore::new(all)),
            of_one,
            by_network: Mutex::default(),
        }))
    }

    /// Waits for a slot for a reader at `address`; `None` on timeout.
    async fn acquire(&self, address: IpAddr) -> Option<PageSlot> {
        let queues = &self.0;
        let network = network_of(address);
        let own = {
            let new = || Arc::new(Semaphore::new(queues.of_one));
            let mut all = queues.by_network();
            all.entry(network).or_insert_with(new).clone()
        };
        // Removes the queue even if the reader goes away meanwhile.
        let mut slot = PageSlot {
            queues: queues.clone(),
            network,
            permits: None,
        };
        let both = async {
            let own = own.acquire_owned().await.ok()?;
            let all = queues.all.clone().acquire_owned().await.ok()?;
            Some([own, all])
        };
        slot.permits = Some(tokio::time::timeout(LONGEST_WAIT, both).await.ok()??);
        Some(slot)
    }
}

impl Queues {
    fn by_network(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.by_network
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PageSlot {
    fn drop(&mut self) {
        self.permits = None;
        let mut all = self.queues.by_network();
        // Readers that wait or have a slot also hold a reference to it.
        let is_last = |own: &Arc<Semaphore>| Arc::strong_count(own) == 1;
        if all.get(&self.network).is_some_and(is_last) {
            all.remove(&self.network);
        }
    }
}

/// Middleware: a page waits for a slot, up to the longest wait.
pub(super) async fn limit_pages(
    State(page_slots): State<PageSlots>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>();
    let address = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    let Some(_slot) = page_slots.acquire(address).await else {
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
    async fn a_flood_from_one_address_leaves_slots_for_others() {
        let page_slots = PageSlots::with_limits(3, 2);
        let flood = client(1);
        let held = [
            page_slots.acquire(flood).await,
            page_slots.acquire(flood).await,
        ];
        assert!(held.iter().all(Option::is_some));
        // Requests that wait are in the queue of their address.
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let page_slots = page_slots.clone();
                tokio::spawn(async move { page_slots.acquire(flood).await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        let other = page_slots.acquire(client(2)).await;
        assert!(other.is_some());
        // All slots are taken now, and a page does not wait forever.
        assert!(page_slots.acquire(client(3)).await.is_none());
        for wait in waiting {
            assert!(!wait.await.unwrap());
        }
        drop((held, other));
        assert!(page_slots.0.by_network().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_without_a_slot_in_time_is_answered_with_retry_after() {
        let page_slots = PageSlots::with_limits(1, 1);
        let router = Router::new().route("/", get(|| async { "made" })).layer(
            middleware::from_fn_with_state(page_slots.clone(), limit_pages),
        );
        let ask = || {
            let request = Request::new(Body::empty());
            router.clone().oneshot(request)
        };
        let held = page_slots.acquire(client(1)).await.unwrap();
        let refused = ask().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "5");
        drop(held);
        assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    }
}
