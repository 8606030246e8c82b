//! Requests over real connections.

use std::net::SocketAddr;
use std::time::Duration;

use coral_rt::Serving;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::client::Served;

async fn serve(registry: &Served) -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
    let (address, shutdown, server) = serve_at(registry, Serving::default()).await;
    (TcpStream::connect(address).await.unwrap(), shutdown, server)
}

/// Serves until the token is cancelled. Returns the address, and a task that ends with the server.
pub(crate) async fn serve_at(
    registry: &Served,
    serving: Serving,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (router, token) = (registry.router(), shutdown.clone());
    let server = tokio::spawn(async move {
        coral_registry::serve(listener, router, serving, token)
            .await
            .unwrap();
    });
    (address, shutdown, server)
}

pub(crate) async fn status_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn a_shutdown_ends_idle_connections_at_once() {
    let registry = Served::new();
    let (mut stream, shutdown, server) = serve(&registry).await;
    stream
        .write_all(b"HEAD /v2/ HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 200 OK\r\n");
    shutdown.cancel();
    tokio::time::timeout(Duration::from_mins(1), server)
        .await
        .unwrap()
        .unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_lets_a_running_request_end() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    let (mut stream, shutdown, server) = serve(&registry).await;
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\
         expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The handler is running once it asks for the body.
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 100 Continue\r\n");
    shutdown.cancel();
    stream.write_all(b"body").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(
        String::from_utf8(rest)
            .unwrap()
            .contains("HTTP/1.1 202 Accepted")
    );
    server.await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_is_still_sending() {
    let registry = Served::new();
    let (mut stream, _shutdown, _server) = serve(&registry).await;
    let body = vec![0; 12_000_000];
    let head = format!(
        "PUT /v2/a/blobs/uploads/none HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 404 Not Found\r\n");
}

#[tokio::test]
async fn what_strangers_send_makes_no_new_labels() {
    let registry = Served::new();
    for (method, target) in [
        ("BREW", "/v2/"),
        ("PURR", "/v2/"),
        ("GET", "/v2/some/where"),
        ("GET", "/v2/else/where"),
    ] {
        registry.send(method, target, b"").await;
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry.metrics).unwrap();
    let mut counted: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("coral_registry_requests_total"))
        .collect();
    counted.sort_unstable();
    let expected = [
        "coral_registry_requests_total{client=\"other\",method=\"GET\",route=\"unknown\",status=\"404\"} 2",
        "coral_registry_requests_total{client=\"other\",method=\"other\",route=\"base\",status=\"405\"} 2",
    ];
    assert_eq!(counted, expected);
}

/// Reads until the server closes the connection. Returns the head as text, and the bytes of the
/// body that arrived.
pub(crate) async fn answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut all = Vec::new();
    // A reset also counts as an end.
    let _ = stream.read_to_end(&mut all).await;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let body = all.split_off(end + 4);
    (String::from_utf8(all).unwrap(), body)
}

pub(crate) async fn ask(stream: &mut TcpStream, target: &str, headers: &str) {
    let head = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_large_blob_and_a_range_of_it_come_over_a_connection_byte_for_byte() {
    let registry = Served::new();
    let content: Vec<u8> = (0..=252).cycle().take(5_000_000).collect();
    let target = format!("/v2/a/blobs/{}", registry.push("a", &content).await);
    let (mut stream, _shutdown, _server) = serve(&registry).await;
    ask(&mut stream, &target, "").await;
    let (head, body) = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(body == content);
    let (mut stream, _shutdown, _server) = serve(&registry).await;
    ask(&mut stream, &target, "range: bytes=4097-3000000\r\n").await;
    let (head, body) = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 206 Partial Content"), "{head}");
    assert!(body == content[4097..=3_000_000]);
}

#[tokio::test]
async fn a_blob_that_is_cut_while_it_is_sent_ends_its_connection_and_nothing_else() {
    let registry = Served::new();
    let content = vec![7; 40_000_000];
    let digest = registry.push("a", &content).await;
    let target = format!("/v2/a/blobs/{digest}");
    let (mut stream, _shutdown, _server) = serve(&registry).await;
    ask(&mut stream, &target, "").await;
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 200 OK\r\n");
    let hex = digest.hex();
    let stored = registry.folder.path().join("store/blobs/sha256");
    let stored = stored.join(&hex[..2]).join(&hex);
    let file = std::fs::File::options().write(true).open(stored).unwrap();
    file.set_len(1000).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < content.len());
    let (mut stream, _shutdown, _server) = serve(&registry).await;
    ask(&mut stream, "/v2/", "").await;
    assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 200 OK"));
}
