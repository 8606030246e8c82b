//! Probes a registry step by step, to find the step that fails.

mod certificate;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coral_image::Host;
use http::header::DATE;
use jiff::{SignedDuration, Timestamp};
use tokio::net::{TcpStream, lookup_host};
use url::Url;

use crate::client::Client;
use crate::credentials::Credentials;
use crate::error::{Error, Problem};
use crate::rate_limit::RateLimit;
use crate::transport::{Proxy, Request, Response, Transport};

pub use certificate::Certificate;

/// The result of a probe. A step that was not reached is `None`.
#[derive(Debug)]
pub struct Probe {
    /// The proxy in between (host and port, without its credential). `addresses` and `connection`
    /// are then those of the proxy.
    pub proxy: Option<String>,
    /// The addresses that the name resolves to.
    pub addresses: Result<Vec<IpAddr>, Error>,
    /// The address that accepted the connection.
    pub connection: Option<Result<SocketAddr, Error>>,
    /// The registry's certificate; `None` inside for plain HTTP.
    pub tls: Option<Result<Option<Certificate>, Error>>,
    /// The result of `GET /v2/`, with the credentials for the host, or anonymously without any.
    pub answer: Option<Result<(), Error>>,
    /// How far this machine's clock is ahead of the registry's, accurate to a second or two.
    pub clock_ahead: Option<SignedDuration>,
    /// The rate limit that the registry reports. Docker Hub reports one only for the manifests of a
    /// repository.
    pub rate_limit: Option<RateLimit>,
}

impl Probe {
    fn new(proxy: Option<String>, addresses: Result<Vec<IpAddr>, Error>) -> Self {
        Self {
            proxy,
            addresses,
            connection: None,
            tls: None,
            answer: None,
            clock_ahead: None,
            rate_limit: None,
        }
    }
}

impl Client {
    /// Probes a registry over a separate connection. The first step that fails ends the probe.
    pub async fn probe(&self, host: &Host, credentials: &Credentials) -> Result<Probe, Error> {
        let options = |problem: Problem| Error::new(host, "looking at it", problem);
        let base = self.base(host).map_err(options)?;
        let transport = self.transport.probing()?;
        let proxy = transport.proxy_for(&base);
        let mut probe = Probe::new(proxy.as_ref().map(Proxy::to_string), Ok(Vec::new()));
        let (name, port) = match &proxy {
            Some(proxy) => (proxy.host().to_owned(), proxy.port()),
            None => target(&base),
        };
        let addresses = resolve(&name, port).await;
        probe.addresses = addresses
            .as_ref()
            .map(|found| found.iter().map(SocketAddr::ip).collect())
            .map_err(|problem| {
                Error::new(
                    host,
                    "resolving its name",
                    Problem::Dns {
                        cause: problem.clone(),
                    },
                )
            });
        let Ok(addresses) = addresses else {
            return Ok(probe);
        };
        let connected = connect(&addresses, transport.connect_timeout).await;
        let connected = connected.map_err(|problem| {
            Error::new(host, format_args!("connecting to {name}:{port}"), problem)
        });
        let reached = connected.is_ok();
        probe.connection = Some(connected);
        if reached {
            let base = transport.with_detected_scheme(base).await;
            self.ask(&mut probe, &transport, base, host, credentials)
                .await;
        }
        Ok(probe)
    }

    async fn ask(
        &self,
        probe: &mut Probe,
        transport: &Transport,
        base: Url,
        host: &Host,
        credentials: &Credentials,
    ) {
        let plain = base.scheme() == "http";
        let sent = Timestamp::now();
        match transport
            .send(Request::unauthenticated(base, "asking /v2/"))
            .await
        {
            Ok(response) => {
                probe.tls = Some(Ok((!plain)
                    .then(|| certificate::from_response(&response))
                    .flatten()));
                probe.clock_ahead = clock_ahead(&response, sent, Timestamp::now());
            }
            Err(error) => {
                probe.tls = Some(Err(error));
                return;
            }
        }
        probe.answer = Some(self.ping(host, credentials).await);
        probe.rate_limit = *self.rate_limit(host).borrow();
    }
}

fn target(base: &Url) -> (String, u16) {
    let name = base.host_str().unwrap_or_default();
    let name = name
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    (name, base.port_or_known_default().unwrap_or(443))
}

async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host((name, port))
        .await
        .map_err(|error| error.to_string())?;
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err("no address".to_owned());
    }
    Ok(found)
}

/// Connects to the first address that accepts a connection.
async fn connect(addresses: &[SocketAddr], limit: Duration) -> Result<SocketAddr, Problem> {
    let mut failed = Problem::ConnectTimeout(limit);
    for address in addresses {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(*address),
            Ok(Err(error)) => {
                failed = Problem::Connect {
                    cause: error.to_string(),
                }
            }
            Err(_) => failed = Problem::ConnectTimeout(limit),
        }
    }
    Err(failed)
}

/// Compares the answer's `Date` (whole seconds) with the middle of the request's duration.
fn clock_ahead(response: &Response, sent: Timestamp, came: Timestamp) -> Option<SignedDuration> {
    let there = jiff::fmt::rfc2822::parse(response.header(DATE)?)
        .ok()?
        .timestamp();
    let middle = sent.checked_add(came.duration_since(sent) / 2).ok()?;
    Some(middle.duration_since(there))
}
