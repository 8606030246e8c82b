//! The process: the watches, the world built from them, and the two servers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coral_api::injection_policy::InjectionPolicy;
use coral_api::mirrored_images::MirroredImages;
use coral_api::{Registry, RegistryMirror};
use coral_rt::{
    CertificateFiles, Connections, Health, Serving, Timeouts, Tls, health_router, serve,
};
use k8s_openapi::api::core::v1::{Namespace as Object, Node};
use kube::Client;
use kube::core::PartialObjectMeta;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, Metrics};
use crate::server::{Namespaces, router};
use crate::store::{Store, follow};
use crate::world::{Namespace, Objects, World};

/// Changes within this time are processed together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A watch that failed for this long makes the webhook not ready: what it knows is too old.
const TOO_OLD: Duration = Duration::from_mins(5);
/// Connections that are served at once. API servers keep a few each.
const MAX_CONNECTIONS: usize = 512;

/// The configuration of the webhook.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the webhook (HTTPS).
    pub listen: SocketAddr,
    /// Address of health and metrics (HTTP).
    pub health: SocketAddr,
    /// The certificate and its key; they may arrive after the start, and may change.
    pub certificate: CertificateFiles,
}

/// Why the webhook cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A task ended that should run as long as the process.
    #[error("a task of the webhook ended")]
    Task,
    /// The server ended.
    #[error("the server ended")]
    Serve(#[source] io::Error),
}

/// Runs the webhook until `shutdown`.
pub async fn run(
    config: Config,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let listener = listen(config.listen).await?;
    let health_listener = listen(config.health).await?;
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::new(&mut registry);
    let health = Health::default();
    let mut tasks = JoinSet::new();

    let tls = Tls::required();
    let stores = Stores::default();
    let (has_certificate, watched) = (tls.clone(), stores.clone());
    health.check_with(move || {
        if !has_certificate.has_certificate() {
            return Err("its certificate is not there yet".to_owned());
        }
        watched.check()
    });
    metrics::register_watches(&mut registry, stores.clone());
    let following = config.certificate.follow(tls.clone(), shutdown.clone());
    tasks.spawn(following);

    let changed = Arc::new(Notify::new());
    stores.follow(&client, &changed, &mut tasks);
    let (sender, world) = watch::channel(Arc::default());
    tasks.spawn(keep_world(stores.clone(), sender, changed, health.clone()));

    let health_routes = health_router(health.clone(), Arc::new(registry));
    let serving = Serving::default();
    let stop_health = CancellationToken::new();
    let stopping = stop_health.clone();
    let serve_health = tokio::spawn(serve(health_listener, health_routes, serving, stopping));

    let not_ready = health.clone();
    let token = shutdown.clone();
    tokio::spawn(async move {
        token.cancelled().await;
        not_ready.set_not_ready();
    });
    let serving = Serving {
        tls,
        connections: Connections::at_most(MAX_CONNECTIONS),
        timeouts: Timeouts::default(),
        ..Serving::default()
    };
    tracing::info!(address = %config.listen, "the webhook listens");
    let routes = router(stores.namespaces, world, metrics);
    let served = tokio::select! {
        served = serve(listener, routes, serving, shutdown.clone()) => served.map_err(RunError::Serve),
        () = ended(&mut tasks, &shutdown) => Err(RunError::Task),
    };
    stop_health.cancel();
    // The server of health ends with the process in any case.
    let _ = serve_health.await;
    served
}

/// Completes if a task ends before the shutdown.
async fn ended(tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
    while let Some(result) = tasks.join_next().await {
        if !shutdown.is_cancelled() {
            let panicked = result.is_err();
            tracing::error!(panicked, "a task of the webhook ended");
            return;
        }
    }
    std::future::pending::<()>().await;
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|source| RunError::Listen { address, source })
}

/// The stores that the watches fill.
#[derive(Clone, Default)]
pub(crate) struct Stores {
    namespaces: Store<PartialObjectMeta<Object>>,
    policies: Store<InjectionPolicy>,
    mirrors: Store<RegistryMirror>,
    images: Store<MirroredImages>,
    registries: Store<Registry>,
    nodes: Store<Node>,
}

