//! The status page beside the registry: mirrors, images, repositories, and how to pull them.
//!
//! The page is a client of the registry like any other: it reads repositories through the
//! registry's own API, in process and with the viewer's credentials, so it can show a viewer no
//! more than that API would. Mirrors come from the [`Board`]; an image of a mirror is shown to
//! viewers who may read it at its destination. The pages have no scripts, no cookies and nothing
//! from other hosts; `maud` escapes everything.
//!
//! Start reading at [`beside`], the one place where it is mounted.

mod api;
mod board;
mod facts;
mod html;
mod images;
mod json;
mod metrics;
mod order;
mod page_slots;
mod query;
mod storage;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use coral_image::{Host, RepositoryPath};
use coral_mirror::MirrorMetrics;
use coral_rt::Tls;
use jiff::Timestamp;
use maud::Markup;
use prometheus_client::registry::Registry as Metrics;

use crate::failure::Failure;
use api::{Api, ApiError, Reader};
pub(crate) use board::{Board, BoardMirror};
use facts::FactsCache;
use page_slots::{PageSlots, limit_pages};
use query::PageQuery;
pub(crate) use words::relative;

/// How the page refers to its registry.
#[derive(Debug, Clone)]
pub(crate) struct PageContext {
    /// Used when a request names no host.
    pub(crate) host: Host,
    /// Whether it is encrypted now.
    tls: Tls,
    /// The mirrors that copy into it.
    pub(crate) board: Board,
    /// Their metrics.
    metrics: Option<Arc<Metrics>>,
}

/// The protocol of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// What every page has.
#[derive(Clone)]
struct Pages {
    api: Api,
    facts: Arc<FactsCache>,
    site: Arc<PageContext>,
}

/// One visit to a page: who is looking, when, and by which name of the registry.
struct Visit {
    pages: Pages,
    reader: Reader,
    host: Host,
    now: Timestamp,
}

/// Puts the status page beside the routes of a registry. `registry` alone decides what a reader may
/// see: it is asked with the reader's own `Authorization`.
pub(crate) fn beside(registry: Router, site: PageContext) -> Router {
    let api = Api::new(registry.clone());
    let registry = match site.metrics.clone() {
        Some(metrics) => {
            let added = metrics::Added {
                api: api.clone(),
                metrics,
            };
            registry.layer(middleware::from_fn_with_state(added, metrics::add))
        }
        None => registry,
    };
    let pages = Pages {
        api,
        facts: Arc::default(),
        site: Arc::new(site),
    };
    let own = Router::new()
        .route("/", get(overview))
        .route("/mirrors/{namespace}/{name}", get(mirror))
        .route("/repositories", get(repositories))
        .route("/repositories/{*path}", get(repository))
        .route("/status.json", get(status))
        .route("/login", get(login))
        .layer(middleware::from_fn_with_state(
            PageSlots::default(),
            limit_pages,
        ))
        .with_state(pages);
    registry.merge(own).layer(middleware::from_fn(not_found))
}

/// An unknown path is answered with a page for browsers, and unchanged for clients of the registry.
async fn not_found(request: Request, next: Next) -> Response {
    let accepts = request.headers().get(header::ACCEPT);
    let accepts = accepts.and_then(|value| value.to_str().ok());
    let is_browser = accepts.is_some_and(|value| value.contains("text/html"));
    let is_page = !request.uri().path().starts_with("/v2/");
    let response = next.run(request).await;
    let has_body = response.headers().contains_key(header::CONTENT_TYPE);
    if is_browser && is_page && !has_body && response.status() == StatusCode::NOT_FOUND {
        return refusal(ApiError::Missing);
    }
    response
}

impl PageContext {
    /// Of a registry that listens on `address`.
    pub(crate) fn new(address: SocketAddr, tls: &Tls, board: Board) -> Result<Self, Failure> {
        Ok(Self {
            host: crate::up::host_of(address)?,
            tls: tls.clone(),
            board,
            metrics: None,
        })
    }

