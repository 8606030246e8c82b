//! Connections: accepting them, TLS, and cutting them at a byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::exchange::Shared;

/// How many bytes a connection may still write; negative for any number.
#[derive(Debug, Clone)]
pub(super) struct WriteBudget(Arc<AtomicI64>);

impl WriteBudget {
    fn whole() -> Self {
        Self(Arc::new(AtomicI64::new(-1)))
    }

    pub(super) fn cut_after(&self, bytes: usize) {
        self.0
            .store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// A stream that fails once it has written what it may.
struct LimitedStream<T> {
    io: T,
    budget: WriteBudget,
}

impl<T: AsyncRead + Unpin> AsyncRead for LimitedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for LimitedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let left = self.budget.0.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let most = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..most]))?;
        if left > 0 {
            let written = i64::try_from(written).unwrap_or(i64::MAX);
            self.budget.0.store(left - written, Ordering::Relaxed);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Accepts until it is told to stop; connections end with it.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (tls, shared, stop) = (tls.clone(), Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(stream, tls, shared) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Small answers must not wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(stream, shared).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                http(stream, shared).await;
            }
        }
    }
}

async fn http<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: T, shared: Arc<Shared>) {
    let budget = WriteBudget::whole();
    let io = TokioIo::new(LimitedStream {
        io,
        budget: budget.clone(),
    });
    let service = service_fn(move |request| {
        let (shared, budget) = (Arc::clone(&shared), budget.clone());
        async move { shared.serve(request, &budget).await }
    });
    // A connection that ends in an error is what was asked for, or the client's doing.
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection(io, service)
        .await;
}
