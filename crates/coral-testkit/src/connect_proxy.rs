//! A forward proxy, as companies use between their networks and the internet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// No client sends a longer head.
const MAX_HEAD: usize = 64 * 1024;

/// Accepts `CONNECT` and requests in absolute form, and forwards all of them to one address,
/// whatever name they ask for. The names need not exist.
#[derive(Debug, Clone)]
pub struct ConnectProxy {
    shared: Arc<Shared>,
    addr: SocketAddr,
    _guard: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    /// `name:password` that it asks for.
    user: Option<String>,
    asked: Mutex<Vec<String>>,
    more: Notify,
}

impl ConnectProxy {
    /// Listens on a port of its own on loopback and leads to `upstream`, `host:port`; with `user`
    /// (`name:password`) for that one only.
    pub async fn start(upstream: &str, user: Option<&str>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            user: user.map(ToOwned::to_owned),
            asked: Mutex::default(),
            more: Notify::new(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self {
            shared,
            addr,
            _guard: Arc::new(stop.drop_guard()),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The requests so far, one line per connection: `CONNECT registry.test:443`, `GET http://…`.
    /// The line of a refused request ends in `407`.
    pub fn asked(&self) -> Vec<String> {
        self.shared.lock().clone()
    }
}

impl ConnectProxy {
    /// Passes on each request line as it arrives, for ever.
    pub async fn tell(&self, mut with: impl FnMut(&str)) {
        let mut told = 0;
        loop {
            let mut more = std::pin::pin!(self.shared.more.notified());
            more.as_mut().enable();
            for asked in self.asked().iter().skip(told) {
                with(asked);
                told += 1;
            }
            more.await;
        }
    }
}

impl Shared {
    fn record(&self, asked: String) {
        self.lock().push(asked);
        self.more.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, head: &str) -> bool {
        let Some(user) = &self.user else { return true };
        let right = format!("proxy-authorization: basic {}", STANDARD.encode(user));
        head.lines().any(|line| line.eq_ignore_ascii_case(&right))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // A broken connection is the concern of its two ends.
                _ = lead(stream, &shared) => {}
            }
        });
    }
}

async fn lead(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let head = read_head(&mut client).await?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let asked = line
        .rsplit_once(' ')
        .map_or(line, |(asked, _)| asked)
        .to_owned();
    if !shared.knows(&text) {
        shared.record(format!("{asked} 407"));
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                       proxy-authenticate: Basic realm=\"proxy\"\r\ncontent-length: 0\r\n\r\n";
        return client.write_all(refusal.as_bytes()).await;
    }
    let tunnel = asked.starts_with("CONNECT ");
    shared.record(asked);
    let mut upstream = TcpStream::connect(&shared.upstream).await?;
    if tunnel {
        client
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
    } else {
        // A server takes the absolute form as well.
        upstream.write_all(&head).await?;
    }
    copy_bidirectional(&mut client, &mut upstream)
        .await
        .map(drop)
}

async fn read_head(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(client.read_u8().await?);
    }
    Ok(head)
}
