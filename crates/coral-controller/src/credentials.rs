//! The endpoint where pods exchange the token of their ServiceAccount for a credential of a Registry.
//!
//! Today only the steps of builds use the endpoint. A pod sends its projected ServiceAccount token,
//! which the API server resolves to the pod (`TokenReview`). The pod, its Job and its build are
//! then read, and [`decide`](decide::decide) decides on the rights. The answer is a signed token
//! that is valid for minutes. Nothing is stored, so every controller answers, leading or not. The
//! step `push` of a build also reports its result here, which only the leading controller accepts.

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

use crate::results::Results;
pub(crate) use metrics::CredentialMetrics;

/// Connections that are served at once. Each step of a build needs one or two.
const MAX_CONNECTIONS: usize = 1024;
/// Connections per address, so that a few pods cannot occupy all connections.
const MAX_OF_ADDRESS: usize = 16;

/// What the endpoint needs.
pub(crate) struct Dependencies {
    /// The namespace with the certificate and the signing key.
    pub(crate) namespace: String,
    /// How the API server is asked.
    pub(crate) client: Client,
    /// Where answers are counted.
    pub(crate) metrics: CredentialMetrics,
    /// Where results of builds go.
    pub(crate) results: Results,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    dependencies: Dependencies,
    stop: CancellationToken,
) {
    let Dependencies {
        namespace,
        client,
        metrics,
        results,
    } = dependencies;
    let tls = Tls::required();
    let material = material::SigningMaterial::default();
    let following = material::follow(client.clone(), namespace, tls.clone(), material.clone());
    let router = server::router(server::Endpoint::new(client, material, metrics, results));
    tokio::select! {
        served = coral_rt::serve(listener, router, serving(tls), stop) => {
            if let Err(error) = served {
                tracing::error!(%error, "the credential endpoint ended");
            }
        }
        () = following => {}
    }
}

fn serving(tls: Tls) -> Serving {
    let connections = Connections::at_most(MAX_CONNECTIONS);
    connections.set_limit_per_address(Some(MAX_OF_ADDRESS));
    Serving {
        tls,
        connections,
        ..Serving::default()
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    async fn connect(client: u8, server: std::net::SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, client], 0).into()).unwrap();
        socket.connect(server).await.unwrap()
    }

    /// The status line that a client gets.
    async fn status(client: u8, server: std::net::SocketAddr) -> String {
        let mut stream = connect(client, server).await;
        let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn one_pod_with_many_connections_keeps_no_other_from_its_credential() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(|| async {}));
        let serving = coral_rt::serve(listener, router, serving(Tls::off()), stop.clone());
        let serving = tokio::spawn(serving);
        let mut held = Vec::new();
        for _ in 0..MAX_OF_ADDRESS {
            let mut stream = connect(1, server).await;
            stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
            held.push(stream);
        }
        assert_eq!(status(1, server).await, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(status(2, server).await, "HTTP/1.1 200 OK");
        drop(held);
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
