//! Serving connections.

mod connections;
mod refusal;
mod watched;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
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
use tokio_util::sync::CancellationToken;

pub use self::connections::Connections;
use self::connections::Place;
use self::refusal::Refusals;
use self::watched::Watched;
use crate::front::{Peer, Wire};
use crate::tls::Tls;

/// How long requests may go on after the shutdown was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which mostly means: too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are served.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// Whether they are encrypted.
    pub tls: Tls,
    /// How many there may be.
    pub connections: Connections,
    /// How long clients may take.
    pub timeouts: Timeouts,
}

/// How long clients may take until their connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the handshake of TLS.
    pub handshake: Duration,
    /// To send the head of a request; also how long an idle connection is kept.
    pub head: Duration,
    /// To take some part of the answer: what counts is that it goes on, not how long it takes in
    /// all.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(15),
            head: Duration::from_secs(75),
            answer: Duration::from_mins(2),
        }
    }
}

/// Serves `router` on `listener` until `shutdown`, and then up to ten seconds longer for the
/// requests that are running.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    serving: Serving,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let server = Server {
        builder: Arc::new(builder(serving.timeouts)),
        router: TowerToHyperService::new(router),
        tls: serving.tls,
        timeouts: serving.timeouts,
    };
    let graceful = GracefulShutdown::new();
    let mut refusals = Refusals::new();
    while let Some((stream, peer)) = next(&listener, &shutdown).await {
        if let Some(place) = serving.connections.place() {
            server.spawn(stream, peer, graceful.watcher(), place);
        } else {
            refusals.refuse(stream, &server.tls, serving.connections.most());
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

/// The next connection; `None` when it is time to end.
async fn next(
    listener: &TcpListener,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    let accepted = async {
        loop {
            match listener.accept().await {
                // Without `TCP_NODELAY`, small answers wait 40 ms for the client's acknowledgement.
                Ok(accepted) if accepted.0.set_nodelay(true).is_ok() => return accepted,
                // The client is gone already.
                Ok(_) => {}
                Err(error) => pause(&error).await,
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
    builder: Arc<Builder<TokioExecutor>>,
    router: TowerToHyperService<Router>,
    tls: Tls,
    timeouts: Timeouts,
}

impl Server {
    fn spawn(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher, place: Place) {
        let acceptor = self.tls.acceptor();
        let service = Served {
            router: self.router.clone(),
            peer: Peer(peer.ip()),
            wire: match acceptor {
                Some(_) => Wire::Processed,
                None => Wire::Untouched,
            },
        };
        let (builder, timeouts) = (Arc::clone(&self.builder), self.timeouts);
        tokio::spawn(async move {
            let ended = match acceptor {
                None => connection(&builder, stream, service, watcher, timeouts).await,
                Some(acceptor) => match handshake(&acceptor, stream, timeouts).await {
                    Ok(stream) => connection(&builder, stream, service, watcher, timeouts).await,
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = ended {
                tracing::debug!(error, "connection ended");
            }
            drop(place);
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
    stream: T,
    service: Served,
    watcher: Watcher,
    timeouts: Timeouts,
) -> Result<(), Failure> {
    let stream = TokioIo::new(Watched::new(stream, timeouts));
    let connection = builder.serve_connection(stream, service);
    watcher.watch(connection.into_owned()).await
}

/// The router, which is told who asks, and over what.
#[derive(Clone)]
struct Served {
    router: TowerToHyperService<Router>,
    peer: Peer,
    wire: Wire,
}

impl Service<Request<Incoming>> for Served {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(self.wire);
        self.router.call(request)
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

async fn pause(error: &io::Error) {
    let of_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !of_client {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
