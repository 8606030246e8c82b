//! The HTTP side: bounds on bodies, time and how often; answers as JSON; a line of the log for each.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use coral_build::contract::{
    BuildContainer, CREDENTIALS_PATH, CredentialAnswer, CredentialRefusal, CredentialRequest,
};
use coral_rt::Peer;
use coral_token::Claims;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;

use super::decide::{Denied, Granted, LIFE, decide};
use super::limits::Limits;
use super::material::Material;
use super::metrics::{Answered, CredentialMetrics};
use super::observe::{Observer, Problem};

/// Largest body of a request, in bytes.
const MOST_BODY: usize = 4096;
/// Longest token of a ServiceAccount, in bytes.
const MOST_TOKEN: usize = 16 * 1024;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The client of a request that came without the extension.
const UNKNOWN_PEER: Peer = Peer(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// What every request has.
pub(super) struct Endpoint {
    observer: Observer,
    material: Material,
    metrics: CredentialMetrics,
    limits: Limits,
}

impl Endpoint {
    pub(super) fn new(
        client: kube::Client,
        material: Material,
        metrics: CredentialMetrics,
    ) -> Self {
        Self {
            observer: Observer::new(client),
            material,
            metrics,
            limits: Limits::default(),
        }
    }
}

/// The router of the endpoint.
pub(super) fn router(endpoint: Endpoint) -> Router {
    Router::new()
        .route(CREDENTIALS_PATH, post(exchange))
        .with_state(Arc::new(endpoint))
}

/// Why a request gets no credential.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the body is larger than {MOST_BODY} bytes")]
    TooLarge,
    #[error("{0}")]
    Denied(Denied),
    #[error("too many requests: ask again in {} s", .0.as_secs() + 1)]
    Limited(Duration),
    #[error("{0}: ask again in a moment")]
    Unavailable(&'static str),
}

async fn exchange(
    State(endpoint): State<Arc<Endpoint>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let peer = peer.map_or(UNKNOWN_PEER, |Extension(peer)| peer);
    let answering = endpoint.answer(peer, &headers, body);
    let answer = match tokio::time::timeout(PATIENCE, answering).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Unavailable("the API server takes too long")),
    };
    match answer {
        Ok(body) => {
            endpoint.metrics.answered(Answered::Granted);
            Json(body).into_response()
        }
        Err(failure) => {
            endpoint.metrics.answered(failure.kind());
            failure.into_response()
        }
    }
}

impl Endpoint {
    async fn answer(
        &self,
        peer: Peer,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<CredentialAnswer, Failure> {
        if let Some(wait) = self.limits.wait(peer.0, Instant::now()) {
            return Err(Failure::Limited(wait));
        }
        let token = bearer(headers)?;
        let request = request(body).await?;
        let _turn = self
            .limits
            .turn()
            .await
            .ok_or(Failure::Unavailable("too many pods ask at once"))?;
        let identity = self.observer.identify(token).await.map_err(unanswered)?;
        let pod = format!("{}/{}", identity.namespace, identity.pod);
        let seen = self.observer.look(identity, request.step).await;
        let seen = seen.map_err(|error| unanswered(error.into()))?;
        let granted = decide(&seen).map_err(|denied| {
            let step = request.step.name();
            match &denied {
                Denied::Early(_) => tracing::debug!(%pod, step, %denied, "no credential yet"),
                denied => tracing::warn!(%pod, step, %denied, "credential refused"),
            }
            Failure::Denied(denied)
        })?;
        self.sign(&granted, &pod)
    }

    fn sign(&self, granted: &Granted, pod: &str) -> Result<CredentialAnswer, Failure> {
        let key = self.material.key();
        let key = key.ok_or(Failure::Unavailable("the signing key is not there yet"))?;
        let now = Timestamp::now();
        let claims = Claims::new(
            &granted.host,
            &granted.subject,
            granted.access.clone(),
            now.into(),
            LIFE,
        );
        let token = key
            .sign(&claims)
            .map_err(|_| Failure::Unavailable("the credential cannot be signed"))?;
        let expires = now.saturating_add(LIFE).unwrap_or(now);
        let (subject, registry) = (&granted.subject, &granted.host);
        tracing::info!(%subject, %registry, pod, %expires, "credential granted");
        let builder = granted.builder.as_ref();
        Ok(CredentialAnswer {
            registry: registry.clone(),
            username: coral_token::USER.to_owned(),
            password: token,
            expires,
            provenance: builder.map(|it| BuildContainer {
                builder: Some(it.image.clone()),
                started: it.started,
                finished: it.finished,
            }),
        })
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Failure> {
    let header = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    let (scheme, token) = header
        .and_then(|it| it.split_once(' '))
        .ok_or(Failure::Denied(Denied::Unauthenticated))?;
    let token = token.trim();
    let is_good =
        scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MOST_TOKEN;
    is_good
        .then_some(token)
        .ok_or(Failure::Denied(Denied::Unauthenticated))
}

async fn request(body: Body) -> Result<CredentialRequest, Failure> {
    let bytes = axum::body::to_bytes(body, MOST_BODY)
        .await
        .map_err(|_| Failure::TooLarge)?;
    serde_json::from_slice(&bytes).map_err(|_| {
        Failure::Malformed("expected the JSON {\"step\": \"fetch\"} or {\"step\": \"push\"}")
    })
}

/// The API server's own words are for the log: the pod gets none of them.
fn unanswered(problem: Problem) -> Failure {
    match problem {
        Problem::Denied(denied) => {
            tracing::warn!(%denied, "credential refused");
            Failure::Denied(denied)
        }
        // Without the grant of the namespace there is no build.
        Problem::Api(error) if error.is_forbidden() => {
            tracing::warn!(%error, "credential refused");
            Failure::Denied(Denied::NotABuild)
        }
        Problem::Api(error) => {
            tracing::warn!(%error, "a pod that asks for a credential cannot be looked at");
            Failure::Unavailable("the API server cannot be asked")
        }
    }
}

impl Failure {
    fn kind(&self) -> Answered {
        match self {
            Self::Malformed(_) | Self::TooLarge => Answered::Malformed,
            Self::Denied(Denied::Unauthenticated) => Answered::Unauthenticated,
            Self::Denied(Denied::Early(_)) => Answered::Early,
            Self::Denied(_) => Answered::Refused,
            Self::Limited(_) => Answered::Limited,
            Self::Unavailable(_) => Answered::Failed,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Denied(Denied::Unauthenticated) => StatusCode::UNAUTHORIZED,
            // The only one that another try can change.
            Self::Denied(Denied::Early(_)) => StatusCode::CONFLICT,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(CredentialRefusal {
            message: self.to_string(),
        });
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Denied(Denied::Unauthenticated) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Limited(wait) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests;
