//! Sends one request and follows redirects: no authentication, no retries.

mod activity;
mod answer;
mod connections;
mod failure;
mod log;
mod loopback;
mod min_rate;
mod proxy;
mod retry_after;
mod trust;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coral_image::Host;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use activity::{Activity, SourceError};
pub(crate) use answer::{clean, is_html, markup, read_document, refusal};
use connections::Connections;
pub(crate) use connections::url_authority;
pub(crate) use failure::classify;
use log::Sent;
use loopback::Loopback;
pub(crate) use min_rate::MinRate;
pub(crate) use proxy::Proxy;
#[cfg(fuzzing)]
pub(crate) use retry_after::wait_asked_for;
pub use trust::{certificates_as_pem, trusting};

use crate::auth::{KnownAuthorizations, repository_address};
use crate::blob_stream::BlobStream;
use crate::error::{Category, Error, Problem};
use crate::location;
use crate::options::ClientOptions;
use crate::page_sizes::PageSizes;
use crate::rate_limit::RateLimits;

/// More redirects than any registry needs.
const MAX_REDIRECTS: usize = 10;

/// The body of a request.
pub(crate) enum Body {
    Empty,
    Bytes(Bytes),
    /// A body that is sent to the URL's own origin only, like an authorization.
    Secret(Bytes),
    /// A body of known length that can be sent only once.
    Stream(u64, BlobStream),
}

/// A request, ready to be sent.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// Sent to the URL's own origin only, never across a redirect to another origin.
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) body: Body,
    /// The purpose of the request, for messages: `reading manifest library/debian:12`.
    pub(crate) asked: String,
    /// The number of this attempt, for the log; 1 for the first.
    pub(crate) attempt: u32,
    /// Authorizations to send instead of `authorization` where a redirect leads to these
    /// repositories.
    pub(crate) elsewhere: KnownAuthorizations,
}

impl Request {
    /// A first attempt at a GET without a credential or a body.
    pub(crate) fn unauthenticated(url: Url, asked: &str) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: Body::Empty,
            asked: asked.to_owned(),
            attempt: 1,
            elsewhere: KnownAuthorizations::new(),
        }
    }
}

/// An answer whose body has not been read.
pub(crate) struct Response {
    pub(crate) inner: reqwest::Response,
    /// Host and port of the server that answered, after redirects.
    pub(crate) host: String,
    pub(crate) asked: String,
    pub(crate) stall: Duration,
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.trim().parse().ok()
    }

    pub(crate) fn url(&self) -> &Url {
        self.inner.url()
    }

    /// Reads a short body to its end, so that the connection can be reused.
    async fn discard(self) {
        const SHORT: u64 = 16 * 1024;
        if self.content_length().is_some_and(|length| length <= SHORT) {
            // A broken body costs the connection and nothing else.
            let _ = tokio::time::timeout(self.stall, self.inner.bytes()).await;
        }
    }

    pub(crate) fn error(&self, problem: impl Into<Problem>) -> Error {
        Error::new(&self.host, &self.asked, problem)
    }
}

/// Sends requests over pooled connections.
#[derive(Debug)]
pub(crate) struct Transport {
    connections: Connections,
    loopback: Loopback,
    pub(crate) rate_limits: RateLimits,
    pub(crate) page_sizes: PageSizes,
    pub(crate) stall: Duration,
    pub(crate) connect_timeout: Duration,
}

impl Transport {
    pub(crate) fn new(options: ClientOptions) -> Result<Self, Error> {
        Ok(Self {
            stall: options.stall_timeout,
            connect_timeout: options.connect_timeout,
            rate_limits: RateLimits::default(),
            loopback: Loopback::default(),
            page_sizes: PageSizes::default(),
            connections: Connections::new(options)?,
        })
    }

    /// A transport with the same options, whose answers carry the server's certificate.
    pub(crate) fn probing(&self) -> Result<Self, Error> {
        let mut transport = Self::new(self.connections.options().clone())?;
        transport.connections.keep_certificates();
        Ok(transport)
    }

    /// The proxy for a URL, if there is one.
    pub(crate) fn proxy_for(&self, url: &Url) -> Option<Proxy> {
        self.connections.proxy_for(url)
    }

    /// Whether plain HTTP is configured for a registry.
    pub(crate) fn plain_http_host(&self, host: &Host) -> bool {
        self.connections
            .configured_options(host)
            .is_some_and(|options| options.plain_http)
    }

    /// Whether plain HTTP may be used for a URL: it is configured for this host (name and port as
    /// in a URL), or the host is on loopback and has been found to speak it.
    pub(crate) fn allows_plain_http(&self, url: &Url) -> bool {
        self.connections.options_for(url).plain_http || self.loopback.speaks_plain_http(url)
    }

    /// Sends a request and follows redirects.
    pub(crate) async fn send(&self, mut request: Request) -> Result<Response, Error> {
        let mut seen = HashSet::new();
        loop {
            let sent = self
                .send_reading_twice(&mut request)
                .await
                .map_err(|error| {
                    if seen.is_empty() {
                        error
                    } else {
                        error.advised_without_tls(|| failure::wrong_scheme(&request.url))
                    }
                })?;
            let Some(target) = self.redirect_target(&request, &sent)? else {
                return Ok(sent);
            };
            if !seen.insert(target.clone()) {
                let text = format!("redirects go in a circle at {}", location::shown(&target));
                return Err(sent.error(Problem::Permanent(text)));
            }
            if seen.len() > MAX_REDIRECTS {
                let text = format!("more than {MAX_REDIRECTS} redirects");
                return Err(sent.error(Problem::Permanent(text)));
            }
            log::redirected(&request, sent.status(), &target);
            if !location::same_origin(&request.url, &target) {
                let place = repository_address(&target);
                request.authorization =
                    place.and_then(|place| request.elsewhere.get(&place).cloned());
            }
            request.url = target;
            sent.discard().await;
        }
    }

