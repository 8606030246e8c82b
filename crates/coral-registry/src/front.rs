//! The HTTP front: the OCI distribution API, version 1.1 and what is agreed for the next one.
//!
//! A request is parsed into a [`route::Route`] of validated values and handled by the file named
//! after its noun. Every refusal is an [`error::Refusal`], in the form that the specification
//! prescribes.

mod access_log;
mod blob_body;
mod blobs;
mod body;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod gate;
mod largest;
mod listings;
mod manifests;
mod memory_budget;
mod metrics;
mod own_names;
mod progress;
mod query;
mod range;
mod reserved;
mod route;
mod routed;
mod scrubbing;
mod space;
mod upkeep;
mod upload_slots;
mod uploads;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::{any, get};
use coral_image::{Host, RepositoryPath};
use coral_rt::{Peer, Transport};
use coral_token::PublicKeys;
use http::header::{ALLOW, EXPECT, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use tokio::sync::broadcast;

pub use self::access_log::OwnRequest;
use self::access_log::{Entry, LoginLines};
use self::blob_body::Wire;
pub(crate) use self::body::read_limit;
use self::error::{Code, Refusal};
use self::gate::Visitor;
use self::largest::Largest;
pub use self::listings::WholeCatalog;
use self::memory_budget::MemoryBudget;
use self::metrics::{Asked, Metrics};
use self::progress::Progress;
use self::query::Query;
use self::route::{Route, RouteClass};
use self::routed::{ClientName, Name, Origin, SourcePolicy};
use self::scrubbing::Figures;
use self::upload_slots::UploadSlots;
use crate::access::{Access, InternalUser, Login, Verifier};
use crate::public::PublicPaths;
use crate::pull_through::PullThrough;
use crate::settings::Settings;
use crate::store::{Chain, Fill, Store};

type Response = axum::response::Response;

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A registry over a store.
#[derive(Clone)]
pub struct Registry {
    context: Arc<Context>,
}

/// What every handler has access to.
pub(crate) struct Context {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: Metrics,
    settings: RwLock<Arc<Settings>>,
    public: RwLock<Arc<PublicPaths>>,
    verifier: Verifier,
    internal: Option<InternalUser>,
    manifests: MemoryBudget,
    places: UploadSlots,
    /// Whether there were requests since the last check.
    was_asked: AtomicBool,
    /// Content that was moved aside.
    damages: broadcast::Sender<Arc<[RepositoryPath]>>,
    scrub: Figures,
    login_lines: LoginLines,
    largest: Largest,
    fill: OnceLock<Fill>,
}

impl Context {
    fn settings(&self) -> Arc<Settings> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&settings)
    }

    fn public(&self) -> Arc<PublicPaths> {
        let public = self.public.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&public)
    }

    fn fill(&self) -> Option<Fill> {
        self.fill.get().cloned()
    }

    /// What a visitor reads from. The mirrors beside the registry compare it with their sources, so
    /// they see only what is stored.
    fn source(&self, visitor: &Visitor) -> Chain {
        let read_only = Arc::clone(&visitor.settings.read_only_sources);
        match &visitor.fill {
            Some(fill) if !visitor.is_internal() => Chain::new(read_only, Arc::new(fill.clone())),
            _ => Chain::new(read_only, self.store.clone()),
        }
    }

    fn is_internal(&self, login: &Login) -> bool {
        self.internal.as_ref().is_some_and(|user| user.is(login))
    }
}

/// What a handler needs of a request, apart from its body.
pub(crate) struct Head {
    pub(crate) visitor: Visitor,
    pub(crate) method: Method,
    pub(crate) headers: http::HeaderMap,
    pub(crate) query: Query,
    pub(crate) wire: Wire,
    /// The client's name for the repository, if it differs from its path here.
    pub(crate) client_name: Option<ClientName>,
}

impl Head {
    /// The path of the repository as the client knows it.
    fn client_path<'a>(&'a self, path: &'a RepositoryPath) -> &'a RepositoryPath {
        self.client_name.as_ref().map_or(path, |name| &name.path)
    }

