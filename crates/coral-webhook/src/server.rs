//! The HTTP side: bounds on bodies, time and concurrency. The API server continues without the
//! webhook after an error (`failurePolicy: Ignore`), so an error never blocks a pod.

mod intake;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use coral_rt::Peer;
use serde_json::Value;

use self::intake::{Intake, MAX_BODY};
use crate::decide::{Decision, decide};
use crate::metrics::{Metrics, Outcome};
use crate::review::Request;
use crate::world::{Namespace, SharedWorld};

/// Path of the webhook, as its configuration names it.
pub(crate) const PATH: &str = "/mutate";
/// The API server waits two seconds for an answer (`timeoutSeconds`).
const PATIENCE: Duration = Duration::from_secs(2);

/// Namespaces by name. A request reads the latest state of its namespace.
pub(crate) trait Namespaces: Send + Sync + 'static {
    /// The namespace; `None` until the watch has brought it.
    fn get(&self, name: &str) -> Option<Namespace>;
}

struct Shared {
    namespaces: Box<dyn Namespaces>,
    world: SharedWorld,
    metrics: Metrics,
    intake: Intake,
}

/// The router of the webhook.
pub(crate) fn router(namespaces: impl Namespaces, world: SharedWorld, metrics: Metrics) -> Router {
    let shared = Shared {
        namespaces: Box::new(namespaces),
        world,
        metrics,
        intake: Intake::default(),
    };
    Router::new()
        .route(PATH, post(mutate))
        .with_state(Arc::new(shared))
}

/// The client of a request that lacks the extension.
const UNKNOWN_PEER: Peer = Peer(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

async fn mutate(
    State(shared): State<Arc<Shared>>,
    peer: Option<Extension<Peer>>,
    body: Body,
) -> Response {
    let began = Instant::now();
    let peer = peer.map_or(UNKNOWN_PEER, |Extension(peer)| peer);
    let reviewing = review(&shared, peer, body);
    let (outcome, response) = match tokio::time::timeout(PATIENCE, reviewing).await {
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

async fn review(shared: &Shared, peer: Peer, body: Body) -> Result<(Outcome, Value), Failure> {
    // The permit is held until the answer is complete: the parsed values take more memory than the
    // body.
    let (body, _room) = shared.intake.read(peer, body).await?;
    let request = Request::read(&body).map_err(|error| Failure::Malformed(error.to_string()))?;
    drop(body);
    let decision = decision(shared, &request);
    shared.metrics.decided(&decision);
    let outcome = if decision.patch.is_empty() {
        Outcome::Unchanged
    } else {
        Outcome::Changed
    };
    Ok((outcome, request.answer(&decision)))
}

fn decision(shared: &Shared, request: &Request) -> Decision {
    if !request.creates_pod() {
        return Decision::default();
    }
    // Without its labels, the policies that limit the pod are unknown, so the pod is left
    // unchanged.
    let Some(namespace) = shared.namespaces.get(&request.namespace) else {
        tracing::debug!(
            request.namespace,
            "a pod of a namespace that is not yet known"
        );
        return Decision::default();
    };
    let world = shared.world.borrow().clone();
    decide(&request.object, &namespace, &world)
}

/// Why a request is not answered with a review.
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
                "the request body did not arrive in time".to_owned(),
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
