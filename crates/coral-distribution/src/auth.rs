//! Authentication. What a host demands is learnt once and remembered.
//!
//! Where a credential may go:
//! - to the registry it was given for, at exactly its scheme, host and port;
//! - to the token server that this registry names in its challenge, which is on another host by
//!   design. It must be HTTPS, unless it is at the registry's own origin or plain HTTP is
//!   configured for that host. No token is accepted from any other address, not even one that was
//!   requested without a credential: a registry could otherwise read the answers of servers inside
//!   the network. After a redirect, the address that answered counts;
//! - nowhere else: not across a redirect to another origin, and not to a `Location` at another
//!   origin. The challenge of a redirect's target is answered with the credential that is
//!   configured for that host, or else with a token that is requested anonymously. The
//!   authorization that the target accepted is sent there at once the next time, for the same
//!   repository of the same origin.

mod challenge;
mod elsewhere;
mod scheme;
mod session;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use scheme::Scheme;
use url::Url;

pub(crate) use challenge::{Challenge, parse_challenges};
pub(crate) use elsewhere::{KnownAuthorizations, repository_address};
pub(crate) use session::{AuthRequest, Session};
pub(crate) use token::Tokens;
#[cfg(fuzzing)]
pub(crate) use token::read as read_token;

/// What is known about the authentication of one host.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    scheme: Mutex<Option<Scheme>>,
    first_request: tokio::sync::Mutex<()>,
}

impl HostState {
    fn scheme(&self) -> Option<Scheme> {
        self.scheme
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, scheme: Scheme) {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheme);
    }

    /// Forgets a demand that cannot be met: it may hold for the repository alone that made it.
    fn forget(&self, known: &Scheme) {
        let mut scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner);
        scheme.take_if(|it| it == known);
    }

    /// Records that a request succeeded without authentication, unless a challenge arrived
    /// meanwhile.
    fn set_open(&self) {
        self.set_if_unknown(Scheme::Open);
    }

    fn set_if_unknown(&self, new: Scheme) {
        let mut scheme = self.scheme.lock().unwrap_or_else(PoisonError::into_inner);
        scheme.get_or_insert(new);
    }

    /// Lets the first request to a host go alone while all others wait for its answer, so that only
    /// one of many concurrent requests is answered with a challenge. The others proceed after the
    /// first answer, whatever it is.
    async fn wait_for_first(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if self.scheme().is_some() {
            return None;
        }
        if let Ok(first) = self.first_request.try_lock() {
            return Some(first);
        }
        drop(self.first_request.lock().await);
        None
    }
}

/// What is known about all hosts, and all tokens.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
    tokens: Tokens,
}

impl Auth {
    pub(crate) fn expect_basic(&self, origin: &Url) {
        self.host(origin).set(Scheme::Basic);
    }

    /// Records that the host speaks another URL scheme. What is known about its authentication
    /// stays.
    fn moved(&self, from: &Url, to: &Url) {
        if from.scheme() != to.scheme()
            && let Some(scheme) = self.host(from).scheme()
        {
            self.host(to).set_if_unknown(scheme);
        }
    }

    fn host(&self, origin: &Url) -> Arc<HostState> {
        let key = origin.origin().ascii_serialization();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(key).or_default())
    }
}
