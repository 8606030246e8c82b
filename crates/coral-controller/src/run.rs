//! The process: health and metrics, the lease, and the parts while it is held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coral_rt::Health;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::builds::Bounds;
use crate::context::Context;
use crate::credentials::{self, CredentialMetrics};
use crate::leader::{Leader, Timing};
use crate::metrics::Metrics;
use crate::parts;
use crate::results::Results;

/// The lease, in the controller's namespace.
const LEASE: &str = "coral-controller";
/// How long running passes may take to end on shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// How the controller is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// The controller's own pod: its identity in the lease, and where it finds its image.
    pub pod_name: String,
    /// The controller's own namespace: `coral-system`.
    pub namespace: String,
    /// The namespace of the agents: `coral-nodes`.
    pub nodes_namespace: String,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub listen: SocketAddr,
    /// Address of the endpoint where pods get credentials (HTTPS).
    pub credentials_listen: SocketAddr,
    /// The image of the pods that the controller creates; `None`: that of its own pod.
    pub image: Option<String>,
    /// The image of the container that builds, for an `ImageBuild` that names none.
    pub builder_image: Option<String>,
    /// How many builds run at once in the cluster; 0: any number.
    pub max_builds: usize,
    /// How many builds run at once in a namespace; 0: any number.
    pub max_builds_per_namespace: usize,
}

impl Config {
    pub(crate) fn builds_at_once(&self) -> Bounds {
        Bounds {
            cluster: self.max_builds,
            namespace: self.max_builds_per_namespace,
        }
    }
}

/// Why the controller ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no usable configuration of a cluster.
    #[error("no access to a Kubernetes API server")]
    Client(#[source] kube::Error),
    /// The address of `/healthz` or of credentials cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Another controller may act now. The process ends: a fresh start is the clean way back.
    #[error("the leader lease was lost; this process ends so that a new one can compete for it")]
    LeaseLost,
    /// A part ended by itself, which is a bug.
    #[error("part {0} ended unexpectedly")]
    PartEnded(String),
}

/// Runs the controller until `stop` or until it cannot go on.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let client = client().await?;
    let (health, metrics) = (Health::default(), Metrics::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let credential_metrics = CredentialMetrics::default();
    credential_metrics.register(&mut registry);
    let listen = config.listen;
    let unheard = |address| move |source| RunError::Listen { address, source };
    let server = coral_rt::serve_health(listen, health.clone(), Arc::new(registry)).await;
    let server = server.map_err(unheard(listen))?;
    let address = config.credentials_listen;
    let listener = TcpListener::bind(address).await.map_err(unheard(address))?;
    // Every controller answers, also one that waits for the lease.
    let results = Results::default();
    let dependencies = credentials::Dependencies {
        namespace: config.namespace.clone(),
        client: client.clone(),
        metrics: credential_metrics,
        results: results.clone(),
    };
    let credentials = tokio::spawn(credentials::serve(listener, dependencies, stop.clone()));
    let ended = lead((config, client, results), &health, &metrics, &stop).await;
    credentials.abort();
    server.abort();
    ended
}

/// kube's own retries are off: they last for minutes, and every caller here has a better plan.
async fn client() -> Result<Client, RunError> {
    let config = kube::Config::infer().await;
    let mut config = config.map_err(|error| RunError::Client(kube::Error::InferConfig(error)))?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).map_err(RunError::Client)
}

async fn lead(
    (config, client, results): (Config, Client, Results),
    health: &Health,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let (namespace, pod) = (&config.namespace, &config.pod_name);
    let mut leader = Leader::new(client.clone(), namespace, LEASE, pod, Timing::default());
    // A candidate that waits is ready: it can take over.
    if !leader.acquire(stop, || health.set_ready()).await {
        return Ok(());
    }
    tracing::info!(lease = LEASE, %pod, "leading");
    metrics.set_leading(true);
    let context = Context::new(config, client, results);
    let ended = act(&mut leader, context, metrics, stop).await;
    health.set_not_ready();
    metrics.set_leading(false);
    if !matches!(ended, Err(RunError::LeaseLost)) {
        leader.release().await;
    }
    ended
}

/// Runs the parts while the lease is held.
async fn act(
    leader: &mut Leader,
    context: Context,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let parts_stop = CancellationToken::new();
    let watches = context.cluster.follow(&context);
    let mut running = parts::begin(&context, metrics, &parts_stop);
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        // Nothing more is written: the parts are dropped at once.
        () = leader.hold() => return Err(RunError::LeaseLost),
        Some(part) = running.join_next() => Err(RunError::PartEnded(
            part.unwrap_or("that panicked in its driver").to_owned(),
        )),
    };
    parts_stop.cancel();
    // The lease is still renewed while the last passes end.
    let rest = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = leader.hold() => return Err(RunError::LeaseLost),
        _ = tokio::time::timeout(GRACE, rest) => {}
    }
    drop(watches);
    ended
}
