//! Reads bodies within a memory budget that is shared fairly between clients.
//!
//! Every pod can reach the webhook. So a request counts only once its first byte has arrived, and
//! takes memory for the bytes received, not for those announced. A stalled body is aborted soon.
//! The requests of one client never take all of the memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use coral_rt::{Peer, network_of};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Failure;

/// Largest body in bytes. A stored object has at most about 1.5 MiB, a review contains it twice,
/// and JSON may encode a letter in six bytes.
pub(super) const MAX_BODY: usize = 16 << 20;
/// Most bytes of bodies that are held at once, in units of [`UNIT`]. Each review takes at least one
/// unit, so this is also the most reviews in progress. As JSON values they take about four times as
/// much memory.
const MAX_UNITS: usize = 32;
/// Bytes of a body for which one unit is taken.
const UNIT: usize = 1 << 20;
/// Most reviews of one client in progress. An API server waits no more than a millisecond until one
/// of them ends.
const MAX_OF_CLIENT: usize = 8;
/// Most units of one client: enough for the largest body, and half of all units.
const MAX_UNITS_OF_CLIENT: usize = MAX_BODY / UNIT;
/// How long a review waits until others end.
const TURN: Duration = Duration::from_secs(1);
/// Longest time without a byte of a body.
const STALL: Duration = Duration::from_millis(300);
/// Clients that are remembered before those without a request are forgotten.
const MANY_CLIENTS: usize = 1024;

/// The memory budget for bodies.
pub(super) struct Intake {
    units: Arc<Semaphore>,
    clients: Mutex<HashMap<IpAddr, Weak<Client>>>,
}

/// The share of one client in the budget.
struct Client {
    reviews: Arc<Semaphore>,
    units: Arc<Semaphore>,
}

/// The part of the budget that one review uses. It is released when this is dropped.
pub(super) struct ReviewPermit {
    _client: Arc<Client>,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            units: Arc::new(Semaphore::new(MAX_UNITS)),
            clients: Mutex::default(),
        }
    }
}

impl Intake {
    /// Reads a body completely. Hold the permit until the answer is complete.
    pub(super) async fn read(
        &self,
        peer: Peer,
        body: Body,
    ) -> Result<(Bytes, ReviewPermit), Failure> {
        let mut chunks = body.into_data_stream();
        // The first byte may take any time, because a request holds no memory before it.
        let mut next = chunks.next().await;
        let client = self.client(network_of(peer.0));
        let mut permits = vec![turn(&client.reviews).await?];
        let (mut read, mut units) = (Vec::new(), 0);
        while let Some(chunk) = next {
            let chunk = chunk.map_err(|_| ended_early())?;
            let length = read.len() + chunk.len();
            if length > MAX_BODY {
                return Err(Failure::TooLarge);
            }
            while units * UNIT < length {
                permits.push(turn(&client.units).await?);
                permits.push(turn(&self.units).await?);
                units += 1;
            }
            read.extend_from_slice(&chunk);
            let waiting = tokio::time::timeout(STALL, chunks.next()).await;
            next = waiting.map_err(|_| Failure::TooSlow)?;
        }
        let room = ReviewPermit {
            _client: client,
            _permits: permits,
        };
        Ok((read.into(), room))
    }

    fn client(&self, network: IpAddr) -> Arc<Client> {
        // Each change is one call on the map: a panic leaves no half state.
        let clients = self.clients.lock();
        let mut clients = clients.unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clients.get(&network).and_then(Weak::upgrade) {
            return known;
        }
        if clients.len() >= MANY_CLIENTS {
            clients.retain(|_, client| client.strong_count() > 0);
        }
        let client = Arc::new(Client {
            reviews: Arc::new(Semaphore::new(MAX_OF_CLIENT)),
            units: Arc::new(Semaphore::new(MAX_UNITS_OF_CLIENT)),
        });
        clients.insert(network, Arc::downgrade(&client));
        client
    }
}

async fn turn(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    let permit = tokio::time::timeout(TURN, of.clone().acquire_owned()).await;
    // The semaphores are never closed.
    permit.ok().and_then(Result::ok).ok_or(Failure::Overloaded)
}

fn ended_early() -> Failure {
    Failure::Malformed("the body ended early".to_owned())
}
