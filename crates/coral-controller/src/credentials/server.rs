//! The HTTP side: limits on bodies, time and rate; answers as JSON; one log line for each request.

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
    MAX_TERMINATION_MESSAGE, PushReport, RESULTS_PATH, Step,
};
use coral_rt::Peer;
use coral_token::Claims;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::decide::{Denied, Granted, LIFE, decide};
use super::identity::Identity;
use super::limits::Limits;
use super::material::SigningMaterial;
use super::metrics::{CredentialMetrics, RequestOutcome, StepRequest};
use super::observe::{Observer, Problem};
use crate::results::Results;

/// Largest body of a request, in bytes.
const MOST_BODY: usize = 4096;
const _: () = assert!(MOST_BODY >= MAX_TERMINATION_MESSAGE);
/// Longest token of a ServiceAccount, in bytes.
const MOST_TOKEN: usize = 16 * 1024;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The message about a body of another form.
const CREDENTIAL_FORM: &str = "expected the JSON {\"step\": \"fetch\"} or {\"step\": \"push\"}";
const RESULT_FORM: &str = "expected the report of the step push as JSON";
/// The client of a request that came without its address.
const UNKNOWN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The state that all requests share.
pub(super) struct Endpoint {
    observer: Observer,
    material: SigningMaterial,
    metrics: CredentialMetrics,
    limits: Limits,
    results: Results,
}

impl Endpoint {
    pub(super) fn new(
        client: kube::Client,
        material: SigningMaterial,
        metrics: CredentialMetrics,
        results: Results,
    ) -> Self {
        Self {
            observer: Observer::new(client),
            material,
            metrics,
            limits: Limits::default(),
            results,
        }
    }
}

/// The router of the endpoint.
pub(super) fn router(endpoint: Endpoint) -> Router {
    Router::new()
        .route(CREDENTIALS_PATH, post(exchange))
        .route(RESULTS_PATH, post(accept_result))
        .with_state(Arc::new(endpoint))
}

/// Why a request is not accepted.
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

/// Gives a credential.
async fn exchange(
    State(endpoint): State<Arc<Endpoint>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answering = endpoint.answer(address(peer), &headers, body);
    endpoint.respond(StepRequest::Credential, answering).await
}

/// Accepts the result of a push, but only from a pod that could get the credential of that step now.
async fn accept_result(
    State(endpoint): State<Arc<Endpoint>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let taking = endpoint.accept_result(address(peer), &headers, body);
    endpoint.respond(StepRequest::Result, taking).await
}

fn address(peer: Option<Extension<Peer>>) -> IpAddr {
    peer.map_or(UNKNOWN_ADDRESS, |Extension(peer)| peer.0)
}

impl Endpoint {
    /// The response to a request, in bounded time and counted.
    async fn respond<T: IntoResponse>(
        &self,
        asked: StepRequest,
        answering: impl Future<Output = Result<T, Failure>>,
    ) -> Response {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, Box::pin(answering)).await;
        let late = Err(Failure::Unavailable("the API server takes too long"));
        match answer.unwrap_or(late) {
            Ok(answer) => {
                self.metrics.answered(asked, RequestOutcome::Accepted);
                answer.into_response()
            }
            Err(failure) => {
                self.metrics.answered(asked, failure.outcome());
                failure.into_response()
            }
        }
    }

    async fn answer(
        &self,
        client: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Json<CredentialAnswer>, Failure> {
        self.admit(client)?;
        let token = bearer(headers)?;
        let request: CredentialRequest = request(body, CREDENTIAL_FORM).await?;
        let (granted, identity) = self.grant(token, request.step).await?;
        self.sign(&granted, &pod(&identity)).map(Json)
    }

    async fn accept_result(
        &self,
        client: IpAddr,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<StatusCode, Failure> {
        self.admit(client)?;
        if !self.results.leads() {
            return Err(Failure::Unavailable("this controller does not lead"));
        }
        let token = bearer(headers)?;
        let report: PushReport = request(body, RESULT_FORM).await?;
        let (granted, identity) = self.grant(token, Step::Push).await?;
        let (subject, pod) = (&granted.subject, pod(&identity));
        tracing::info!(%subject, pod, "result of a build taken");
        self.results.record(&identity.uid, report, Timestamp::now());
        Ok(StatusCode::NO_CONTENT)
    }

    /// Whether the client may ask now.
    fn admit(&self, client: IpAddr) -> Result<(), Failure> {
        let wait = self.limits.wait(client, Instant::now());
        wait.map_or(Ok(()), |wait| Err(Failure::Limited(wait)))
    }

    /// What the pod of this token may have for a step, and which pod it is.
    async fn grant(&self, token: &str, step: Step) -> Result<(Granted, Identity), Failure> {
        let _slot = self
            .limits
            .slot()
            .await
            .ok_or(Failure::Unavailable("too many pods are asking at once"))?;
        let identity = self.observer.identify(token).await.map_err(unanswered)?;
        let pod = pod(&identity);
        let facts = self.observer.read_facts(identity, step).await;
        let facts = facts.map_err(|error| unanswered(error.into()))?;
        let granted = decide(&facts).map_err(|denied| {
            let step = step.name();
            match &denied {
                Denied::Early(_) => tracing::debug!(%pod, step, %denied, "request of a build's step refused for now"),
                denied => tracing::warn!(%pod, step, %denied, "request of a build's step refused"),
            }
            Failure::Denied(denied)
        })?;
        Ok((granted, facts.identity))
    }

    fn sign(&self, granted: &Granted, pod: &str) -> Result<CredentialAnswer, Failure> {
        let key = self.material.key();
        let key = key.ok_or(Failure::Unavailable("the signing key is not available yet"))?;
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

/// A pod's name for the log.
fn pod(identity: &Identity) -> String {
    format!("{}/{}", identity.namespace, identity.pod)
}

async fn request<T: DeserializeOwned>(body: Body, form: &'static str) -> Result<T, Failure> {
    let bytes = axum::body::to_bytes(body, MOST_BODY)
        .await
        .map_err(|_| Failure::TooLarge)?;
    serde_json::from_slice(&bytes).map_err(|_| Failure::Malformed(form))
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
            tracing::warn!(%error, "cannot read the pod that asks for a credential");
            Failure::Unavailable("the API server cannot be asked")
        }
    }
}

impl Failure {
    fn outcome(&self) -> RequestOutcome {
        match self {
            Self::Malformed(_) | Self::TooLarge => RequestOutcome::Malformed,
            Self::Denied(Denied::Unauthenticated) => RequestOutcome::Unauthenticated,
            Self::Denied(Denied::Early(_)) => RequestOutcome::Early,
            Self::Denied(_) => RequestOutcome::Refused,
            Self::Limited(_) => RequestOutcome::Limited,
            Self::Unavailable(_) => RequestOutcome::Failed,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Denied(Denied::Unauthenticated) => StatusCode::UNAUTHORIZED,
            // The only refusal that a retry can change.
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