    /// What a link to the next page needs in its query for that path.
    fn client_parameter(&self) -> String {
        let name = self.client_name.as_ref();
        name.map_or_else(String::new, ClientName::parameter)
    }

    /// Measures from now on whether a body arrives fast enough.
    fn progress(&self) -> Progress {
        Progress::new(
            self.visitor.settings.limits.body_progress,
            tokio::time::Instant::now(),
        )
    }
}

impl Registry {
    /// A registry over `store`, whose metrics are added to `metrics`.
    pub fn new(
        store: impl Into<Arc<dyn Store>>,
        metrics: &mut prometheus_client::registry::Registry,
    ) -> Self {
        Self::with_internal_user(store, metrics, None)
    }

    /// Lets the program that the registry runs in do everything as this user.
    pub fn with_internal_user(
        store: impl Into<Arc<dyn Store>>,
        metrics: &mut prometheus_client::registry::Registry,
        internal: Option<InternalUser>,
    ) -> Self {
        let store = store.into();
        let registry = metrics;
        let metrics = Metrics::register(registry);
        metrics.open_uploads(store.open_uploads());
        let context = Arc::new(Context {
            store,
            metrics,
            settings: RwLock::default(),
            public: RwLock::default(),
            verifier: Verifier::new(),
            internal,
            manifests: MemoryBudget::new(),
            places: UploadSlots::default(),
            was_asked: AtomicBool::new(true),
            damages: broadcast::channel(scrubbing::MOST_UNHEARD).0,
            scrub: Figures::default(),
            login_lines: LoginLines::default(),
            largest: Largest::default(),
            fill: OnceLock::new(),
        });
        self::metrics::space::register(registry, context.clone());
        Self { context }
    }

    /// Replaces the settings; a running request keeps those it began with.
    pub fn configure(&self, settings: Settings) {
        self.context.store.bound(settings.space);
        let mut slot = self
            .context
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::new(settings);
    }

    /// Replaces the access rules and no other settings.
    pub fn set_access(&self, access: Access) {
        let mut slot = self
            .context
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let settings = Settings::clone(&slot);
        *slot = Arc::new(Settings { access, ..settings });
    }

    /// Replaces the keys whose tokens are accepted, and no other settings.
    pub fn set_token_keys(&self, keys: PublicKeys) {
        let mut slot = self
            .context
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let settings = Settings::clone(&slot);
        *slot = Arc::new(Settings {
            token_keys: Some(keys),
            ..settings
        });
    }

    /// Replaces the paths that every client may read.
    pub fn publish(&self, public: PublicPaths) {
        let mut slot = self
            .context
            .public
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::new(public);
    }

    /// From now on fetches what is missing below the paths of these registries. The first call
    /// counts.
    pub fn pull_through(&self, from: PullThrough) {
        let fetched = self.context.metrics.fetched_bytes();
        let fill = Fill::new(Arc::clone(&self.context.store), from, fetched);
        let _ = self.context.fill.set(fill);
    }

    /// Whether there are users, so that clients send passwords.
    pub fn has_users(&self) -> bool {
        self.context.settings().access.users().is_some()
    }

    /// The routes below `/v2/` and `/coral/v1/`, to be merged with those of health and metrics.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v2", any(handle))
            .route("/v2/", any(handle))
            .route("/v2/{*rest}", any(handle))
            .route("/coral/v1/public", get(loaded_public_paths))
            .route("/coral/v1/storage", get(space::sums))
            .route("/coral/v1/storage/{*name}", get(space::of_repository))
            .route("/coral/v1/repositories", get(space::largest))
            .route("/coral/v1/scrub", get(scrubbing::figures))
            .with_state(Arc::clone(&self.context))
    }
}

/// The active generation of the public paths: the controller waits for the one that it wrote.
async fn loaded_public_paths(State(context): State<Arc<Context>>) -> Response {
    let public = context.public();
    let loaded = serde_json::json!({
        "generation": public.generation(),
        "paths": public.len(),
    });
    json(StatusCode::OK, &loaded)
}