    /// The URL that a redirect leads to, if the answer is a redirect that may be followed.
    fn redirect_target(&self, request: &Request, sent: &Response) -> Result<Option<Url>, Error> {
        let reading = matches!(request.method, Method::GET | Method::HEAD);
        match sent.status().as_u16() {
            301..=303 if reading => {}
            307 | 308 if reading || !matches!(request.body, Body::Stream(..)) => {}
            301 | 302 | 303 | 307 | 308 => {
                let text = "a writing request was redirected, and it cannot be sent to another \
                            address";
                return Err(sent.error(Problem::Permanent(text.to_owned())));
            }
            _ => return Ok(None),
        }
        let Some(text) = sent.header(LOCATION) else {
            let text = "a redirect came without a Location".to_owned();
            return Err(sent.error(Problem::Permanent(text)));
        };
        let target = location::join(&request.url, text)
            .map_err(|text| sent.error(Problem::Permanent(text)))?;
        self.check_downgrade(&request.url, &target)
            .map_err(|problem| sent.error(problem))?;
        if matches!(request.body, Body::Secret(_)) && !location::same_origin(&request.url, &target)
        {
            let text = "a redirect leads to another host, to which no secrets are sent";
            return Err(sent.error(Problem::Unsafe(text.to_owned())));
        }
        Ok(Some(target))
    }

    /// Refuses a redirect from HTTPS to plain HTTP unless plain HTTP is configured for the target.
    pub(crate) fn check_downgrade(&self, from: &Url, to: &Url) -> Result<(), Problem> {
        if from.scheme() == "https" && to.scheme() == "http" && !self.allows_plain_http(to) {
            let host = url_authority(to);
            return Err(Problem::Unsafe(format!(
                "it leads from HTTPS to plain HTTP at {host}; allow that with --plain-http {host}"
            )));
        }
        Ok(())
    }

    /// Sends a request. A request without side effects that was cut off before its answer began is
    /// sent once more, because the other side may just have closed an idle connection.
    async fn send_reading_twice(&self, request: &mut Request) -> Result<Response, Error> {
        let reading = matches!(request.method, Method::GET | Method::HEAD);
        match self.send_once(request).await {
            Err(error) if reading && error.category() == Category::Cut => {
                request.attempt += 1;
                self.send_once(request).await
            }
            other => other,
        }
    }

    async fn send_once(&self, request: &mut Request) -> Result<Response, Error> {
        let log = Sent::begin(request);
        let sent = self.send_unlogged(request).await;
        match &sent {
            Ok(response) => log.answered(request, response.status()),
            Err(error) => log.failed(request, error),
        }
        sent
    }

    async fn send_unlogged(&self, request: &mut Request) -> Result<Response, Error> {
        let host = url_authority(&request.url);
        let activity = Activity::default();
        let source_error = SourceError::default();
        let builder = self.prepare(request, &activity, &source_error);
        let builder = builder.map_err(|problem| Error::new(&host, &request.asked, problem))?;
        let sent = activity.guard(self.stall, builder.send()).await;
        // The error of the body's source explains the failure better than its effect on the request
        // does.
        let broken = source_error.lock().ok().and_then(|mut slot| slot.take());
        if let Some(error) = broken {
            return Err(error);
        }
        let problem = match sent {
            Some(Ok(inner)) => {
                self.rate_limits.note(&host, inner.headers());
                let asked = request.asked.clone();
                return Ok(Response {
                    inner,
                    host,
                    asked,
                    stall: self.stall,
                });
            }
            Some(Err(error)) => self.failure(&error, &request.url),
            None => Problem::Stalled(self.stall),
        };
        Err(Error::new(host, &request.asked, problem))
    }

    /// The problem of a request that got no answer. Behind a proxy, a connection that could not be
    /// established is one to the proxy.
    fn failure(&self, error: &reqwest::Error, url: &Url) -> Problem {
        let given = self.connections.options_for(url);
        let problem = classify(error, url, &given, self.connect_timeout, 0);
        let to_proxy = matches!(problem.category(), Category::Connect | Category::Dns)
            || matches!(problem, Problem::ConnectTimeout(_));
        match self.proxy_for(url).filter(|_| to_proxy) {
            Some(proxy) => Problem::Proxy {
                proxy: proxy.to_string(),
                problem: Box::new(problem),
            },
            None => problem,
        }
    }

    /// Converts the request for the HTTP library. A body that can be sent only once is taken out.
    fn prepare(
        &self,
        request: &mut Request,
        activity: &Activity,
        source_error: &SourceError,
    ) -> Result<reqwest::RequestBuilder, Problem> {
        let client = self.connections.client_for(&request.url)?;
        let mut builder = client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone());
        if let Some(value) = &request.authorization {
            builder = builder.header(AUTHORIZATION, value.clone());
        }
        let reading = matches!(request.method, Method::GET | Method::HEAD);
        Ok(match &mut request.body {
            Body::Empty if reading => builder,
            // Without a length some servers wait for a body.
            Body::Empty => builder.header(CONTENT_LENGTH, 0),
            Body::Bytes(bytes) | Body::Secret(bytes) => builder.body(bytes.clone()),
            Body::Stream(size, stream) => {
                let stream = std::mem::replace(stream, BlobStream::empty());
                let body = activity.watch(stream, Arc::clone(source_error));
                builder
                    .header(CONTENT_LENGTH, *size)
                    .body(reqwest::Body::wrap_stream(body))
            }
        })
    }
}
