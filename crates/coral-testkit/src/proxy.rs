//! A reverse proxy that forwards requests unchanged and counts them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::registry::Recorded;
use crate::registry::log::{RequestLog, Traffic};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

/// Forwards plain HTTP to one upstream and records every request. `GET` and `DELETE` of
/// `/_control/requests` read and clear the record.
#[derive(Debug, Clone)]
pub struct CountingProxy {
    log: Arc<RequestLog>,
    addr: SocketAddr,
    _guard: Arc<DropGuard>,
}

/// The upstream connection of one client connection, which is reused.
struct Line {
    upstream: Arc<str>,
    log: Arc<RequestLog>,
    sender: Mutex<Option<SendRequest<Body>>>,
}

impl CountingProxy {
    /// Listens on a port of its own on loopback.
    pub async fn start(upstream: &str) -> io::Result<Self> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), upstream).await
    }

    /// Listens where it is told, and forwards to `upstream`, `host:port`.
    pub async fn start_on(listen: SocketAddr, upstream: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let log = Arc::new(RequestLog::default());
        let stop = CancellationToken::new();
        tokio::spawn(accept(
            listener,
            Arc::from(upstream),
            Arc::clone(&log),
            stop.clone(),
        ));
        Ok(Self {
            log,
            addr,
            _guard: Arc::new(stop.drop_guard()),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every request since the start, or since they were cleared.
    pub fn requests(&self) -> Vec<Recorded> {
        self.log.snapshot()
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
        self.log.clear();
    }
}

/// Passes a body on unchanged and adds its bytes to one of the counters.
fn counted(body: Incoming, traffic: Arc<Traffic>, which: fn(&Traffic) -> &AtomicU64) -> Body {
    body.map_frame(move |frame| {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        which(&traffic).fetch_add(bytes as u64, Ordering::Relaxed);
        frame
    })
    .boxed_unsync()
}

async fn accept(
    listener: TcpListener,
    upstream: Arc<str>,
    log: Arc<RequestLog>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        let (upstream, log) = (Arc::clone(&upstream), Arc::clone(&log));
        let line = Arc::new(Line {
            upstream,
            log,
            sender: Mutex::default(),
        });
        let stop = stop.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let line = Arc::clone(&line);
                async move { line.forward(request).await }
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = serving => {}
            }
        });
    }
}

impl Line {
    async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        if request.uri().path() == "/_control/requests" {
            return Ok(self.control(request.method()));
        }
        let (head, body) = request.into_parts();
        let traffic = self.log.begin(&head);
        let mut sender = self.sender.lock().await;
        let connected = match sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        let connected = sender.insert(connected);
        connected.ready().await.map_err(io::Error::other)?;
        let request =
            Request::from_parts(head, counted(body, Arc::clone(&traffic), |t| &t.received));
        let response = connected
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        traffic
            .status
            .store(response.status().as_u16().into(), Ordering::Relaxed);
        self.log.changed();
        Ok(response.map(|body| counted(body, traffic, |t| &t.sent)))
    }

    async fn connect(&self) -> io::Result<SendRequest<Body>> {
        let stream = TcpStream::connect(&*self.upstream).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn control(&self, method: &http::Method) -> Response<Body> {
        if method == http::Method::DELETE {
            self.log.clear();
        }
        let body = serde_json::to_vec(&self.log.snapshot()).expect("a list of plain values");
        let body = Full::from(body)
            .map_err(|never| match never {})
            .boxed_unsync();
        Response::new(body)
    }
}