async fn handle(State(context): State<Arc<Context>>, request: Request) -> Response {
    context.was_asked.store(true, Ordering::Relaxed);
    let (parts, mut body) = request.into_parts();
    let route = Route::parse(parts.uri.path());
    let mut entry = Entry::new(&parts, route.as_ref().ok(), peer(&parts), &mut body);
    let class = route.as_ref().map_or(RouteClass::Unknown, Route::class);
    let method = parts.method.clone();
    let is_waiting = parts.headers.contains_key(EXPECT);
    let mut failed_login = None;
    let response = match answer(&context, route, parts, &mut body, &mut entry).await {
        Ok(response) => response,
        Err(mut refusal) => {
            failed_login = refusal.failed_login.take();
            refuse(refusal, &method, is_waiting, body).await
        }
    };
    let (status, took) = (response.status(), entry.started().elapsed());
    let client = if entry.is_own() { "own" } else { "other" };
    let asked = Asked {
        client,
        method: &method,
        route: class,
    };
    context.metrics.request(asked, status, took);
    entry.answered(response, failed_login.as_ref(), &context.login_lines)
}

async fn answer(
    context: &Context,
    route: Result<Route, Refusal>,
    parts: Parts,
    body: &mut Body,
    entry: &mut Entry,
) -> Result<Response, Refusal> {
    gate::bounded(&parts)?;
    gate::from_no_page(&parts.method, &parts.headers)?;
    let reserved = route
        .as_ref()
        .ok()
        .and_then(|route| reserved::answer(route, &parts.method, &parts.headers));
    if let Some(answer) = reserved {
        return answer;
    }
    let query = Query::parse(parts.uri.query());
    let settings = context.settings();
    if let Origin::Other(host) = Origin::of(&query, &settings.names) {
        entry.of_registry(host.as_ref());
        let request = Routed { host, parts, query };
        return answer_routed(context, settings, route.ok(), request, body).await;
    }
    let visitor = gate::admit(context, settings, &parts.headers, peer(&parts)).await?;
    entry.admitted(&visitor);
    let route = route?;
    gate::allow(&visitor, &route, &parts.method)?;
    let head = Head {
        visitor,
        query,
        wire: wire(&parts),
        method: parts.method,
        headers: parts.headers,
        client_name: None,
    };
    dispatch(context, route, &head, body).await
}

/// A request for images of another registry.
struct Routed {
    /// That registry; `None` if the client sent an invalid host.
    host: Option<Host>,
    parts: Parts,
    query: Query,
}

/// Answers from the path where a mirror puts the images of the other registry. Such a request can
/// only read, is never challenged, and cannot distinguish a private repository from a missing one.
async fn answer_routed(
    context: &Context,
    settings: Arc<Settings>,
    route: Option<Route>,
    request: Routed,
    body: &mut Body,
) -> Result<Response, Refusal> {
    let Routed { host, parts, query } = request;
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(gate::refuse_write(
            "this path is for images of another registry",
        ));
    }
    let visitor = gate::anonymous(context, settings, peer(&parts));
    if route == Some(Route::Base) {
        return Ok(version_of_api());
    }
    let ns = query.get("ns").unwrap_or_default().to_owned();
    let policy = SourcePolicy::of(&parts.headers);
    let name = Name::new(&ns, route.as_ref(), parts.uri.path());
    let miss = || routed::miss(policy, route.as_ref(), &name);
    let (Some(host), Some(asked)) = (host, route.as_ref()) else {
        return Err(miss());
    };
    let mapped = routed::mapped(&host, asked).ok_or_else(miss)?;
    gate::allow(&visitor, &mapped, &parts.method).map_err(|_| miss())?;
    let client_name = asked.repository().map(|path| ClientName {
        path: path.clone(),
        host,
    });
    let head = Head {
        visitor,
        query,
        wire: wire(&parts),
        method: parts.method,
        headers: parts.headers,
        client_name,
    };
    match dispatch(context, mapped, &head, body).await {
        // Forbidden by a source that is pulled through: the client may have a credential for it.
        Err(refusal)
            if matches!(
                refusal.status(),
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN
            ) =>
        {
            Err(miss())
        }
        answered => answered,
    }
}

