//! The HTTP side: bounds on bodies, time and concurrency. The API server goes on without the
//! webhook after an error (`failurePolicy: Ignore`), so an error never stops a pod.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::decide::{Decision, decide};
use crate::metrics::{Metrics, Outcome};
use crate::review::Request;
use crate::world::{Namespace, SharedWorld};

/// Path of the webhook, as its configuration names it.
pub(crate) const PATH: &str = "/mutate";
/// Largest body in bytes. A stored object has at most about 1.5 MiB, a review holds it twice, and
/// JSON may spell a letter with six bytes.
const MAX_BODY: usize = 16 << 20;
/// Bodies that are read at once, in units of [`UNIT`]. Each review takes at least one unit, so this
/// is also how many of them are under way at once. As JSON values they take about four times this.
const MAX_UNITS: u32 = 32;
/// Bytes of a body for which one unit is taken.
const UNIT: u64 = 1 << 20;
/// The API server waits two seconds for an answer (`timeoutSeconds`).
const PATIENCE: Duration = Duration::from_secs(2);

/// Namespaces by name. A request reads the latest state of its namespace.
pub(crate) trait Namespaces: Send + Sync + 'static {
    /// The namespace; one that is not known has neither labels nor annotations.
    fn get(&self, name: &str) -> Namespace;
}

struct Shared {
    namespaces: Box<dyn Namespaces>,
    world: SharedWorld,
    metrics: Metrics,
    /// Free units of bodies.
    units: Semaphore,
}

/// The router of the webhook.
pub(crate) fn router(namespaces: impl Namespaces, world: SharedWorld, metrics: Metrics) -> Router {
    let shared = Shared {
        namespaces: Box::new(namespaces),
        world,
        metrics,
        units: Semaphore::new(MAX_UNITS as usize),
    };
    Router::new()
        .route(PATH, post(mutate))
        .with_state(Arc::new(shared))
}

async fn mutate(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    let began = Instant::now();
    let (outcome, response) = match tokio::time::timeout(PATIENCE, review(&shared, body)).await {
        Ok(Ok((outcome, answer))) => (outcome, Json(answer).into_response()),
        Ok(Err(failure)) => (failure.outcome(), failure.into_response()),
        Err(_) => {
            let failure = Failure::TooSlow;
            (failure.outcome(), failure.into_response())
        }
    };
    shared.metrics.answered(outcome, began.elapsed());
    response
}

async fn review(shared: &Shared, body: Body) -> Result<(Outcome, Value), Failure> {
    // Before the body is read: bodies are what takes memory.
    let acquiring = shared.units.acquire_many(units(&body));
    let permit = tokio::time::timeout(PATIENCE / 2, acquiring).await;
    let _permit = permit
        .ok()
        .and_then(Result::ok)
        .ok_or(Failure::Overloaded)?;
    let body = read_all(body).await?;
    let request = Request::read(&body).map_err(|error| Failure::Malformed(error.to_string()))?;
    drop(body);
    let decision = if request.creates_pod() {
        let namespace = shared.namespaces.get(&request.namespace);
        let world = shared.world.borrow().clone();
        decide(&request.object, &namespace, &world)
    } else {
        Decision::default()
    };
    shared.metrics.decided(&decision);
    let outcome = if decision.patch.is_empty() {
        Outcome::Unchanged
    } else {
        Outcome::Changed
    };
    Ok((outcome, request.answer(&decision)))
}

/// The units for a body; a body of unknown length may be of any.
fn units(body: &Body) -> u32 {
    let length = body.size_hint().upper().unwrap_or(u64::MAX);
    let most = MAX_BODY as u64 / UNIT;
    u32::try_from(length.div_ceil(UNIT).clamp(1, most)).unwrap_or(MAX_UNITS)
}

async fn read_all(body: Body) -> Result<Bytes, Failure> {
    let read = axum::body::to_bytes(body, MAX_BODY).await;
    read.map_err(|error| {
        // The only two: the limit, and a client that went away.
        let source = std::error::Error::source(&error);
        let is_limit = source.is_some_and(|source| source.to_string().contains("length limit"));
        if is_limit {
            Failure::TooLarge
        } else {
            Failure::Malformed("the body ended early".to_owned())
        }
    })
}

/// Why a request gets no review as its answer.
#[derive(Debug)]
enum Failure {
    Malformed(String),
    TooLarge,
    TooSlow,
    Overloaded,
}

impl Failure {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Malformed(_) => Outcome::Malformed,
            Self::TooLarge => Outcome::TooLarge,
            Self::TooSlow => Outcome::TooSlow,
            Self::Overloaded => Outcome::Overloaded,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Malformed(message) => (StatusCode::BAD_REQUEST, message),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {MAX_BODY} bytes"),
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                format!("there was no whole request within {} s", PATIENCE.as_secs()),
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many reviews are under way already".to_owned(),
            ),
        };
        tracing::warn!(status = status.as_u16(), message, "review not answered");
        let content_type = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        (status, content_type, format!("coral: {message}\n")).into_response()
    }
}
