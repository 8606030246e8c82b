//! The limits on open connections: for all clients together, and for one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One address may always have this many connections, if the limit of all allows it: a browser or
/// a container runtime opens several at once.
const MIN_PER_ADDRESS: usize = 16;

/// How many connections are served at once. Clones share one state.
///
/// One address gets at most a quarter of them, so that no single client blocks all others. The
/// addresses of one IPv6 network (/64) count as one.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: usize,
    /// Set by the administrator; otherwise a quarter.
    limit_per_address: Option<usize>,
    open: usize,
    open_by_network: HashMap<IpAddr, usize>,
    refused_address: u64,
    refused_all: u64,
}

/// How many connections there are, and how many were refused since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) open: usize,
    /// Because one address had reached its limit.
    pub(super) refused_address: u64,
    /// Because all clients together had reached the limit.
    pub(super) refused_all: u64,
}

/// The permit to serve one connection; dropping it releases the permit.
#[derive(Debug)]
pub(super) struct Permit {
    connections: Connections,
    network: IpAddr,
}

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitReached {
    /// The client's address has as many connections as one address may have.
    Address {
        /// The limit.
        limit: usize,
    },
    /// All clients together have as many connections as are served.
    All {
        /// The limit.
        limit: usize,
        /// The address with the most connections.
        busiest: IpAddr,
    },
}

impl Connections {
    /// The default limit.
    pub const DEFAULT: usize = 4096;

    /// At most `limit` connections, and at least one.
    pub fn at_most(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            limit: limit.max(1),
            limit_per_address: None,
            open: 0,
            open_by_network: HashMap::new(),
            refused_address: 0,
            refused_all: 0,
        })))
    }

    /// Replaces the limit. Open connections stay open.
    pub fn set_limit(&self, limit: usize) {
        self.state().limit = limit.max(1);
    }

    /// Replaces the limit of one address; `None`: a quarter of the limit, and at least 16.
    pub fn set_limit_per_address(&self, limit: Option<usize>) {
        self.state().limit_per_address = limit.map(|limit| limit.max(1));
    }

    /// A permit for a client at `address`.
    pub(super) fn acquire(&self, address: IpAddr) -> Result<Permit, LimitReached> {
        let network = network_of(address);
        let mut state = self.state();
        let limit = state.limit;
        if state.open >= limit {
            let busiest = state.busiest().unwrap_or(network);
            state.refused_all += 1;
            return Err(LimitReached::All { limit, busiest });
        }
        let limit = state.per_address();
        let open = state.open_by_network.entry(network).or_default();
        if *open >= limit {
            state.refused_address += 1;
            return Err(LimitReached::Address { limit });
        }
        *open += 1;
        state.open += 1;
        Ok(Permit {
            connections: self.clone(),
            network,
        })
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            open: state.open,
            refused_address: state.refused_address,
            refused_all: state.refused_all,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn per_address(&self) -> usize {
        let usual = (self.limit / 4).max(MIN_PER_ADDRESS);
        self.limit_per_address.unwrap_or(usual).min(self.limit)
    }

    fn busiest(&self) -> Option<IpAddr> {
        let busiest = self.open_by_network.iter().max_by_key(|(_, open)| **open);
        busiest.map(|(network, _)| *network)
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::at_most(Self::DEFAULT)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        state.open -= 1;
        if let Some(open) = state.open_by_network.get_mut(&self.network) {
            *open -= 1;
            if *open == 0 {
                state.open_by_network.remove(&self.network);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 network of an IPv6 address, since one
/// customer is given a whole /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_permit_is_given_until_a_connection_ends_or_the_limit_is_raised() {
        let connections = Connections::at_most(2);
        let client = address("192.0.2.1");
        let first = connections.acquire(client).unwrap();
        let _second = connections.acquire(client).unwrap();
        let refused = LimitReached::All {
            limit: 2,
            busiest: client,
        };
        assert_eq!(connections.acquire(client).unwrap_err(), refused);
        drop(first);
        let _third = connections.acquire(client).unwrap();
        assert!(connections.acquire(client).is_err());
        connections.set_limit(3);
        assert!(connections.acquire(client).is_ok());
    }

    #[test]
    fn one_address_gets_a_quarter_and_at_least_sixteen() {
        for (limit, own, expected) in [
            (4096, None, 1024),
            (60, None, 16),
            (8, None, 8),
            (100, Some(3), 3),
            (2, Some(3), 2),
            (100, Some(0), 1),
        ] {
            let connections = Connections::at_most(limit);
            connections.set_limit_per_address(own);
            let busy = address("192.0.2.1");
            let held: Vec<Permit> = (0..limit)
                .map_while(|_| connections.acquire(busy).ok())
                .collect();
            assert_eq!(held.len(), expected, "{limit} {own:?}");
            if expected < limit {
                let refused = LimitReached::Address { limit: expected };
                assert_eq!(connections.acquire(busy).unwrap_err(), refused);
                assert!(connections.acquire(address("192.0.2.2")).is_ok());
            }
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_ended_connections_leave_nothing_behind() {
        let connections = Connections::at_most(100);
        connections.set_limit_per_address(Some(1));
        let first = connections.acquire(address("2001:db8::1")).unwrap();
        assert!(connections.acquire(address("2001:db8::2")).is_err());
        assert!(connections.acquire(address("2001:db8:0:1::1")).is_ok());
        drop(first);
        assert!(connections.state().open_by_network.is_empty());
        let mapped = network_of(address("::ffff:192.0.2.1"));
        assert_eq!(mapped, address("192.0.2.1"));
    }
}