fn peer(parts: &Parts) -> Peer {
    parts
        .extensions
        .get()
        .copied()
        .unwrap_or(gate::UNKNOWN_PEER)
}

/// How the bytes of the answer are sent; the server puts the transport into the extensions of each
/// request.
fn wire(parts: &Parts) -> Wire {
    match parts.extensions.get() {
        Some(Transport::Plain) if parts.version <= Version::HTTP_11 => Wire::Untouched,
        _ => Wire::Processed,
    }
}

/// Refuses a request. A client that is still sending would not read the answer, so its body is read
/// first, within bounds, unless the client waits for `100 Continue` or sends no body.
async fn refuse(refusal: Refusal, method: &Method, is_waiting: bool, body: Body) -> Response {
    if !is_waiting && refusal.status() != StatusCode::REQUEST_TIMEOUT {
        body::drain(body).await;
    }
    refusal.log(method);
    refusal.into_response()
}

async fn dispatch(
    context: &Context,
    route: Route,
    head: &Head,
    body: &mut Body,
) -> Result<Response, Refusal> {
    let read = matches!(head.method, Method::GET | Method::HEAD);
    match (route, &head.method) {
        (Route::Base, _) if read => Ok(base(&head.visitor)),
        (Route::Catalog, _) if read => listings::catalog(context, head).await,
        (Route::Tags(name), _) if read => listings::tags(context, head, &name).await,
        (Route::Referrers(name, subject), _) if read => {
            listings::referrers(context, head, &name, &subject).await
        }
        (Route::Blob(name, digest), _) if read => blobs::get(context, head, &name, &digest).await,
        (Route::Blob(name, digest), &Method::DELETE) => {
            blobs::delete(context, &name, &digest).await
        }
        (Route::Manifest(name, version), _) if read => {
            manifests::get(context, head, &name, &version).await
        }
        (Route::Manifest(name, version), &Method::PUT) => {
            manifests::put(context, head, body, &name, &version).await
        }
        (Route::Manifest(name, version), &Method::DELETE) => {
            manifests::delete(context, &name, &version).await
        }
        (Route::Uploads(name), &Method::POST) => uploads::begin(context, head, body, &name).await,
        (Route::Upload(name, id), _) if read => uploads::status(context, &name, id).await,
        (Route::Upload(name, id), &Method::PATCH) => {
            uploads::append(context, head, body, &name, id).await
        }
        (Route::Upload(name, id), &Method::PUT) => {
            uploads::finish(context, head, body, &name, id).await
        }
        (Route::Upload(name, id), &Method::DELETE) => uploads::cancel(context, &name, id).await,
        (route, method) => Err(not_allowed(&route, method)),
    }
}

/// `GET /v2/`: yes, this is a registry.
fn base(visitor: &Visitor) -> Response {
    let mut response = version_of_api();
    // Even where anonymous clients may read, some clients ask here whether to log in.
    if let Some(challenge) = visitor.invitation() {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

fn version_of_api() -> Response {
    let mut response = json(StatusCode::OK, &serde_json::json!({}));
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(
        HeaderName::from_static("docker-distribution-api-version"),
        version,
    );
    response
}

fn not_allowed(route: &Route, method: &Method) -> Refusal {
    let allowed = route.methods();
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::Unsupported,
        format!("{method} is not supported here; {allowed} is"),
    )
    .with_header(ALLOW, HeaderValue::from_static(allowed))
}

pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    let bytes = serde_json::to_vec(value).expect("answers have only string keys");
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A header value made of validated text.
pub(crate) fn header(text: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::try_from(text.to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("unprintable"))
}
