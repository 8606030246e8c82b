//! Serving connections.

mod connections;

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
use crate::front::{Peer, Wire};
use crate::tls::Tls;

/// A client that takes longer to send the head of a request is cut off; also how long an idle
/// connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// A client that takes longer for the handshake of TLS is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
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
}

/// Serves `router` on `listener` until `shutdown`, and then up to ten seconds longer for the
/// requests that are running.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    serving: Serving,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let builder = Arc::new(builder());
    let graceful = GracefulShutdown::new();
    while let Some((stream, peer, place)) = next(&listener, &serving.connections, &shutdown).await {
        let (builder, watcher) = (Arc::clone(&builder), graceful.watcher());
        let acceptor = serving.tls.acceptor();
        let service = Served {
            router: TowerToHyperService::new(router.clone()),
            peer: Peer(peer.ip()),
            wire: match acceptor {
                Some(_) => Wire::Processed,
                None => Wire::Untouched,
            },
        };
        tokio::spawn(async move {
            // Without `TCP_NODELAY`, small answers wait 40 ms for the client's acknowledgement.
            let ended = match (stream.set_nodelay(true), acceptor) {
                (Err(error), _) => Err(error.into()),
                (Ok(()), None) => connection(&builder, stream, service, watcher).await,
                (Ok(()), Some(acceptor)) => match handshake(&acceptor, stream).await {
                    Ok(stream) => connection(&builder, stream, service, watcher).await,
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = ended {
                tracing::debug!(error, "connection ended");
            }
            drop(place);
        });
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

/// The next connection, once there is a place for it; `None` when it is time to end.
async fn next(
    listener: &TcpListener,
    connections: &Connections,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, Place)> {
    let accepted = async {
        let place = connections.place().await;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, place),
                Err(error) => pause(&error).await,
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => None,
        accepted = accepted => Some(accepted),
    }
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    builder: &Builder<TokioExecutor>,
    stream: T,
    service: Served,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connection = builder.serve_connection(TokioIo::new(stream), service);
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

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADER_TIMEOUT);
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
