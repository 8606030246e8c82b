//! Health, readiness and metrics over HTTP.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::process_metrics;

/// The paths of [`health_router`].
pub(crate) const HEALTH_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// How long a check may take before it counts as failed: a file system that is gone may never
/// answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the process can do its work now. Cheap to clone; all clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Readiness>);

#[derive(Default)]
struct Readiness {
    ready: AtomicBool,
    check: OnceLock<Box<Check>>,
}

type Check = dyn Fn() -> Result<(), String> + Send + Sync;

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ready.fmt(f)
    }
}

impl Health {
    /// From now on `/readyz` answers 200.
    pub fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Release);
    }

    /// From now on `/readyz` answers 503; set before connections are drained.
    pub fn set_not_ready(&self) {
        self.0.ready.store(false, Ordering::Release);
    }

    /// Whether the process has declared that it is ready.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Has `/readyz` run this check each time, too; it may block on the file system. Only the first
    /// check is kept.
    pub fn check_with(&self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let _ = self.0.check.set(Box::new(check));
    }

    /// Why the process cannot do its work; `None` if it can.
    async fn problem(self) -> Option<String> {
        if !self.is_ready() {
            return Some("not ready".to_owned());
        }
        let look = tokio::task::spawn_blocking(move || match self.0.check.get() {
            Some(check) => check(),
            None => Ok(()),
        });
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(Ok(looked)) => looked.err().map(|why| format!("not ready: {why}")),
            Ok(Err(_)) | Err(_) => Some("not ready: its check does not finish".to_owned()),
        }
    }
}

#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: Arc<Registry>,
    process: Arc<Registry>,
}

/// `/healthz` (the process runs), `/readyz` (it can work), `/metrics` (`OpenMetrics` text: what the
/// process and `metrics` export).
pub fn health_router(health: Health, metrics: Arc<Registry>) -> Router {
    Router::new()
        .route(HEALTH_PATHS[0], get(|| async { "ok\n" }))
        .route(HEALTH_PATHS[1], get(readyz))
        .route(HEALTH_PATHS[2], get(metrics_text))
        .with_state(Shared {
            health,
            metrics,
            process: Arc::new(process_metrics::registry()),
        })
}

/// Serves [`health_router`] over plain HTTP on `address`, on a task that runs until it is aborted.
/// The error is that of listening.
pub async fn serve_health(
    address: SocketAddr,
    health: Health,
    metrics: Arc<Registry>,
) -> std::io::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await?;
    let router = health_router(health, metrics);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%address, %error, "health and metrics are no longer served");
        }
    }))
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.health.problem().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics_text(State(shared): State<Shared>) -> axum::response::Response {
    let mut text = String::new();
    let written = encode_registry(&mut text, &shared.process)
        .and_then(|()| encode(&mut text, &shared.metrics));
    if written.is_err() {
        return (
            StatusCode::INTERNAL_SERVER_ERROR,
            "metrics could not be written\n",
        )
            .into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_said_to_be_ready_is_so_as_long_as_the_check_agrees() {
        let health = Health::default();
        let well = Arc::new(AtomicBool::new(true));
        let look = well.clone();
        health.check_with(move || {
            let well = look.load(Ordering::Relaxed);
            well.then_some(()).ok_or("the storage is gone".to_owned())
        });
        let problem = || health.clone().problem();
        assert_eq!(problem().await.as_deref(), Some("not ready"));
        health.set_ready();
        assert_eq!(problem().await, None);
        well.store(false, Ordering::Relaxed);
        let told = problem().await.unwrap();
        assert_eq!(told, "not ready: the storage is gone");
        health.set_not_ready();
        assert_eq!(problem().await.as_deref(), Some("not ready"));
    }
}