    /// Adds the metrics of its mirrors to `/metrics`, for readers who may see mirrors.
    pub(crate) fn with_metrics(self, metrics: &MirrorMetrics) -> Self {
        Self {
            metrics: Some(metrics::registry(metrics, &self.board)),
            ..self
        }
    }

    fn scheme(&self) -> Scheme {
        if self.tls.is_on() {
            Scheme::Https
        } else {
            Scheme::Http
        }
    }
}

impl Pages {
    fn visit(self, parts: &Parts) -> Visit {
        let named = parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = named.and_then(|host| Host::parse(host).ok());
        Visit {
            reader: Reader::from_parts(parts),
            host: host.unwrap_or_else(|| self.site.host.clone()),
            now: Timestamp::now(),
            pages: self,
        }
    }
}

async fn overview(
    State(pages): State<Pages>,
    Query(query): Query<PageQuery>,
    parts: Parts,
) -> Response {
    page(html::overview::page(&pages.visit(&parts), &query).await)
}

async fn mirror(
    State(pages): State<Pages>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<PageQuery>,
    parts: Parts,
) -> Response {
    let visit = pages.visit(&parts);
    page(html::mirror::page(&visit, &format!("{namespace}/{name}"), &query).await)
}

async fn repositories(
    State(pages): State<Pages>,
    Query(query): Query<PageQuery>,
    parts: Parts,
) -> Response {
    page(html::repositories::page(&pages.visit(&parts), &query).await)
}

async fn repository(
    State(pages): State<Pages>,
    Path(path): Path<String>,
    Query(query): Query<PageQuery>,
    parts: Parts,
) -> Response {
    let visit = pages.visit(&parts);
    match RepositoryPath::parse(&path) {
        Ok(path) => page(html::repository::page(&visit, &path, &query).await),
        Err(_) => page(Err(ApiError::Missing)),
    }
}

async fn status(
    State(pages): State<Pages>,
    Query(query): Query<PageQuery>,
    parts: Parts,
) -> Response {
    match json::status(&pages.visit(&parts), &query).await {
        Ok(value) => guarded(axum::Json(value).into_response()),
        Err(error) => refusal(error),
    }
}

/// Asks for a name and a password, then redirects to the start page. Without this challenge a
/// browser would never send credentials to pages that every client may see.
async fn login(State(pages): State<Pages>, parts: Parts) -> Response {
    let visit = pages.visit(&parts);
    if !visit.reader.has_login() {
        return refusal(ApiError::login_needed());
    }
    // A wrong password is answered here, with another challenge.
    match visit.pages.api.sees_everything(&visit.reader).await {
        Ok(_) => guarded(Redirect::to("/").into_response()),
        Err(error) => refusal(error),
    }
}

fn page(made: Result<Markup, ApiError>) -> Response {
    match made {
        Ok(markup) => html(StatusCode::OK, markup),
        Err(error) => refusal(error),
    }
}

fn html(status: StatusCode, markup: Markup) -> Response {
    let content_type = HeaderValue::from_static("text/html; charset=utf-8");
    let body = markup.into_string();
    guarded((status, [(header::CONTENT_TYPE, content_type)], body).into_response())
}

/// A page for a refusal of the registry, whose challenge makes a browser ask for a password.
fn refusal(error: ApiError) -> Response {
    let mut response = html(error.status(), html::refusal(&error));
    if let ApiError::Refused { challenge, .. } = error {
        let challenges = challenge
            .into_iter()
            .map(|value| (header::WWW_AUTHENTICATE, value));
        response.headers_mut().extend(challenges);
    }
    response
}

/// Adds the headers that keep a browser from doing anything but showing the page.
fn guarded(mut response: Response) -> Response {
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
        html::style_digest()
    );
    let policy = HeaderValue::try_from(policy).expect("base64 is printable");
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests;
