//! Wires together the tasks that run in an agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coral_api::node_images::NodeImages;
use coral_cri::{Containerd, SocketError};
use coral_rt::{Health, Serving, health_router, serve};
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::health_monitor::HealthMonitor;
use crate::metrics::Metrics;
use crate::node::{Node, Settings};
use crate::publish::publish;
use crate::watch::{WatchedObject, follow};

/// How long the last report may take after the shutdown was requested.
const GRACE: Duration = Duration::from_secs(5);

/// The configuration of an agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node, and of its NodeImages object.
    pub node: String,
    /// The container runtime's socket, an absolute path. Mount its folder, not the socket.
    pub runtime: PathBuf,
    /// Folder of `hosts.toml` folders, instead of the one that the runtime names.
    pub certs_dir: Option<PathBuf>,
    /// Folder with `ca.crt`, mounted from the ConfigMap `coral`.
    pub coral_dir: PathBuf,
    /// Most pulls at once, at least one.
    pub parallel_pulls: usize,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub listen: SocketAddr,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket's path is not usable.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is no usable configuration of a cluster.
    #[error("the API server's address and credential are not known")]
    Client(#[source] Box<kube::Error>),
    /// The health address cannot be served.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs an agent until `stop` is cancelled.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AgentError> {
    let runtime = Arc::new(Containerd::new(&config.runtime)?);
    let client = Client::try_default()
        .await
        .map_err(|error| AgentError::Client(Box::new(error)))?;
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let health = Health::default();
    let monitor = HealthMonitor::default();
    let beats = monitor.clone();
    health.check_with(move || beats.check());
    let address = config.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| AgentError::Listen { address, source })?;
    let router = health_router(health.clone(), Arc::new(registry));
    let serving = serve(listener, router, Serving::default(), stop.clone());

    let (seen, objects) = watch::channel(WatchedObject::NotYet);
    let (reports, written) = watch::channel(None);
    let settings = Settings {
        coral_dir: config.coral_dir,
        certs_dir: config.certs_dir,
        parallel: config.parallel_pulls.max(1),
    };
    let api: Api<NodeImages> = Api::all(client.clone());
    let node = Node::new(
        runtime,
        settings,
        metrics.clone(),
        monitor.clone(),
        objects.clone(),
        reports,
    );
    tracing::info!(node = config.node, %address, "the agent runs");
    // The node's loop ends first: it drops the receiver of the watch and the sender of reports,
    // which ends the two others.
    let following = follow(client, config.node.clone(), seen, monitor.clone());
    let publishing = publish(api, config.node, written, metrics, monitor);
    let looping = async {
        node.run(stop.clone()).await;
        health.set_not_ready();
    };
    let ready = async {
        tokio::select! {
            () = ready_once_seen(objects, health.clone()) => {}
            () = stop.cancelled() => {}
        }
    };
    let all = async { tokio::join!(following, publishing, looping, serving, ready) };
    tokio::pin!(all);
    let ended = tokio::select! {
        ended = &mut all => Some(ended),
        () = stop.cancelled() => tokio::time::timeout(GRACE, all).await.ok(),
    };
    // Calls that are still pending after the grace time are dropped.
    let Some(((), (), (), served, ())) = ended else {
        return Ok(());
    };
    served.map_err(|source| AgentError::Listen { address, source })
}

/// Ready once the API server has answered, with or without an object for the node, and as long as
/// the [`HealthMonitor`] has no objection.
async fn ready_once_seen(mut objects: watch::Receiver<WatchedObject>, health: Health) {
    let seen = objects.wait_for(|seen| !matches!(seen, WatchedObject::NotYet));
    if seen.await.is_ok() {
        health.set_ready();
    }
}
