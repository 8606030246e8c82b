//! The endpoint where pods exchange the token of their ServiceAccount for a credential of a Registry.
//!
//! Today these are the steps of builds; agents and workers will ask here too. A pod sends its
//! projected token. The API server says whose it is (`TokenReview`); what the pod is, is read from the
//! objects; [`decide`](decide::decide) says what it may have; the answer is a signed token that lives for
//! minutes. Nothing is remembered, so every controller answers, leading or not.

mod decide;
mod identity;
mod limits;
mod material;
mod metrics;
mod observe;
mod server;

use coral_rt::{Connections, Serving, Tls};
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use metrics::CredentialMetrics;

/// Connections that are served at once: pods of builds ask once or twice.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of one address, so that a few pods do not keep the others out.
const MAX_OF_ADDRESS: usize = 16;

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    namespace: String,
    client: Client,
    metrics: CredentialMetrics,
    stop: CancellationToken,
) {
    let tls = Tls::required();
    let material = material::Material::default();
    let following = material::follow(client.clone(), namespace, tls.clone(), material.clone());
    let router = server::router(server::Endpoint::new(client, material, metrics));
    let connections = Connections::at_most(MAX_CONNECTIONS);
    connections.set_limit_per_address(Some(MAX_OF_ADDRESS));
    let serving = Serving {
        tls,
        connections,
        ..Serving::default()
    };
    tokio::select! {
        served = coral_rt::serve(listener, router, serving, stop) => {
            if let Err(error) = served {
                tracing::error!(%error, "the credential endpoint ended");
            }
        }
        () = following => {}
    }
}
