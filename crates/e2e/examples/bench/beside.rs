//! What a good client notices of bad ones: the median of its requests beside slow connections and
//! malformed requests to the same registry, and to another one on the same machine. Bad clients
//! take processor time wherever they go; what counts is what they take from those beside them.
//! They come at a rate: as many as a core can make would measure how cores are shared.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use e2e::{http, sha256};

use crate::server::Server;
use crate::table::{Better, Row, median};

const SLOW: usize = 50;
/// Between two malformed requests.
const EVERY: Duration = Duration::from_millis(1);
const REQUESTS: usize = 2_000;
const ROUNDS: usize = 5;
const BLOB: usize = 64 << 10;
const MALFORMED: [&str; 6] = [
    "GET /v2/../../etc/passwd/tags/list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /v2/a/blobs/sha256:nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{",
    "PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "GET /v2/%zz/manifests/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "\u{16}\u{3}\u{1}\r\n\r\n",
];

pub(crate) fn measure() -> Vec<Row> {
    let (server, other) = (Server::coral(), Server::coral());
    let (host, elsewhere) = (server.host(), other.host());
    let blob = push(&host);
    let (mut apart, mut beside) = (Vec::new(), Vec::new());
    let mut good = connect(&host);
    // In turns, so that what else the machine does meets both.
    for _ in 0..ROUNDS {
        for (host, medians) in [(&elsewhere, &mut apart), (&host, &mut beside)] {
            medians.push(beside_bad(host, || median_of(&mut good, &blob)));
        }
    }
    vec![Row {
        work: format!(
            "64 KiB blob GET, median, beside {SLOW} slow connections and 1000 malformed requests a \
             second"
        ),
        unit: "ms",
        better: Better::Lower,
        coral: median(beside),
        peer: median(apart),
        peer_name: "Coral, the bad ones at another",
    }]
}

/// What is measured while bad clients of this registry go on and on.
fn beside_bad(host: &str, measured: impl FnOnce() -> f64) -> f64 {
    let mut bad = Bad::start(host);
    let (going_on, is_over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while is_over.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                bad.step(host);
            }
        });
        let median = measured();
        drop(going_on);
        median
    })
}

/// The median of a good client's requests, in milliseconds.
fn median_of(good: &mut TcpStream, request: &[u8]) -> f64 {
    let mut times = Vec::with_capacity(REQUESTS);
    let mut answer = vec![0; BLOB];
    for _ in 0..REQUESTS {
        let began = Instant::now();
        good.write_all(request).unwrap();
        read_answer(good, &mut answer);
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    median(times)
}

/// Reads a head, and a body as long as `body`.
fn read_answer(stream: &mut TcpStream, body: &mut [u8]) {
    let mut head = Vec::new();
    let mut piece = vec![0; 16 << 10];
    let end = loop {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "the registry closed a good connection");
        head.extend_from_slice(&piece[..read]);
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    assert!(head.starts_with(b"HTTP/1.1 200"));
    let came = head.len() - end;
    body[..came].copy_from_slice(&head[end..]);
    stream.read_exact(&mut body[came..]).unwrap();
}

/// Pushes a blob, and returns the request for it.
fn push(host: &str) -> Vec<u8> {
    let content = "a".repeat(BLOB);
    let digest = sha256(content.as_bytes());
    let url = format!("http://{host}/v2/a/blobs/uploads/?digest={digest}");
    let answer = http::request(&[
        "-X",
        "POST",
        "-H",
        "Expect:",
        "--data-binary",
        &content,
        &url,
    ]);
    assert_eq!(answer.status, 201);
    format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

fn connect(host: &str) -> TcpStream {
    let stream = TcpStream::connect(host).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Slow connections, and malformed requests one after the other.
struct Bad {
    slow: Vec<TcpStream>,
    turn: usize,
}

impl Bad {
    fn start(host: &str) -> Self {
        let slow = (0..SLOW).map(|number| {
            let mut stream = connect(host);
            let line = match number % 2 {
                0 => "GET /v2/ HTTP/1.1\r\nX-Slow: ".to_owned(),
                _ => format!(
                    "POST /v2/a/blobs/uploads/?digest={} HTTP/1.1\r\nHost: localhost\r\n\
                     Content-Length: 1000000\r\n\r\n",
                    sha256(b"never done")
                ),
            };
            stream.write_all(line.as_bytes()).unwrap();
            stream
        });
        Self {
            slow: slow.collect(),
            turn: 0,
        }
    }

    fn step(&mut self, host: &str) {
        // Closed ones have been thrown out, as they deserve.
        let _ = self.slow[self.turn % SLOW].write_all(b"x");
        let mut stream = connect(host);
        let _ = stream.write_all(MALFORMED[self.turn % MALFORMED.len()].as_bytes());
        // It has its answer before the next one comes.
        let _ = stream.read_to_end(&mut Vec::new());
        self.turn += 1;
    }
}
