//! Registries on this machine: HTTPS is tried first, then plain HTTP, as other clients do.
//!
//! Only hosts without options are tried. A host that once spoke TLS is never contacted over plain
//! HTTP afterwards, and an untrusted certificate is an error, not a reason to continue without TLS.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use url::Url;

use super::connections::{is_loopback, url_authority};
use super::{Request, Transport};
use crate::error::{Category, Error};
use crate::options::HostOptions;

/// Most hosts that are remembered. A machine has few registries; a forgotten one is tried again.
const MOST_HOSTS: usize = 256;

/// The purpose of the request, for the log.
const ASKED: &str = "asking whether it speaks TLS";

/// The protocol that a registry speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tls,
    PlainHttp,
}

/// The protocol that each registry on loopback was found to speak, by host and port.
#[derive(Debug, Default)]
pub(super) struct Loopback(Mutex<HashMap<String, Protocol>>);

impl Loopback {
    fn get(&self, url: &Url) -> Option<Protocol> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&url_authority(url)).copied()
    }

    fn set(&self, url: &Url, spoken: Protocol) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_HOSTS {
            known.retain(|_, spoken| *spoken == Protocol::Tls);
        }
        known.insert(url_authority(url), spoken);
    }

    fn forget(&self, url: &Url) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&url_authority(url)) == Some(&Protocol::PlainHttp) {
            known.remove(&url_authority(url));
        }
    }

    pub(super) fn speaks_plain_http(&self, url: &Url) -> bool {
        is_loopback(url) && self.get(url) == Some(Protocol::PlainHttp)
    }
}

impl Transport {
    /// The same URL with the scheme that its host was found to speak, if it is on loopback.
    pub(crate) fn with_known_scheme(&self, mut url: Url) -> Url {
        if url.scheme() == "https" && self.loopback.speaks_plain_http(&url) {
            // Cannot fail: both are special schemes.
            let _ = url.set_scheme("http");
        }
        url
    }

    /// Whether a host on loopback has not yet been asked for its protocol.
    pub(crate) fn is_undetected(&self, url: &Url) -> bool {
        url.scheme() == "https"
            && is_loopback(url)
            && self.loopback.get(url).is_none()
            && self.connections.options_for(url) == HostOptions::default()
    }

    /// The same URL with the scheme that its host speaks. A host on loopback is asked for it once.
    pub(crate) async fn with_detected_scheme(&self, url: Url) -> Url {
        if self.is_undetected(&url)
            && let Some(spoken) = self.detect(&url).await
        {
            self.loopback.set(&url, spoken);
        }
        self.with_known_scheme(url)
    }

    /// Forgets the protocol after a failure, because the registry may speak TLS by now.
    pub(crate) fn forget_plain_http(&self, url: &Url) {
        self.loopback.forget(url);
    }

    async fn detect(&self, url: &Url) -> Option<Protocol> {
        let mut base = url.clone();
        base.set_path("/v2/");
        base.set_query(None);
        match self
            .send_unlogged(&mut Request::unauthenticated(base.clone(), ASKED))
            .await
        {
            Ok(_) => return Some(Protocol::Tls),
            Err(error) if may_be_plain(&error) => {}
            // Any other failure is reported by the request that is about to be sent.
            Err(_) => return None,
        }
        let _ = base.set_scheme("http");
        self.send_unlogged(&mut Request::unauthenticated(base, ASKED))
            .await
            .ok()?;
        let host = url_authority(url);
        tracing::debug!(host, "the registry on loopback speaks plain HTTP");
        Some(Protocol::PlainHttp)
    }
}

/// Some servers answer a TLS handshake by closing the connection.
fn may_be_plain(error: &Error) -> bool {
    error.is_not_tls() || matches!(error.category(), Category::Connect | Category::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ClientOptions;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test]
    async fn plain_http_is_never_spoken_to_another_machine_nor_where_tls_was_spoken_once() {
        let transport = Transport::new(ClientOptions::default()).unwrap();
        let other = url("https://reg.example:5000/v2/");
        transport.loopback.set(&other, Protocol::PlainHttp);
        assert_eq!(transport.with_detected_scheme(other.clone()).await, other);
        assert!(!transport.allows_plain_http(&other));
        let own = url("https://127.0.0.1:5000/v2/");
        transport.loopback.set(&own, Protocol::Tls);
        transport.forget_plain_http(&own);
        assert_eq!(transport.with_detected_scheme(own.clone()).await, own);
        transport.loopback.set(&own, Protocol::PlainHttp);
        assert_eq!(
            transport.with_detected_scheme(own.clone()).await,
            url("http://127.0.0.1:5000/v2/")
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let loopback = Loopback::default();
        for port in 1..=2000 {
            let own = url(&format!("https://127.0.0.1:{port}/"));
            loopback.set(&own, Protocol::PlainHttp);
        }
        assert!(loopback.0.lock().unwrap().len() <= MOST_HOSTS);
    }
}