impl Stores {
    fn follow(&self, client: &Client, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) {
        // Requests read namespaces from their store: no world is built for them.
        let ignored = Arc::new(Notify::new());
        let client = || client.clone();
        let changed = || changed.clone();
        tasks.spawn(follow(client(), self.namespaces.clone(), |_| {}, ignored));
        tasks.spawn(follow(client(), self.policies.clone(), |_| {}, changed()));
        tasks.spawn(follow(client(), self.mirrors.clone(), |_| {}, changed()));
        tasks.spawn(follow(client(), self.images.clone(), |_| {}, changed()));
        tasks.spawn(follow(client(), self.registries.clone(), |_| {}, changed()));
        tasks.spawn(follow(client(), self.nodes.clone(), strip_node, changed()));
    }

    /// For how long each watch has been failing, by kind.
    pub(crate) fn failing(&self) -> [(&'static str, Duration); 6] {
        [
            ("Namespace", self.namespaces.failing_for()),
            ("InjectionPolicy", self.policies.failing_for()),
            ("RegistryMirror", self.mirrors.failing_for()),
            ("MirroredImages", self.images.failing_for()),
            ("Registry", self.registries.failing_for()),
            ("Node", self.nodes.failing_for()),
        ]
    }

    /// Why the known state is too old to act on; `None` if it is current.
    fn check(&self) -> Result<(), String> {
        let old = self.failing().into_iter();
        let mut old = old.filter(|(_, since)| *since >= TOO_OLD);
        old.next().map_or(Ok(()), |(kind, since)| {
            let seconds = since.as_secs();
            Err(format!(
                "the watch of {kind} has been failing for {seconds} s"
            ))
        })
    }

    async fn ready(&self) {
        self.namespaces.ready().await;
        self.policies.ready().await;
        self.mirrors.ready().await;
        self.images.ready().await;
        self.registries.ready().await;
        self.nodes.ready().await;
    }

    fn world(&self) -> World {
        World::build(&Objects {
            policies: self.policies.all(),
            mirrors: self.mirrors.all(),
            images: self.images.all(),
            registries: self.registries.all(),
            nodes: self.nodes.all(),
        })
    }
}

/// Of a node, only its labels and conditions are read.
fn strip_node(node: &mut Node) {
    node.spec = None;
    node.metadata.annotations = None;
    let conditions = node.status.take().and_then(|status| status.conditions);
    node.status = Some(k8s_openapi::api::core::v1::NodeStatus {
        conditions,
        ..Default::default()
    });
}

/// Builds the first world once every store is filled, and another after each change. Until then
/// pods stay as they are.
async fn keep_world(
    stores: Stores,
    sender: watch::Sender<Arc<World>>,
    changed: Arc<Notify>,
    health: Health,
) {
    stores.ready().await;
    sender.send_replace(Arc::new(stores.world()));
    health.set_ready();
    tracing::info!("all watches are synced; the webhook is ready");
    loop {
        changed.notified().await;
        tokio::time::sleep(DEBOUNCE).await;
        let stores = stores.clone();
        // Ten thousand images take some milliseconds.
        match tokio::task::spawn_blocking(move || stores.world()).await {
            Ok(world) => {
                sender.send_replace(Arc::new(world));
            }
            Err(error) => tracing::error!(
                %error,
                "the index could not be rebuilt; the previous one stays in use"
            ),
        }
    }
}

impl Namespaces for Store<PartialObjectMeta<Object>> {
    fn get(&self, name: &str) -> Option<Namespace> {
        let meta = Store::get(self, name)?.metadata.clone();
        Some(Namespace {
            name: name.to_owned(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_before_the_shutdown_is_noticed() {
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(std::future::ready(()));
        ended(&mut tasks, &shutdown).await;
        tasks.spawn(std::future::ready(()));
        shutdown.cancel();
        let seen = tokio::select! {
            biased;
            () = ended(&mut tasks, &shutdown) => true,
            () = tokio::task::yield_now() => false,
        };
        assert!(!seen, "tasks end with the shutdown");
    }
}
