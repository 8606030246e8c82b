//! The limits on connections, over loopback.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the message")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use coral_rt::{Connections, Health, Serving, health_router, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

const LATE: Duration = Duration::from_mins(2);

/// A server with health and a route of its own; it ends with the guard.
async fn server(connections: Connections) -> (SocketAddr, DropGuard) {
    let health = Health::default();
    health.set_ready();
    let metrics = Arc::new(prometheus_client::registry::Registry::default());
    let router = Router::new()
        .route("/work", get(|| async { "done" }))
        .merge(health_router(health, metrics));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Serving {
        connections,
        ..Serving::default()
    };
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(listener, router, serving, shutdown.clone()));
    (address, shutdown.drop_guard())
}

/// A connection from 127.0.0.`client`.
async fn connect(client: u8, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, client], 0).into()).unwrap();
    socket.connect(server).await.unwrap()
}

/// The status of a GET on a connection of its own; 0 if the server closed it unanswered.
async fn status(client: u8, server: SocketAddr, path: &str) -> u16 {
    let mut stream = connect(client, server).await;
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LATE, stream.read_to_end(&mut answer));
    let _ = read.await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap_or("0");
    status.parse().unwrap()
}

/// Connections that never end the head of their request.
async fn half_requests(client: u8, server: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = connect(client, server).await;
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn one_address_cannot_keep_others_out_nor_hide_its_own_health() {
    let (address, _guard) = server(Connections::at_most(20)).await;
    let _held = half_requests(1, address, 16).await;
    assert_eq!(status(1, address, "/work").await, 503);
    assert_eq!(status(2, address, "/work").await, 200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(status(1, address, path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn health_answers_when_all_connections_are_taken() {
    let (address, _guard) = server(Connections::at_most(20)).await;
    let _first = half_requests(1, address, 16).await;
    let _second = half_requests(2, address, 4).await;
    assert_eq!(status(3, address, "/work").await, 503);
    assert_eq!(status(3, address, "/healthz").await, 200);
    assert_eq!(status(1, address, "/readyz").await, 200);
}

/// More connections than limit and reserve together: those of another address still get in.
#[tokio::test]
async fn the_reserve_is_shared_between_addresses() {
    let (address, _guard) = server(Connections::at_most(20)).await;
    let _first = half_requests(1, address, 60).await;
    let _second = half_requests(2, address, 4).await;
    assert_eq!(status(3, address, "/readyz").await, 200);
}

#[tokio::test]
async fn a_client_that_sends_a_body_reads_its_refusal() {
    let (address, _guard) = server(Connections::at_most(1)).await;
    let _held = half_requests(1, address, 1).await;
    let mut stream = connect(2, address).await;
    let head = "POST /work HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 9000]).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.to_lowercase().contains("retry-after: 5\r\n"),
        "{answer}"
    );
}
