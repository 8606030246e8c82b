//! The log lines of requests, at level debug.
//!
//! They contain no secret: of a URL only the path, since queries hold signatures and upload states;
//! of an `Authorization` only the scheme.

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::{Request, url_authority};
use crate::error::Error;
use crate::location;

/// A request in progress.
pub(super) struct Sent {
    host: String,
    path: String,
    authorization: &'static str,
    started: Instant,
}

impl Sent {
    pub(super) fn begin(request: &Request) -> Self {
        Self {
            host: url_authority(&request.url),
            path: request.url.path().to_owned(),
            authorization: auth_scheme(request.authorization.as_ref()),
            started: Instant::now(),
        }
    }

    pub(super) fn answered(&self, request: &Request, status: StatusCode) {
        tracing::debug!(
            method = %request.method, host = %self.host, path = %self.path, status = status.as_u16(),
            ms = milliseconds(self.started), attempt = request.attempt, authorization = self.authorization,
            asked = %request.asked, "request answered"
        );
    }

    pub(super) fn failed(&self, request: &Request, error: &Error) {
        tracing::debug!(
            method = %request.method, host = %self.host, path = %self.path, %error, category = %error.category(),
            ms = milliseconds(self.started), attempt = request.attempt, authorization = self.authorization,
            asked = %request.asked, "request failed"
        );
    }
}

pub(super) fn redirected(request: &Request, status: StatusCode, target: &Url) {
    let keeps_authorization =
        request.authorization.is_some() && location::same_origin(&request.url, target);
    tracing::debug!(
        host = %url_authority(&request.url), path = %request.url.path(), status = status.as_u16(),
        to = %location::shown(target), keeps_authorization, asked = %request.asked,
        "redirect followed"
    );
}

/// Milliseconds as a number, so that machines can compare them.
fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn auth_scheme(authorization: Option<&HeaderValue>) -> &'static str {
    match authorization.map(HeaderValue::as_bytes) {
        None => "none",
        Some(value) if value.starts_with(b"Basic ") => "basic",
        Some(_) => "token",
    }
}
