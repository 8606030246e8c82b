//! The HTTP server of every role: one listener with TLS, connection limits and timeouts.
//!
//! [`serve`] puts two values into the extensions of each request: [`Peer`], the address of the
//! client, and [`Transport`], whether the connection is encrypted. A request that does not say which
//! host it is for ([`RequestHost`]) is refused with 400.

mod connections;
mod host;
mod metrics;
mod overload;
mod repeated;
mod timed;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use self::connections::Permit;
pub use self::connections::{Connections, network_of};
pub use self::host::{HostError, RequestHost};
pub use self::overload::Overload;
use self::overload::{RESERVE_TIME, RESERVE_TIMEOUTS, Reserve};
pub use self::repeated::RepeatedEvent;
use self::timed::TimedStream;
use crate::tls::Tls;

/// How long running requests may continue after the shutdown was requested.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after a failed accept. The usual cause is "too many open files", which takes time to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of the client that sent a request. An extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Whether the connection of a request is encrypted. An extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The bytes of a body reach the kernel unchanged.
    Plain,
    /// TLS.
    Encrypted,
}

/// How connections are served.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// Whether connections are encrypted, and the certificate.
    pub tls: Tls,
    /// How many connections are served at once.
    pub connections: Connections,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// How much is read from a connection at once.
    pub read_limit: ReadLimit,
    /// The response to a client when no more connections are served.
    pub overload: Overload,
}

/// How many bytes one read of a connection returns at most. It is asked before each read, so that
/// a server can shrink its read buffers while many clients send at once.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit(pub fn() -> u64);

impl Default for ReadLimit {
    /// No limit but that of the HTTP library.
    fn default() -> Self {
        Self(|| u64::MAX)
    }
}

/// How long a client may take until its connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// To send the head of a request; also how long an idle connection is kept.
    pub head: Duration,
    /// To accept at least 32 KiB of the response. A slow download that makes progress may take any
    /// time.
    pub response: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(15),
            head: Duration::from_secs(75),
            response: Duration::from_mins(2),
        }
    }
}

/// Serves `router` on `listener` until `shutdown` is cancelled, then waits up to ten seconds for
/// the running requests.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    serving: Serving,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let server = Server {
        router: TowerToHyperService::new(router),
        tls: serving.tls,
        read_limit: serving.read_limit,
        usual: ConnectionPolicy::usual(serving.timeouts),
        reserve: ConnectionPolicy::reserve(serving.overload),
    };
    let graceful = GracefulShutdown::new();
    let mut reserve = Reserve::new(serving.overload);
    let mut failures = RepeatedEvent::default();
    while let Some((stream, peer)) = next(&listener, &shutdown, &mut failures).await {
        match serving.connections.acquire(peer.ip()) {
            Ok(permit) => server.spawn(stream, peer, graceful.watcher(), permit, &server.usual),
            Err(refused) => {
                if let Some(permit) = reserve.acquire(refused, peer.ip()) {
                    server.spawn(stream, peer, graceful.watcher(), permit, &server.reserve);
                }
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            "requests were still running {} s after the shutdown",
            GRACE.as_secs()
        );
    }
    Ok(())
}

/// The next connection; `None` after the shutdown.
async fn next(
    listener: &TcpListener,
    shutdown: &CancellationToken,
    failures: &mut RepeatedEvent,
) -> Option<(TcpStream, SocketAddr)> {
    let accepted = async {
        loop {
            match listener.accept().await {
                // Without `TCP_NODELAY`, small responses wait 40 ms for the client's
                // acknowledgement.
                Ok(accepted) if accepted.0.set_nodelay(true).is_ok() => return accepted,
                // The client has closed the connection already.
                Ok(_) => {}
                Err(error) => pause(&error, failures).await,
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => None,
        accepted = accepted => Some(accepted),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What all connections share.
struct Server {
    router: TowerToHyperService<Router>,
    tls: Tls,
    read_limit: ReadLimit,
    usual: ConnectionPolicy,
    reserve: ConnectionPolicy,
}

/// How one kind of connection is served.
#[derive(Clone)]
struct ConnectionPolicy {
    builder: Arc<Builder<TokioExecutor>>,
    timeouts: Timeouts,
    /// Set for the reserve: only health requests are served, for a short time.
    overload: Option<Overload>,
}

impl ConnectionPolicy {
    fn usual(timeouts: Timeouts) -> Self {
        Self {
            builder: Arc::new(builder(timeouts)),
            timeouts,
            overload: None,
        }
    }

    fn reserve(overload: Overload) -> Self {
        let mut builder = builder(RESERVE_TIMEOUTS);
        builder.http1().keep_alive(false);
        Self {
            builder: Arc::new(builder),
            timeouts: RESERVE_TIMEOUTS,
            overload: Some(overload),
        }
    }
}

impl Server {
    fn spawn(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: Watcher,
        permit: Permit,
        policy: &ConnectionPolicy,
    ) {
        let acceptor = self.tls.acceptor();
        let service = ConnectionService {
            router: self.router.clone(),
            peer: Peer(peer.ip()),
            transport: match acceptor {
                Some(_) => Transport::Encrypted,
                None => Transport::Plain,
            },
            overload: policy.overload,
        };
        let (policy, limit) = (policy.clone(), self.read_limit);
        tokio::spawn(async move {
            let timeouts = policy.timeouts;
            let served = async {
                let Some(acceptor) = acceptor else {
                    let stream = TimedStream::new(stream, timeouts, limit);
                    return connection(&policy.builder, stream, service, watcher).await;
                };
                let stream = handshake(&acceptor, stream, timeouts).await?;
                let stream = TimedStream::new(stream, timeouts, limit);
                connection(&policy.builder, stream, service, watcher).await
            };
            let ended = if policy.overload.is_some() {
                let served = tokio::time::timeout(RESERVE_TIME, served).await;
                served.unwrap_or_else(|late| Err(late.into()))
            } else {
                served.await
            };
            if let Err(error) = ended {
                tracing::debug!(error, "connection ended");
            }
            drop(permit);
        });
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    timeouts: Timeouts,
) -> io::Result<TlsStream<TcpStream>> {
    tokio::time::timeout(timeouts.handshake, acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    builder: &Builder<TokioExecutor>,
    stream: TimedStream<T>,
    service: ConnectionService,
    watcher: Watcher,
) -> Result<(), Failure> {
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection.into_owned()).await
}

/// The router of one connection. It adds the extensions to each request.
#[derive(Clone)]
struct ConnectionService {
    router: TowerToHyperService<Router>,
    peer: Peer,
    transport: Transport,
    /// Set on connections of the reserve.
    overload: Option<Overload>,
}

type RouterFuture = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;
type RefusalFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<RouterFuture, RefusalFuture>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(overload) = self.overload
            && !overload::is_health(&request)
        {
            let refused = async move { Ok(overload::refuse(overload, request).await) };
            return Either::Right(Box::pin(refused));
        }
        let host = RequestHost::from_request(request.uri(), request.version(), request.headers());
        if let Err(error) = host {
            let refused = host::refuse(error, request.version());
            return Either::Right(Box::pin(async move { Ok(refused) }));
        }
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.transport);
        Either::Left(self.router.call(request))
    }
}

fn builder(timeouts: Timeouts) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(timeouts.head);
    builder
}

async fn pause(error: &io::Error, failures: &mut RepeatedEvent) {
    let is_clients = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !is_clients {
        if let Some(failed) = failures.count(Instant::now()) {
            tracing::warn!(%error, failed, "cannot accept connections");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
