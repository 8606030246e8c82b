//! How long the server waits for clients, and how many of them it accepts.

use std::net::SocketAddr;
use std::time::Duration;

use coral_registry::{Limits, Settings};
use coral_rt::{CertificatePair, Connections, Serving, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Served;
use crate::serving::{answer, ask, serve_at, status_line};

/// Long enough for a client on a busy machine.
const SHORT: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_mins(2);

/// Timeouts that are longer than any test; a test shortens one of them.
fn patient() -> Timeouts {
    Timeouts {
        handshake: LATE * 10,
        head: LATE * 10,
        response: LATE * 10,
    }
}

fn serving(timeouts: Timeouts) -> Serving {
    Serving {
        timeouts,
        ..Serving::default()
    }
}

/// The bytes that arrive until the server has closed the connection.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all);
    let ended = tokio::time::timeout(LATE, end).await;
    // A reset also counts as an end.
    let _ = ended.expect("the connection is closed in time");
    String::from_utf8(all).unwrap()
}

async fn check_head_timeout(sent: &[u8]) -> String {
    let registry = Served::new();
    let timeouts = Timeouts {
        head: SHORT,
        ..patient()
    };
    let (address, _shutdown, _server) = serve_at(&registry, serving(timeouts)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    until_closed(&mut stream).await
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    assert_eq!(check_head_timeout(b"").await, "");
}

#[tokio::test]
async fn a_client_that_does_not_begin_with_tls_is_cut_off() {
    let registry = Served::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let pair = CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let timeouts = Timeouts {
        handshake: SHORT,
        ..patient()
    };
    let serving = serving(timeouts);
    serving.tls.set(Some(pair));
    let (address, _shutdown, _server) = serve_at(&registry, serving).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(until_closed(&mut stream).await, "");
}

/// The connection could become HTTP/1 or HTTP/2.
#[tokio::test]
async fn a_client_that_does_not_say_which_protocol_it_speaks_is_cut_off() {
    assert_eq!(check_head_timeout(b"P").await, "");
    assert_eq!(check_head_timeout(b"PRI * HTTP/2.0\r\n").await, "");
}

#[tokio::test]
async fn a_client_that_does_not_end_the_head_of_its_request_is_cut_off() {
    let said = check_head_timeout(b"GET /v2/ HTTP/1.1\r\nhost: registry\r\nx: ").await;
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_connection_that_is_idle_after_an_answer_is_closed() {
    let said = check_head_timeout(b"GET /v2/ HTTP/1.1\r\nhost: registry\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
}

async fn check_slow_body(registry: &Served, head: &str) -> (String, String) {
    registry.registry.configure(Settings {
        limits: Limits {
            body_progress: SHORT,
            ..Limits::default()
        },
        ..Settings::default()
    });
    let (address, _shutdown, _server) = serve_at(registry, serving(patient())).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{head} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"a few bytes").await.unwrap();
    let refused = tokio::time::timeout(LATE, status_line(&mut stream));
    let refused = refused.await.expect("the refusal comes in time");
    drop(stream);
    let kept = registry.get(head.split(' ').nth(1).unwrap()).await;
    (refused, kept.header("range").to_owned())
}

#[tokio::test]
async fn a_body_that_stops_coming_is_refused_and_what_came_is_kept() {
    let registry = Served::new();
    let location = registry.begin("a").await;
    let (refused, kept) = check_slow_body(&registry, &format!("PATCH {location}")).await;
    assert_eq!(refused, "HTTP/1.1 408 Request Timeout\r\n");
    assert_eq!(kept, "0-10");
    let (refused, _) = check_slow_body(&registry, "PUT /v2/a/manifests/v1").await;
    assert_eq!(refused, "HTTP/1.1 408 Request Timeout\r\n");
}

/// Sends requests over separate connections, one after the other, until the answer begins like
/// this.
async fn until_answered(address: SocketAddr, expected: &str) -> String {
    let asked = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream, "/v2/", "").await;
            let (head, _) = answer(&mut stream).await;
            if head.starts_with(expected) {
                return head;
            }
        }
    };
    let answered = tokio::time::timeout(LATE, asked).await;
    answered.unwrap_or_else(|_| panic!("no answer is {expected}"))
}

#[tokio::test]
async fn a_connection_too_many_is_refused_at_once_until_there_is_a_place_again() {
    let registry = Served::new();
    let serving = Serving {
        connections: Connections::at_most(1),
        timeouts: patient(),
        ..Serving::default()
    };
    let (address, _shutdown, _server) = serve_at(&registry, serving).await;
    let first = TcpStream::connect(address).await.unwrap();
    let refused = until_answered(address, "HTTP/1.1 503 Service Unavailable").await;
    assert!(refused.contains("\r\nretry-after: 5\r\n"), "{refused}");
    drop(first);
    until_answered(address, "HTTP/1.1 200 OK").await;
}

#[tokio::test]
async fn a_client_that_stops_reading_its_answer_is_cut_off() {
    let registry = Served::new();
    // Larger than the system buffers for a client that does not read.
    let content = vec![7; 40_000_000];
    let target = format!("/v2/a/blobs/{}", registry.push("a", &content).await);
    let serving = Serving {
        connections: Connections::at_most(1),
        timeouts: Timeouts {
            response: SHORT,
            ..patient()
        },
        ..Serving::default()
    };
    let (address, _shutdown, _server) = serve_at(&registry, serving).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, &target, "").await;
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 200 OK\r\n");
    // Its slot is free again.
    until_answered(address, "HTTP/1.1 200 OK").await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < content.len());
}
