//! A whole registry in memory, on loopback, with faults.

mod api;
mod auth;
mod control;
mod exchange;
mod fault;
mod line;
mod listen;
mod reply;
mod route;
mod store;
mod tamper;
mod tls;

pub(crate) mod log;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coral_image::Digest;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::image::Built;
use api::Features;
use exchange::{Settings, Shared, lock};

pub use auth::{Auth, Bearer};
pub use fault::{Effect, Fault, Match, Throttle, Times};
pub use log::Recorded;

/// How a registry starts.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of a server for tests"
)]
pub struct Options {
    /// Where it listens; port 0 picks one.
    pub listen: SocketAddr,
    /// HTTPS with a CA of its own.
    pub tls: bool,
    /// With TLS: ask clients for a certificate of the same CA.
    pub client_auth: bool,
    /// With TLS: offer HTTP/2.
    pub http2: bool,
    /// What it asks of clients.
    pub auth: Auth,
    /// Whether the referrers API is there.
    pub referrers: bool,
    /// Most tags in one page.
    pub page_size: usize,
    /// Whether it can be steered over HTTP, under `/_control/`.
    pub control: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: false,
            client_auth: false,
            http2: false,
            auth: Auth::None,
            referrers: true,
            page_size: 100,
            control: false,
        }
    }
}

/// The registry. It ends, with every connection, when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct FaultRegistry {
    shared: Arc<Shared>,
    addr: SocketAddr,
    ca_pem: Option<String>,
    client_pem: Option<(String, String)>,
    _guard: Arc<DropGuard>,
}

impl FaultRegistry {
    /// Plain HTTP, no authorization, an address of its own on loopback.
    pub async fn start() -> Self {
        Self::start_with(Options::default())
            .await
            .expect("loopback has a free port")
    }

    /// The same over TLS; [`FaultRegistry::ca_pem`] is what clients have to trust.
    pub async fn start_tls() -> Self {
        let options = Options {
            tls: true,
            ..Options::default()
        };
        Self::start_with(options)
            .await
            .expect("loopback has a free port")
    }

    /// The same over plain HTTP, asking for this.
    pub async fn start_with_auth(auth: Auth) -> Self {
        let options = Options {
            auth,
            ..Options::default()
        };
        Self::start_with(options)
            .await
            .expect("loopback has a free port")
    }

    /// Starts as it is told.
    pub async fn start_with(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let wanted = tls::Wanted {
            client_auth: options.client_auth,
            http2: options.http2,
        };
        let tls = options.tls.then(|| tls::make(wanted)).transpose()?;
        let scheme = if options.tls { "https" } else { "http" };
        let features = Features {
            referrers: options.referrers,
            page_size: options.page_size,
        };
        let shared = Arc::new(Shared {
            url: format!("{scheme}://{addr}"),
            control: options.control,
            store: Mutex::default(),
            settings: Mutex::new(Settings {
                auth: options.auth,
                features,
            }),
            tokens: Mutex::default(),
            faults: fault::FaultList::default(),
            line: Arc::default(),
            log: log::RequestLog::default(),
            gates: Mutex::default(),
            connections: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        tokio::spawn(listen::accept(
            listener,
            tls.as_ref().map(|tls| tls.acceptor.clone()),
            Arc::clone(&shared),
            stop.clone(),
        ));
        Ok(Self {
            shared,
            addr,
            ca_pem: tls.as_ref().map(|tls| tls.ca_pem.clone()),
            client_pem: tls.map(|tls| tls.client_pem),
            _guard: Arc::new(stop.drop_guard()),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `127.0.0.1:port`, as it stands in references.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// Scheme and host.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// The certificate of its CA, if it speaks TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// A certificate of its CA for a client, and the key, if it speaks TLS.
    pub fn client_pem(&self) -> Option<(&str, &str)> {
        let (certificate, key) = self.client_pem.as_ref()?;
        Some((certificate, key))
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Puts an image into a repository.
    pub fn load(&self, path: &str, built: &Built) {
        lock(&self.shared.store).load(path, built);
    }

    /// Adds a fault to the end of the list.
    pub fn fault(&self, fault: Fault) {
        self.shared.faults.add(fault);
    }

    /// Takes every fault away.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Opens a gate of [`Effect::Hold`], for all who wait there and all who come.
    pub fn release(&self, gate: &str) {
        self.shared.gate(gate).close();
    }

    /// Changes what it asks of clients. Issued tokens stay valid.
    pub fn set_auth(&self, auth: Auth) {
        lock(&self.shared.settings).auth = auth;
    }

    /// Switches the referrers API on or off.
    pub fn set_referrers(&self, there: bool) {
        lock(&self.shared.settings).features.referrers = there;
    }

    /// Tokens given out.
    pub fn tokens_issued(&self) -> u64 {
        lock(&self.shared.tokens).count
    }

    /// Every request since the start, or since they were cleared.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.log.snapshot()
    }

    /// How many requests are like this.
    pub fn count(&self, like: impl Fn(&Recorded) -> bool) -> usize {
        self.requests()
            .iter()
            .filter(|request| like(request))
            .count()
    }

    /// Forgets the requests.
    pub fn clear_requests(&self) {
        self.shared.log.clear();
    }

    /// Waits until the requests are as `condition` wants them.
    pub async fn wait_for(&self, condition: impl Fn(&[Recorded]) -> bool) {
        self.shared.log.wait_for(condition).await;
    }

    /// A manifest by tag or digest: its type and its bytes.
    pub fn manifest(&self, path: &str, reference: &str) -> Option<(String, Bytes)> {
        let store = lock(&self.shared.store);
        let repository = store.repository(path)?;
        let stored = repository.manifests.get(&repository.resolve(reference)?)?;
        Some((stored.media_type.clone(), stored.bytes.clone()))
    }

    /// A blob of a repository.
    pub fn blob(&self, path: &str, digest: &Digest) -> Option<Bytes> {
        lock(&self.shared.store)
            .repository(path)?
            .blobs
            .get(digest)
            .cloned()
    }

    /// Deletes a blob of a repository, as a broken disk does.
    pub fn lose_blob(&self, path: &str, digest: &Digest) {
        lock(&self.shared.store).make(path).blobs.remove(digest);
    }

    /// Puts other bytes under a blob's digest, as disks do.
    pub fn spoil_blob(&self, path: &str, digest: &Digest, bytes: impl Into<Bytes>) {
        let mut store = lock(&self.shared.store);
        store.make(path).blobs.insert(*digest, bytes.into());
    }

    /// The tags of a repository, and what they name.
    pub fn tags(&self, path: &str) -> BTreeMap<String, Digest> {
        lock(&self.shared.store)
            .repository(path)
            .map(|r| r.tags.clone())
            .unwrap_or_default()
    }

    /// The repositories that anything was put into.
    pub fn repositories(&self) -> Vec<String> {
        lock(&self.shared.store)
            .repositories
            .keys()
            .cloned()
            .collect()
    }

    /// The first thing of `built` that is missing here or differs: none if all of it is here,
    /// byte for byte.
    pub fn difference(&self, path: &str, built: &Built) -> Option<String> {
        lock(&self.shared.store).difference(path, built)
    }
}
