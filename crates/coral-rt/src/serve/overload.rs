//! Connections above a limit. A few of them are served for a short time from a reserve: health
//! requests are answered as always, everything else with 503.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, RETRY_AFTER};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::Timeouts;
use super::connections::{Connections, LimitReached, Permit};
use super::repeated::RepeatedEvent;
use crate::health::HEALTH_PATHS;

/// How many connections above the limit are served at once; further ones are closed unanswered.
/// One address gets a quarter of them.
const RESERVE: usize = 64;
/// How long a connection of the reserve may last.
pub(super) const RESERVE_TIME: Duration = Duration::from_secs(8);
/// How long its client has for each step.
pub(super) const RESERVE_TIMEOUTS: Timeouts = Timeouts {
    handshake: Duration::from_secs(2),
    head: Duration::from_secs(2),
    response: Duration::from_secs(2),
};
/// How much of a refused request's body is read. A client that is still sending would not see the
/// response.
const MAX_DRAINED: usize = 64 * 1024;

/// The response to a client when no more connections are served.
#[derive(Debug, Clone, Copy)]
pub struct Overload {
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body of the 503.
    pub body: &'static str,
    /// For the log: how an administrator raises the limit.
    pub advice: &'static str,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            content_type: "text/plain; charset=utf-8",
            body: "too many connections are open; try again later\n",
            advice: "clients have to close some",
        }
    }
}

/// The connections above the limit.
#[derive(Debug)]
pub(super) struct Reserve {
    connections: Connections,
    advice: &'static str,
    all: RepeatedEvent,
    address: RepeatedEvent,
}

impl Reserve {
    pub(super) fn new(overload: Overload) -> Self {
        Self {
            connections: Connections::at_most(RESERVE),
            advice: overload.advice,
            all: RepeatedEvent::default(),
            address: RepeatedEvent::default(),
        }
    }

    /// Logs the refusal of a connection from `address`. Returns a permit to answer it, if there is
    /// one.
    pub(super) fn acquire(&mut self, refused: LimitReached, address: IpAddr) -> Option<Permit> {
        self.log(refused, address);
        self.connections.acquire(address).ok()
    }

    fn log(&mut self, refused: LimitReached, address: IpAddr) {
        let (now, advice) = (Instant::now(), self.advice);
        match refused {
            LimitReached::All { limit, busiest } => {
                if let Some(refused) = self.all.count(now) {
                    tracing::warn!(
                        limit,
                        refused,
                        %address,
                        %busiest,
                        "the limit of open connections is reached; further ones are refused with \
                         503 ({advice})"
                    );
                }
            }
            LimitReached::Address { limit } => {
                if let Some(refused) = self.address.count(now) {
                    tracing::warn!(
                        limit,
                        refused,
                        %address,
                        "one address has reached its limit of open connections; further ones are \
                         refused with 503 ({advice})"
                    );
                }
            }
        }
    }
}

/// Whether the reserve serves this request.
pub(super) fn is_health(request: &Request<Incoming>) -> bool {
    HEALTH_PATHS.contains(&request.uri().path())
}

/// The answer to every other request on a connection of the reserve.
pub(super) async fn refuse(overload: Overload, request: Request<Incoming>) -> http::Response<Body> {
    let (parts, mut body) = request.into_parts();
    // A client that waits for `100 Continue` sends nothing.
    let mut left = if parts.headers.contains_key(EXPECT) {
        0
    } else {
        MAX_DRAINED
    };
    while left > 0 {
        let Some(Ok(frame)) = body.frame().await else {
            break;
        };
        left = left.saturating_sub(frame.data_ref().map_or(1, bytes::Bytes::len));
    }
    let mut response = http::Response::new(Body::from(overload.body));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static(overload.content_type);
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    if parts.version <= http::Version::HTTP_11 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
